"""Source archives as upstreams publish them: a stream of entries from a tar or zip file, nothing of it outside."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from uenv_builder.layers.safe_paths import SymlinkGuard, safe_path
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError

_LIMIT = 16 << 30
"""Bytes that an archive may unpack to: sources of toolkits have some hundred megabytes."""
_DAMAGE = (
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    lzma.LZMAError,
    zlib.error,
    zstandard.ZstdError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def archive_entries(archive: Path, *, name: str, strip: int) -> Iterator[Entry]:
    """The folders, files and links of the tar (plain, gz, bz2, xz, zst) or zip file `archive`, `strip` folders less.

    `name` is the archive's name for messages. Entries that lie above the folders that are taken off are left out. Times
    are kept, owners and setuid bits are not. Raises BuildError: rule `broken-archive` for what is damaged or none,
    `unsafe-path` for a path or a link that leads out, `device-node` for devices and the like, and `archive-size`.
    """
    with archive.open("rb") as file:
        magic = file.read(6)
    opened = _zip_members(archive, name) if magic[:4] == b"PK\x03\x04" else _tar_members(archive, magic)
    guard, total, seen = SymlinkGuard(name), 0, False
    try:
        for entry in opened:
            total += entry.size
            if total > _LIMIT:
                raise BuildError(f"{name} unpacks to more than {_LIMIT >> 30} GiB", rule="archive-size",
                                 hint="look whether it is the archive that was meant")  # fmt: skip
            moved = _moved(entry, strip, name)
            if moved is not None:
                guard.admit(moved.path, moved.kind)
                seen = True
                yield moved
    except _DAMAGE as error:
        raise BuildError(f"{name} is no intact tar or zip file: {error}", rule="broken-archive",
                         hint="look at the URL: it may lead to a page instead of the archive") from error  # fmt: skip
    if not seen:
        raise BuildError(f"{name} holds nothing below {strip} folders", rule="broken-archive",
                         hint=f"set `strip: {max(0, strip - 1)}` for this source in component.yaml")  # fmt: skip


def _moved(entry: Entry, strip: int, name: str) -> Entry | None:
    path = _stripped(safe_path(entry.path, artefact=name), strip) if entry.path.strip("./") else ""
    if not path:
        return None
    target = entry.target
    if entry.kind == "hardlink":
        target = _stripped(safe_path(target, artefact=name), strip)
    mode = 0o755 if entry.kind == "dir" or entry.mode & 0o111 else 0o644
    return Entry(
        path=path, kind=entry.kind, mode=mode, mtime=max(0, entry.mtime), size=entry.size, target=target,
        content=entry.content,
    )  # fmt: skip


def _stripped(path: str, strip: int) -> str:
    return "/".join(path.split("/")[strip:])


def _tar_members(archive: Path, magic: bytes) -> Iterator[Entry]:
    with archive.open("rb") as raw, contextlib.ExitStack() as stack:
        opener = next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), None)
        stream = stack.enter_context(opener(raw)) if opener else raw
        tar = stack.enter_context(tarfile.open(fileobj=cast("BinaryIO", stream), mode="r|"))
        for member in tar:
            yield _tar_entry(tar, member, archive)


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> Entry:
    time = int(member.mtime)
    if member.isdir():
        return Entry(path=member.name, kind="dir", mode=0o755, mtime=time)
    if member.issym():
        return Entry(path=member.name, kind="symlink", mode=0o777, mtime=time, target=member.linkname)
    if member.islnk():
        return Entry(path=member.name, kind="hardlink", mode=0o644, mtime=time, target=member.linkname)
    if not member.isreg():
        raise _special(archive, member.name)
    content = cast("BinaryIO", tar.extractfile(member))
    return Entry(path=member.name, kind="file", mode=member.mode & 0o777, mtime=time, size=member.size, content=content)


def _zip_members(archive: Path, name: str) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            mode = member.external_attr >> 16
            time = _zip_time(member)
            if member.is_dir():
                yield Entry(path=member.filename, kind="dir", mode=0o755, mtime=time)
            elif stat.S_ISLNK(mode):
                target = zipped.read(member).decode(errors="surrogateescape")
                yield Entry(path=member.filename, kind="symlink", mode=0o777, mtime=time, target=target)
            elif stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
                raise _special(Path(name), member.filename)
            else:
                with zipped.open(member) as content:
                    yield Entry(
                        path=member.filename, kind="file", mode=mode & 0o777, mtime=time, size=member.file_size,
                        content=cast("BinaryIO", content),
                    )  # fmt: skip


def _zip_time(member: zipfile.ZipInfo) -> int:
    """Seconds since 1970; 0 where the archive has no date, which some programs write as the month 0."""
    try:
        return int(datetime(*member.date_time, tzinfo=UTC).timestamp())
    except ValueError:
        return 0


def _unpack_zstd(raw: BinaryIO) -> contextlib.AbstractContextManager[object]:
    return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)


_OPENERS: dict[bytes, Callable[[BinaryIO], contextlib.AbstractContextManager[object]]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _unpack_zstd,
}
"""By the first bytes of a compressed file (gzip: RFC 1952, xz: its file format 1.2, zstd: RFC 8878, bzip2(1))."""


def _special(archive: Path, path: str) -> BuildError:
    return BuildError(f"{archive.name}: {path!r} is a device, FIFO or another special file", rule="device-node",
                      hint="take another archive of the same release: sources hold none of these")  # fmt: skip
