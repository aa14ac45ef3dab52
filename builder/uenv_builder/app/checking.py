"""What `uenv check` finds beyond the form of a recipe: systems, environment, EDF settings, files, checks."""

from __future__ import annotations

from uenv_builder.app.preparing import select
from uenv_builder.app.recipes import LoadedRecipe, added_contents
from uenv_builder.checks import CHECKS
from uenv_builder.core.edf import lint_edf_settings
from uenv_builder.core.environment import check_environment
from uenv_builder.core.systems import load_systems
from uenv_builder.core.yaml_tree import Path, suggest
from uenv_builder.model.errors import Diagnostic, Position, RecipeError, UenvError


def check_recipe(loaded: LoadedRecipe) -> list[Diagnostic]:
    """Warnings about the recipe; raises one RecipeError with everything where there are errors among the findings."""
    found = [*_targets(loaded), *_environment(loaded), *_checks(loaded), *_edf(loaded)]
    try:
        added_contents(loaded)
    except RecipeError as error:
        found += error.diagnostics
    if any(finding.severity == "error" for finding in found):
        raise RecipeError.collect(found)
    return found


def _targets(loaded: LoadedRecipe) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    for target in loaded.recipe.targets:
        try:
            select(loaded, uarch=target.uarch, system=target.system)
        except UenvError as error:
            found += [finding for finding in error.diagnostics if finding not in found]
    return found


def _environment(loaded: LoadedRecipe) -> list[Diagnostic]:
    tree = loaded.evaluated.tree
    return check_environment(loaded.recipe.env, lambda name: tree.key_position(("env", name)))


def _edf(loaded: LoadedRecipe) -> list[Diagnostic]:
    recipe, tree = loaded.recipe, loaded.evaluated.tree

    def place(*path: str | int) -> Position | None:
        return tree.position(("edf", *path))

    systems = load_systems()
    found: list[Diagnostic] = []
    for name in dict.fromkeys(target.system for target in recipe.targets):
        findings = lint_edf_settings(recipe.edf, place, system=systems.get(name), network=recipe.network)
        found += [finding for finding in findings if finding not in found]
    return found


def _checks(loaded: LoadedRecipe) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    for name, parameters in loaded.recipe.checks.items():
        path: Path = ("checks", name)
        position = loaded.evaluated.tree.key_position(path)
        if name not in CHECKS:
            hint = suggest(name, list(CHECKS)) or f"known checks: {', '.join(CHECKS)}"
            found.append(
                Diagnostic(rule="unknown-check", message=f'unknown check "{name}"', position=position, hint=hint)
            )
            continue
        known = ["required", *CHECKS[name].parameters]
        for key in parameters:
            if key not in known:
                where = loaded.evaluated.tree.key_position((*path, key))
                hint = suggest(key, known) or f"its parameters: {', '.join(known)}"
                message = f'check "{name}" has no parameter "{key}"'
                found.append(Diagnostic(rule="unknown-key", message=message, position=where, hint=hint))
    return found
