"""What the builder says of its progress while it works; a terminal, a log and a test each listen in their own way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int) -> None:
        """`amount` more units (bytes, unless the task counts something else) are done."""


class Listener(Protocol):
    """Whoever wants to know: told of pieces of work and of single remarks, from any thread."""

    def task(self, title: str, total: int | None = None) -> AbstractContextManager[Task]:
        """A context in which the work called `title` of `total` bytes goes on; None: of unknown size."""

    def note(self, text: str) -> None:
        """A remark for the log, one line."""

    def aside(self) -> AbstractContextManager[None]:
        """A context in which the terminal belongs to somebody else."""

    def close(self) -> None:
        """The work is over: leave the screen as it was found. May be called again."""


class Remembering:
    """Passes all on to another listener, and remembers the remarks."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.notes: list[str] = []

    def task(self, title: str, total: int | None = None) -> AbstractContextManager[Task]:
        """As the other one has it."""
        return self._listener.task(title, total)

    def note(self, text: str) -> None:
        """Remember it, and pass it on."""
        self.notes.append(text)
        self._listener.note(text)

    def aside(self) -> AbstractContextManager[None]:
        """As the other one has it."""
        return self._listener.aside()

    def close(self) -> None:
        """Close the other one."""
        self._listener.close()


class _SilentTask:
    def advance(self, amount: int) -> None:
        """Say nothing."""


class Silent:
    """A listener that says nothing, for tests and for library use."""

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:  # noqa: ARG002
        """A task whose progress nobody hears."""
        yield _SilentTask()

    def note(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Nothing to leave off."""
        yield

    def close(self) -> None:
        """Nothing was shown."""
