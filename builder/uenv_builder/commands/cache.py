"""`uenv cache`: the store of downloads and layers."""

from __future__ import annotations

from typing import Annotated

import typer

from uenv_builder.app import storing
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, JsonOption, verb

app = typer.Typer(help="The store of downloads and layers.", no_args_is_help=True, rich_markup_mode=None)


@app.command("info", epilog="Example: uenv cache info")
@verb
def show(*, as_json: JsonOption = False, debug: DebugOption = False) -> None:  # noqa: ARG001
    """Show where the store is and how much it holds."""
    with Run(as_json=as_json, quiet=True) as run:
        document = storing.describe(run.session.store)
        run.show(document, storing.lines(document))


@app.command("verify", epilog="Example: uenv cache verify")
@verb
def verify(*, as_json: JsonOption = False, debug: DebugOption = False) -> int:  # noqa: ARG001
    """Read everything in the store, and drop what is damaged (exit code 5)."""
    with Run(as_json=as_json) as run:
        document = storing.verify(run.session)
        run.show(document, storing.damage_lines(document))
        return 5 if document["damaged"] else 0


@app.command("gc", epilog="Example: uenv cache gc --max-size 50G --older-than 30")
@verb
def collect(
    *,
    max_size: Annotated[str | None, typer.Option("--max-size", help="Keep at most this much, such as 50G.")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="Drop what was not used for so many days.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Remove leftovers, then the results and downloads that were used least recently; never what a build uses now."""
    with Run(as_json=as_json, quiet=True) as run:
        document = storing.collect(run.session.store, max_size=max_size, older_than_days=older_than)
        run.show(document, [f"removed {document['removed']} entries, {document['freed_bytes'] / 1e6:.1f} MB"])
