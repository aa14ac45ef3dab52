"""What of an image a start reads: a list behind the tables, where squashfs has padding that nobody looks at.

It begins at the byte `bytes_used` of the superblock. Kernel and tools do not read beyond that, so the list changes
nothing for them, and a tool that cuts an image off there loses the list alone.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from uenv_builder.images.squashfs.extents import join_extents
from uenv_builder.images.squashfs.layout import MAGIC, SIZE_MASK, SUPERBLOCK, Superblock
from uenv_builder.images.squashfs.placement import Placement
from uenv_builder.images.squashfs.tree import FileData
from uenv_builder.model.start import Parts

START_MAGIC = b"uenvstrt"
_HEAD = struct.Struct("<8sII")
"""START_MAGIC, the version 1, and how many extents follow."""
_EXTENT = struct.Struct("<QQ")
"""First byte in the image, and length."""
_CHECK = struct.Struct("<I")
"""The CRC-32 of head and extents."""
_VERSION = 1
_MAX_EXTENTS = 4096
_GAP = 64 << 10
"""Bytes that are rather read than jumped over: a request to a parallel file system takes longer."""

Extents = tuple[tuple[int, int], ...]


class FirstRead(NamedTuple):
    """The content of a file that a start reads, and the parts of it that are read (none: all)."""

    content: FileData
    parts: Parts = ()


def start_extents(first: Iterable[FirstRead], placement: Placement, block_size: int) -> Extents:
    """Where in the image the data of `first` is: (first byte, length) each, ascending, near ones made one."""
    pieces = sorted({piece for wanted in first for piece in _pieces(wanted, placement, block_size)})
    gap = _GAP
    extents = join_extents(pieces, gap)
    while len(extents) > _MAX_EXTENTS - 1:  # one is for the tables
        gap *= 2
        extents = join_extents(pieces, gap)
    return tuple((start, end - start) for start, end in extents)


def dump_extents(extents: Sequence[tuple[int, int]]) -> bytes:
    """The list as it lies in an image."""
    content = _HEAD.pack(START_MAGIC, _VERSION, len(extents)) + b"".join(_EXTENT.pack(*extent) for extent in extents)
    return content + _CHECK.pack(zlib.crc32(content))


def read_extents(path: Path) -> Extents:
    """The list of the image at `path`: what a start reads, in the order to read it; empty where there is none.

    A list that is damaged, or does not fit the file, counts as none: it only says what is worth reading early. Raises
    OSError.
    """
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # the kernel would begin to read on behind these few bytes
        first = os.pread(fd, SUPERBLOCK.size, 0)
        if len(first) < SUPERBLOCK.size:
            return ()
        top = Superblock._make(SUPERBLOCK.unpack(first))
        if top.magic != MAGIC or top.bytes_used > 1 << 62:
            return ()
        content = os.pread(fd, _HEAD.size + _MAX_EXTENTS * _EXTENT.size + _CHECK.size, top.bytes_used)
    return _parse(content, top.bytes_used)


def _parse(content: bytes, size: int) -> Extents:
    if len(content) < _HEAD.size:
        return ()
    magic, version, count = _HEAD.unpack_from(content)
    end = _HEAD.size + count * _EXTENT.size
    if magic != START_MAGIC or version != _VERSION or len(content) < end + _CHECK.size:
        return ()
    if _CHECK.unpack_from(content, end)[0] != zlib.crc32(content[:end]):
        return ()
    extents = tuple(_EXTENT.iter_unpack(content[_HEAD.size : end]))
    return extents if all(start + length <= size for start, length in extents) else ()


def _pieces(wanted: FirstRead, placement: Placement, block_size: int) -> Iterator[tuple[int, int]]:
    content, parts = wanted
    place, fragment = placement.place(content)
    for number, word in enumerate(content.words):
        length = word & SIZE_MASK
        if length and _touches(parts, number * block_size, (number + 1) * block_size):
            yield place, place + length
        place += length
    if content.fragment is not None and _touches(parts, len(content.words) * block_size, content.size):
        start, word = placement.fragments[fragment]
        yield start, start + (word & SIZE_MASK)


def _touches(parts: Parts, start: int, end: int) -> bool:
    return not parts or any(first < end and start < before for first, before in parts)
