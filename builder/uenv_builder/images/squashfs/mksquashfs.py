"""The squashfs image: the merged entries of the layers, streamed as tar into mksquashfs.

All that is specific to that program is in this file. It reads the tar itself (`-tar`, since squashfs-tools 4.5);
`sqfstar` of 4.5.1, which does the same, does not understand a compressor's options.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, BinaryIO, cast

from uenv_builder.images.merge import merge_layers, merged_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import Layer, SquashfsOptions
from uenv_builder.system.events import Listener, Task
from uenv_builder.system.process import PIPE, Completed, failure, run, start
from uenv_builder.system.tar_stream import END, padding, tar_header

_CHUNK = 1 << 20
_MEMORY = "1G"  # of buffers; by default it is a quarter of the machine, also where a container may use less
_CREATED = 8  # offset of the creation time, 32 bits, little-endian, in the superblock (kernel: squashfs_fs.h)


def write_squashfs(
    layers: Sequence[Layer],
    out: Path,
    options: SquashfsOptions,
    *,
    epoch: int,
    processors: int,
    listener: Listener,
) -> None:
    """Write the image of `layers`, lowest first, as a squashfs at `out`.

    Everything in it belongs to root, entries keep their mode and time, the root directory has mode 0755. The file
    system's own time and that of the root directory are `epoch` (seconds; the root's is the newest entry's time if that
    is later). The bytes do not depend on `processors`, the number of compressing threads. Raises BuildError with the
    tool's last lines when it fails, and LockError for a damaged layer; `out` is then as it was before.
    """
    tree = merge_layers(layers)
    newest = max([epoch, *(merged.entry.mtime for merged in tree.entries.values())])
    partial = out.with_name(f".{out.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with (
            listener.task(f"writing {out.name}", tree.size) as task,
            tempfile.TemporaryFile() as messages,
            closing(merged_entries(layers, tree)) as entries,
        ):
            _pack(entries, _command(partial, options, processors), _environment(newest), messages, task)
        if newest != epoch:
            _set_creation_time(partial, epoch)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def squashfs_tool_version() -> str:
    """What a squashfs's bytes depend on besides layers and options: part of the step's identity.

    The program's own version, and that of the machine's libzstd, which Debian's build of it compresses with. Raises
    MissingToolError.
    """
    shown = run(["mksquashfs", "-version"], check=False).stdout
    version = re.search(r"version (\d[\w.-]*)", shown)
    if version is None:
        raise BuildError(f"mksquashfs -version says no version: {shown[:200]!r}")
    return f"squashfs-tools {version[1]}, libzstd {_zstd_version()}"


def _zstd_version() -> str:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        return "built in"
    library.ZSTD_versionString.restype = ctypes.c_char_p
    version: bytes = library.ZSTD_versionString()
    return version.decode("ascii")


def _command(partial: Path, options: SquashfsOptions, processors: int) -> list[str]:
    return [
        "mksquashfs", "-", str(partial), "-tar", "-comp", "zstd", "-Xcompression-level", str(options.level),
        "-b", str(options.block_size), "-all-root", "-root-mode", "0755", "-no-xattrs", "-exports", "-exit-on-error",
        "-processors", str(processors), "-mem", _MEMORY, "-quiet", "-no-progress",
    ]  # fmt: skip


def _environment(newest: int) -> dict[str, str]:
    # With a tar, squashfs-tools 4.5 ignores -root-time and gives the root directory the present time. The variable
    # reaches it: times after it are cut down to it, and as no entry is later, the root's is the only one.
    inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return inherited | {"LC_ALL": "C", "SOURCE_DATE_EPOCH": str(newest)}


def _pack(entries: Iterable[Entry], command: list[str], env: dict[str, str], messages: IO[bytes], task: Task) -> None:
    process = start(command, env=env, stdin=PIPE, stdout=messages, stderr=messages)
    complete = False
    try:
        with cast("IO[bytes]", process.stdin) as pipe:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK)
            for entry in entries:
                _write_entry(entry, pipe, task)
            pipe.write(END)
        complete = True
    except BrokenPipeError:
        pass  # the program has ended, and its messages say why
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.wait() != 0 or not complete:
        messages.seek(0)
        text = messages.read().decode(errors="replace")
        raise failure(Completed(tuple(command), process.returncode, "", text), what="writing the squashfs")


def _write_entry(entry: Entry, pipe: IO[bytes], task: Task) -> None:
    pipe.write(tar_header(entry))
    if entry.content is not None:
        _copy(entry.content, pipe, task)
        pipe.write(padding(entry.size))


def _copy(content: BinaryIO, pipe: IO[bytes], task: Task) -> None:
    while data := content.read(_CHUNK):
        pipe.write(data)
        task.advance(len(data))


def _set_creation_time(image: Path, seconds: int) -> None:
    with image.open("r+b") as file:
        file.seek(_CREATED)
        file.write(seconds.to_bytes(4, "little"))
