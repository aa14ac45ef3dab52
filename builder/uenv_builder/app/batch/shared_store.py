"""The proof that a job's node sees the submitter's store: a file that the submitter writes there, and the job reads."""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path

from uenv_builder.system.files import write_text
from uenv_builder.system.mounts import file_system_of

FOLDER = "shared"
"""Of the store; it holds one small file for each job that has not been collected."""
_AGE = 30 * 86400.0
"""Seconds after which a job's file counts as forgotten."""
_IN_MEMORY = {"tmpfs", "ramfs"}


def leave_proof(root: Path, job: str) -> tuple[Path, str]:
    """Write the file for `job` into the store at `root`; its path, and the word in it that nobody can guess."""
    path, word = root / FOLDER / job, secrets.token_hex(16)
    _forget_old(path.parent)
    write_text(path, f"{word}\n")
    return path, word


def remove_proof(root: Path, job: str) -> None:
    """The job has ended."""
    with contextlib.suppress(OSError):
        (root / FOLDER / job).unlink()


def warn_of_memory(root: Path) -> str | None:
    """A remark where the store lies in this machine's memory, which other machines do not see; the job decides."""
    kind = file_system_of(root)
    if kind not in _IN_MEMORY:
        return None
    return f"the store {root} is on {kind}, which only this machine sees: a job on another node will refuse to build"


def _forget_old(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _AGE:
                path.unlink()
