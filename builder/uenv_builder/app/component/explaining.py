"""What `uenv explain RECIPE COMPONENT` finds out: which version, who asked for it, which rules looked, what changes it.

It asks no server. A lock records no requirements, so who asked is read from the wheels and packages that the store has;
of what it does not have, nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from packaging.utils import canonicalize_name

from uenv_builder.app.component.asking import find_asking
from uenv_builder.app.component.changes import find_changes
from uenv_builder.app.component.model import PARTS, Asked, Asking, Case, Explanation, Identity, LockState
from uenv_builder.app.component.verdicts import find_verdicts
from uenv_builder.app.component.versions import find_decisions
from uenv_builder.app.lock_files import is_stale, read_lock
from uenv_builder.app.recipes import LoadedRecipe, find_recipe, load_recipe
from uenv_builder.app.selection import select
from uenv_builder.core.requirement_chain import (
    Chain,
    recipe_wishes,
)
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import LockError, UsageError
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Pins, Recipe
from uenv_builder.model.system import Uarch
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems
from uenv_builder.system.store import Store

_ALIASES = {"torch": "pytorch"}


def explain_component(recipe: str, name: str, *, uarch: str | None = None) -> tuple[Path, list[Explanation]]:
    """The recipe's file, and all about the component `name` in its targets, or in those of one node type.

    Raises UsageError where there is no such recipe, target or component, RecipeError for a recipe that is not valid.
    """
    settings = load_settings()
    loaded = load_recipe(find_recipe(recipe, settings.recipe_path))
    site = read_site_systems(settings.systems)
    select(loaded, uarch=uarch, site=site)
    targets = [target for target in loaded.recipe.targets if uarch in {None, target.uarch}]
    selections = [select(loaded, uarch=one.uarch, system=one.system, site=site) for one in targets]
    uarchs = {one.uarch.name: one.uarch for one in selections}
    locks = {node: _find_lock(loaded, found) for node, found in uarchs.items()}
    _require_known(loaded, name, [lock for lock, _, _ in locks.values() if lock])
    store = Store.default(settings.cache)
    asking: dict[str, Asking] = {}
    together: dict[Explanation, list[str]] = {}
    for one in selections:
        lock, state, note = locks[one.uarch.name]
        subject = Subject(loaded.recipe, one.system, one.uarch, lock if state == "fresh" else None)
        case = Case(loaded, subject, lock, state, identify(name, loaded.recipe, lock))
        if one.uarch.name not in asking:
            asking[one.uarch.name] = find_asking(case, store)
        explanation = _explain(case, *asking[one.uarch.name], [note] if note else [])
        together.setdefault(explanation, []).append(f"{one.system.name}%{one.uarch.name}")
    return loaded.path, [replace(one, targets=tuple(names)) for one, names in together.items()]


def identify(name: str, recipe: Recipe, lock: Lock | None) -> Identity:
    """What `name` means: a pin as YAML or people write it, a wheel, or a Debian package; without a lock, one that the
    recipe names.
    """
    wheel, word = str(canonicalize_name(name)), name.strip().lower()
    pin = _ALIASES.get(wheel, wheel.replace("-", "_"))
    known = {*Pins.model_fields, *PARTS}
    component = pin if pin in known else next((one for one in PARTS if re.fullmatch(PARTS[one], wheel)), None)
    wheels = {each.name for each in lock.python.wheels} if lock and lock.python else set()
    wheels |= set(lock.base.contents.distributions) if lock and lock.base else set()
    packages = set(lock.packages) if lock else _package_words(recipe)
    pattern = PARTS.get(component or "", r"(?!)")
    found = {wheel} & wheels or {each for each in wheels if re.fullmatch(pattern, each)}
    debs = {
        each for each in packages if each == word or (pin == "python" and re.fullmatch(r"python3\.\d+-minimal", each))
    }
    return Identity(name, frozenset({component} if component else ()), tuple(sorted(found)), tuple(sorted(debs)))


def _package_words(recipe: Recipe) -> set[str]:
    return {word.partition("=")[0] for word in recipe.base.debian.packages} if recipe.base.debian else set()


def _require_known(loaded: LoadedRecipe, name: str, locks: list[Lock]) -> None:
    recipe = loaded.recipe
    known = {
        *Pins.model_fields,
        *PARTS,
        *_ALIASES,
        *_package_words(recipe),
        *(wish.name for wish in recipe_wishes(recipe)),
    }
    for lock in locks:
        known |= {wheel.name for wheel in lock.python.wheels} if lock.python else set()
        known |= set(lock.packages)
        known |= set(lock.base.contents.distributions) if lock.base else set()
    spellings = {name.strip().lower(), str(canonicalize_name(name)), str(canonicalize_name(name)).replace("-", "_")}
    if spellings & known or identify(name, recipe, None).components:
        return
    what = "the recipe and its locks have" if locks else "the recipe has, and there is no lock yet that names more,"
    raise UsageError(
        f'{what} no component "{name}"', rule="unknown-component",
        hint=suggest(name.lower(), sorted(known)) or "name a pin (nccl), a wheel (numpy) or a Debian package (libc6)",
    )  # fmt: skip


def _find_lock(loaded: LoadedRecipe, uarch: Uarch) -> tuple[Lock | None, LockState, str | None]:
    """The lock, whether it fits, and what is to be said about that."""
    path = loaded.lock_path(uarch.name)
    try:
        lock = read_lock(loaded, uarch)
    except LockError as error:
        return None, "unreadable", error.diagnostics[0].message
    if lock is None:
        return None, "missing", f"{path}: there is no lock yet: only what the recipe and the facts say is known"
    if is_stale(loaded, uarch, lock):
        return (
            lock,
            "stale",
            f"{path}: is stale: its versions are those of an older recipe, and rules do not look at it",
        )
    return lock, "fresh", None


def _explain(case: Case, chains: list[Chain], unknown: list[str], notes: list[str]) -> Explanation:
    decisions = tuple(find_decisions(case))
    asked_by = tuple(Asked(text=one.wish.text, position=case.place(one.wish.at), links=one.links) for one in chains)
    return Explanation(
        targets=(), lock=case.state, version=decisions[0].version if decisions else None, decisions=decisions,
        asked_by=asked_by, verdicts=tuple(find_verdicts(case)), changes=tuple(find_changes(case, chains)),
        notes=(*notes, *unknown),
    )  # fmt: skip
