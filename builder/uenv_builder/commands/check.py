"""`uenv check`: what is wrong with a recipe, an EDF file or a batch script.

Each kind of file brings its own reader and rules, which are imported only for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="A recipe as for build, an EDF file, or a batch script; or several."),
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
    if not targets:
        raise UsageError("FILE is missing", hint="name a folder with a recipe.yaml, as in: uenv check recipes/mine/1.0")
    options = Options(system, _mode(network), dialect, host_env=host_env)
    checked = [_check_one(target, options) for target in targets]
    _show(Format.json if as_json else form, checked)
    return _exit_code([finding for one in checked for finding in one.findings])


@dataclass(frozen=True, slots=True)
class Options:
    """What is said of all files."""

    system: str | None
    network: NetworkMode | None
    dialect: Engine | None
    host_env: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """One file, what JSON says of it, and what was found in it."""

    file: str
    about: Document
    findings: Sequence[Diagnostic]


def _check_one(target: str, options: Options) -> Checked:
    kind = kind_of(Path(target))
    if kind != "edf" and (options.dialect or options.host_env):
        raise UsageError("--dialect and --host-env are for EDF files, whose names end in .toml")
    if kind == "recipe" and (options.system or options.network):
        raise UsageError(
            "--system and --network are for EDF files and batch scripts: a recipe says itself what it is for"
        )
    if kind == "edf":
        return Checked(target, {"edf": target}, _find_in_edf(Path(target), options))
    if kind == "script":
        return Checked(target, {"batch_script": target}, _find_in_script(Path(target), options))
    return _find_in_recipe(target)


def _find_in_edf(path: Path, options: Options) -> Sequence[Diagnostic]:
    from uenv_builder.app.edf_checking import EdfOptions, find_in_edf

    dialect: Dialect = "sarus" if options.dialect is Engine.sarus else "ce"
    asked = EdfOptions(dialect=dialect, system=options.system, network=options.network, host_env=options.host_env)
    return find_in_edf(path, asked)


def _find_in_script(path: Path, options: Options) -> Sequence[Diagnostic]:
    from uenv_builder.app.script_checking import ScriptOptions, find_in_script

    return find_in_script(path, ScriptOptions(system=options.system, network=options.network))


def _find_in_recipe(target: str) -> Checked:
    from uenv_builder.app.checking import find_in_recipe
    from uenv_builder.app.lock_files import fresh_locks
    from uenv_builder.app.recipes import find_recipe, load_recipe
    from uenv_builder.system.settings import load_settings

    path = find_recipe(target, load_settings().recipe_path)
    try:
        loaded = load_recipe(path)
    except RecipeError as error:
        return Checked(str(path), {"recipe": str(path)}, error.diagnostics)
    targets = [f"{entry.system}%{entry.uarch}" for entry in loaded.recipe.targets]
    locks, unfit = fresh_locks(loaded)
    findings = [*unfit, *find_in_recipe(loaded, locks)]
    return Checked(str(path), {"recipe": str(path), "targets": targets, "locked": list(locks)}, findings)


def _mode(network: str | None) -> NetworkMode | None:
    if network is None or network in NETWORK_MODES:
        return next((mode for mode in NETWORK_MODES if mode == network), None)
    raise UsageError(f'unknown network mode "{network}"', hint=f"known: {', '.join(NETWORK_MODES)}")


def _show(form: Format, checked: Sequence[Checked]) -> None:
    findings = [finding for one in checked for finding in one.findings]
    if form is Format.json:
        documents = [_document(one) for one in checked]
        print_json(documents[0] if len(documents) == 1 else {"checked": documents})
    elif form is Format.sarif:
        print_json(to_sarif(findings, version=__version__, root=str(Path.cwd())))
    elif form is Format.junit:
        sys.stdout.write(to_junit(findings, files=[one.file for one in checked]))
    complain(findings, as_json=False)
    for one in checked if form is Format.text else ():
        if _exit_code(one.findings) == 0:
            targets = one.about.get("targets")
            suffix = f" ({', '.join(targets)})" if targets else ""
            sys.stdout.write(f"{one.file}: ok{suffix}\n")


def _document(one: Checked) -> Document:
    return {**one.about, "diagnostics": [to_document(finding) for finding in one.findings]}


def _exit_code(findings: Sequence[Diagnostic]) -> int:
    if is_incompatible(findings):
        return IncompatibleError.exit_code
    return RecipeError.exit_code if any(finding.severity == "error" for finding in findings) else 0
