"""What `uenv check` finds in a recipe, beyond its form, and in a batch script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from uenv_builder.app.edf_files import read_edf_variables
from uenv_builder.app.preparing import select
from uenv_builder.app.recipes import LoadedRecipe, added_contents
from uenv_builder.checks import CHECKS
from uenv_builder.core.batch_rules import BatchContext, BatchScript, check_batch_script
from uenv_builder.core.batch_rules import runtime as batch_runtime
from uenv_builder.core.batch_script import Step
from uenv_builder.core.edf import lint_edf_settings
from uenv_builder.core.environment import check_environment
from uenv_builder.core.lock_file import parse_lock, recipe_digest
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.tables import RUNTIME_RULES, SUBJECT_RULES
from uenv_builder.core.rules.verdicts import accept, is_incompatible, run_rules, without_repetition
from uenv_builder.core.systems import SystemFiles, load_system, load_uarchs, system_names
from uenv_builder.core.variable_lint import lint_variables
from uenv_builder.core.yaml_tree import Path as TreePath
from uenv_builder.core.yaml_tree import YamlTree, suggest
from uenv_builder.model.errors import (
    Diagnostic,
    IncompatibleError,
    LockError,
    Position,
    RecipeError,
    UenvError,
    UsageError,
)
from uenv_builder.model.lock import Lock
from uenv_builder.model.system import NetworkMode, System, Uarch
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems

# Batch scripts have a rule of their own for the launch line, which knows all places that its options come from.
_SCRIPT_RULES = {rule: judge for rule, judge in RUNTIME_RULES.items() if rule != "alt-read-launch"}
_SCRIPT_SUFFIXES = {".sbatch", ".slurm", ".sh", ".job"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptOptions:
    """What a user tells about where a batch script runs."""

    system: str | None = None
    network: NetworkMode | None = None


def check_recipe(loaded: LoadedRecipe) -> list[Diagnostic]:
    """Warnings and notes about the recipe; raises one error with everything where there are errors among the findings:
    IncompatibleError if all of them mean that things cannot work together, else RecipeError.
    """
    findings = find_in_recipe(loaded)
    if is_incompatible(findings):
        raise IncompatibleError.collect(findings)
    if any(finding.severity == "error" for finding in findings):
        raise RecipeError.collect(findings)
    return findings


def find_in_recipe(loaded: LoadedRecipe) -> list[Diagnostic]:
    """All that is wrong with the recipe, in the order of its lines, without what it accepts."""
    site = read_site_systems(load_settings().systems)
    targets = _targets(loaded, site)
    found = [*targets, *_environment(loaded), *_checks(loaded), *_edf(loaded, site)]
    found += [] if targets else _rules(loaded, site)
    try:
        added_contents(loaded)
    except RecipeError as error:
        found += error.diagnostics
    tree = loaded.evaluated.tree
    return without_repetition(accept(found, loaded.recipe.accept, tree.key_position))


def is_batch_script(path: Path) -> bool:
    """Whether the file at `path` is one for sbatch: by its suffix, or by its first bytes."""
    if not path.is_file():
        return False
    if path.suffix in _SCRIPT_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def find_in_script(path: Path, options: ScriptOptions) -> list[Diagnostic]:
    """All that is wrong with the batch script at `path`, in the order of its lines. Raises UsageError where it cannot
    be read, or no system has the given name.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", rule="unreadable") from error
    context = BatchContext(system=_named_system(options.system), network=options.network, read_edf=read_edf_variables)
    script, findings = check_batch_script(content, str(path), context)
    for step in script.steps:
        seen = batch_runtime(script, step, context)
        found = run_rules(_SCRIPT_RULES, seen, partial(script.locate, step=step))
        # What the script does not set may come from anywhere: only what it sets itself is its fault.
        findings += [finding for finding in found if finding.position]
        own = {name: value for name, value in seen.env.items() if name in seen.own}
        findings += lint_variables(
            own, versions=seen.versions, locate=partial(_locate_variable, script, step), quoted=True
        )
    return without_repetition(findings)


def _locate_variable(script: BatchScript, step: Step, name: str) -> Position | None:
    return script.locate(("env", name), step)


def _named_system(name: str | None) -> System | None:
    if name is None:
        return None
    site = read_site_systems(load_settings().systems)
    known = list(system_names(site))
    if name not in known:
        hint = suggest(name, known) or f"known systems: {', '.join(known)}"
        raise UsageError(f'unknown system "{name}"', rule="unknown-system", hint=hint)
    return load_system(name, site)


def _targets(loaded: LoadedRecipe, site: SystemFiles) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    for target in loaded.recipe.targets:
        try:
            select(loaded, uarch=target.uarch, system=target.system, site=site)
        except UenvError as error:
            found += error.diagnostics
    return found


def _rules(loaded: LoadedRecipe, site: SystemFiles) -> Iterator[Diagnostic]:
    recipe, tree = loaded.recipe, loaded.evaluated.tree

    def locate(path: TreePath) -> Position | None:
        if path[:1] == ("env",) and path[-1] not in recipe.env:
            path = ("edf", *path) if path[-1] in recipe.edf.env else ("network",)
        return tree.key_position(path)

    for target in recipe.targets:
        system, uarch = load_system(target.system, site), load_uarchs()[target.uarch]
        subject = Subject(recipe, system, uarch, _fresh_lock(loaded, uarch))
        yield from run_rules(SUBJECT_RULES, subject, locate)
        yield from run_rules(RUNTIME_RULES, subject.runtime, locate)
        own = {**recipe.env, **recipe.edf.env}
        yield from lint_variables(own, versions=subject.runtime.versions, locate=lambda name: locate(("env", name)))


def _fresh_lock(loaded: LoadedRecipe, uarch: Uarch) -> Lock | None:
    """The lock beside the recipe where it is there and fits: rules look at what is known, and `uenv lock` at locks."""
    path = loaded.lock_path(uarch.name)
    try:
        lock = parse_lock(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, LockError):
        return None
    return lock if lock.recipe.digest == recipe_digest(loaded.recipe, uarch) else None


def _environment(loaded: LoadedRecipe) -> list[Diagnostic]:
    tree = loaded.evaluated.tree
    return check_environment(loaded.recipe.env, lambda name: tree.key_position(("env", name)))


def _edf(loaded: LoadedRecipe, site: SystemFiles) -> Iterator[Diagnostic]:
    recipe, tree = loaded.recipe, loaded.evaluated.tree

    def place(*path: str | int) -> Position | None:
        return tree.position(("edf", *path))

    known = system_names(site)
    for name in dict.fromkeys(target.system for target in recipe.targets):
        system = load_system(name, site) if name in known else None
        yield from lint_edf_settings(recipe.edf, place, system=system, network=recipe.network)


def _checks(loaded: LoadedRecipe) -> Iterator[Diagnostic]:
    for name, parameters in loaded.recipe.checks.items():
        yield from _check_findings(name, list(parameters), loaded.evaluated.tree)


def _check_findings(name: str, keys: list[str], tree: YamlTree) -> Iterator[Diagnostic]:
    path: TreePath = ("checks", name)
    if name not in CHECKS:
        hint = suggest(name, list(CHECKS)) or f"known checks: {', '.join(CHECKS)}"
        position = tree.key_position(path)
        yield Diagnostic(rule="unknown-check", message=f'unknown check "{name}"', position=position, hint=hint)
        return
    known = ["required", *CHECKS[name].parameters]
    for key in keys:
        if key not in known:
            hint = suggest(key, known) or f"its parameters: {', '.join(known)}"
            message = f'check "{name}" has no parameter "{key}"'
            where = tree.key_position((*path, key))
            yield Diagnostic(rule="unknown-key", message=message, position=where, hint=hint)
