"""`uenv ci`: pipelines for GitLab and GitHub, and what they have to do."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, JsonOption, QuietOption, verb
from uenv_builder.core.ci.pipelines import Forge
from uenv_builder.model.errors import UsageError

app = typer.Typer(help="Pipelines of continuous integration.", no_args_is_help=True, rich_markup_mode=None)


class ForgeName(StrEnum):
    """What `--for` takes."""

    gitlab = "gitlab"
    github = "github"


RecipesOption = Annotated[
    list[Path] | None,
    typer.Option("--recipes", metavar="DIR", help="All recipes below it; may be repeated. Default: recipes."),
]


@app.command(
    "generate",
    epilog="Examples: uenv ci generate --for gitlab --output ci/gitlab.yml; "
    "uenv ci generate --for github --output .github/workflows/environments.yml --check",
)
@verb
def generate(
    *,
    forge: Annotated[
        ForgeName, typer.Option("--for", help="gitlab: with the runners of CSCS's ci-ext; github: a workflow.")
    ],
    recipes: RecipesOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there; default: standard output.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say whether FILE is what would be written (exit code 5); write nothing."),
    ] = False,
    command: Annotated[
        str, typer.Option("--command", metavar="COMMAND", help="How jobs call uenv, such as ci/uenv.")
    ] = "uenv",
    setup: Annotated[
        list[str] | None,
        typer.Option("--setup", metavar="LINE", help="A line of shell before those of each job; may be repeated."),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option("--watch", metavar="GLOB", help="github: a change of these starts it, too; may be repeated."),
    ] = None,
    only: Annotated[
        Path | None,
        typer.Option(
            "--only", metavar="FILE", help="gitlab: the pipeline that builds what `uenv ci changed --json` has found."
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Write the pipeline of a repository's recipes: check, build what is missing, test on Slurm, publish, promote."""
    from uenv_builder.app.ci import generating

    if check and output is None:
        raise UsageError("--check compares with a file", hint="name it with --output")
    names: dict[ForgeName, Forge] = {ForgeName.gitlab: "gitlab", ForgeName.github: "github"}
    with Run(as_json=as_json, quiet=quiet) as run:
        asked = generating.Generating(
            forge=names[forge], places=recipes or [Path("recipes")], uenv=command, setup=setup or [],
            watch=watch or [], output=output, only=only,
        )  # fmt: skip
        text = generating.generate(run.session, asked)
        if output is None:
            run.show({"pipeline": text}, text.splitlines())
            return
        if check:
            generating.check_pipeline(text, output)
        changed = not check and generating.write_pipeline(text, output)
        told = f"{output}: written" if changed else f"{output}: is up to date"
        run.show({"file": str(output), "changed": changed}, [told])


@app.command(
    "changed",
    epilog="Examples: uenv ci changed --base origin/main; "
    "uenv ci changed --registry registry:registry.example.org/uenv --json",
)
@verb
def changed(
    *,
    recipes: RecipesOption = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="REF",
            help="Only what changed since the work tree left this branch; empty: all counts as changed.",
        ),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option("--registry", metavar="registry:HOST/PLACE", help="Leave out plans whose image is there already."),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="One line: a JSON array of the targets' names.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """List the recipes' targets that are to be built: those whose plan or checks changed, and are not published."""
    from uenv_builder.app.ci.changed import find_changes

    with Run(as_json=as_json, quiet=quiet) as run:
        found = find_changes(run.session, recipes or [Path("recipes")], base=base, registry=registry)
        if ids and not as_json:
            sys.stdout.write(json.dumps([change.target.id for change in found.targets]) + "\n")
            return
        run.show(found.document(), found.lines())
