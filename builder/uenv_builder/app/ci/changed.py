"""`uenv ci changed`: the targets that a pipeline has to work on, from git and from the registry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.ci.recipes import CiRecipe, State, read_recipes, recipe_folders, state_of
from uenv_builder.app.selection import Selection
from uenv_builder.app.session import Session
from uenv_builder.core.ci.changes import REASONS, Reason, Seen, find_reason
from uenv_builder.core.ci.targets import CiTarget
from uenv_builder.core.digest import Document
from uenv_builder.core.image_reference import read_image_reference
from uenv_builder.core.systems import SystemFiles
from uenv_builder.model.errors import Diagnostic, UenvError, UsageError
from uenv_builder.publishers.oci.client import RegistryClient
from uenv_builder.publishers.oci.repository import Repository
from uenv_builder.system.git_tree import branching_point, export_commit, is_no_commit, repository_root
from uenv_builder.system.site_systems import read_site_systems

_SCHEME = "registry:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One target with its plan's id; `reason` is None where there is nothing to do."""

    target: CiTarget
    plan: str
    reason: Reason | None

    def document(self) -> Document:
        """For --json."""
        target = self.target
        return {
            "id": target.id, "recipe": target.recipe, "label": target.label, "system": target.system,
            "uarch": target.uarch, "repository": target.repository, "plan": self.plan, "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All targets of the recipes; `base` is the commit that they were compared with."""

    base: str | None
    all: Sequence[Change]
    left_out: Sequence[str]

    @property
    def targets(self) -> list[Change]:
        """Those that there is something to do about."""
        return [change for change in self.all if change.reason]

    def document(self) -> Document:
        """For --json."""
        return {
            "format": 1, "base": self.base, "targets": [change.document() for change in self.targets],
            "others": [change.document() for change in self.all if not change.reason], "left_out": list(self.left_out),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        return [f"{change.target.id}: {REASONS[change.reason]}" for change in self.targets if change.reason]


def find_changes(session: Session, places: Sequence[Path], *, base: str | None, registry: str | None) -> Changes:
    """The targets of the recipes below `places` that changed since `base` and whose plans `registry` lacks.

    Without `base`, all count as changed; without `registry`, none is thought to be there. Raises UsageError for a base
    that git does not know, and what is wrong with a recipe or lock.
    """
    site = read_site_systems(session.settings.systems)
    asking = _Registry(session, registry) if registry else None
    recipes = read_recipes(places, site)
    now = _states(recipes)
    commit, before = None, dict[str, State]()
    if base is not None and not is_no_commit(base):
        root = repository_root(places[0])
        commit = branching_point(root, base)
        before = _states_before(places, root, commit, site)
    found = []
    for target, state in now:
        old = before.get(target.id)
        seen = Seen(
            plan=state.plan, checks=state.checks, before=(old.plan, old.checks) if old else None,
            compared=commit is not None,
        )  # fmt: skip
        found.append(Change(target=target, plan=state.plan, reason=find_reason(seen, _asked(asking, target, state))))
    left_out = [line for recipe in recipes for line in recipe.left_out]
    for line in left_out:
        session.listener.note(line)
    return Changes(base=commit, all=found, left_out=left_out)


def _asked(asking: _Registry | None, target: CiTarget, state: State) -> Callable[[], bool] | None:
    return (lambda: asking.has(target, state.plan)) if asking else None


def _states(recipes: Sequence[CiRecipe]) -> list[tuple[CiTarget, State]]:
    """Those of all targets; one error with all locks that do not fit."""
    found: list[tuple[CiTarget, State]] = []
    wrong: list[Diagnostic] = []
    first: UenvError | None = None
    for recipe, target, selection in _targets(recipes):
        try:
            found.append((target, state_of(recipe, selection)))
        except UenvError as error:
            first = first or error
            wrong += error.diagnostics
    if first is not None:
        raise type(first).collect(dict.fromkeys(wrong))
    return found


def _targets(recipes: Sequence[CiRecipe]) -> list[tuple[CiRecipe, CiTarget, Selection]]:
    return [(recipe, target, selection) for recipe in recipes for target, selection in recipe.targets]


def _states_before(places: Sequence[Path], root: Path, commit: str, site: SystemFiles) -> dict[str, State]:
    """The states of all targets at `commit`, by id; what could not be planned there is left out: it is as if new."""
    found: dict[str, State] = {}
    with tempfile.TemporaryDirectory(prefix="uenv-ci-") as name:
        tree = Path(name).resolve() / "tree"
        tree.mkdir()
        export_commit(root, commit, tree)
        for place in places:
            there = tree / _inside(place, root)
            for folder in recipe_folders([there]) if any(there.rglob("recipe.yaml")) else []:
                found |= _states_in(folder, site)
    return found


def _states_in(folder: Path, site: SystemFiles) -> dict[str, State]:
    found: dict[str, State] = {}
    try:
        for recipe, target, selection in _targets(read_recipes([folder], site)):
            found[target.id] = state_of(recipe, selection)
    except UenvError:
        return found
    return found


def _inside(place: Path, root: Path) -> Path:
    try:
        return place.resolve().relative_to(root.resolve())
    except ValueError as error:
        raise UsageError(
            f"--recipes {place}: is not in the repository {root}", hint="name folders of one repository"
        ) from error


class _Registry:
    """Which plans a registry has: publishing tags each image with its plan's id."""

    def __init__(self, session: Session, place: str) -> None:
        if not place.startswith(_SCHEME):
            raise UsageError(f"--registry {place}: is no destination", hint=f"write {_SCHEME}HOST/PLACE")
        self._place = place.removeprefix(_SCHEME).rstrip("/")
        self._client = RegistryClient(session.registries.access, session.listener)

    def has(self, target: CiTarget, plan: str) -> bool:
        """Whether the registry has the target's image of this plan."""
        image = read_image_reference(f"{self._place}/{target.repository}:{plan}")
        return Repository(self._client, self._client.place(image)).find_manifest(plan) is not None
