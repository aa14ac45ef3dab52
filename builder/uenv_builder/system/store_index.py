"""How much a store holds, without looking at all of it: the sizes of entries, remembered by the folder they lie in.

`index.json` is derived, and may be removed at any time. It has for each folder (`steps/ab`, `downloads/ab`) the time of
its last change and the sizes of what lies there. A folder whose time is another is listed again; only entries that
are new in it are looked into, as an id or a sha256 stands for one content. What has changed within the last minute is
not trusted: file systems count time in steps, and servers have clocks of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from uenv_builder.model.errors import BuildError
from uenv_builder.system.files import TEMPORARY, write_text
from uenv_builder.system.store_entries import (
    PART,
    EntryKind,
    StoredEntry,
    download_lock,
    read_sums,
    size_below,
    step_lock,
)

INDEX = "index.json"
FORMAT = 1
FAMILIES = ("downloads", "steps")
_SETTLED = 60.0
"""Seconds after its last change from which on a folder's time tells whether it changes again."""
_LARGE = 1 << 20
"""Bytes from which on a file is counted by its content: results hold large files of others as hard links."""
_READERS = 8
"""Folders looked into at once: on a network file system each look waits for the server."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of an entry's files: of the small ones together, and of each large one by the first half of its sha256."""

    own: int
    shared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies in one folder of the store: sizes of whole entries by key, and the names of unfinished ones.

    `changed` is when, in nanoseconds; 0: it may change again without this time being another.
    """

    changed: int
    sizes: dict[str, Size]
    unfinished: tuple[str, ...]


Index = dict[str, Folder]


def read_index(root: Path, *, fresh: bool = False, save: bool = True) -> Index:
    """What the store holds, by folder. With `fresh`, every folder is listed, whatever its time says."""
    remembered = _load(root)
    index: Index = {}
    stale: list[tuple[str, int]] = []
    for place, changed in _folders(root):
        known = remembered.get(place)
        if known and not fresh and 0 < known.changed == changed:
            index[place] = known
        else:
            stale.append((place, changed))
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda folder: _list_folder(root / folder[0], folder[1], remembered.get(folder[0])), stale)
        index |= zip((place for place, _ in stale), found, strict=True)
    if save and index != remembered:
        _save(root, index)
    return index


def list_entries(root: Path, index: Index) -> list[StoredEntry]:
    """Everything in the store, ordered by path; results that are not finished, or being removed, are `leftover`s."""
    found: list[StoredEntry | None] = []
    for place, folder in sorted(index.items()):
        whole: EntryKind = "step" if place.startswith("steps") else "download"
        found += [_entry(root, whole, root / place / key, size) for key, size in sorted(folder.sizes.items())]
        found += list_unfinished(root, {place: folder})
    return [entry for entry in found if entry is not None]


def list_unfinished(root: Path, index: Index) -> Iterator[StoredEntry]:
    """Partial downloads, and `leftover`s."""
    for place, folder in sorted(index.items()):
        for name in folder.unfinished:
            path = root / place / name
            entry = _entry(root, "part" if path.suffix == PART else "leftover", path, Size(size_below(path)))
            if entry is not None:
                yield entry


def content_size(sizes: Iterable[Size | StoredEntry]) -> int:
    """Bytes of all of them, what several hold counted once."""
    total, shared = 0, dict[str, int]()
    for size in sizes:
        total += size.own if isinstance(size, Size) else size.size
        shared.update(size.shared)
    return total + sum(shared.values())


def _entry(root: Path, kind: EntryKind, path: Path, size: Size) -> StoredEntry | None:
    """None where it has gone since it was listed."""
    key = path.name.removeprefix(TEMPORARY).partition("-")[0].removesuffix(PART)
    lock = (step_lock if path.parent.parent.name == "steps" else download_lock)(root, key)
    try:
        return StoredEntry(kind, path, key, size.own, path.lstat().st_mtime, lock, size.shared)
    except FileNotFoundError:
        return None


def _folders(root: Path) -> Iterator[tuple[str, int]]:
    for family in FAMILIES:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / family) as listing:
            for item in sorted(listing, key=lambda item: item.name):
                if item.is_dir(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        yield f"{family}/{item.name}", item.stat(follow_symlinks=False).st_mtime_ns


def _list_folder(folder: Path, changed: int, known: Folder | None) -> Folder:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208  (thousands of names, and no paths)
    except FileNotFoundError:
        names = []
    unfinished = tuple(name for name in names if name.startswith(TEMPORARY) or name.endswith(PART))
    sizes: dict[str, Size] = {}
    for name in names:
        if name not in unfinished:
            size = (known.sizes.get(name) if known else None) or _measure(folder / name)
            if size is not None:
                sizes[name] = size
    settled = time.time() - changed / 1e9 > _SETTLED
    return Folder(changed if settled else 0, sizes, unfinished)


def _measure(path: Path) -> Size | None:
    try:
        if not path.is_dir():
            return Size(path.lstat().st_size)
        sums = read_sums(path).values()
    except FileNotFoundError:
        return Size(size_below(path)) if path.exists() else None
    except (OSError, ValueError):
        return Size(size_below(path))
    small = sum(size for size, _ in sums if size < _LARGE)
    return Size(small, {sha256[:32]: size for size, sha256 in sums if size >= _LARGE})


def _load(root: Path) -> Index:
    try:
        document = json.loads((root / INDEX).read_bytes())
        if document["format"] != FORMAT:
            return {}
        return {
            place: Folder(
                int(changed),
                {key: Size(size) if isinstance(size, int) else Size(size[0], size[1]) for key, size in sizes.items()},
                tuple(unfinished),
            )
            for place, (changed, sizes, unfinished) in document["folders"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}


def _save(root: Path, index: Index) -> None:
    folders = {
        place: [
            folder.changed,
            {key: [size.own, size.shared] if size.shared else size.own for key, size in folder.sizes.items()},
            folder.unfinished,
        ]
        for place, folder in index.items()
    }
    # It saves time and nothing else: a full disk, or a store that may only be read, does without.
    with contextlib.suppress(BuildError):
        write_text(root / INDEX, json.dumps({"format": FORMAT, "folders": folders}, separators=(",", ":")))
