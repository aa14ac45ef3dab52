"""What a component has installed: the files below its DESTDIR as entries that are the same on any machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from uenv_builder.layers.safe_paths import merge_usr, safe_path
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError


def installed_entries(destdir: Path, *, epoch: int, what: str) -> Iterator[Entry]:
    """The entries below `destdir`, sorted by path, with merged /usr: owner root, modes 0755 and 0644, time `epoch`.

    libtool's .la files, which hold paths of the build, and the directory of info pages, which all packages share, are
    left out. `what` names the component in errors: BuildError with the rules `device-node`, `unsafe-path` and
    `file-conflict`.
    """
    firsts: dict[tuple[int, int], str] = {}
    placed: dict[str, str] = {}
    for path in sorted(_walk(destdir)):
        status = (destdir / path).lstat()
        place = merge_usr(safe_path(path, artefact=what))
        kind = _kind(status.st_mode)
        if place in placed:
            if kind == placed[place] == "dir":
                continue
            raise BuildError(f"{what} installs {place!r} twice: below /usr, and at the root", rule="file-conflict",
                             hint="install everything below the prefix")  # fmt: skip
        placed[place] = kind
        if kind == "dir":
            yield Entry(path=place, kind="dir", mode=0o755, mtime=epoch)
        elif kind == "symlink":
            target = os.readlink(destdir / path)  # noqa: PTH115  (a text, not a path)
            yield Entry(path=place, kind="symlink", mode=0o777, mtime=epoch, target=target)
        elif kind != "file":
            raise BuildError(f"{what} installs a device, FIFO or another special file: {place!r}", rule="device-node",
                             hint="leave it out: images get their devices from the container engine")  # fmt: skip
        elif status.st_nlink > 1 and (first := firsts.setdefault((status.st_dev, status.st_ino), place)) != place:
            yield Entry(path=place, kind="hardlink", mode=0o644, mtime=epoch, target=first)
        else:
            mode = 0o755 if status.st_mode & 0o111 else 0o644
            with (destdir / path).open("rb") as content:
                yield Entry(path=place, kind="file", mode=mode, mtime=epoch, size=status.st_size, content=content)


def _walk(destdir: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(destdir):
        for name in [*folders, *files]:
            path = os.path.relpath(os.path.join(folder, name), destdir)  # noqa: PTH118  (os.walk's texts)
            if not _is_left_out(path):
                yield path


def _is_left_out(path: str) -> bool:
    return path.endswith((".la", "/share/info/dir"))


def _kind(mode: int) -> str:
    for kind, fits in (("dir", stat.S_ISDIR), ("symlink", stat.S_ISLNK), ("file", stat.S_ISREG)):
        if fits(mode):
            return kind
    return "special"
