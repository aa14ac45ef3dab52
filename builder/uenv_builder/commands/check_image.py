"""`uenv test`: the checks of a build, inside its image, and the all-reduce that proves it on real nodes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uenv_builder.app import testing
from uenv_builder.app.batch.options import BatchOptions
from uenv_builder.app.reports import exit_code_of, report_document, summary_lines
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, JsonOption, QuietOption, VerboseOption
from uenv_builder.commands.slurm_options import (
    AccountOption,
    ConstraintOption,
    FurtherOption,
    LauncherName,
    LauncherOption,
    PartitionOption,
    ResumeOption,
    TimeOption,
    WaitOption,
    batch_options,
    refuse_without_slurm,
)
from uenv_builder.core.allreduce.comparison import DEFAULT_TOLERANCE
from uenv_builder.model.errors import UsageError
from uenv_builder.model.report import Level, Report

if TYPE_CHECKING:
    from uenv_builder.app.allreduce.levels import LevelRequest

EPILOG = (
    "Examples: uenv test build/python-mpi-1.0-x86_64; uenv test --level fabric build/pytorch-2.14-slingshot-gh200; "
    "uenv test --level fabric --nodes 4 --launcher slurm --account g123 build/pytorch-2.14-slingshot-gh200; "
    "uenv test --resume 4711"
)


class LevelName(StrEnum):
    """What `--level` takes."""

    image = "image"
    sockets = "sockets"
    gloo = "gloo"
    gpu = "gpu"
    fabric = "fabric"


class EngineName(StrEnum):
    """What `--engine` takes."""

    sandbox = "sandbox"
    edf = "edf"
    uenv = "uenv"
    pyxis = "pyxis"


def check_image(
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="The folder of a build, or its squashfs; not with --resume.")
    ] = None,
    *,
    level: Annotated[
        LevelName,
        typer.Option(
            "--level",
            help="image: the checks of a build; sockets: no library; gloo: torch without NCCL; gpu: NCCL on one node; "
            "fabric: NCCL between nodes.",
        ),
    ] = LevelName.image,
    nodes: Annotated[
        int | None, typer.Option("--nodes", "-N", min=1, help="How many; default: 1, for fabric 2.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option("--ntasks-per-node", min=1, help="Ranks; default: one for each GPU, without GPUs 2.")
    ] = None,
    launcher: LauncherOption = None,
    resume: ResumeOption = None,
    wait: WaitOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    constraint: ConstraintOption = None,
    time: TimeOption = None,
    slurm_option: FurtherOption = None,
    engine: Annotated[
        EngineName | None,
        typer.Option("--engine", help="How tasks enter the image; default: edf where srun has it, else sandbox."),
    ] = None,
    allocate: Annotated[
        bool, typer.Option("--allocate", help="Ask Slurm for the nodes (salloc; SALLOC_ACCOUNT and so on count).")
    ] = False,
    known_good: Annotated[
        Path | None,
        typer.Option("--known-good", metavar="IMAGE", help="What fails is run in this one, too, on the same nodes."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="REPORT", help="An earlier report.json, or a folder of them.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, max=100, help="Percent that a bandwidth may lie below --compare's.")
    ] = DEFAULT_TOLERANCE,
    limit: Annotated[float, typer.Option("--limit", min=1, help="Seconds for each program, before it hangs.")] = 600.0,
    report: Annotated[
        Path | None, typer.Option("--report", help="The folder for report, logs and plots; default: IMAGE/tests/...")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Run the checks of a build inside its image again, or the all-reduce that proves it; and write the report."""
    options = batch_options(account, partition, constraint, time, slurm_option)
    by_slurm = launcher is LauncherName.slurm
    refuse_without_slurm(options, wait, by_slurm=by_slurm or resume is not None)
    if resume is not None:
        with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
            return _resume(run, resume, image, wait)
    if image is None:
        raise UsageError("there is no IMAGE", hint="name the folder of a build; or --resume JOB")
    wanted = _request(level, nodes, ranks, engine, known_good, compare, tolerance, report, limit, launcher)
    if wanted is None:
        _refuse({"--nodes": nodes, "--engine": engine, "--known-good": known_good, "--compare": compare})
        _refuse({"--ntasks-per-node": ranks, "--allocate": allocate or None})
    with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
        from uenv_builder.app.allreduce import allocation

        if by_slurm and allocation.is_needed():
            return _submit(run, image, wanted, options, report, wait)
        if wanted is None:
            found = testing.check_again(run.session, image, also=report)
            run.show(report_document(found), summary_lines(found))
            return exit_code_of(found)
        if allocate and allocation.is_needed():
            return allocation.run_again(run.session, image, wanted)
        from uenv_builder.app.allreduce import levels

        proved = levels.prove(run.session, image, wanted)
        return _show(run, proved.report, proved.folder)


def _request(
    level: LevelName, nodes: int | None, ranks: int | None, engine: EngineName | None, known_good: Path | None,
    compare: Path | None, tolerance: float, report: Path | None, limit: float, launcher: LauncherName | None,
) -> LevelRequest | None:  # fmt: skip
    """What the command line asks for; None for the checks of a build."""
    if level is LevelName.image:
        return None
    from uenv_builder.app.allreduce.levels import LevelRequest

    names: dict[str, Level] = {"sockets": "sockets", "gloo": "gloo", "gpu": "gpu", "fabric": "fabric"}
    return LevelRequest(
        level=names[level.value], nodes=nodes or (2 if level is LevelName.fabric else 1),
        engine=engine.value if engine else None, known_good=known_good, compare=compare, tolerance=tolerance,
        report=report, limit=limit, ranks_per_node=ranks, launcher=launcher.value if launcher else None,
    )  # fmt: skip


def _submit(
    run: Run, image: Path, wanted: LevelRequest | None, options: BatchOptions, report: Path | None, wait: float | None
) -> int:
    from uenv_builder.app.batch.testing import submit_test

    found = submit_test(run.session, image, wanted, options, report=report, patience=wait)
    _show(run, found.report, found.folder)
    return found.exit_code


def _resume(run: Run, job: str, image: Path | None, wait: float | None) -> int:
    from uenv_builder.app.batch.testing import resume_test

    if image is not None:
        raise UsageError("--resume knows the image of its job", hint="leave IMAGE out")
    found = resume_test(run.session, job, patience=wait)
    _show(run, found.report, found.folder)
    return found.exit_code


def _show(run: Run, report: Report, folder: Path) -> int:
    run.show({**report_document(report), "folder": str(folder)}, [*summary_lines(report), f"report: {folder}"])
    return exit_code_of(report)


def _refuse(given: dict[str, object]) -> None:
    """Options that only the other levels have."""
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise UsageError(f"{wrong[0]} is for --level sockets, gloo, gpu and fabric", hint="name the level")
