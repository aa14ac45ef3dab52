"""`uenv build`: images, EDF and sbatch files, and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import building
from uenv_builder.app.recipes import is_stackinator_recipe
from uenv_builder.app.remembering import remember
from uenv_builder.commands.run import Run, prepare_target
from uenv_builder.commands.shared import (
    DebugOption,
    JobsOption,
    JsonOption,
    LabelArgument,
    MirrorOption,
    OfflineOption,
    OutputOption,
    QuietOption,
    RecipeArgument,
    SystemOption,
    UarchOption,
    VerboseOption,
)
from uenv_builder.model.errors import UsageError
from uenv_builder.system.up_to_date import Answer

EPILOG = (
    "Examples: uenv build recipes/python-mpi/1.0; uenv build pytorch pytorch/2.14:v1@daint%gh200 --locked; "
    "uenv build pytorch --offline --mirror /srv/mirror"
)


def build(
    recipe: RecipeArgument,
    label: LabelArgument = None,
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
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001  (read by verb)
) -> int:
    """Lock where needed, build the squashfs and OCI images, write EDF and sbatch files, and test the image."""
    if shell_on_failure and not sys.stdin.isatty():
        raise UsageError("--shell-on-failure opens a shell, and standard input is no terminal",
                         hint="leave the option out, or run the command in a terminal")  # fmt: skip
    with Run(as_json=as_json, quiet=quiet, verbose=verbose, offline=offline, jobs=jobs, mirror=mirror) as run:
        run.session.shell_on_failure = shell_on_failure
        asked = recipe
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
