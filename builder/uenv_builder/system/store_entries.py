"""What lies in a store, read from its folders; others may add and remove entries at the same time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uenv_builder.system.files import TEMPORARY, sha256_of, write_json

SUMS = "sums.json"
PART = ".part"

EntryKind = Literal["download", "part", "step", "leftover"]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A file or folder of the store. `key` is a download's sha256 or a step's id; `used` is in seconds since the epoch.

    `lock` is the path of the lock that whoever writes or removes the entry holds.
    """

    kind: EntryKind
    path: Path
    key: str
    size: int
    used: float
    lock: Path


def download_lock(root: Path, sha256: str) -> Path:
    """The lock for writing the download with this sha256."""
    return root / "locks" / f"download-{sha256}"


def step_lock(root: Path, step_id: str) -> Path:
    """The lock for writing the result of this step."""
    return root / "locks" / step_id


def list_entries(root: Path) -> list[StoredEntry]:
    """Everything in the store, ordered by path; unfinished folders of steps are `leftover`s."""
    found = []
    for family in ("downloads", "steps"):
        for path in sorted((root / family).glob("*/*")):
            try:
                found.append(_entry(root, family, path))
            except FileNotFoundError:
                continue  # removed since it was listed
    return found


def _entry(root: Path, family: str, path: Path) -> StoredEntry:
    kind: EntryKind
    if path.name.startswith(TEMPORARY):
        kind, key = "leftover", path.name.removeprefix(TEMPORARY).partition("-")[0]
    elif family == "steps":
        kind, key = "step", path.name
    else:
        kind, key = ("part" if path.suffix == PART else "download"), path.stem
    lock = step_lock(root, key) if family == "steps" else download_lock(root, key)
    return StoredEntry(kind, path, key, _size(path), path.lstat().st_mtime, lock)


def write_sums(folder: Path) -> None:
    """Write the size and sha256 of every file below `folder` into its sums.json; links are followed by nobody.

    Several names of one file (hard links) are read once.
    """
    sums: dict[str, dict[str, int | str]] = {}
    known: dict[tuple[int, int], str] = {}
    for path in _files(folder):
        status = path.lstat()
        identity = (status.st_dev, status.st_ino)
        if identity not in known:
            known[identity] = sha256_of(path)
        sums[str(path.relative_to(folder))] = {"size": status.st_size, "sha256": known[identity]}
    write_json(folder / SUMS, sums)


def step_damage(folder: Path) -> str | None:
    """What differs from the folder's sums.json, or None. Files that came later are nobody's damage."""
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        for name, expected in sums.items():
            path = folder / name
            if not path.is_file() or path.is_symlink():
                return f"{name} is missing"
            if path.stat().st_size != expected["size"] or sha256_of(path) != expected["sha256"]:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"cannot be read: {error}"
    return None


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path != folder / SUMS:
            yield path


def _size(path: Path) -> int:
    """Bytes of a file, or of all in a folder, in content and not in blocks."""
    if not path.is_dir():
        return path.lstat().st_size
    try:
        return sum(int(entry["size"]) for entry in json.loads((path / SUMS).read_bytes()).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return sum(_length(Path(name, file)) for name, _folders, files in os.walk(path) for file in files)


def _length(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:  # its owner is at work
        return 0
