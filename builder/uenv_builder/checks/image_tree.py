"""The files of an image below a folder of this machine: absolute links lead into the image, not into the machine."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

_MAX_LINKS = 40


@dataclass(slots=True)
class ImageTree:
    """Paths given and returned are absolute as seen inside the image; `root` is where the image is on this machine."""

    root: str
    _known: dict[str, str | None] = field(default_factory=dict)
    _names: dict[str, frozenset[str]] = field(default_factory=dict)

    def outside(self, path: str) -> str:
        """Where the file at `path`, which has no links in it, is on this machine."""
        return self.root + path

    def files(self) -> Iterator[tuple[str, int]]:
        """All regular files with their size in bytes, folder by folder, each folder's names sorted."""
        pending = ["/"]
        while pending:
            folder = pending.pop()
            with os.scandir(self.outside(folder)) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    yield posixpath.join(folder, entry.name), entry.stat(follow_symlinks=False).st_size
            names = (entry.name for entry in reversed(entries) if entry.is_dir(follow_symlinks=False))
            pending += [posixpath.join(folder, name) for name in names]

    def resolve(self, path: str) -> str | None:
        """`path` without any link in it, None if nothing is there or its links run in a circle."""
        if path not in self._known:
            self._known[path] = self._follow(path)
        return self._known[path]

    def names(self, folder: str) -> frozenset[str]:
        """The names in `folder`, none if there is no such folder; read once."""
        if folder not in self._names:
            real = self.resolve(folder)
            place = self.outside(real) if real else ""
            is_folder = bool(real) and os.path.isdir(place)  # noqa: PTH112
            self._names[folder] = frozenset(os.listdir(place)) if is_folder else frozenset()  # noqa: PTH208
        return self._names[folder]

    def find_in(self, folder: str, name: str) -> str | None:
        """`folder`/`name` as it is called there, if that exists."""
        path = posixpath.join(folder, name)
        return path if name in self.names(folder) and self.resolve(path) else None

    def _follow(self, path: str) -> str | None:
        done, pending, links = "", path.split("/")[::-1], 0
        while pending:
            name = pending.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                done = posixpath.dirname(done).rstrip("/")
                continue
            here = f"{done}/{name}"
            try:
                target = os.readlink(self.outside(here))  # noqa: PTH115
            except OSError as error:
                if error.errno != errno.EINVAL:
                    return None
                done = here  # EINVAL: it is there, and no link
                continue
            links += 1
            if links > _MAX_LINKS:
                return None
            pending += target.split("/")[::-1]
            done = "" if target.startswith("/") else done
        return done or "/"
