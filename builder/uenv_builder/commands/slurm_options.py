"""The options of verbs that can run as jobs of Slurm."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app.batch.options import BatchOptions
from uenv_builder.model.errors import UsageError


class LauncherName(StrEnum):
    """What `--launcher` takes."""

    local = "local"
    slurm = "slurm"


LauncherOption = Annotated[
    LauncherName | None,
    typer.Option(
        "--launcher", help="slurm: as a batch job that is waited for; local: here. Default: here, or in the allocation."
    ),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume", metavar="JOB", help="Wait for a job submitted earlier (its number, or its folder), and collect it."
    ),
]
WaitOption = Annotated[
    float | None,
    typer.Option(
        "--wait", metavar="SECONDS", min=0, help="How long a job may wait for its nodes; default: without end."
    ),
]
AccountOption = Annotated[str | None, typer.Option("--account", "-A", help="Of Slurm's job.")]
PartitionOption = Annotated[str | None, typer.Option("--partition", "-p", help="Of Slurm's job.")]
ConstraintOption = Annotated[str | None, typer.Option("--constraint", "-C", help="Which nodes Slurm's job takes.")]
TimeOption = Annotated[
    str | None, typer.Option("--time", "-t", help="Limit of Slurm's job, as sbatch takes it; default: what it needs.")
]
FurtherOption = Annotated[
    list[str] | None,
    typer.Option("--slurm-option", metavar="OPTION", help="One more option for sbatch; may be repeated."),
]


def batch_options(
    account: str | None, partition: str | None, constraint: str | None, limit: str | None, further: list[str] | None
) -> BatchOptions:
    """What the command line says of a job."""
    return BatchOptions(
        account=account, partition=partition, constraint=constraint, time=limit, further=tuple(further or ())
    )


def refuse_without_slurm(
    options: BatchOptions, wait: float | None, report: Path | None = None, *, by_slurm: bool
) -> None:
    """Raise UsageError for options of a job where there is none."""
    if not by_slurm and (options != BatchOptions() or wait is not None or report is not None):
        raise UsageError("options of a job are for --launcher slurm", hint="add it, or leave them out")
