"""`uenv test`: the checks of a build, inside its image, and the all-reduce that proves it on real nodes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import testing
from uenv_builder.app.reports import exit_code_of, report_document, summary_lines
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, ImageArgument, JsonOption, QuietOption, VerboseOption
from uenv_builder.core.allreduce.comparison import DEFAULT_TOLERANCE
from uenv_builder.model.errors import UsageError
from uenv_builder.model.report import Level

EPILOG = "Example: uenv test build/python-mpi-1.0-x86_64; uenv test --level fabric build/pytorch-2.14-slingshot-gh200"


class LevelName(StrEnum):
    """What `--level` takes."""

    image = "image"
    gloo = "gloo"
    gpu = "gpu"
    fabric = "fabric"


class EngineName(StrEnum):
    """What `--engine` takes."""

    sandbox = "sandbox"
    edf = "edf"
    uenv = "uenv"


def check_image(
    image: ImageArgument,
    *,
    level: Annotated[
        LevelName,
        typer.Option(
            "--level",
            help="image: the checks of a build; gloo: torch.distributed without NCCL; gpu: NCCL on one node; "
            "fabric: NCCL between nodes.",
        ),
    ] = LevelName.image,
    nodes: Annotated[
        int | None, typer.Option("--nodes", "-N", min=1, help="How many; default: 1, for fabric 2.")
    ] = None,
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
    with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
        if level is LevelName.image:
            _refuse({"--nodes": nodes, "--engine": engine, "--known-good": known_good, "--compare": compare})
            _refuse({"--report": report, "--allocate": allocate or None})
            found = testing.check_again(run.session, image)
            run.show(report_document(found), summary_lines(found))
            return exit_code_of(found)
        from uenv_builder.app.allreduce import allocation, levels

        wanted: Level = "gloo" if level is LevelName.gloo else "gpu" if level is LevelName.gpu else "fabric"
        request = levels.LevelRequest(
            level=wanted, nodes=nodes or (2 if level is LevelName.fabric else 1),
            engine=engine.value if engine else None, known_good=known_good, compare=compare,
            tolerance=tolerance, report=report, limit=limit,
        )  # fmt: skip
        if allocate and allocation.is_needed():
            return allocation.run_again(run.session, image, request)
        proved = levels.prove(run.session, image, request)
        document = {**report_document(proved.report), "folder": str(proved.folder)}
        run.show(document, [*summary_lines(proved.report), f"report: {proved.folder}"])
        return exit_code_of(proved.report)


def _refuse(given: dict[str, object]) -> None:
    """Options that only the other levels have."""
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise UsageError(f"{wrong[0]} is for --level gloo, gpu and fabric", hint="name the level")
