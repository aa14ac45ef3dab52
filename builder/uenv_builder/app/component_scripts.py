"""The build scripts of components: rendered with what recipe and component say, for the plan to go by."""

from __future__ import annotations

import platform
from pathlib import Path

from uenv_builder.app.component_files import BUILD_SCRIPT
from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.core.component_choice import ChosenComponent
from uenv_builder.core.component_planning import PlannedComponent
from uenv_builder.model.errors import RecipeError, UenvError
from uenv_builder.model.lock import Lock
from uenv_builder.model.system import ARCHITECTURES, Uarch
from uenv_builder.system.files import sha256_of
from uenv_builder.system.templates import read_template


def plan_sources(
    loaded: LoadedRecipe, uarch: Uarch, lock: Lock, *, machine: str | None = None
) -> tuple[PlannedComponent, ...]:
    """The recipe's components as a `machine` (of `uname -m`; None: this one) builds them: by a cross compiler where
    that is allowed and needed.

    Raises RecipeError where a template cannot be rendered.
    """
    chosen = loaded.components.chosen
    versions = {component.name: component.version for component in chosen}
    planned = []
    for component in chosen:
        folder = loaded.components.folders[component.name]
        crossed_on = _crossed_on(component, uarch, machine or platform.machine())
        patches = {name: sha256_of(folder / name) for name in component.source.patches}
        needs = {name: versions[name] for name in component.needs}
        script = _render(loaded, component, folder, machine=uarch.machine, cross=crossed_on is not None, versions=needs)
        planned.append(PlannedComponent(chosen=component, crossed_on=crossed_on, script=script, patches=patches))
    return tuple(planned) if lock.build else ()


def _crossed_on(component: ChosenComponent, uarch: Uarch, machine: str) -> str | None:
    return None if machine == uarch.machine or not component.recipe.cross else ARCHITECTURES.get(machine)


def _render(
    loaded: LoadedRecipe,
    component: ChosenComponent,
    folder: Path,
    *,
    machine: str,
    cross: bool,
    versions: dict[str, str],
) -> str:
    pins = {name: value or "" for name, value in loaded.recipe.pins.model_dump().items()}
    try:
        return read_template(folder, BUILD_SCRIPT).render(
            name=component.name,
            version=component.version,
            prefix=component.recipe.prefix,
            options=component.options,
            machine=machine,
            cross=cross,
            versions=versions,
            pins=pins,
        )
    except UenvError as error:
        message = error.diagnostics[0].message
        raise RecipeError(
            f"{folder}/{message}", rule="component", hint="docs/how-to/components.md lists what a build script can use"
        ) from error
