"""Tasks over Slurm: steps of srun inside an allocation, and the allocation itself by salloc."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from uenv_builder.launchers.interface import MARK, STATES, Ended, Job
from uenv_builder.launchers.limits import DUMP_SCRIPT, PROBE_SCRIPT, ask, dump_command, place_script, run_limited
from uenv_builder.system.process import run

_STEP_SECONDS = 90
"""For a short step of our own."""
_GRACE = 40.0
"""Slurm itself waits KillWait, 30 seconds by default, between SIGTERM and SIGKILL."""
_ADDRESS = re.compile(r"\bNodeAddr=(?P<address>\S+)")
# Slurm knows a task's numbers only where the task runs.
_NUMBERED = 'export UENV_TASK="$SLURM_PROCID" UENV_NODE="$SLURM_NODEID" UENV_NODE_NAME="$SLURMD_NODENAME"; exec "$@"'
_FIRST_PORT, _PORTS = 20_000, 12_000
"""Below the ports that Linux gives to connections by default, from 32768 on."""


class SlurmLauncher:
    """Runs tasks as steps of the allocation that this process is in."""

    name: ClassVar[str] = "slurm"

    def problems(self, nodes: int) -> list[str]:
        """See `Launcher.problems`."""
        if shutil.which("srun") is None:
            return ["there is no srun on this machine"]
        if not in_allocation():
            return ["this is not inside a Slurm allocation"]
        have = _size()
        return [f"{nodes} nodes are asked for, the allocation has {have}"] if have < nodes else []

    def meeting(self) -> str:
        """See `Launcher.meeting`. The port depends on the job, so that two do not meet each other's ranks."""
        return f"{self._first_address()}:{_FIRST_PORT + int(os.environ['SLURM_JOB_ID']) % _PORTS}"

    def _first_address(self) -> str:
        """The first node's address, where it can be found, since images may not know the nodes' names."""
        name = self.nodes()[0]
        told = _ADDRESS.search(run(["scontrol", "show", "node", name], timeout=_STEP_SECONDS, check=False).stdout)
        try:
            return socket.gethostbyname(told["address"] if told else name)
        except OSError:
            return name

    @staticmethod
    def nodes() -> list[str]:
        """The allocation's nodes by name, in Slurm's order."""
        listed = run(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], timeout=_STEP_SECONDS)
        return listed.stdout.split()

    def run(self, job: Job) -> Ended:
        """See `Launcher.run`. Each line of the log begins with its task's number."""
        mark = secrets.token_hex(8)
        script = place_script(DUMP_SCRIPT, job.folder)

        def dump() -> None:
            self.ask_each_node(dump_command(script, mark), job.nodes, job.dump)

        env = {**job.env, MARK: mark}
        command = step_command(job, self._places(job.nodes))
        return run_limited([env], command, log=job.log, limit=job.limit, on_limit=dump, grace=_GRACE)

    def _places(self, nodes: int) -> list[str]:
        """srun's option for the first nodes, where the allocation has more: the others could be taken, while ranks meet
        on the first, and while what is known of the nodes is known of these.
        """
        return [f"--nodelist={','.join(self.nodes()[:nodes])}"] if _size() > nodes else []

    def ask_each_node(self, argv: Sequence[str], nodes: int, log: Path) -> str:
        """Run `argv` once on each node, also beside a step that has all of its processors; what they print together,
        and into `log`. After a time, what came until then.
        """
        step = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--mpi=none"]
        return ask([*step, *self._places(nodes), "--time=3", *argv], log=log, limit=_STEP_SECONDS, grace=_GRACE)

    def probe(self, folder: Path, nodes: int) -> str:
        """See `Launcher.probe`."""
        return self.ask_each_node(["sh", str(place_script(PROBE_SCRIPT, folder))], nodes, folder / STATES)


def in_allocation() -> bool:
    """Whether this process has an allocation of Slurm."""
    return "SLURM_JOB_ID" in os.environ


def _size() -> int:
    """How many nodes the allocation has."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def is_elsewhere() -> bool:
    """Whether the allocation's nodes are other machines than this one: salloc may run its command where it was called.

    slurmd tells its name to all that it starts, in batch scripts and steps.
    """
    return in_allocation() and "SLURMD_NODENAME" not in os.environ


def step_command(job: Job, places: Sequence[str] = ()) -> list[str]:
    """The srun line of a job; `places` says on which nodes.

    Slurm's own limit is longer than ours, and counts where ours can no longer.
    """
    options = [
        f"--nodes={job.nodes}",
        f"--ntasks={job.nodes * job.tasks_per_node}",
        f"--ntasks-per-node={job.tasks_per_node}",
        *([f"--cpus-per-task={job.cpus_per_task}"] if job.cpus_per_task else []),
        "--label",
        "--kill-on-bad-exit=1",
        f"--time={int(job.limit) // 60 + 3}",
        *places,
        *job.options,
    ]
    return ["srun", *options, "sh", "-c", _NUMBERED, "sh", *job.argv]


def allocate(nodes: int, seconds: float, options: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The command that gets `nodes` whole nodes for `seconds`, runs `argv` with them, and gives them back after it.

    When this process dies, salloc gets SIGHUP, which makes it end at once, and `argv` ends with salloc.
    """
    minutes = int(seconds) // 60 + 2
    limits = [f"--nodes={nodes}", "--exclusive", f"--time={minutes}"]
    return ["setpriv", "--pdeathsig", "HUP", "salloc", *limits, *options, "setpriv", "--pdeathsig", "TERM", *argv]
