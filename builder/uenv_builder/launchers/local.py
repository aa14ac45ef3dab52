"""Tasks on this machine: processes side by side, each with its number."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import ClassVar

from uenv_builder.launchers.interface import MARK, NODE, NODE_NAME, STATES, TASK, Ended, Job
from uenv_builder.launchers.limits import DUMP_SCRIPT, PROBE_SCRIPT, ask, dump_command, place_script, run_limited

_SHORT_SECONDS = 90
"""For a script of ours that looks at this machine."""


class LocalLauncher:
    """Runs all tasks here; one node."""

    name: ClassVar[str] = "local"

    def problems(self, nodes: int) -> list[str]:
        """See `Launcher.problems`."""
        return [f"{nodes} nodes are asked for, and this is one machine without Slurm"] if nodes > 1 else []

    def meeting(self) -> str:
        """See `Launcher.meeting`."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            return f"127.0.0.1:{free.getsockname()[1]}"

    def run(self, job: Job) -> Ended:
        """See `Launcher.run`."""
        mark = secrets.token_hex(8)
        script = place_script(DUMP_SCRIPT, job.folder)

        def dump() -> None:
            ask(dump_command(script, mark), log=job.dump, limit=_SHORT_SECONDS)

        shared = {**job.env, MARK: mark, NODE: "0", NODE_NAME: socket.gethostname()}
        tasks = [{**shared, TASK: str(task)} for task in range(job.tasks_per_node)]
        return run_limited(tasks, job.argv, log=job.log, limit=job.limit, on_limit=dump)

    def probe(self, folder: Path, nodes: int) -> str:  # noqa: ARG002  (there is one)
        """See `Launcher.probe`."""
        return ask(["sh", str(place_script(PROBE_SCRIPT, folder))], log=folder / STATES, limit=_SHORT_SECONDS)
