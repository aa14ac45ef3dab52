"""Runs of bytes, as (first byte, end) pairs."""

from __future__ import annotations

from collections.abc import Iterable


def join_extents(extents: Iterable[tuple[int, int]], gap: int = 0) -> list[tuple[int, int]]:
    """`extents`, sorted by their first bytes, those made one that have at most `gap` bytes between them.

    With 0 these are those that touch or overlap, with -1 those that overlap.
    """
    joined: list[tuple[int, int]] = []
    for start, end in extents:
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
