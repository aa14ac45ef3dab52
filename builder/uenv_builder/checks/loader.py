"""Which file the dynamic loader would take for each name that an object needs, by the rules of glibc's ld.so(8)."""

from __future__ import annotations

import posixpath
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uenv_builder.checks.elf_file import MACHINES, ElfFile, read_elf
from uenv_builder.checks.image_tree import ImageTree

_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_HEADER = struct.Struct("<20sII20x")
_CACHE_ENTRY = struct.Struct("<iIIIQ")


@dataclass(frozen=True, slots=True)
class Missing:
    """A name that nothing resolves: `needed_by` is the object that asks, `started_from` the one loaded first."""

    soname: str
    needed_by: str
    started_from: str


@dataclass(frozen=True, slots=True)
class FoundByLoader:
    """A name that only resolves because of an object above: by its DT_RPATH, or since it has loaded it before."""

    soname: str
    needed_by: str
    via: str


@dataclass(slots=True)
class _Loaded:
    path: str
    elf: ElfFile
    loader: _Loaded | None

    def chain(self) -> Iterator[_Loaded]:
        """This object, the one that loaded it, and so on up."""
        link: _Loaded | None = self
        while link:
            yield link
            link = link.loader


@dataclass(slots=True)
class Loader:
    """The loader of one image.

    `multiarch` is Debian's folder name below /usr/lib, `library_path` the folders of LD_LIBRARY_PATH. Names that
    resolve only through a loader are collected in `by_loader`.
    """

    tree: ImageTree
    machine: str
    multiarch: str
    library_path: Sequence[str] = ()
    by_loader: set[FoundByLoader] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    """Every object that was loaded so far, by its path without links."""
    _elves: dict[str, ElfFile | None] = field(default_factory=dict)
    _cache: dict[str, list[str]] | None = None

    def load(self, path: str) -> list[Missing]:
        """Load the object at `path` and all that it needs, breadth first; what is missing is returned."""
        elf = self.read(path)
        if elf is None:
            return []
        first = _Loaded(path, elf, None)
        loaded = {name: first for name in (elf.soname, posixpath.basename(path)) if name}
        missing: list[Missing] = []
        queue = deque([first])
        while queue:
            current = queue.popleft()
            self.seen.add(self.tree.resolve(current.path) or current.path)
            for name in current.elf.needed:
                if name in loaded:
                    self._note_loaded_before(name, current, loaded[name])
                    continue
                found = self._find(name, current)
                if found is None:
                    missing.append(Missing(name, current.path, path))
                    continue
                loaded[name] = found
                if found.elf.soname:
                    loaded.setdefault(found.elf.soname, found)
                queue.append(found)
        return missing

    def find_opened(self, name: str, chain: Sequence[str]) -> str | None:
        """The file that dlopen(`name`) gives where the last object of `chain` calls it; None where there is none.

        Each object of `chain` was loaded by the one before it. Without a chain: as a program that names no folders.
        """
        caller: _Loaded | None = None
        for path in chain:
            elf = self.read(path)
            caller = _Loaded(path, elf, caller) if elf else caller
        nobody = _Loaded("/", ElfFile(MACHINES[self.machine], 0, dynamic=True), None)
        found = self._find(name, caller or nobody)
        return found.path if found else None

    def read(self, path: str) -> ElfFile | None:
        """The ELF file at `path`, links followed; None if there is none of the image's machine."""
        real = self.tree.resolve(path)
        if real is None:
            return None
        if real not in self._elves:
            outside = self.tree.outside(real)
            elf = read_elf(outside) if Path(outside).is_file() else None
            self._elves[real] = elf if elf and elf.machine == MACHINES[self.machine] else None
        return self._elves[real]

    def _note_loaded_before(self, name: str, current: _Loaded, found: _Loaded) -> None:
        if found is not current and self._find_alone(name, current) is None and found.loader:
            self.by_loader.add(FoundByLoader(name, current.path, found.loader.path))

    def _find(self, name: str, current: _Loaded) -> _Loaded | None:
        if path := self._find_alone(name, current):
            return self._make(path, current)
        if current.elf.runpath is not None:
            return None
        for above in current.chain():
            path = self._search(name, self._expand(above.elf.rpath or (), above.path))
            if path and above.elf.runpath is None:
                self.by_loader.add(FoundByLoader(name, current.path, above.path))
                return self._make(path, current)
        return None

    def _make(self, path: str, loader: _Loaded) -> _Loaded | None:
        elf = self.read(path)
        return _Loaded(path, elf, loader) if elf else None

    def _find_alone(self, name: str, current: _Loaded) -> str | None:
        """The file for `name` without the help of the objects above."""
        if "/" in name:
            expanded = self._expand((name,), current.path)
            return next((path for path in expanded if self.read(path)), None)
        elf = current.elf
        own = elf.runpath if elf.runpath is not None else ()
        before = elf.rpath if elf.runpath is None and elf.rpath else ()
        folders = [*self._expand(before, current.path), *self.library_path, *self._expand(own, current.path)]
        return self._search(name, folders) or (None if elf.no_default_folders else self._find_by_system(name))

    def _search(self, name: str, folders: Sequence[str]) -> str | None:
        candidates = (self.tree.find_in(folder, name) for folder in folders)
        return next((path for path in candidates if path and self.read(path)), None)

    def _find_by_system(self, name: str) -> str | None:
        """By the loader's cache, or without one by the folders that ldconfig would have read; then the defaults."""
        if self._cache is None:
            self._cache = read_loader_cache(self.tree) or {}
        cached = next((path for path in self._cache.get(name, ()) if self.read(path)), None)
        defaults = [f"/lib/{self.multiarch}", f"/usr/lib/{self.multiarch}", "/lib64", "/usr/lib64", "/lib", "/usr/lib"]
        configured = [] if self._cache else configured_folders(self.tree)
        return cached or self._search(name, [*configured, *defaults])

    def _expand(self, folders: Sequence[str], path: str) -> list[str]:
        """The loader's variables filled in; a relative folder depends on the working directory and never counts."""
        values = {"ORIGIN": posixpath.dirname(path), "LIB": f"lib/{self.multiarch}", "PLATFORM": self.machine}
        expanded = []
        for folder in folders:
            text = folder
            for variable, value in values.items():
                text = text.replace(f"${{{variable}}}", value).replace(f"${variable}", value)
            if text.startswith("/"):
                expanded.append(text)
        return expanded


def read_loader_cache(tree: ImageTree) -> dict[str, list[str]] | None:
    """The files by name in /etc/ld.so.cache (glibc's dl-cache.h, new format), None where there is no such cache."""
    path = tree.resolve("/etc/ld.so.cache")
    if path is None:
        return None
    content = Path(tree.outside(path)).read_bytes()
    start = content.find(_CACHE_MAGIC)
    if start < 0:
        return None
    content = content[start:]
    _, count, _ = _CACHE_HEADER.unpack_from(content)
    found: dict[str, list[str]] = {}
    for number in range(count):
        _, key, value, _, _ = _CACHE_ENTRY.unpack_from(content, _CACHE_HEADER.size + number * _CACHE_ENTRY.size)
        found.setdefault(_text(content, key), []).append(_text(content, value))
    return found


def configured_folders(tree: ImageTree) -> list[str]:
    """The folders that /etc/ld.so.conf and the files that it includes name."""
    folders: list[str] = []
    pending = ["/etc/ld.so.conf"]
    while pending:
        path = tree.resolve(pending.pop(0))
        if path is None:
            continue
        for line in Path(tree.outside(path)).read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["include"]:
                base = posixpath.dirname(path)
                pending += [found for word in words[1:] for found in _glob(tree, posixpath.join(base, word))]
            else:
                folders += [word for word in words if word.startswith("/")]
    return folders


def _glob(tree: ImageTree, pattern: str) -> list[str]:
    root = Path(tree.root)
    return sorted(f"/{found.relative_to(root)}" for found in root.glob(pattern.lstrip("/")))


def _text(content: bytes, offset: int) -> str:
    return content[offset : content.index(b"\0", offset)].decode(errors="surrogateescape")
