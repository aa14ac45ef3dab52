"""`uenv render`: what users select."""

from __future__ import annotations

from typing import Annotated

import typer

from uenv_builder.app import rendering
from uenv_builder.commands.run import Run, prepare_target
from uenv_builder.commands.shared import (
    DebugOption,
    JsonOption,
    LabelArgument,
    OutputOption,
    RecipeArgument,
    SystemOption,
    UarchOption,
)

EPILOG = "Example: uenv render recipes/pytorch/2.14 --output environments/pytorch"


def render(
    recipe: RecipeArgument,
    label: LabelArgument = None,
    *,
    output: OutputOption = None,
    uarch: UarchOption = None,
    system: SystemOption = None,
    image: Annotated[str | None, typer.Option("--image", help="Where the image will lie, for the EDF.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Write what users select: EDF files and the sbatch script; or print them, without --output."""
    with Run(as_json=as_json, quiet=True) as run:
        prepared = prepare_target(run, recipe, label, uarch=uarch, system=system, locked=True)
        texts = rendering.render_user_files(prepared, image=image)
        if output:
            rendering.write_user_files(texts, output)
        shown = [f"{output / name}" for name in texts] if output else [
            f"# {name}\n{text}" for name, text in texts.items()
        ]  # fmt: skip
        run.show({"files": texts}, shown)
