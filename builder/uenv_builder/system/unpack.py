"""Entries onto a disk: only for what must lie there to run on the build machine, never for what goes into an image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from uenv_builder.model.entry import Entry


def unpack_entries(entries: Iterable[Entry], folder: Path, *, keep_times: bool = False) -> None:
    """Write `entries` below `folder`, which exists and is empty. Owners are not kept, times of files only if asked for.

    Entries obey the contract of `Entry`: no path leaves the folder. Links that are absolute are made relative to it,
    so that the tree also works without a change of root.
    """
    for entry in entries:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "dir":
            path.mkdir(exist_ok=True)
        elif entry.kind == "symlink":
            target = entry.target
            if target.startswith("/"):
                target = os.path.relpath(folder / target.lstrip("/"), path.parent)
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        elif entry.kind == "hardlink":
            path.unlink(missing_ok=True)
            path.hardlink_to(folder / entry.target)
        elif entry.content is not None:
            with path.open("wb") as out:
                shutil.copyfileobj(entry.content, out)
            path.chmod(entry.mode | 0o600)
            if keep_times:
                os.utime(path, (entry.mtime, entry.mtime))
