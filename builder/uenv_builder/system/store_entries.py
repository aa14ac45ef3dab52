"""What a store holds: its kinds of entries, the locks for writing them, and the sums by which results are judged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uenv_builder.system.files import file_size, sha256_of, write_json

SUMS = "sums.json"
LABEL = "label"
"""The file in a result that says, in one line, what it is one of: `--keep-last` counts by it."""
LOGS = "logs"
PART = ".part"
BEGUN = ".begun"
"""The file in an unfinished result that its maker takes out in the end: gone before, it is not the maker's any more."""

EntryKind = Literal["download", "part", "step", "leftover", "log"]


@dataclass(frozen=True, slots=True)
class References:
    """Ids of steps and sha256 of downloads that somebody refers to."""

    steps: frozenset[str] = frozenset()
    downloads: frozenset[str] = frozenset()

    @classmethod
    def of(cls, steps: Iterable[str] = (), downloads: Iterable[str] = ()) -> References:
        """These."""
        return cls(frozenset(steps), frozenset(downloads))

    def __or__(self, other: References) -> References:
        return References(self.steps | other.steps, self.downloads | other.downloads)

    def __le__(self, other: References) -> bool:
        return self.steps <= other.steps and self.downloads <= other.downloads

    def __contains__(self, entry: StoredEntry) -> bool:
        return entry.key in (self.steps if entry.kind == "step" else self.downloads)


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A file or folder of the store. `key` is a download's sha256 or a step's id; `used` is in seconds since the epoch.

    `size` are the bytes of its content, without that in `shared`: bytes by sha256 of large files, which other entries
    may hold as hard links to the same. `lock` is the path of the lock that whoever writes the entry holds.
    """

    kind: EntryKind
    path: Path
    key: str
    size: int
    used: float
    lock: Path
    shared: Mapping[str, int] = field(default_factory=dict)

    @property
    def whole_size(self) -> int:
        """Bytes of all its content."""
        return self.size + sum(self.shared.values())


def log_files(root: Path) -> list[Path]:
    """What compilers printed where a component did not build."""
    return sorted(path for path in (root / LOGS).glob("*.log") if path.name[0] != ".")


def download_lock(root: Path, sha256: str) -> Path:
    """The lock for writing the download with this sha256."""
    return root / "locks" / f"download-{sha256}"


def step_lock(root: Path, step_id: str) -> Path:
    """The lock for writing the result of this step."""
    return root / "locks" / step_id


def write_sums(folder: Path, hashed: Mapping[str, str] | None = None) -> None:
    """Write the size and sha256 of every file below `folder` into its sums.json; links are followed by nobody.

    Several names of one file (hard links) are read once. `hashed` has the sha256 of files whose writer knows it, by
    their names below `folder`: these are not read again.
    """
    sums: dict[str, dict[str, int | str]] = {}
    known: dict[tuple[int, int], str] = {}
    for path in _files(folder):
        status = path.lstat()
        identity = (status.st_dev, status.st_ino)
        name = str(path.relative_to(folder))
        if identity not in known:
            known[identity] = (hashed or {}).get(name) or sha256_of(path)
        sums[name] = {"size": status.st_size, "sha256": known[identity]}
    write_json(folder / SUMS, sums)


def read_sums(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 by name, as they were written; raises OSError or ValueError where they cannot be read."""
    try:
        document = json.loads((folder / SUMS).read_bytes())
        return {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in document.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{SUMS} is not one: {error}") from error


def step_damage(folder: Path, hash_file: Callable[[Path], str] = sha256_of) -> str | None:
    """What differs from the folder's sums.json, or None. Files that came later are nobody's damage."""
    try:
        for name, (size, sha256) in read_sums(folder).items():
            path = folder / name
            if not path.is_file() or path.is_symlink():
                return f"{name} is missing"
            if path.stat().st_size != size or hash_file(path) != sha256:
                return f"{name} is not what was written"
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return None


def read_label(folder: Path) -> str:
    """What the result is one of: its label, else the kind that its files tell."""
    try:
        return (folder / LABEL).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        kinds = {"image.squashfs": "squashfs", "oci": "oci", "layer.tar.zst": "layer"}
        return next((kind for name, kind in kinds.items() if (folder / name).exists()), "other")


def size_below(path: Path) -> int:
    """Bytes of a file, or of all files in a folder, in content and not in blocks; others may be at work in it."""
    if not path.is_dir():
        return file_size(path)
    return sum(file_size(Path(name, file)) for name, _folders, files in os.walk(path) for file in files)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path not in {folder / SUMS, folder / BEGUN}:
            yield path
