"""What every stream of entries must obey before it is written: a layer that breaks the rules would unpack differently
from one tool to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import IndexEntry

_NAME_MAX = 255  # bytes, linux/limits.h
_TIME_MAX = 2**32 - 1  # squashfs keeps times in 32 bits without a sign


class EntryRules:
    """Checks the entries of one stream in their order; `written` is the index of those that came before, by path."""

    def __init__(self, written: Mapping[str, IndexEntry]) -> None:
        self._written = written
        self._folders: set[str] = set()

    def accept(self, entry: Entry) -> Entry:
        """`entry` as it shall be written; raises BuildError if it violates the contract of `Entry`.

        A hard link has no attributes of its own: it comes back with those of the file that it shares its content with,
        and with that file's path as its target, also where it was given as a link to a link.
        """
        self._check_path(entry.path)
        if entry.path in self._written:
            raise _refusal(entry.path, "comes twice in one layer")
        self._check_place(entry)
        self._check_numbers(entry)
        if entry.kind == "hardlink":
            return self._resolve(entry)
        if entry.kind != "file" and (entry.size or entry.content is not None):
            raise _refusal(entry.path, f"has content, but is a {entry.kind}")
        if entry.kind == "file" and entry.content is None and entry.size:
            raise _refusal(entry.path, f"has no content, but a size of {entry.size} bytes")
        if (entry.kind == "symlink") != bool(entry.target) or "\0" in entry.target:
            raise _refusal(entry.path, f"is a {entry.kind} with the target {entry.target!r}")
        _encoded(entry.path, entry.target)
        return entry

    def _check_path(self, path: str) -> None:
        for part in path.split("/"):
            if part in {"", ".", ".."} or "\0" in part:
                raise _refusal(path, "is not a plain path relative to the image's root")
            if len(_encoded(path, part)) > _NAME_MAX:
                raise _refusal(path, f"has a part of more than {_NAME_MAX} bytes")

    def _check_place(self, entry: Entry) -> None:
        if entry.path in self._folders and entry.kind != "dir":
            raise _refusal(entry.path, f"is a {entry.kind}, but entries before it lie below it")
        parent = entry.path.rpartition("/")[0]
        while parent and parent not in self._folders:
            above = self._written.get(parent)
            if above is not None and above.kind != "dir":
                raise _refusal(entry.path, f"lies below {parent!r}, which is a {above.kind}")
            self._folders.add(parent)
            parent = parent.rpartition("/")[0]

    def _check_numbers(self, entry: Entry) -> None:
        most = 0o7777 if entry.kind == "dir" else 0o777
        if not 0 <= entry.mode <= most:
            raise _refusal(entry.path, f"has the mode {entry.mode:#o}")
        if not 0 <= entry.mtime <= _TIME_MAX:
            raise _refusal(entry.path, f"has the time {entry.mtime}, which squashfs cannot keep")
        if not (0 <= entry.uid < _TIME_MAX and 0 <= entry.gid < _TIME_MAX and entry.size >= 0):
            raise _refusal(entry.path, f"has owner {entry.uid}:{entry.gid} and size {entry.size}")

    def _resolve(self, entry: Entry) -> Entry:
        target = self._written.get(entry.target)
        if target is not None and target.kind == "hardlink":
            target = self._written[target.target]
        if target is None or target.kind != "file":
            raise _refusal(entry.path, f"is a hard link to {entry.target!r}, which is no file earlier in its layer")
        if entry.size or entry.content is not None:
            raise _refusal(entry.path, "has content, but is a hardlink")
        return dataclasses.replace(
            entry, mode=target.mode, mtime=target.mtime, uid=target.uid, gid=target.gid, target=target.path
        )


def _encoded(path: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _refusal(path, "holds bytes that are not UTF-8, which OCI layers cannot name") from error


def _refusal(path: str, reason: str) -> BuildError:
    return BuildError(
        f"{path!r} {reason}", rule="layer-entry",
        hint="the artefact that it comes from is broken, or is read wrongly: report it with the artefact's name",
    )  # fmt: skip
