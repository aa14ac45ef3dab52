"""`uenv import`: a recipe of Stackinator as one of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import importing
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, JsonOption, QuietOption, SystemOption, UarchOption, complain

EPILOG = (
    "Examples: uenv import alps-uenv/recipes/prgenv-gnu/25.11/gh200; "
    "uenv import old/tools tools/2.0@daint%gh200 -o recipes/tools/2.0"
)


def import_recipe(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="With config.yaml, compilers.yaml and environments.yaml.")
    ],
    label: Annotated[
        str | None, typer.Argument(metavar="[LABEL]", help="name/version@system%uarch of the imported recipe.")
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write; default: NAME/VERSION.")
    ] = None,
    uarch: UarchOption = None,
    system: SystemOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Write a recipe that builds what one of Stackinator builds; name what is not carried over, with exit code 4."""
    with Run(as_json=as_json, quiet=quiet) as run:
        imported = importing.import_recipe(folder, output, label=label, system=system, uarch=uarch)
        complain(imported.losses if quiet else imported.findings, as_json=False)
        run.show(imported.document(), imported.lines())
        return imported.exit_code
