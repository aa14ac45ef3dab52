"""Which parts of the sources an image needs, where they go, and their copying.

What no file of the image refers to is left behind: blocks of files that a later layer replaced, and fragments whose
files are all gone.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from uenv_builder.images.squashfs.layout import NO_FRAGMENT, SIZE_MASK
from uenv_builder.images.squashfs.tree import FileData, Source
from uenv_builder.model.errors import BuildError

_CHUNK = 1 << 20


class Region(NamedTuple):
    """Bytes of a source's data area that stay together, and their place in the image."""

    source: Source
    start: int
    length: int
    place: int


class _Moved:
    """Where the data of one source went; `fragments` are new indices by old ones."""

    __slots__ = ("fragments", "places", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.places: list[int] = []
        self.fragments: dict[int, int] = {}

    def place(self, start: int) -> int:
        index = bisect_right(self.starts, start) - 1
        return self.places[index] + start - self.starts[index]


class Placement:
    """The data of an image whose files have `contents`, in the order of `sources`, from the byte `start` on.

    `regions` are in the order of their places, `end` is the first byte behind them, `fragments` is the image's table:
    (place, word) each. Raises ValueError for a content whose source is not among `sources`.
    """

    def __init__(self, contents: Iterable[FileData], sources: Sequence[Source], start: int) -> None:
        self.regions: list[Region] = []
        self.fragments: list[tuple[int, int]] = []
        self.end = start
        self._moved: dict[Source, _Moved] = {}
        extents, fragments = _needed(contents, sources)
        for source in extents:
            self._place_source(source, extents[source], sorted(fragments[source]))

    def place(self, content: FileData) -> tuple[int, int]:
        """The place of a file's blocks in the image (0 if it has none there), and the index of its fragment."""
        start = self._moved[content.source].place(content.start) if any(content.words) else 0
        if content.fragment is None:
            return start, NO_FRAGMENT
        return start, self._moved[content.source].fragments[content.fragment]

    def copy(self, target: int) -> None:
        """Copy all regions into the file with the descriptor `target`. Raises OSError, and BuildError for a source
        that has become shorter.
        """
        for region in self.regions:
            place = region.place
            for file, offset, length in region.source.parts(region.start, region.length):
                copy_range(file, offset, length, target, place)
                place += length

    def _place_source(self, source: Source, extents: list[tuple[int, int]], fragments: list[int]) -> None:
        moved = self._moved[source] = _Moved()
        for index in fragments:
            start, word = source.fragments[index]
            extents.append((start, start + (word & SIZE_MASK)))
        for start, end in _joined(extents):
            moved.starts.append(start)
            moved.places.append(self.end)
            self.regions.append(Region(source, start, end - start, self.end))
            self.end += end - start
        for index in fragments:
            start, word = source.fragments[index]
            moved.fragments[index] = len(self.fragments)
            self.fragments.append((moved.place(start), word))


def _needed(
    contents: Iterable[FileData], sources: Sequence[Source]
) -> tuple[dict[Source, list[tuple[int, int]]], dict[Source, set[int]]]:
    """By source: the extents of blocks, and the fragments that files have their tail ends in."""
    extents: dict[Source, list[tuple[int, int]]] = {source: [] for source in sources}
    fragments: dict[Source, set[int]] = {source: set() for source in sources}
    for content in contents:
        source = content.source
        stored = content.stored if content.words else 0
        if (stored or content.fragment is not None) and source not in extents:
            raise ValueError("a file's source is not among those that the image is made of")
        if stored:
            extents[source].append((content.start, content.start + stored))
        if content.fragment is not None:
            fragments[source].add(content.fragment)
    return extents, fragments


def _joined(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """`extents` in order, those that touch or overlap made one."""
    joined: list[tuple[int, int]] = []
    last = -1
    for start, end in sorted(extents):
        if start > last:
            joined.append((start, end))
        elif end > last:
            joined[-1] = (joined[-1][0], end)
        last = max(last, end)
    return joined


def copy_range(source: int, offset: int, length: int, target: int, place: int) -> None:
    """Copy bytes from one file to another, in the kernel where it can; neither's position matters or changes."""
    try:
        while length and (count := os.copy_file_range(source, target, length, offset, place)):
            offset, place, length = offset + count, place + count, length - count
    except OSError:
        pass  # some pairs of file systems refuse; whatever else is wrong shows below again
    while length:
        chunk = os.pread(source, min(length, _CHUNK), offset)
        if not chunk:
            raise BuildError(
                f"a file that is copied ends {length} bytes too early",
                hint="let nothing write to the store while a build runs",
            )
        write_at(target, chunk, place)
        offset, place, length = offset + len(chunk), place + len(chunk), length - len(chunk)


def write_at(target: int, content: bytes, place: int) -> None:
    """Write all of `content` at the byte `place` of a file."""
    left = memoryview(content)
    while left:
        count = os.pwrite(target, left, place)
        left, place = left[count:], place + count
