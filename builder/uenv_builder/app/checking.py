"""What `uenv check` finds in a recipe, beyond its form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from uenv_builder.app.recipes import LoadedRecipe, added_contents
from uenv_builder.app.selection import select
from uenv_builder.checks import CHECKS
from uenv_builder.core.edf.rules import lint_edf_settings
from uenv_builder.core.environment import check_environment
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
    Position,
    RecipeError,
    UenvError,
)
from uenv_builder.model.lock import Lock
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems


def check_recipe(loaded: LoadedRecipe, locks: Mapping[str, Lock]) -> list[Diagnostic]:
    """Warnings and notes about the recipe with these locks, by node type; raises one error with everything where there
    are errors among the findings: IncompatibleError if all mean that things cannot work together, else RecipeError.
    """
    findings = find_in_recipe(loaded, locks)
    if is_incompatible(findings):
        raise IncompatibleError.collect(findings)
    if any(finding.severity == "error" for finding in findings):
        raise RecipeError.collect(findings)
    return findings


def find_in_recipe(loaded: LoadedRecipe, locks: Mapping[str, Lock]) -> list[Diagnostic]:
    """All that is wrong with the recipe, in the order of its lines, without what it accepts; rules look at the lock of
    each node type that is in `locks`.
    """
    site = read_site_systems(load_settings().systems)
    targets = _targets(loaded, site)
    found = [*targets, *_environment(loaded), *_checks(loaded), *_edf(loaded, site)]
    found += [] if targets else _rules(loaded, site, locks)
    try:
        added_contents(loaded)
    except RecipeError as error:
        found += error.diagnostics
    tree = loaded.evaluated.tree
    locked = all(target.uarch in locks for target in loaded.recipe.targets)
    return without_repetition(accept(found, loaded.recipe.accept, tree.key_position, everything=locked))


def _targets(loaded: LoadedRecipe, site: SystemFiles) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    for target in loaded.recipe.targets:
        try:
            select(loaded, uarch=target.uarch, system=target.system, site=site)
        except UenvError as error:
            found += error.diagnostics
    return found


def _rules(loaded: LoadedRecipe, site: SystemFiles, locks: Mapping[str, Lock]) -> Iterator[Diagnostic]:
    recipe, tree = loaded.recipe, loaded.evaluated.tree

    def locate(path: TreePath) -> Position | None:
        if path[:1] == ("env",) and path[-1] not in recipe.env:
            path = ("edf", *path) if path[-1] in recipe.edf.env else ("network",)
        return tree.key_position(path)

    uarchs = load_uarchs()
    for target in recipe.targets:
        system, uarch = load_system(target.system, site), uarchs[target.uarch]
        subject = Subject(recipe, system, uarch, locks.get(target.uarch))
        yield from run_rules(SUBJECT_RULES, subject, locate)
        yield from run_rules(RUNTIME_RULES, subject.runtime, locate)
        own = {**recipe.env, **recipe.edf.env}
        yield from lint_variables(own, versions=subject.runtime.versions, locate=lambda name: locate(("env", name)))


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
