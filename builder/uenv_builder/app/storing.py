"""The store as its owner sees it: how much it holds, whether it is sound, and how to make room."""

from __future__ import annotations

import re
from dataclasses import asdict

from uenv_builder.app.session import Session
from uenv_builder.core.digest import Document
from uenv_builder.model.errors import UsageError
from uenv_builder.system.store import Store

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DAY = 86400.0


def describe(store: Store) -> Document:
    """Counts and bytes by kind."""
    return {key: value if isinstance(value, int) else str(value) for key, value in asdict(store.info()).items()}


def lines(document: Document) -> list[str]:
    """The same for people."""
    return [f"{key.replace('_', ' '):20} {value}" for key, value in document.items()]


def verify(session: Session) -> Document:
    """Read everything; what is damaged is dropped and named."""
    damages = session.store.verify(session.listener)
    return {"damaged": [asdict(damage) for damage in damages]}


def damage_lines(document: Document) -> list[str]:
    """The same for people."""
    damaged = document["damaged"]
    if not isinstance(damaged, list) or not damaged:
        return ["everything in the store is sound"]
    return [f"dropped {damage}" for damage in damaged]


def collect(store: Store, *, max_size: str | None, older_than_days: float | None) -> Document:
    """Remove leftovers, then what was used least recently, down to `max_size` (50G), or older than so many days."""
    collected = store.collect(
        keep=frozenset(),
        older_than_seconds=None if older_than_days is None else older_than_days * _DAY,
        max_bytes=None if max_size is None else parse_size(max_size),
    )
    return {"removed": collected.removed, "freed_bytes": collected.freed_bytes, "busy": collected.busy}


def parse_size(text: str) -> int:
    """Bytes of `50G`, `500M`, `1.5T`: powers of ten, as disks are sold."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if not match:
        raise UsageError(f'"{text}" is not a size', hint="write it as 50G, 500M or 1.5T")
    return int(float(match[1]) * _UNITS[match[2]])
