"""Progress for people: bars with rates on a terminal, plain timed lines in a log. All of it goes to standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.progress import Task as RichTask

from uenv_builder.system.events import Listener, Silent, Task

_LINE_INTERVAL = 10.0


class _ForKnownSizes(ProgressColumn):
    """Another column, shown only for work whose size is known."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: RichTask) -> RenderableType:
        """Nothing for work of unknown size."""
        return "" if task.total is None else self._column.render(task)


_SIZED = [_ForKnownSizes(column) for column in (BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn())]


class _Bar:
    def __init__(self, progress: Progress, number: TaskID) -> None:
        self._progress, self._number = progress, number

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._progress.advance(self._number, amount)


class Bars:
    """One moving line for each piece of work; a finished one leaves a line with its time."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), *_SIZED, TimeElapsedColumn(), console=self._console,
            transient=True,
        )  # fmt: skip
        self._progress.start()

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """A bar while the work goes on."""
        number = self._progress.add_task(title, total=total)
        begun = time.monotonic()
        try:
            yield _Bar(self._progress, number)
        finally:
            self._progress.remove_task(number)
        seconds = time.monotonic() - begun
        if seconds >= 0.5:
            self._console.print(f"[green]done[/] {title} [dim]{_size(total)}{seconds:.1f} s[/]", highlight=False)

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bars off the screen, and put them back."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def close(self) -> None:
        """Take the bars off the screen."""
        self._progress.stop()


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
        self._lines.note(f"{self._title}:{share} {_size(self._done)}{rate:.1f} MB/s")


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
        self.note(f"{title}: {_size(total)}{time.monotonic() - begun:.1f} s")

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


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f} MB, "


def listener_for(*, quiet: bool, verbose: bool) -> Listener:
    """Bars on a terminal, timed lines elsewhere, nothing when `quiet`."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() and not verbose else Lines(verbose=verbose)


def close(listener: Listener) -> None:
    """Leave the screen as it was found."""
    if isinstance(listener, Bars | Lines):
        listener.close()
