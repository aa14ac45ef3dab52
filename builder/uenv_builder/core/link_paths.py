"""Paths of an image that lead through its symbolic links."""

from __future__ import annotations

from collections.abc import Mapping

_MAX_LINKS = 40  # as many as Linux follows


def resolve_links(path: str, links: Mapping[str, str]) -> str:
    """Where `path` leads to when all `links` (their texts by path) on its way are followed, as far as Linux would.

    Paths have no leading slash.
    """
    done: list[str] = []
    left, count = path.split("/"), 0
    while left:
        part = left.pop(0)
        if part in {"", "."}:
            continue
        if part == "..":
            done = done[:-1]
            continue
        text = links.get("/".join([*done, part]))
        if text is None or count >= _MAX_LINKS:
            done.append(part)
            continue
        count += 1
        left = [*text.split("/"), *left]
        if text.startswith("/"):
            done = []
    return "/".join(done)
