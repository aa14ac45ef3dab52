"""A layer's blob as a squashfs sees it: compressed blocks, and the place of each file's content in them.

The blob is a sequence of zstd frames, each with at most a block of the tar stream. A squashfs can take a full block of
a file as one of its data blocks, and any other frame as a fragment, which holds the end of a file at some offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

RAW_HEAD = 9
"""Bytes of a frame before its first block: magic number, descriptor, content size in 4 bytes (RFC 8878, 3.1.1)."""
RAW_BLOCK_HEAD = 3
RAW_BLOCK = 128 << 10
"""The largest block of a frame (RFC 8878, 3.1.1.2.4): a raw one has a header of 3 bytes, then so many of data."""


def raw_length(size: int) -> int:
    """The bytes that a frame of raw blocks takes for `size` bytes of data."""
    return RAW_HEAD + -(-size // RAW_BLOCK) * RAW_BLOCK_HEAD + size


class Unit(NamedTuple):
    """One frame: `length` bytes from `offset` on in the blob, which hold `size` bytes of the tar stream.

    `raw` says that it is made of blocks that are not compressed, because its data does not become smaller. `zero` marks
    a file's full block of zeros, which a squashfs does not store. `check` is the XXH3-128 of the frame (16 bytes, the
    canonical form): it finds what was damaged, and the blob's sha256 is what names it.
    """

    offset: int
    length: int
    size: int
    raw: bool
    zero: bool
    check: bytes

    def pieces(self) -> tuple[tuple[int, int], ...]:
        """What a squashfs stores of the unit, as (offset in the blob, length) each, in order.

        That is the frame; of a raw one the data alone, which squashfs stores without any frame; of zeros nothing.
        """
        if self.zero:
            return ()
        if not self.raw:
            return ((self.offset, self.length),)
        first = self.offset + RAW_HEAD + RAW_BLOCK_HEAD
        return tuple(
            (first + start + start // RAW_BLOCK * RAW_BLOCK_HEAD, min(RAW_BLOCK, self.size - start))
            for start in range(0, self.size, RAW_BLOCK)
        )


class FilePlace(NamedTuple):
    """Where a file's content is: `blocks` units from the number `first` on, each a full block, then its tail.

    The tail, what is left after the full blocks, begins at `offset` in the uncompressed data of the unit `fragment`. A
    file without full blocks has the `first` 0, one without a tail the `fragment` -1 and the `offset` 0.
    """

    first: int
    blocks: int
    fragment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Segment:
    """All units of a layer's blob, in their order, and the places of its files by path.

    `block_size` is in bytes, a power of two from 4 KiB to 1 MiB. Files with the same content have the same place: that
    of the first of them. Hard links have none: their file has it.
    """

    block_size: int
    units: tuple[Unit, ...]
    places: Mapping[str, FilePlace]
