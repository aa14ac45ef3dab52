"""Locking the wheels of a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from uenv_builder.app.base_locking import is_met
from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.app.session import Session
from uenv_builder.model.errors import Diagnostic, IncompatibleError, RecipeError
from uenv_builder.model.lock import Lock, LockedBase, LockedDeb, LockedPython
from uenv_builder.model.system import Uarch
from uenv_builder.sources.wheel import WheelRequest, resolve_wheels


def lock_python(
    session: Session,
    loaded: LoadedRecipe,
    uarch: Uarch,
    *,
    glibc: Callable[[], tuple[int, int]],
    older: Lock | None,
    upgrade: frozenset[str],
    base: LockedBase | None = None,
) -> LockedPython | None:
    """The wheels of the recipe, by those of an `older` lock but for the names in `upgrade`; None without a Python.

    `glibc` tells what the wheels have to run on, and is asked only where there are any; `base` is the base image, whose
    own packages are left as they are. Raises IncompatibleError with every reason why there are none, and RecipeError.
    """
    recipe = loaded.recipe
    if not recipe.pins.python:
        if recipe.python.requirements or recipe.pins.pytorch:
            raise RecipeError(
                "Python packages are asked for, but no Python is pinned", rule="python-pin",
                position=loaded.evaluated.tree.position(("python",)), hint='add `pins: {python: "3.13"}`',
            )  # fmt: skip
        return None
    pinned = recipe.pins.pytorch
    torch = (f"torch=={pinned}",) if pinned and not is_met(base, "torch", pinned) else ()
    requirements = (*torch, *recipe.python.requirements)
    if not requirements:
        return LockedPython(version=recipe.pins.python, platform="", wheels=())
    request = WheelRequest(
        requirements=requirements, python=recipe.pins.python, machine=uarch.machine, glibc=glibc(),
        constraints=tuple(recipe.python.constraints), installed=base.contents.distributions if base else {},
    )  # fmt: skip
    keep = None
    if older and older.python and older.python.version == recipe.pins.python:
        keep = {wheel.name: wheel.version for wheel in older.python.wheels if wheel.name not in upgrade}
    with session.listener.task(f"resolving Python packages for {uarch.machine}"):
        try:
            found = resolve_wheels(
                request, session.index, listener=session.listener, keep=keep, upgrade=upgrade
            )  # fmt: skip
        except IncompatibleError as error:
            raise IncompatibleError.collect(_at_requirements(loaded, error)) from error
    return LockedPython(version=recipe.pins.python, platform=found.platform, wheels=found.wheels)


def deb_glibc(debs: Sequence[LockedDeb]) -> tuple[int, int]:
    """The version of the userland's glibc. Raises IncompatibleError, rule `no-glibc`."""
    version = next((deb.version for deb in debs if deb.name == "libc6"), None)
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)", version or "")
    if not match:
        raise IncompatibleError("the userland has no glibc (package libc6), and wheels need one", rule="no-glibc")
    return int(match[1]), int(match[2])


def _at_requirements(loaded: LoadedRecipe, error: IncompatibleError) -> list[Diagnostic]:
    """The findings of the resolver, each at the requirement that it names where it names one of the recipe's own."""
    tree = loaded.evaluated.tree
    places = {
        str(canonicalize_name(Requirement(text).name)): tree.position(("python", "requirements", number))
        for number, text in enumerate(loaded.recipe.python.requirements)
    }
    if loaded.recipe.pins.pytorch:
        places["torch"] = tree.position(("pins", "pytorch"))
    placed = []
    for finding in error.diagnostics:
        named = [
            name for name in places if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", finding.message.lower())
        ]
        position = places[named[0]] if named else tree.position(("python",))
        placed.append(
            Diagnostic(
                rule=finding.rule,
                message=finding.message,
                severity=finding.severity,
                hint=finding.hint,
                source=finding.source,
                position=finding.position or position,
            )
        )
    return placed
