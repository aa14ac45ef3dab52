"""`uenv check`: what is wrong with a recipe, an EDF file or a batch script.

Each kind of file brings its own reader and rules, which are imported only for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from uenv_builder import __version__
from uenv_builder.app.checked_files import kind_of
from uenv_builder.commands.shared import DebugOption, JsonOption, complain, print_json
from uenv_builder.core.digest import Document
from uenv_builder.core.edf.engine import Dialect
from uenv_builder.core.finding_formats import to_document, to_junit, to_sarif
from uenv_builder.core.rules.verdicts import is_incompatible
from uenv_builder.model.errors import Diagnostic, IncompatibleError, RecipeError, UsageError
from uenv_builder.model.system import NETWORK_MODES, NetworkMode

EPILOG = (
    "Examples: uenv check recipes/pytorch/2.14; uenv check ~/.edf/pytorch.toml --system daint; "
    "uenv check job.sbatch --system daint; uenv check recipes/pytorch/2.14 --format sarif > check.sarif; "
    "uenv check --schema > recipe.schema.json"
)


class Format(StrEnum):
    """How findings are printed."""

    text = "text"
    json = "json"
    sarif = "sarif"
    junit = "junit"


class Engine(StrEnum):
    """Who reads an EDF file."""

    ce = "ce"
    sarus = "sarus"


def check(
    target: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A recipe as for build, an EDF file, or a batch script.")
    ] = None,
    *,
    system: Annotated[
        str | None, typer.Option("--system", help="For an EDF file or a batch script: the system that it is for.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="For an EDF file or a batch script: the network mode of its environment."),
    ] = None,
    dialect: Annotated[
        Engine | None,
        typer.Option("--dialect", help="For an EDF file: Container Engine (ce, the default) or Sarus Suite (sarus)."),
    ] = None,
    host_env: Annotated[
        bool, typer.Option("--host-env", help="For an EDF file: variables that it refers to must be set here.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print what is found.")] = Format.text,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Read a recipe, an EDF file or a batch script and say all that is wrong; needs neither network nor root."""
    if schema:
        from uenv_builder.core.recipe_reader import editor_schema

        print_json(editor_schema())
        return 0
    if target is None:
        raise UsageError("FILE is missing", hint="name a folder with a recipe.yaml, as in: uenv check recipes/mine/1.0")
    kind = kind_of(Path(target))
    if kind != "edf" and (dialect or host_env):
        raise UsageError("--dialect and --host-env are for EDF files, whose names end in .toml")
    if kind == "recipe" and (system or network):
        raise UsageError(
            "--system and --network are for EDF files and batch scripts: a recipe says itself what it is for"
        )
    if kind == "edf":
        about: Document = {"edf": target}
        findings = _find_in_edf(Path(target), dialect, system=system, network=network, host_env=host_env)
        file = target
    elif kind == "script":
        file, about, findings = target, {"batch_script": target}, _find_in_script(Path(target), system, network)
    else:
        file, about, findings = _find_in_recipe(target)
    _show(Format.json if as_json else form, file, about, findings)
    return _exit_code(findings)


def _find_in_edf(
    path: Path, engine: Engine | None, *, system: str | None, network: str | None, host_env: bool
) -> Sequence[Diagnostic]:
    from uenv_builder.app.edf_checking import EdfOptions, find_in_edf

    dialect: Dialect = "sarus" if engine is Engine.sarus else "ce"
    return find_in_edf(path, EdfOptions(dialect=dialect, system=system, network=_mode(network), host_env=host_env))


def _find_in_script(path: Path, system: str | None, network: str | None) -> Sequence[Diagnostic]:
    from uenv_builder.app.script_checking import ScriptOptions, find_in_script

    return find_in_script(path, ScriptOptions(system=system, network=_mode(network)))


def _find_in_recipe(target: str) -> tuple[str, Document, Sequence[Diagnostic]]:
    from uenv_builder.app.checking import find_in_recipe
    from uenv_builder.app.lock_files import fresh_locks
    from uenv_builder.app.recipes import find_recipe, load_recipe
    from uenv_builder.system.settings import load_settings

    path = find_recipe(target, load_settings().recipe_path)
    try:
        loaded = load_recipe(path)
    except RecipeError as error:
        return str(path), {"recipe": str(path)}, error.diagnostics
    targets = [f"{entry.system}%{entry.uarch}" for entry in loaded.recipe.targets]
    locks, unfit = fresh_locks(loaded)
    findings = [*unfit, *find_in_recipe(loaded, locks)]
    return str(path), {"recipe": str(path), "targets": targets, "locked": list(locks)}, findings


def _mode(network: str | None) -> NetworkMode | None:
    if network is None or network in NETWORK_MODES:
        return next((mode for mode in NETWORK_MODES if mode == network), None)
    raise UsageError(f'unknown network mode "{network}"', hint=f"known: {', '.join(NETWORK_MODES)}")


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
