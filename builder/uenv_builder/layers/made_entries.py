"""Entries that no artefact holds. Whoever puts them into a stream sets their time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace

from uenv_builder.model.entry import Entry


def make_folder(path: str, mode: int = 0o755, gid: int = 0) -> Entry:
    """A directory of root and the group `gid`."""
    return Entry(path=path, kind="dir", mode=mode, mtime=0, gid=gid)


def make_file(path: str, content: str | bytes, mode: int = 0o644, gid: int = 0) -> Entry:
    """A file of root and the group `gid`; text as UTF-8, with escaped bytes as they were."""
    encoded = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    return Entry(
        path=path, kind="file", mode=mode, mtime=0, gid=gid, size=len(encoded), content=io.BytesIO(encoded)
    )  # fmt: skip


def make_link(path: str, target: str) -> Entry:
    """A symlink with the text `target`."""
    return Entry(path=path, kind="symlink", mode=0o777, mtime=0, target=target)


def new_parents(path: str, known: set[str]) -> list[str]:
    """The folders above `path`, topmost first, that are not yet `known`; they are from now on.

    All folders above one that is known have to be known, too.
    """
    found: list[str] = []
    parent = path.rpartition("/")[0]
    while parent and parent not in known:
        known.add(parent)
        found.append(parent)
        parent = parent.rpartition("/")[0]
    return found[::-1]


def with_parents(entries: Iterable[Entry], epoch: int) -> Iterator[Entry]:
    """`entries` sorted by path, with the time `epoch`, each after the directories that it lies in."""
    done: set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.path):
        for path in new_parents(entry.path, done):
            yield replace(make_folder(path), mtime=epoch)
        if entry.kind != "dir" or entry.path not in done:
            done.add(entry.path)
            yield replace(entry, mtime=epoch)
