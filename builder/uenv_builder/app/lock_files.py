"""The locks that lie beside a recipe."""

from __future__ import annotations

from dataclasses import replace

from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.core.lock_file import parse_lock, recipe_digest
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.errors import Diagnostic, LockError
from uenv_builder.model.lock import Lock
from uenv_builder.model.system import Uarch


def read_lock(loaded: LoadedRecipe, uarch: Uarch) -> Lock | None:
    """The lock beside the recipe, or None where there is none yet; raises LockError for one that cannot be read."""
    path = loaded.lock_path(uarch.name)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        hint = "write it anew with `uenv lock`"
        raise LockError(f"{path}: cannot be read: {error}", rule="lock-invalid", hint=hint) from error
    return parse_lock(text, str(path))


def is_stale(loaded: LoadedRecipe, uarch: Uarch, lock: Lock) -> bool:
    """Whether the recipe asks for something else than the lock was made for."""
    return lock.recipe.digest != recipe_digest(loaded.recipe, uarch, loaded.components.chosen)


def require_fresh(loaded: LoadedRecipe, uarch: Uarch) -> Lock:
    """The lock beside the recipe if it is there and fits; raises LockError otherwise."""
    lock, path = read_lock(loaded, uarch), loaded.lock_path(uarch.name)
    command = f"write it with `uenv lock {loaded.folder} --uarch {uarch.name}`"
    if lock is None:
        raise LockError(f"{path}: there is no lock", rule="lock-missing", hint=command)
    if is_stale(loaded, uarch, lock):
        raise LockError(f"{path}: is stale: the recipe asks for something else", rule="lock-stale", hint=command)
    return lock


def fresh_locks(loaded: LoadedRecipe) -> tuple[dict[str, Lock], list[Diagnostic]]:
    """The locks of the recipe's targets that fit, by node type; and which there are that do not, as notes and warnings:
    rules cannot look at these.
    """
    uarchs = load_uarchs()
    locks: dict[str, Lock] = {}
    found: list[Diagnostic] = []
    for name in dict.fromkeys(target.uarch for target in loaded.recipe.targets if target.uarch in uarchs):
        try:
            locks[name] = require_fresh(loaded, uarchs[name])
        except LockError as error:
            [problem] = error.diagnostics
            if problem.rule == "lock-stale":
                found.append(replace(problem, severity="note"))
            elif problem.rule != "lock-missing":
                found.append(replace(problem, severity="warning"))
    return locks, found
