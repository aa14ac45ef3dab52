"""Which file system a path is on, from the kernel's table of mounts (proc(5), mountinfo)."""

from __future__ import annotations

import os
from pathlib import Path

_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
_TABLE = Path("/proc/self/mountinfo")


def file_system_of(path: Path) -> str:
    """The type of the file system that `path`, or what there is of it, is on (`ext4`, `nfs4`, `lustre`, `tmpfs`);
    empty where the kernel does not say.
    """
    try:
        table = _TABLE.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    return find_type(table, os.path.realpath(path))


def find_type(table: str, path: str) -> str:
    """The type of the last mount in `table` (lines of mountinfo) on the longest part of the absolute `path`."""
    found, length = "", -1
    for line in table.splitlines():
        before, separator, after = line.partition(" - ")
        cells = before.split()
        if not separator or len(cells) < 5:
            continue
        place = _unescape(cells[4])
        if len(place) >= length and (path == place or path.startswith(place.rstrip("/") + "/")):
            found, length = after.split(" ", 1)[0], len(place)
    return found


def _unescape(text: str) -> str:
    for escaped, sign in _ESCAPES.items():
        text = text.replace(escaped, sign)
    return text
