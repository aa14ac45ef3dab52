"""Job scripts and srun lines that start an environment as its system wants it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from uenv_builder.core.edf.render import Dialect, engine_option
from uenv_builder.core.label import Label
from uenv_builder.model.errors import UsageError
from uenv_builder.model.system import NetworkMode, System

Workload = Literal["torch", "mpi", "command"]
"""What the script runs where it is given no command: an all-reduce of torch, one of MPI, or `command`."""

_EDF = re.compile(r"(/[^\x00-\x1f]*|[A-Za-z0-9_][A-Za-z0-9_.-]*)")
_TIME = re.compile(r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}")


class Template(Protocol):
    """What this module needs of a template: jinja2's render."""

    def render(self, **values: object) -> str:
        """The text with all `values` filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SbatchRequest:
    """What a job script is written from.

    `edf` is the EDF's absolute path, or its name in the search path (without .toml). `time_limit` has Slurm's form
    [DAYS-]HOURS:MINUTES:SECONDS. `command` is the example of workload `command`.
    """

    label: Label
    edf: str
    system: System
    network: NetworkMode
    dialect: Dialect = "ce"
    workload: Workload = "command"
    command: tuple[str, ...] = ("uname", "-a")
    nodes: int = 2
    time_limit: str = "00:15:00"


def render_sbatch(request: SbatchRequest, template: Template) -> str:
    """The job script's text from the template sbatch.sh.j2; raises UsageError for values that Slurm would not take."""
    _check(request)
    launch = request.system.launch
    return template.render(
        label=str(request.label),
        job_name=request.label.name,
        system=request.system.name,
        network=request.network,
        nodes=request.nodes,
        launch=launch,
        time_limit=request.time_limit,
        edf=shlex.quote(request.edf),
        engine_option=engine_option(request.dialect),
        options=[shlex.quote(option) for option in _step_options(request)],
        workload=request.workload,
        command=shlex.join(request.command),
    )


def srun_line(request: SbatchRequest, command: Sequence[str] = ()) -> str:
    """One line for a shell that runs `command` (by default the request's) in a job of its own, or inside one."""
    _check(request)
    launch = request.system.launch
    words = [
        "srun",
        f"--nodes={request.nodes}",
        f"--ntasks-per-node={launch.ranks_per_node}",
        f"--cpus-per-task={launch.cpus_per_rank}",
        *([f"--gpus-per-node={launch.gpus_per_node}"] if launch.gpus_per_node else []),
        *_step_options(request),
        f"{engine_option(request.dialect)}={request.edf}",
        *(command or request.command),
    ]
    return shlex.join(words)


def _step_options(request: SbatchRequest) -> tuple[str, ...]:
    launch = request.system.launch
    return (*launch.srun, *launch.network_srun.get(request.network, ()))


def _check(request: SbatchRequest) -> None:
    request.label.require("name")
    if not _EDF.fullmatch(request.edf):
        raise UsageError(
            f'the EDF "{request.edf}" is neither an absolute path nor a name', rule="edf-path",
            hint="a relative path would depend on the folder that a job starts in",
        )  # fmt: skip
    if not _TIME.fullmatch(request.time_limit):
        raise UsageError(
            f'"{request.time_limit}" is no time limit', rule="time-limit", hint="for example 00:30:00 or 1-00:00:00"
        )
    if request.nodes < 1:
        raise UsageError(f"a job needs at least one node, not {request.nodes}", rule="nodes")
    if not request.command:
        raise UsageError("a command is expected, and there is none", rule="command")
