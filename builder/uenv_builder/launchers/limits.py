"""Commands, ended after its limit, when we are interrupted and when we die: with all that it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from uenv_builder.launchers.interface import MARK, Ended
from uenv_builder.system.process import Popen, start

GRACE = 10.0
"""Seconds that a command has to end by itself, after it was asked to."""
_TICK = 0.05
_FOLDER = Path(__file__).parent
DUMP_SCRIPT = "dump_stacks.sh"
PROBE_SCRIPT = "probe_node.sh"


def place_script(name: str, folder: Path) -> Path:
    """A copy of a script of ours in `folder`, where all nodes see it."""
    target = folder / name
    shutil.copyfile(_FOLDER / name, target)
    return target


def run_limited(
    tasks: Sequence[Mapping[str, str]], command: Sequence[str], *, log: Path, limit: float,
    on_limit: Callable[[], None], grace: float = GRACE,
) -> Ended:  # fmt: skip
    """Run `command` once for each of `tasks`, their variables, all streams to `log`; the first that fails ends all.

    After `limit` seconds `on_limit` is called, then they are ended. They get SIGTERM when this process dies, too,
    however that happens.
    """
    started = time.monotonic()
    chain = ["setpriv", "--pdeathsig", "TERM", *command]
    processes: list[Popen[bytes]] = []
    with log.open("wb") as file:
        try:
            for variables in tasks:
                env = {**os.environ, **variables}
                processes.append(start(chain, env=env, stdout=file, stderr=file, own_session=True))
            code = _wait(processes, started + limit)
            if code is None:
                on_limit()
        finally:
            _end(processes, grace)
    return Ended(code, round(time.monotonic() - started, 3))


def ask(command: Sequence[str], *, log: Path, limit: float, grace: float = GRACE) -> str:
    """What a short command of ours prints to both streams, into `log` too; what came until `limit` where it hangs.

    A fault of a node is to be told, and not to end the test: nothing is raised for how the command ends.
    """
    run_limited([{}], command, log=log, limit=limit, on_limit=lambda: None, grace=grace)
    return log.read_text(encoding="utf-8", errors="replace")


def _wait(processes: Sequence[Popen[bytes]], deadline: float) -> int | None:
    """The code of the first that failed, 0 when all ended well, None at the deadline."""
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code), None)
        if failed is not None or None not in codes:
            return failed or 0
        time.sleep(_TICK)
    return None


def _end(processes: Sequence[Popen[bytes]], grace: float) -> None:
    """SIGTERM to those that run; after `grace` seconds, or when they are gone, SIGKILL to what is left of them."""
    for process in processes:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(_TICK)
    for process in processes:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: Popen[bytes], sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sign)


def dump_command(script: Path, mark: str) -> list[str]:
    """The command that prints what the processes of the job with this mark do."""
    return ["sh", str(script), f"{MARK}={mark}"]
