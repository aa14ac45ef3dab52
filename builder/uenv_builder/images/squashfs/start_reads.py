"""From reads of an image's file to the files in it that they were for."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from uenv_builder.images.squashfs.extents import join_extents
from uenv_builder.images.squashfs.layout import SIZE_MASK
from uenv_builder.images.squashfs.reader import SquashfsImage
from uenv_builder.images.squashfs.tree import FileData, walk
from uenv_builder.model.start import Parts, StartFile

_NEVER = 1 << 62


def start_files(
    image: SquashfsImage, reads: Sequence[tuple[int, int]], paths: Collection[str]
) -> tuple[StartFile, ...]:
    """The files at `paths`, in the order in which their data was first read, each with the parts that were.

    `reads` are (first byte, length) in the image's file, in their order. What is read at once is a block, or a fragment
    that tails of several files share: files of one fragment come in the order of their paths, and a tail counts as read
    when its fragment was. A file whose data was never read (another one has the same) comes last, as read as a whole.
    """
    contents = {os.fsdecode(path): node.content for path, node in walk(image.root) if node.content}
    wanted = {path: contents[path] for path in sorted(paths) if path in contents}
    first = image.source.pieces[0].offset
    units = {path: list(_units(content, first)) for path, content in wanted.items()}
    read = first_reads(reads, {unit for found in units.values() for unit in found if unit[1] > unit[0]})
    order = {path: _first_read(units[path], len(content.words), read) for path, content in wanted.items()}
    return tuple(
        StartFile(path, _parts([unit in read for unit in units[path]], wanted[path].size, image.block_size))
        for path in sorted(order, key=lambda path: (order[path], path))
    )


def _first_read(units: Sequence[tuple[int, int]], blocks: int, read: Mapping[tuple[int, int], int]) -> int:
    """When a file was first read: a block of it, which is nobody else's, or else its fragment."""
    found = [read[unit] for unit in units[:blocks] if unit in read] or [read[unit] for unit in units if unit in read]
    return min(found, default=_NEVER)


def first_reads(reads: Sequence[tuple[int, int]], units: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """For each of `units`, (first byte, end), that was read as a whole: the number of the read that completed it.

    The kernel reads whole sectors, and long blocks in several reads that follow each other: a unit that only its
    neighbours' sectors touch was not read.
    """
    ordered = sorted(units)
    starts = [start for start, _ in ordered]
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    done: dict[tuple[int, int], int] = {}
    for number, (start, length) in enumerate(reads):
        end = start + length
        index = max(bisect_right(starts, start) - 1, 0)
        while index < len(ordered) and starts[index] < end:
            unit = ordered[index]
            index += 1
            if unit[1] <= start or unit in done:
                continue
            low, high = seen.get(unit, (start, end))
            # A read that does not touch what was seen begins anew.
            low, high = (min(low, start), max(high, end)) if start <= high and end >= low else (start, end)
            seen[unit] = (low, high)
            if low <= unit[0] and high >= unit[1]:
                done[unit] = number
    return done


def _units(content: FileData, first: int) -> Iterator[tuple[int, int]]:
    """Where each block of a file, and its fragment, is in the image's file; one of zeros is nowhere."""
    place = first + content.start
    for word in content.words:
        yield place, place + (word & SIZE_MASK)
        place += word & SIZE_MASK
    if content.fragment is not None:
        start, word = content.source.fragments[content.fragment]
        yield first + start, first + start + (word & SIZE_MASK)


def _parts(read: Sequence[bool], size: int, block_size: int) -> Parts:
    """The bytes of a file of which the blocks `read` were read; none where that is all of it, or nothing."""
    if not any(read) or all(read):
        return ()
    blocks = (number for number, was_read in enumerate(read) if was_read)
    return tuple(join_extents((number * block_size, min((number + 1) * block_size, size)) for number in blocks))
