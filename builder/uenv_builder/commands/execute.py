"""`uenv exec`: a command inside an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import executing
from uenv_builder.commands.shared import DebugOption, ImageArgument

EPILOG = "Example: uenv exec build/python-mpi-1.0-x86_64 -- python3 -c 'import numpy; print(numpy.__version__)'"
SETTINGS = {"allow_interspersed_args": False, "ignore_unknown_options": True}


def execute(
    image: ImageArgument,
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND ...]", help="Default: a shell.")] = None,
    *,
    bind: Annotated[
        list[str] | None, typer.Option("--bind", help="SOURCE[:TARGET[:ro]] of this machine to show inside.")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="NAME[=VALUE]", help="A variable to set inside, over the image's; NAME alone: as here."
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option("--view", help="A view of a uenv, by default its default view; may be repeated."),
    ] = None,
    network: Annotated[bool, typer.Option("--network", help="Give it this machine's network.")] = False,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile-start",
            metavar="FILE",
            help="Start from a cold cache, and record in FILE what is read, in order.",
        ),
    ] = None,
    no_read_ahead: Annotated[
        bool, typer.Option("--no-read-ahead", help="Do not read the image's recorded start ahead, where it has one.")
    ] = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Run a command inside an image, with the image's own environment and a throw-away writable layer."""
    words = list(command or [])
    # Options end at IMAGE, so that the command's own reach it; the usual -- after it is only a mark.
    argv = words[1:] if words[:1] == ["--"] else words
    return executing.execute(
        image, argv, binds=bind or [], network=network, variables=variable or [], profile=profile,
        read_ahead=not no_read_ahead, views=view or [],
    )  # fmt: skip
