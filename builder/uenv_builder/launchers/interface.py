"""What every launcher takes and gives: a program as tasks on nodes, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

TASK, NODE, NODE_NAME = "UENV_TASK", "UENV_NODE", "UENV_NODE_NAME"
"""In these variables a task finds its own number and that of its node, counted from 0, and the node's name."""
STATES = "nodes.txt"
"""What the nodes said of themselves, in the job's folder."""
MARK = "UENV_TEST_MARK"
"""The variable by whose value the processes of a job are known on their nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A program to run: `tasks_per_node` tasks of `argv` on each of `nodes` nodes.

    `env` is added to this process's environment. `options` are for srun alone. After `limit` seconds the job is ended,
    and what its processes were doing is written down. `folder`, which all nodes see, takes the files that it leaves,
    whose names begin with `name`.
    """

    name: str
    argv: tuple[str, ...]
    folder: Path
    limit: float
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """All that the tasks print, to both streams."""
        return self.folder / f"{self.name}.log"

    @property
    def dump(self) -> Path:
        """What the processes were doing when the limit was reached."""
        return self.folder / f"{self.name}.stacks.txt"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended: its exit code, None where the limit ended it, and the wall time in seconds."""

    returncode: int | None
    seconds: float


class Launcher(Protocol):
    """A way to start tasks."""

    name: ClassVar[str]

    def problems(self, nodes: int) -> list[str]:
        """What keeps it from starting tasks on `nodes` nodes now, in words; none where nothing does."""

    def probe(self, folder: Path, nodes: int) -> str:
        """What `probe_node.sh` prints on each node, all of them together, and into nodes.txt of `folder`, which all
        nodes see. A node that hangs says nothing.
        """

    def meeting(self) -> str:
        """ADDRESS:PORT of the first node, where ranks can meet."""

    def run(self, job: Job) -> Ended:
        """Run `job` to its end or its limit; nothing of it is left when this returns or raises."""
