"""Which of a recipe's targets a run is about."""

from __future__ import annotations

from dataclasses import dataclass

from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.core.label import Label
from uenv_builder.core.systems import SystemFiles, load_system, load_uarchs, system_names
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import RecipeError, UsageError
from uenv_builder.model.recipe import Target
from uenv_builder.model.system import System, Uarch
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems


@dataclass(frozen=True, slots=True)
class Selection:
    """The target that a run is about, and the label of its image."""

    system: System
    uarch: Uarch
    label: Label


def select(
    loaded: LoadedRecipe,
    *,
    label: str | None = None,
    uarch: str | None = None,
    system: str | None = None,
    site: SystemFiles | None = None,
) -> Selection:
    """The target that label and options name, by default the recipe's first; raises UsageError where none fits.

    `site` are the site's own systems; None means those of the settings.
    """
    asked = Label.parse(label) if label else None
    uarch = uarch or (asked.uarch if asked else None)
    system = system or (asked.system if asked and asked.system != "*" else None)
    targets = loaded.recipe.targets
    fitting = [
        target for target in targets
        if (uarch is None or target.uarch == uarch) and (system is None or target.system == system)
    ]  # fmt: skip
    if not fitting:
        known = ", ".join(f"{target.system}%{target.uarch}" for target in targets)
        wanted = f"{system or '*'}%{uarch or '*'}"
        raise UsageError(f"{loaded.path}: has no target {wanted}", rule="no-target", hint=f"its targets: {known}")
    site = read_site_systems(load_settings().systems) if site is None else site
    return _selection(loaded, fitting[0], asked, site)


def _selection(loaded: LoadedRecipe, target: Target, asked: Label | None, site: SystemFiles) -> Selection:
    recipe = loaded.recipe
    position = loaded.evaluated.tree.position(("targets", recipe.targets.index(target)))
    systems, uarchs = system_names(site), load_uarchs()
    if target.system not in systems:
        hint = suggest(target.system, list(systems)) or f"known systems: {', '.join(systems)}"
        raise RecipeError(f'unknown system "{target.system}"', rule="unknown-system", position=position, hint=hint)
    if target.uarch not in uarchs:
        hint = suggest(target.uarch, list(uarchs)) or f"known node types: {', '.join(uarchs)}"
        raise RecipeError(f'unknown uarch "{target.uarch}"', rule="unknown-uarch", position=position, hint=hint)
    system = load_system(target.system, site)
    if target.uarch not in system.uarchs:
        message = f"{system.name} has no {target.uarch} nodes"
        hint = f"it has: {', '.join(system.uarchs)}"
        raise RecipeError(message, rule="system-uarch", position=position, hint=hint)
    if recipe.network not in system.networks:
        message = f"{system.name} cannot run network mode {recipe.network}"
        hint = f"its modes: {', '.join(system.networks)}"
        where = loaded.evaluated.tree.position(("network",))
        raise RecipeError(message, rule="network-mode", position=where, hint=hint)
    label = Label(
        name=(asked and asked.name) or recipe.name,
        version=(asked and asked.version) or recipe.version,
        tag=(asked and asked.tag) or "latest",
        system=target.system,
        uarch=target.uarch,
    )
    return Selection(system, uarchs[target.uarch], label)
