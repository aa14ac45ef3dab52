"""The wheels that components are compiled with: those of the image that they need, and programs for building."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from packaging.utils import canonicalize_name

from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.core.component_choice import ChosenComponent
from uenv_builder.model.errors import IncompatibleError, RecipeError
from uenv_builder.model.lock import LockedBuild, LockedComponent, LockedPython, LockedWheel
from uenv_builder.model.system import MACHINES, Machine, Uarch

Resolve = Callable[[Sequence[str], Machine], tuple[LockedWheel, ...]]
"""The wheels for requirements on a machine."""

_PIN = re.compile(r"\$\{\{\s*pins\.([a-z_]+)\s*\}\}")


def add_wheels(
    build: LockedBuild, loaded: LoadedRecipe, uarch: Uarch, python: LockedPython | None, resolve: Resolve
) -> LockedBuild:
    """`build` with the wheels of its components. Raises IncompatibleError where the image lacks one that is needed."""
    image = {wheel.name: wheel for wheel in (python.wheels if python else ())}
    answers: dict[tuple[tuple[str, ...], Machine], tuple[LockedWheel, ...]] = {}
    components = []
    for chosen, locked in zip(loaded.components.chosen, build.components, strict=True):
        requirements = _requirements(loaded, chosen)
        found: dict[str, tuple[LockedWheel, ...]] = {}
        for debian in [uarch.debian, *locked.cross] if requirements else ():
            request = (requirements, MACHINES[debian])
            if request not in answers:
                answers[request] = resolve(*request)
            found[debian] = answers[request]
        components.append(
            locked.model_copy(update={"wheels": _needed(loaded, chosen, image), "build_wheels": found})
        )  # fmt: skip
    return build.model_copy(update={"components": tuple(components)})


def kept_wheels(older: Sequence[LockedComponent]) -> dict[str, str]:
    """The versions by name that an older lock holds of wheels to compile with."""
    wheels = [wheel for component in older for found in component.build_wheels.values() for wheel in found]
    return {wheel.name: wheel.version for wheel in wheels}


def _needed(loaded: LoadedRecipe, chosen: ChosenComponent, image: Mapping[str, LockedWheel]) -> tuple[str, ...]:
    names = []
    for number, text in enumerate(chosen.recipe.needs.wheels):
        choices = [str(canonicalize_name(word.strip())) for word in text.split("|")]
        name = next((choice for choice in choices if choice in image), None)
        if name is None:
            raise IncompatibleError(
                f"the component {chosen.name} needs the wheel {' or '.join(choices)}, and no Python package brings it",
                rule="component-needs",
                position=loaded.components.trees[chosen.name].tree.position(("needs", "wheels", number)),
                hint="add it to the recipe's `python: {requirements: [...]}`, or drop the component",
            )
        names.append(name)
    return tuple(names)


def _requirements(loaded: LoadedRecipe, chosen: ChosenComponent) -> tuple[str, ...]:
    """The component's wheels to compile with, the recipe's pins filled in."""
    pins = loaded.recipe.pins.model_dump()

    def replace(match: re.Match[str]) -> str:
        value = pins.get(match[1])
        if not value:
            tree = loaded.components.trees[chosen.name].tree
            raise RecipeError(
                f"the component {chosen.name} needs the recipe's pin {match[1]}, and the recipe has none",
                rule="component", position=tree.position(("build", "wheels")), hint=f"add `pins: {{{match[1]}: ...}}`",
            )  # fmt: skip
        return str(value)

    return tuple(_PIN.sub(replace, text) for text in chosen.recipe.build.wheels)
