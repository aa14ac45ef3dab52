"""Entries that no artefact holds. Whoever puts them into a stream sets their time."""

from __future__ import annotations

import io

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
