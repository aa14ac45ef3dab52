"""Progress as bars with rates, for people at a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

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

from uenv_builder.system.events import Task
from uenv_builder.system.terminal_lines import size_text


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
            self._console.print(f"[green]done[/] {title} [dim]{size_text(total)}{seconds:.1f} s[/]", highlight=False)

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
