"""Commands of the comparison: how they are run, timed and watched, and how they end where it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL = 3000
_PATIENCE = 10.0
_INTERVAL = 0.05


class CommandError(Exception):
    """A command ended with something else than 0; the message has what it said last."""


@dataclass(frozen=True)
class Cost:
    """Seconds: of the clock, and of all processors together."""

    wall: float
    cpu: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


@dataclass(frozen=True)
class Peaks:
    """The most that a process and its children had at one time, in bytes, as far as samples see it.

    `memory` is the sum of their PSS (what they share is counted once); `process` the largest resident set of a single
    one of them, as the kernel has recorded it without sampling; `disk` what they added to the watched folders.
    """

    memory: int
    process: int
    disk: int


def cleaned_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the settings of pip and uv, which would tell one side where to look."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def run(command: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run to the end; raises CommandError. When this is interrupted, the command and its children are killed."""
    with tempfile.TemporaryFile() as messages:
        process = _start(command, messages, env, cwd)
        code = _wait(process)
        if code:
            messages.seek(0)
            tail = messages.read()[-_TAIL:].decode(errors="replace")
            raise CommandError(f"{' '.join(map(str, command))[:400]}\nended with {code}\n{tail}")


def output_of(command: Sequence[object]) -> str:
    """What the command prints; raises CommandError."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, env=cleaned_environment(), errors="replace"
    )
    if done.returncode:
        raise CommandError(f"{' '.join(words)[:400]}\nended with {done.returncode}\n{done.stderr[-_TAIL:]}")
    return done.stdout


def run_together(commands: Iterable[Sequence[object]]) -> None:
    """Run all at once and wait for all; raises the first CommandError."""
    failures: list[CommandError] = []

    def attempt(command: Sequence[object]) -> None:
        try:
            run(command)
        except CommandError as error:
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(command,), daemon=True) for command in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def measure(work: Callable[[], None]) -> Cost:
    """The cost of `work`, which runs commands; what was written before is brought to the disk first."""
    os.sync()
    started, before = time.monotonic(), _children_cpu()
    work()
    return Cost(time.monotonic() - started, _children_cpu() - before)


def watch(command: Sequence[object], folders: Sequence[Path], *, env: Mapping[str, str] | None = None) -> Peaks:
    """Run a command to the end and look at it twenty times a second; raises CommandError."""
    before = _used(folders, ())
    memory = disk = 0
    with tempfile.TemporaryFile() as messages:
        process = _start(command, messages, env, None)
        looked = 0.0
        usage = None
        try:
            while usage is None:
                pid, status, found = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    usage, process.returncode = found, os.waitstatus_to_exitcode(status)
                    break
                family = list(_family(process.pid))
                memory = max(memory, sum(map(_pss, family)))
                if time.monotonic() - looked > 4 * _INTERVAL:
                    disk, looked = max(disk, _used(folders, family) - before), time.monotonic()
                time.sleep(_INTERVAL)
        except BaseException:
            _kill(process)
            raise
        if process.returncode:
            messages.seek(0)
            raise CommandError(f"{' '.join(map(str, command))}\n{messages.read()[-_TAIL:].decode(errors='replace')}")
    disk = max(disk, _used(folders, ()) - before)
    return Peaks(memory, usage.ru_maxrss * 1024, disk)


_running: set[subprocess.Popen[bytes]] = set()


def _start(
    command: Sequence[object], messages: object, env: Mapping[str, str] | None, cwd: Path | None
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [str(word) for word in command], env=cleaned_environment(env), cwd=cwd, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
    )  # fmt: skip
    _running.add(process)
    return process


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except BaseException:
        _kill(process)
        raise
    finally:
        _running.discard(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_PATIENCE)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    _running.discard(process)


def kill_running() -> None:
    """Kill what still runs, in whatever thread it was started."""
    for process in list(_running):
        _kill(process)


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [(thread / "children").read_text().split() for thread in threads]
    except OSError:
        return
    for child in {int(text) for texts in children for text in texts}:
        yield from _family(child)


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _used(folders: Sequence[Path], family: Iterable[int]) -> int:
    """Bytes that the folders take on disk: hard links once, and files that are open but have no name any more."""
    seen: dict[tuple[int, int], int] = {}
    pending = [str(folder) for folder in folders]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    for pid in family:
        seen |= _nameless(Path(f"/proc/{pid}/fd"), tuple(map(str, folders)))
    return sum(seen.values())


def _nameless(descriptors: Path, folders: tuple[str, ...]) -> dict[tuple[int, int], int]:
    found = {}
    try:
        for descriptor in descriptors.iterdir():
            target = str(descriptor.readlink())
            if target.endswith(" (deleted)") and target.startswith(folders):
                status = descriptor.stat()
                found[status.st_dev, status.st_ino] = status.st_blocks * 512
    except OSError:
        pass
    return found
