"""Paths of entries as artefacts name them, made safe: nothing of an artefact lands outside the image's root."""

from __future__ import annotations

from uenv_builder.model.entry import EntryKind
from uenv_builder.model.errors import BuildError

NAME_MAX, PATH_MAX = 255, 4096
"""The longest name of one file and the longest path, in bytes (Linux's limits.h)."""

MERGED_FOLDERS = frozenset({"bin", "lib", "lib32", "lib64", "libo32", "libx32", "sbin"})
"""The folders at the root that are links into /usr on a system with merged /usr, as Debian's base-files makes them."""


def safe_path(name: str, *, artefact: str) -> str:
    """`name` as a relative POSIX path without empty and `.` parts: `./usr//bin/` becomes `usr/bin`.

    Raises BuildError, rule `unsafe-path`, for a path that is absolute, empty, too long, climbs with `..`, or holds a
    NUL or bytes that are not UTF-8. `artefact` (a file's name) is for the message.
    """
    encoded = _encode(name, artefact)
    if name.startswith("/"):
        raise _refusal(name, artefact, "is absolute")
    if "\0" in name:
        raise _refusal(name, artefact, "holds a NUL")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if not parts:
        raise _refusal(name, artefact, "names nothing")
    if ".." in parts:
        raise _refusal(name, artefact, "climbs with ..")
    if len(encoded) > PATH_MAX or any(len(part.encode()) > NAME_MAX for part in parts):
        raise _refusal(name, artefact, f"is longer than {PATH_MAX} bytes, or {NAME_MAX} in one part")
    return "/".join(parts)


def merge_usr(path: str) -> str:
    """Where `path` (as `safe_path` gives it) lies on a system with merged /usr: `lib/x.so` becomes `usr/lib/x.so`."""
    return f"usr/{path}" if path.partition("/")[0] in MERGED_FOLDERS else path


def is_merged_link(path: str, target: str) -> bool:
    """Whether the symlink at `path` with the text `target` is one of those that merge a root folder into /usr."""
    return path in MERGED_FOLDERS and target.strip("/") == f"usr/{path}"


class SymlinkGuard:
    """Remembers what one artefact, or one layer, put where, and refuses entries that would be written through a link.

    An extractor would follow such a link, to wherever it leads. Paths are given as `safe_path` and, for an artefact
    that is to be merged into /usr, `merge_usr` return them: the links of a merged /usr are never written through.
    """

    def __init__(self, artefact: str) -> None:
        self._artefact = artefact
        self._kinds: dict[str, EntryKind] = {}

    def admit(self, path: str, kind: EntryKind) -> None:
        """Take note of an entry; raises BuildError, rule `unsafe-path`, if it lies below what is no directory.

        So does anything but a directory that comes where something is already, or where other entries lie below it.
        """
        self.check_parents(path)
        earlier = self._kinds.get(path)
        if earlier is not None and not earlier == kind == "dir":
            raise _refusal(path, self._artefact, f"is a {kind}, but a {earlier} is there already")
        self._kinds[path] = kind

    def kind(self, path: str) -> EntryKind | None:
        """What is at `path`; None for what did not come yet, or lies below a link."""
        return self._kinds.get(path)

    def check_parents(self, path: str) -> None:
        """Raise BuildError, rule `unsafe-path`, if `path` lies below a link or a file."""
        parent = path.rpartition("/")[0]
        missing: list[str] = []
        while parent and self._kinds.get(parent) != "dir":
            if parent in self._kinds:
                raise _refusal(path, self._artefact, f"lies below {parent!r}, which is a {self._kinds[parent]}")
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        for folder in missing:
            self._kinds[folder] = "dir"


def _encode(name: str, artefact: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise _refusal(name, artefact, "holds bytes that are not UTF-8") from error


def _refusal(name: str, artefact: str, reason: str) -> BuildError:
    shown = name if len(name) <= 200 else f"{name[:200]}..."
    return BuildError(
        f"{artefact}: the path {shown!r} {reason}", rule="unsafe-path",
        hint="the artefact is broken or made to do harm: do not use it, and tell those who publish it",
    )  # fmt: skip
