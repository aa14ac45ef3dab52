"""Progress for people who read a log: plain timed lines on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from uenv_builder.system.events import Task

_LINE_INTERVAL = 10.0


class _Counter:
    def __init__(self, lines: Lines, title: str, total: int | None) -> None:
        self._lines, self._title, self._total = lines, title, total
        self._done, self._begun, self._next = 0, time.monotonic(), time.monotonic() + _LINE_INTERVAL

    def advance(self, amount: int) -> None:
        """Say something now and then."""
        self._done += amount
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LINE_INTERVAL
        share = f" {100 * self._done // self._total} %" if self._total else ""
        rate = self._done / (now - self._begun) / 1e6
        self._lines.note(f"{self._title}:{share} {size_text(self._done)}{rate:.1f} MB/s")


class Lines:
    """Plain lines, each with the seconds since the start: for logs and for people who pipe."""

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """A line at the end, and in between where it takes long."""
        if self._verbose:
            self.note(f"{title} ...")
        begun = time.monotonic()
        yield _Counter(self, title, total)
        self.note(f"{title}: {size_text(total)}{time.monotonic() - begun:.1f} s")

    def note(self, text: str) -> None:
        """One timed line."""
        with self._lock:
            self._stream.write(f"[{time.monotonic() - self._begun:7.1f} s] {text}\n")
            self._stream.flush()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Lines are not in anybody's way."""
        yield

    def close(self) -> None:
        """Nothing to take back."""


def size_text(count: int | None) -> str:
    """Megabytes with the comma that follows them; nothing where the size is not known."""
    return "" if count is None else f"{count / 1e6:.1f} MB, "
