"""`uenv check`: what is wrong with a recipe or a batch script."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import TypeAdapter, ValidationError

from uenv_builder import __version__
from uenv_builder.app import checking
from uenv_builder.app.recipes import find_recipe, load_recipe
from uenv_builder.commands.shared import DebugOption, JsonOption, complain, print_json
from uenv_builder.core.digest import Document
from uenv_builder.core.finding_formats import to_document, to_junit, to_sarif
from uenv_builder.core.recipe_reader import recipe_schema
from uenv_builder.core.rules.verdicts import is_incompatible
from uenv_builder.model.errors import Diagnostic, IncompatibleError, RecipeError, UsageError
from uenv_builder.model.system import NetworkMode
from uenv_builder.system.settings import load_settings

EPILOG = (
    "Examples: uenv check recipes/pytorch/2.14; uenv check job.sbatch --system daint; "
    "uenv check recipes/pytorch/2.14 --format sarif > check.sarif; uenv check --schema > recipe.schema.json"
)


_MODES: tuple[str, ...] = get_args(NetworkMode)
_MODE: TypeAdapter[NetworkMode] = TypeAdapter(NetworkMode)


class Format(StrEnum):
    """How findings are printed."""

    text = "text"
    json = "json"
    sarif = "sarif"
    junit = "junit"


def check(
    target: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A recipe as for build, or a batch script.")
    ] = None,
    *,
    system: Annotated[
        str | None, typer.Option("--system", help="For a batch script: the system that it is for.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="For a batch script: the network mode of its environment.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print what is found.")] = Format.text,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Read a recipe or a batch script and say all that is wrong with it; needs neither network nor root."""
    if schema:
        print_json(recipe_schema())
        return 0
    if target is None:
        raise UsageError("FILE is missing", hint="name a folder with a recipe.yaml, as in: uenv check recipes/mine/1.0")
    file, about, findings = _find(target, system, network)
    _show(Format.json if as_json else form, file, about, findings)
    return _exit_code(findings)


def _find(target: str, system: str | None, network: str | None) -> tuple[str, Document, Sequence[Diagnostic]]:
    if checking.is_batch_script(Path(target)):
        options = checking.ScriptOptions(system=system, network=_mode(network))
        return target, {"batch_script": target}, checking.find_in_script(Path(target), options)
    if system or network:
        raise UsageError("--system and --network are for batch scripts: a recipe says itself what it is for")
    path = find_recipe(target, load_settings().recipe_path)
    try:
        loaded = load_recipe(path)
    except RecipeError as error:
        return str(path), {"recipe": str(path)}, error.diagnostics
    targets = [f"{entry.system}%{entry.uarch}" for entry in loaded.recipe.targets]
    return str(path), {"recipe": str(path), "targets": targets}, checking.find_in_recipe(loaded)


def _mode(network: str | None) -> NetworkMode | None:
    if network is None:
        return None
    try:
        return _MODE.validate_python(network)
    except ValidationError as error:
        raise UsageError(f'unknown network mode "{network}"', hint=f"known: {', '.join(_MODES)}") from error


def _show(form: Format, file: str, about: Document, findings: Sequence[Diagnostic]) -> None:
    if form is Format.json:
        print_json({**about, "diagnostics": [to_document(finding) for finding in findings]})
    elif form is Format.sarif:
        print_json(to_sarif(findings, version=__version__, root=str(Path.cwd())))
    elif form is Format.junit:
        sys.stdout.write(to_junit(findings, files=[file]))
    complain(findings, as_json=False)
    if form is Format.text and _exit_code(findings) == 0:
        targets = about.get("targets")
        suffix = f" ({', '.join(targets)})" if targets else ""
        sys.stdout.write(f"{file}: ok{suffix}\n")


def _exit_code(findings: Sequence[Diagnostic]) -> int:
    if is_incompatible(findings):
        return IncompatibleError.exit_code
    return RecipeError.exit_code if any(finding.severity == "error" for finding in findings) else 0
