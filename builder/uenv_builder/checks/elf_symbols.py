"""The names that a shared library exports, read as the dynamic loader's hash tables have them.

Layout and constants are those of the System V ABI's ELF-64 format (elf(5), <elf.h>) and of GNU's hash section.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 0, 4, 5, 6, 0x6FFFFEF5
_UNDEFINED_SECTION = 0
_GLOBAL_BINDINGS = frozenset({1, 2, 10})
"""Global, weak and unique."""


@dataclass(frozen=True, slots=True)
class _Library:
    content: mmap.mmap
    loads: tuple[tuple[int, int, int], ...]
    tags: dict[int, int]

    def offset(self, address: int) -> int:
        """Where in the file the memory address lies; raises ValueError where it does not."""
        for start, offset, size in self.loads:
            if start <= address < start + size:
                return address - start + offset
        raise ValueError(f"address {address:#x} is not in the file")


def exported_symbols(path: str, prefix: str) -> frozenset[str]:
    """The names with that prefix that the 64-bit little-endian library at `path` defines for others.

    None of them where the file is no such library or has no hash table, as programs and object files have none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            return frozenset(name for name in _read_names(_open(content)) if name.startswith(prefix))
    except (struct.error, ValueError):
        return frozenset()
    finally:
        os.close(descriptor)


def _open(content: mmap.mmap) -> _Library:
    _, _, _, _, _, table, _, _, _, size, count, _, _, _ = _HEADER.unpack_from(content)
    segments = [_SEGMENT.unpack_from(content, table + size * number) for number in range(count)]
    loads = tuple((segment[3], segment[2], segment[5]) for segment in segments if segment[0] == _PT_LOAD)
    dynamic = next((segment for segment in segments if segment[0] == _PT_DYNAMIC), None)
    tags: dict[int, int] = {}
    if dynamic:
        for place in range(dynamic[2], dynamic[2] + dynamic[5] - _DYNAMIC.size + 1, _DYNAMIC.size):
            tag, value = _DYNAMIC.unpack_from(content, place)
            if tag == _DT_NULL:
                break
            tags.setdefault(tag, value)
    return _Library(content, loads, tags)


def _read_names(library: _Library) -> Iterator[str]:
    if _DT_SYMTAB not in library.tags or _DT_STRTAB not in library.tags:
        return
    symbols, strings = library.offset(library.tags[_DT_SYMTAB]), library.offset(library.tags[_DT_STRTAB])
    for number in range(_count_symbols(library)):
        name, info, _, section, _, _ = _SYMBOL.unpack_from(library.content, symbols + number * _SYMBOL.size)
        if section != _UNDEFINED_SECTION and info >> 4 in _GLOBAL_BINDINGS:
            start = strings + name
            yield library.content[start : library.content.find(b"\0", start)].decode(errors="surrogateescape")


def _count_symbols(library: _Library) -> int:
    if _DT_HASH in library.tags:
        _, count = struct.unpack_from("<II", library.content, library.offset(library.tags[_DT_HASH]))
        return int(count)
    if _DT_GNU_HASH not in library.tags:
        return 0
    return _count_by_gnu_hash(library, library.offset(library.tags[_DT_GNU_HASH]))


def _count_by_gnu_hash(library: _Library, table: int) -> int:
    """One more than the number of the last symbol: the end of the chain that starts highest."""
    content = library.content
    buckets, first, filters, _ = struct.unpack_from("<IIII", content, table)
    starts = struct.unpack_from(f"<{buckets}I", content, table + 16 + 8 * filters)
    number = max(starts, default=0)
    if number < first:
        return int(first)
    chains = table + 16 + 8 * filters + 4 * buckets
    while not struct.unpack_from("<I", content, chains + 4 * (number - first))[0] & 1:
        number += 1
    return int(number) + 1
