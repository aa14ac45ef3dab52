"""`uenv build`: images, EDF and sbatch files, and a report; here, or as jobs of Slurm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import building
from uenv_builder.app.recipes import is_stackinator_recipe
from uenv_builder.app.remembering import remember
from uenv_builder.commands.build_by_slurm import SlurmRequest, run_by_slurm
from uenv_builder.commands.run import Run, prepare_target
from uenv_builder.commands.shared import (
    DebugOption,
    JobsOption,
    JsonOption,
    MirrorOption,
    OfflineOption,
    OutputOption,
    QuietOption,
    SystemOption,
    UarchOption,
    VerboseOption,
)
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
from uenv_builder.model.errors import UsageError
from uenv_builder.system.up_to_date import Answer

EPILOG = (
    "Examples: uenv build recipes/python-mpi/1.0; uenv build pytorch pytorch/2.14:v1@daint%gh200 --locked; "
    "uenv build pytorch --offline --mirror /srv/mirror; uenv build recipes --system daint --launcher slurm -A g123; "
    "uenv build --resume 4711"
)


def build(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE [LABEL]",
            help="A folder with a recipe.yaml, a file, or NAME[/VERSION] of a known recipe; then a label, "
            "name/version[:tag]@system%uarch, which picks the target and names the image. With --launcher slurm: "
            "several recipes, each with a label or without, and folders, which stand for all recipes below them.",
        ),
    ] = None,
    *,
    output: OutputOption = None,
    uarch: UarchOption = None,
    system: SystemOption = None,
    locked: Annotated[bool, typer.Option("--locked", help="Fail when the lock is missing or stale.")] = False,
    offline: OfflineOption = False,
    mirror: MirrorOption = None,
    no_test: Annotated[
        bool, typer.Option("--no-test", help="Do not run the checks; the image counts as untested.")
    ] = False,
    shell_on_failure: Annotated[
        bool, typer.Option("--shell-on-failure", help="Open a shell where a component that is compiled has failed.")
    ] = False,
    launcher: LauncherOption = None,
    resume: ResumeOption = None,
    wait: WaitOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    constraint: ConstraintOption = None,
    time: TimeOption = None,
    slurm_option: FurtherOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="The folder for scripts, logs and results of the job; default: build/jobs/..."),
    ] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001  (read by verb)
) -> int:
    """Lock where needed, build the squashfs and OCI images, write EDF and sbatch files, and test the image."""
    by_slurm = launcher is LauncherName.slurm or resume is not None
    options = batch_options(account, partition, constraint, time, slurm_option)
    refuse_without_slurm(options, wait, report, by_slurm=by_slurm)
    if shell_on_failure and (by_slurm or not sys.stdin.isatty()):
        raise UsageError("--shell-on-failure opens a shell, and standard input is no terminal of the build",
                         hint="leave the option out, or run the build in a terminal")  # fmt: skip
    with Run(as_json=as_json, quiet=quiet, verbose=verbose, offline=offline, jobs=jobs, mirror=mirror) as run:
        if by_slurm:
            return run_by_slurm(
                run,
                SlurmRequest(
                    words=words or [], resume=resume, options=options, wait=wait, report=report, output=output,
                    uarch=uarch, system=system, locked=locked, no_test=no_test, offline=offline, jobs=jobs,
                    mirror=tuple(mirror or ()),
                ),
            )  # fmt: skip
        run.session.shell_on_failure = shell_on_failure
        asked, label = _recipe_and_label(words or [])
        recipe = asked
        if is_stackinator_recipe(Path(recipe)):
            from uenv_builder.app.stackinator_building import recipe_to_build

            recipe = recipe_to_build(
                recipe, label, own=Path(sys.argv[0]), listener=run.session.listener, system=system, uarch=uarch
            )
        prepared = prepare_target(run, recipe, label, uarch=uarch, system=system, locked=locked)
        result = building.build(run.session, prepared, output=output, test=not no_test)
        run.show(result.document(), result.summary())
        if not result.seconds and result.exit_code == 0 and recipe == asked:
            remember(run.session, prepared, result.image.folder, recipe, Answer(run.shown, run.notes))
        return result.exit_code


def _recipe_and_label(words: list[str]) -> tuple[str, str | None]:
    if not words:
        raise UsageError("there is no RECIPE", hint="name a folder with a recipe.yaml; or --resume JOB")
    if len(words) > 2:
        raise UsageError(
            f"one recipe and one label at a time, and {len(words)} are given",
            hint="--launcher slurm builds several recipes, each on a node of its own",
        )
    return words[0], words[1] if len(words) > 1 else None
