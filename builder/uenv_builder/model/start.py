"""What a program reads of an image when it starts."""

from __future__ import annotations

from dataclasses import dataclass

Parts = tuple[tuple[int, int], ...]
"""Bytes of a file from, and before, in ascending order; none: all of it."""


@dataclass(frozen=True, slots=True)
class StartFile:
    """A file that a start reads: its path in the image, without a leading slash, and which parts of it."""

    path: str
    parts: Parts = ()


@dataclass(frozen=True, slots=True)
class StartRecord:
    """The files in the order in which they are first read, each once; `repeated` are paths that were listed again."""

    files: tuple[StartFile, ...]
    repeated: tuple[str, ...] = ()
