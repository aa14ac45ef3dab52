"""`uenv plan`: what a build would do."""

from __future__ import annotations

from rich.table import Table

from uenv_builder.app import building
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


def plan(
    recipe: RecipeArgument,
    label: LabelArgument = None,
    *,
    uarch: UarchOption = None,
    system: SystemOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Show the steps that a build takes, their ids, and which results the store already has."""
    with Run(as_json=as_json, quiet=True) as run:
        prepared = prepare_target(run, recipe, label, uarch=uarch, system=system, locked=True)
        document = building.describe_plan(run.session, prepared)
        if as_json:
            run.show(document)
            return
        table = Table("step", "kind", "id", "stored", box=None)
        for step in document["steps"]:
            table.add_row(step["name"], step["kind"], step["id"][:16], "yes" if step["stored"] else "")
        run.console.print(table)
        run.console.print(f"plan {document['id']}", markup=False)
