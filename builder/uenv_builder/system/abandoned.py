"""Files and folders that say in their names whose they are, and the removal of those whose process was killed.

A mark is BOOT.NAMESPACE.PID.BEGIN: whether that process lives is known for certain on its own host, and of another one
nothing is known; what it left is removed after a day.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uenv_builder.system.files import TEMPORARY, remove_tree
from uenv_builder.system.store_process import process_mark, runs_by_mark

__all__ = ["remove_abandoned", "scratch_folder"]

_GIVEN_UP = 86400.0
_MARKED = re.compile(r"-(?P<mark>[0-9a-f]+\.\d+\.\d+\.\d+)-[^-]*$")


def remove_abandoned(folder: Path, prefix: str = TEMPORARY) -> None:
    """Remove what processes that were killed have left unfinished in `folder`, by its name: nothing of a living one.

    What cannot be removed stays, and a folder that is not there holds nothing.
    """
    for path in _marked(folder, prefix):
        with contextlib.suppress(OSError):
            if _is_abandoned(path):
                remove_tree(path) if _is_folder(path) else path.unlink()


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder below the system's temporary one that is gone afterwards; those of killed processes are removed, too.

    Its name begins with `prefix`, which ends with a hyphen.
    """
    remove_abandoned(Path(tempfile.gettempdir()), prefix)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{process_mark()}-") as name:
        yield Path(name)


def _marked(folder: Path, prefix: str) -> list[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208  (folders of thousands of names, of which none or few are ours)
    except OSError:
        return []
    return [folder / name for name in names if name.startswith(prefix) and _MARKED.search(name)]


def _is_abandoned(path: Path) -> bool:
    found = _MARKED.search(path.name)
    runs = runs_by_mark(found["mark"]) if found else True
    return time.time() - path.lstat().st_mtime > _GIVEN_UP if runs is None else not runs


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
