"""`uenv new`: a starter recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import new
from uenv_builder.commands.shared import DebugOption

EPILOG = "Example: uenv new recipes/mine/1.0"


def start_recipe(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write recipe.yaml.")],
    *,
    system: Annotated[str, typer.Option("--system", help="The system that it is for.")] = "generic-x86_64",
    uarch: Annotated[str | None, typer.Option("--uarch", help="The node type; default: the system's first.")] = None,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Write a commented starter recipe."""
    path = new.write_starter(folder, system=system, uarch=uarch)
    sys.stdout.write(f"{path}\n")
