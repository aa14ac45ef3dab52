"""One entry of a layer: the unit in which file systems travel through the builder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal

EntryKind = Literal["dir", "file", "symlink", "hardlink"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file system object on its way from an artefact into an image.

    `path` is relative to the image's root, in POSIX form, without a leading slash, `.` or `..` parts. `mode` holds the
    permission bits only (0o000 to 0o777: setuid, setgid and sticky bits are kept only for directories, /tmp for one).
    `mtime` is in whole seconds since the epoch. `size` is the content's length in bytes (0 unless kind is `file`).
    `target` is a symlink's text, or the path (same form as `path`) that a hardlink shares its content with; that path
    came earlier in the same stream. `content` is readable once, only until the next entry is taken from the stream.
    """

    path: str
    kind: EntryKind
    mode: int
    mtime: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    content: BinaryIO | None = None
