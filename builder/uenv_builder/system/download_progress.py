"""How far downloads have come, for those who watch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from uenv_builder.system.events import Task


@dataclass
class Progress:
    """The furthest byte that has come, told to the tasks that show it; what comes again is not told again."""

    tasks: tuple[Task, ...] = ()
    reached: int = 0

    def reach(self, count: int) -> None:
        """So many bytes of the file are there."""
        if (more := count - self.reached) > 0:
            self.reached = count
            for task in self.tasks:
                task.advance(more)


@dataclass
class SharedTask:
    """A task that several threads advance."""

    task: Task
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, amount: int) -> None:
        """One thread after the other."""
        with self.lock:
            self.task.advance(amount)
