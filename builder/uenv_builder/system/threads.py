"""Work in several threads that an interruption ends at once."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from uenv_builder.model.errors import UenvError

_PATIENCE = 2.0
"""Seconds in which threads may end by themselves after an interruption; they die with the process anyway."""


def run_in_threads(tasks: Sequence[Callable[[], object]], *, jobs: int, stop: Callable[[], None]) -> list[UenvError]:
    """Run all `tasks`, begun in their order, up to `jobs` at once; the UenvErrors that they raised, in the same order.

    Any other exception, and an interruption of the caller, calls `stop`, begins nothing more, and is raised without
    waiting long for what does not stop: a thread that listens to a silent server must not keep the process alive.
    """
    waiting = deque(enumerate(tasks))
    ended: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while waiting:
            try:
                number, task = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            ended.put((number, _failure(task)))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(tasks)))]
    errors: dict[int, UenvError] = {}
    try:
        for thread in threads:
            thread.start()
        for _ in tasks:
            number, error = ended.get()
            if isinstance(error, UenvError):
                errors[number] = error
            elif error is not None:
                raise error
        for thread in threads:
            thread.join()
    except BaseException:
        waiting.clear()
        stop()
        _join(threads)
        raise
    return [errors[number] for number in sorted(errors)]


def _failure(task: Callable[[], object]) -> BaseException | None:
    try:
        task()
    except BaseException as error:  # noqa: BLE001  (raised again where the results are gathered)
        return error
    return None


def _join(threads: Sequence[threading.Thread]) -> None:
    deadline = time.monotonic() + _PATIENCE
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
