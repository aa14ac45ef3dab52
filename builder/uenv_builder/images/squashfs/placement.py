"""Which parts of the sources an image needs, and where they go.

What no file of the image refers to is left behind: blocks of files that a later layer replaced, and fragments whose
files are all gone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from uenv_builder.images.squashfs.extents import join_extents
from uenv_builder.images.squashfs.layout import NO_FRAGMENT, SIZE_MASK
from uenv_builder.images.squashfs.tree import FileData, Source


class Region(NamedTuple):
    """Bytes of a source's data area that stay together, and their place in the image."""

    source: Source
    start: int
    length: int
    place: int


class _Moved:
    """Where the data of one source goes, run by run: their starts and ends in the source, in order, and their places.

    `fragments` are new indices by old ones.
    """

    __slots__ = ("ends", "fragments", "places", "starts")

    def __init__(self, extents: list[tuple[int, int]]) -> None:
        runs = join_extents(sorted(extents), gap=-1)  # blocks of a file have to stay together
        self.starts = [start for start, _ in runs]
        self.ends = [end for _, end in runs]
        self.places = [-1] * len(runs)
        self.fragments: dict[int, int] = {}

    def run(self, start: int) -> int:
        """The index of the run with the byte `start`."""
        return bisect_right(self.starts, start) - 1

    def place(self, start: int) -> int:
        index = bisect_right(self.starts, start) - 1
        return self.places[index] + start - self.starts[index]


class Placement:
    """The data of an image whose files have `contents`, in the order of `sources`, from the byte `start` on.

    The data of the files `first` comes before all other, in their order. `regions` are in the order of their places,
    `end` is the first byte behind them, `fragments` is the image's table: (place, word) each. Raises ValueError for a
    content whose source is not among `sources`.
    """

    def __init__(
        self, contents: Iterable[FileData], sources: Sequence[Source], start: int, first: Iterable[FileData] = ()
    ) -> None:
        self.regions: list[Region] = []
        self.fragments: list[tuple[int, int]] = []
        self.end = start
        extents, fragments = _needed(contents, sources)
        self._moved = {source: _Moved(extents[source]) for source in extents}
        for content in first:
            for begin, _ in _extents(content):
                self._place_run(content.source, self._moved[content.source].run(begin))
        for source, moved in self._moved.items():
            for index in range(len(moved.starts)):
                self._place_run(source, index)
            for old in sorted(fragments[source]):
                begin, word = source.fragments[old]
                moved.fragments[old] = len(self.fragments)
                self.fragments.append((moved.place(begin), word))

    def place(self, content: FileData) -> tuple[int, int]:
        """The place of a file's blocks in the image (0 if it has none there), and the index of its fragment."""
        start = self._moved[content.source].place(content.start) if any(content.words) else 0
        if content.fragment is None:
            return start, NO_FRAGMENT
        return start, self._moved[content.source].fragments[content.fragment]

    def chunks(self) -> Iterator[bytes]:
        """The data of all regions, in their order. Raises what the sources' `chunks` raise."""
        for region in self.regions:
            yield from region.source.chunks(region.start, region.length)

    def _place_run(self, source: Source, index: int) -> None:
        moved = self._moved[source]
        if moved.places[index] >= 0:
            return
        moved.places[index] = self.end
        start, length = moved.starts[index], moved.ends[index] - moved.starts[index]
        last = self.regions[-1] if self.regions else None
        if last and last.source is source and last.start + last.length == start:
            self.regions[-1] = last._replace(length=last.length + length)
        else:
            self.regions.append(Region(source, start, length, self.end))
        self.end += length


def _needed(
    contents: Iterable[FileData], sources: Sequence[Source]
) -> tuple[dict[Source, list[tuple[int, int]]], dict[Source, set[int]]]:
    """By source: the extents of blocks and fragments, and the fragments that files have their tail ends in."""
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
    for source, indices in fragments.items():
        extents[source] += [_fragment_extent(source, index) for index in indices]
    return extents, fragments


def _extents(content: FileData) -> Iterator[tuple[int, int]]:
    """Where the data of a file is in its source: its blocks, and its fragment."""
    if stored := content.stored:
        yield content.start, content.start + stored
    if content.fragment is not None:
        yield _fragment_extent(content.source, content.fragment)


def _fragment_extent(source: Source, index: int) -> tuple[int, int]:
    start, word = source.fragments[index]
    return start, start + (word & SIZE_MASK)
