"""A layer's blob as a source of an image's data, each frame verified when it is read."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import BinaryIO

from xxhash import xxh3_128_digest

from uenv_builder.images.squashfs.extents import join_extents
from uenv_builder.images.squashfs.layout import STORED_BLOCK
from uenv_builder.images.squashfs.tree import FileData, Piece, Source
from uenv_builder.model.image import Layer
from uenv_builder.model.segment import Segment, Unit
from uenv_builder.system.layer_index import damaged, read_segment

_CHUNK = 1 << 20


class LayerSource(Source):
    """The units of `layer`, whose blob is open as `blob`: what a squashfs stores of them is the data area.

    Raises LockError, rule `hash-mismatch`, for a damaged segment, and where units are read that are not what was
    written.
    """

    __slots__ = ("_blob", "_unit_starts", "_unread", "_words", "layer", "segment")

    def __init__(self, layer: Layer, blob: BinaryIO) -> None:
        self.layer = layer
        self.segment: Segment = read_segment(layer)
        units = self.segment.units
        stored = [0 if unit.zero else unit.size if unit.raw else unit.length for unit in units]
        self._words = [
            size | STORED_BLOCK if unit.raw and size else size for unit, size in zip(units, stored, strict=True)
        ]  # fmt: skip
        self._unit_starts = list(accumulate(stored, initial=0))
        self._blob = blob
        self._unread = bytearray(b"\1") * len(units)
        super().__init__(_pieces(self.segment, blob), list(zip(self._unit_starts, self._words, strict=False)))

    def content(self, path: str, size: int) -> FileData:
        """The content of the file at `path` in this layer."""
        place = self.segment.places[path]
        words = tuple(self._words[place.first : place.first + place.blocks])
        return FileData(
            size=size,
            source=self,
            start=self._unit_starts[place.first],
            words=words,
            fragment=place.fragment if place.fragment >= 0 else None,
            offset=place.offset,
            sparse=words.count(0) * self.segment.block_size,
        )

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """As any source; `start` and `length` have to be those of whole units."""
        first, end = (bisect_left(self._unit_starts, place) for place in (start, start + length))
        if self._unit_starts[first] != start or self._unit_starts[end] != start + length:
            raise ValueError(f"the {length} bytes at {start} are not whole units")
        for units, data in self._read(first, end):
            yield _stored(units, data)

    def verify_rest(self) -> None:
        """Read the units that nobody has asked for: then all of the blob is what was written."""
        first = self._unread.find(1)
        while first >= 0:
            end = self._unread.find(0, first)
            end = len(self._unread) if end < 0 else end
            for _ in self._read(first, end):
                pass
            first = self._unread.find(1, end)

    def _read(self, first: int, end: int) -> Iterator[tuple[tuple[Unit, ...], bytes]]:
        """The units from `first` on, before `end`, some at a time, with the bytes of the blob that they are."""
        units = self.segment.units
        while first < end:
            begin, offset = first, units[first].offset
            while first < end and (first == begin or units[first].offset + units[first].length - offset <= _CHUNK):
                first += 1
            taken = units[begin:first]
            data = os.pread(self._blob.fileno(), taken[-1].offset + taken[-1].length - offset, offset)
            self._verify(taken, data)
            self._unread[begin:first] = bytes(first - begin)
            yield taken, data

    def _verify(self, units: tuple[Unit, ...], data: bytes) -> None:
        view, start = memoryview(data), units[0].offset
        for unit in units:
            place = unit.offset - start
            if xxh3_128_digest(view[place : place + unit.length]) != unit.check:
                raise damaged(self.layer.blob, f"the {unit.length} bytes at {unit.offset} are not what was written")


def _stored(units: tuple[Unit, ...], data: bytes) -> bytes:
    """What a squashfs stores of `units`, which are the bytes `data` of a blob."""
    if not any(unit.raw or unit.zero for unit in units):
        return data
    view, start = memoryview(data), units[0].offset
    return b"".join(view[first - start : end - start] for first, end in _extents(units))


def _extents(units: tuple[Unit, ...]) -> list[tuple[int, int]]:
    """Where the pieces of `units` are in the blob, those that touch made one."""
    return join_extents((offset, offset + length) for unit in units for offset, length in unit.pieces())


def _pieces(segment: Segment, blob: BinaryIO) -> list[Piece]:
    return [Piece(blob, first, end - first) for first, end in _extents(segment.units)]
