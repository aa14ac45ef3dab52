"""`uenv cache`: the store of downloads and layers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from uenv_builder.app import storing
from uenv_builder.commands.shared import DebugOption, JobsOption, JsonOption, print_json, verb
from uenv_builder.core.digest import Document
from uenv_builder.system.settings import load_settings
from uenv_builder.system.store import Store
from uenv_builder.system.terminal import listener_for

app = typer.Typer(help="The store of downloads and layers.", no_args_is_help=True, rich_markup_mode=None)


@app.command("info", epilog="Example: uenv cache info")
@verb
def show(*, as_json: JsonOption = False, debug: DebugOption = False) -> None:  # noqa: ARG001
    """Show where the store is and how much it holds."""
    document = storing.describe(_store())
    _print(document, storing.lines(document), as_json=as_json)


@app.command("verify", epilog="Example: uenv cache verify")
@verb
def verify(*, jobs: JobsOption = None, as_json: JsonOption = False, debug: DebugOption = False) -> int:  # noqa: ARG001
    """Read everything in the store, and drop what is damaged (exit code 5)."""
    listener = listener_for(quiet=False, verbose=False)
    try:
        document = storing.verify(_store(), listener, jobs=jobs or len(os.sched_getaffinity(0)))
    finally:
        listener.close()
    _print(document, storing.damage_lines(document), as_json=as_json)
    return 5 if document["damaged"] else 0


@app.command(
    "gc", epilog="Examples: uenv cache gc --max-size 50G --older-than 30; uenv cache gc --keep-last 3 --dry-run"
)
@verb
def collect(
    *,
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", min=0, help="Keep the last so many results of each kind; alone: drop the others."),
    ] = None,
    max_size: Annotated[str | None, typer.Option("--max-size", help="Keep at most this much, such as 50G.")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="Drop what was not used for so many days.")
    ] = None,
    forget_host: Annotated[
        list[str] | None,
        typer.Option(help="Drop what builds and locks of this host (or pattern) refer to, if not seen from here."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Remove leftovers, and what is over the limits; never what a build, a lock or a running process refers to."""
    document = storing.collect(
        _store(), keep_last=keep_last, max_size=max_size, older_than_days=older_than, forget_hosts=forget_host or (),
        dry_run=dry_run,
    )  # fmt: skip
    _print(document, storing.collected_lines(document), as_json=as_json)


def _store() -> Store:
    return Store.default(load_settings().cache)


def _print(document: Document, lines: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)
