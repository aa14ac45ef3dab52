"""`uenv plan`: what a build would do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app.building import default_output
from uenv_builder.app.plans import Outlook, look_ahead
from uenv_builder.app.preparing import prepare
from uenv_builder.commands.run import Run, prepare_target
from uenv_builder.commands.shared import (
    DebugOption,
    JsonOption,
    LabelArgument,
    RecipeArgument,
    SystemOption,
    UarchOption,
)

EPILOG = "Example: uenv plan recipes/pytorch/2.14 --json"
_REASONS = 3
"""How many are shown of a step."""


def plan(
    recipe: RecipeArgument,
    label: LabelArgument = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The build to compare with; default: build/NAME-VERSION-UARCH"),
    ] = None,
    uarch: UarchOption = None,
    system: SystemOption = None,
    on_target: Annotated[
        bool,
        typer.Option("--on-target", help="The plan of a machine of the target's type, where components are native."),
    ] = False,
    only_id: Annotated[bool, typer.Option("--id", help="Print the plan's id alone.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Show the steps that a build takes, which results the store already has, and why it does not have the others."""
    with Run(as_json=as_json, quiet=True) as run:
        prepared = prepare_target(run, recipe, label, uarch=uarch, system=system, locked=True)
        if on_target:
            machine = prepared.selection.uarch.machine
            prepared = prepare(prepared.loaded, prepared.selection, prepared.lock, machine=machine)
        if only_id and not as_json:
            run.show({}, [prepared.plan.id])
            return
        folder = output or default_output(prepared)
        outlook = look_ahead(run.session, prepared, folder)
        run.show(outlook.document(), [*_step_lines(outlook), *_closing_lines(outlook, folder)])


def _step_lines(outlook: Outlook) -> Iterator[str]:
    width = max(len(step.name) for step in outlook.plan.steps)
    yield f"{'step':{width}}  {'id':16}  stored"
    for step in outlook.plan.steps:
        reasons = outlook.missing.get(step.id)
        yield f"{step.name:{width}}  {step.id[:16]}  {'yes' if reasons is None else 'no'}"
        shown = reasons or ()
        yield from (f"    {reason}" for reason in shown[:_REASONS])
        if len(shown) > _REASONS:
            yield f"    and {len(shown) - _REASONS} more"


def _closing_lines(outlook: Outlook, folder: Path) -> list[str]:
    lines = [f"plan {outlook.plan.id}", f"{outlook.running} of {len(outlook.plan.steps)} steps would run"]
    if outlook.running and outlook.compared is None:
        lines.append(f"there is no plan of a build at {folder} to compare with: --output names another")
    return lines
