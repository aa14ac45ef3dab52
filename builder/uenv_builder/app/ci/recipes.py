"""The recipes of a repository, and the targets of theirs that a pipeline builds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.component_files import CHECK_SCRIPT
from uenv_builder.app.lock_files import read_lock, require_fresh
from uenv_builder.app.preparing import prepare
from uenv_builder.app.recipes import LoadedRecipe, load_recipe
from uenv_builder.app.selection import Selection, select
from uenv_builder.core.ci.targets import CiTarget, check_targets, level_of
from uenv_builder.core.systems import SystemFiles
from uenv_builder.model.errors import Diagnostic, UenvError, UsageError

_FILE = "recipe.yaml"


@dataclass(frozen=True, slots=True)
class CiRecipe:
    """A recipe, its folder as pipelines name it, and the targets that pipelines build; `left_out` says of the
    others why they do not, a line each.
    """

    folder: str
    loaded: LoadedRecipe
    targets: tuple[tuple[CiTarget, Selection], ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """What a target comes to: the plan's id, and a digest of the checks that its image gets."""

    plan: str
    checks: str


def read_recipes(places: Sequence[Path], site: SystemFiles) -> list[CiRecipe]:
    """All recipes below `places`, by folder; raises one error with all that is wrong with them."""
    found: list[CiRecipe] = []
    wrong: list[Diagnostic] = []
    first: UenvError | None = None
    for folder in recipe_folders(places):
        try:
            found.append(_read(folder, site))
        except UenvError as error:
            first = first or error
            wrong += error.diagnostics
    if first is not None:
        raise type(first).collect(wrong)
    check_targets([target for recipe in found for target, _ in recipe.targets])
    return found


def recipe_folders(places: Sequence[Path]) -> list[Path]:
    """The folders of all recipes below `places`, sorted; UsageError where there is none in one of them."""
    found: set[Path] = set()
    for place in places:
        below = {file.parent for file in place.rglob(_FILE)}
        if not below:
            raise UsageError(f"--recipes {place}: there is no {_FILE} in it", hint="name the folder of the recipes")
        found |= below
    return sorted(found)


def _read(folder: Path, site: SystemFiles) -> CiRecipe:
    loaded = load_recipe(folder / _FILE)
    targets: list[tuple[CiTarget, Selection]] = []
    left_out: list[str] = []
    for target in loaded.recipe.targets:
        selection = select(loaded, uarch=target.uarch, system=target.system, site=site)
        lock = read_lock(loaded, selection.uarch)
        reason = "has no lock" if lock is None else "" if loaded.recipe.outputs.oci else "makes no OCI image"
        if lock is None or reason:
            left_out.append(f"{folder} {target.system}%{target.uarch}: {reason}, and is left out")
            continue
        found = CiTarget(
            recipe=folder.as_posix(), name=loaded.recipe.name, version=loaded.recipe.version, system=target.system,
            uarch=target.uarch, level=level_of(loaded.recipe, selection.system, lock),
        )  # fmt: skip
        targets.append((found, selection))
    return CiRecipe(folder.as_posix(), loaded, tuple(targets), tuple(left_out))


def state_of(recipe: CiRecipe, selection: Selection) -> State:
    """What building the target comes to on a machine of its type; raises LockError where the lock does not fit."""
    lock = require_fresh(recipe.loaded, selection.uarch)
    prepared = prepare(recipe.loaded, selection, lock, machine=selection.uarch.machine)
    scripts = {
        name: (place / CHECK_SCRIPT).read_text(encoding="utf-8")
        for name, place in recipe.loaded.components.folders.items()
        if (place / CHECK_SCRIPT).is_file()
    }
    text = json.dumps([recipe.loaded.recipe.checks, scripts], sort_keys=True)
    return State(prepared.plan.id, hashlib.sha256(text.encode()).hexdigest())
