"""`uenv explain`: the story behind a rule, and the messages of a job's log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import explaining
from uenv_builder.commands.shared import DebugOption, JsonOption, print_json
from uenv_builder.model.errors import UsageError

EPILOG = "Examples: uenv explain srun-network; uenv explain --log slurm-4711.out"


def explain(
    rule: Annotated[str | None, typer.Argument(metavar="RULE", help="The id in the brackets of a finding.")] = None,
    *,
    log: Annotated[Path | None, typer.Option("--log", help="A job's output: which known messages it holds.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Tell why a rule is there and what to do about it, or what the messages in a job's log mean."""
    if (rule is None) == (log is None):
        raise UsageError("name either a rule or a log", hint="for example: uenv explain srun-network")
    if log is not None:
        reading = explaining.read_log_file(log)
        document = explaining.log_document(log, reading)
        lines = list(explaining.log_lines(log, reading))
    else:
        name = rule or ""
        story = explaining.story_of(name)
        document, lines = explaining.story_document(name, story), explaining.story_lines(name, story)
    if as_json:
        print_json(document)
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)
