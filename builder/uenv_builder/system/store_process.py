"""Who a process is, so that others can tell whether it lives: for certain on its own host, by silence on another."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SILENCE = 3600.0
"""Seconds without a sign of life after which a process of another host counts as dead; servers fail over sooner."""
SILENCE_OF_CLEAN_UP = 300.0
"""The same of a clean-up, which builds have to wait for; one that stood still for less than that goes no further."""
SILENCE_AFTER_BOOT = 300.0
"""The same where a host of that name has booted since; longer than nothing, as two hosts may have one name."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its host's name and boot, its PID namespace, its number there, when it began (ticks since boot)."""

    host: str
    boot: str
    namespace: str
    pid: int
    began: int


@lru_cache(maxsize=8)
def _describe(pid: int) -> Process:
    state = _state(pid)
    return Process(
        host=socket.gethostname(), boot=_read("/proc/sys/kernel/random/boot_id"), namespace=_namespace(), pid=pid,
        began=state[1] if state else 0,
    )  # fmt: skip


def this_process() -> Process:
    """The process that asks."""
    return _describe(os.getpid())


def lives(process: Process | None, silence: float, limit: float = SILENCE) -> bool:
    """Whether it runs, as far as can be known from here; `silence` is how long it gave no sign of life, in seconds.

    `limit` is how long a process of another host may be silent. None is one of which nothing else is known.
    """
    here = this_process()
    if process is None or not process.boot:
        return silence < limit
    if (process.boot, process.namespace) == (here.boot, here.namespace):
        return _runs(process)
    booted_since = process.host == here.host and process.boot != here.boot
    return silence < (SILENCE_AFTER_BOOT if booted_since else limit)


def process_mark() -> str:
    """This process in the name of a file: its boot, PID namespace, number and begin, without a hyphen."""
    here = this_process()
    return f"{_short(here.boot)}.{_digits(here.namespace)}.{here.pid}.{here.began}"


def runs_by_mark(mark: str) -> bool | None:
    """Whether the process of that mark runs; None where that cannot be known from here."""
    here = this_process()
    boot, namespace, pid, began = mark.split(".")
    if not here.boot or (boot, namespace) != (_short(here.boot), _digits(here.namespace)):
        return None
    return _runs(Process(here.host, here.boot, here.namespace, int(pid), int(began)))


def _short(boot: str) -> str:
    return boot.replace("-", "")[:12] or "0"


def _digits(namespace: str) -> str:
    return "".join(filter(str.isdigit, namespace)) or "0"


def _runs(process: Process) -> bool:
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    state = _state(process.pid)
    if state is None:  # it is there, and /proc does not show it to us
        return True
    return state[0] not in "ZX" and state[1] == process.began


def _state(pid: int) -> tuple[str, int] | None:
    """The letter of its state and its begin, from /proc/PID/stat (proc_pid_stat(5)), behind the name in parentheses."""
    words = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (words[0], int(words[19])) if len(words) > 19 else None


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
