"""What is told of a component, and the case that it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from packaging.utils import canonicalize_name

from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.core.requirement_chain import (
    Chain,
    Link,
)
from uenv_builder.core.rules.reading import Reading
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.variables import family_of
from uenv_builder.core.yaml_tree import Path as TreePath
from uenv_builder.model.errors import Diagnostic, Position
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Pins

PARTS = {
    "pytorch": r"torch",
    "cuda": r"nvidia-cuda-runtime(-cu\d+)?|cuda-toolkit",
    "nccl": r"nvidia-nccl(-cu\d+)?",
    "cudnn": r"nvidia-cudnn(-cu\d+)?",
    "nvshmem": r"nvidia-nvshmem(-cu\d+)?",
}
"""The wheels that bring a component, by its name: that of a pin, or of a library with variables of its own."""
LockState = Literal["fresh", "stale", "missing", "unreadable"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a COMPONENT means in one target: pins and libraries of that name, and locked wheels and packages."""

    name: str
    components: frozenset[str]
    wheels: tuple[str, ...]
    packages: tuple[str, ...]

    def means_wheel(self, name: str) -> bool:
        """Whether the wheel of that normalised name is this component, or brings it."""
        parts = (PARTS[one] for one in self.components if one in PARTS)
        return name == canonicalize_name(self.name) or any(re.fullmatch(part, name) for part in parts)

    def covers(self, reading: Reading) -> bool:
        """Whether who looked at that looked at this component."""
        kind, name = reading
        if kind == "variable":
            family = family_of(name)
            return family is not None and family.component in self.components
        if kind in {"component", "presence"}:
            return name in self.components
        return name in (self.wheels if kind == "wheel" else self.packages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Somebody who says which version it is."""

    by: Literal["pin", "recipe", "lock", "hooks", "torch"]
    version: str
    text: str
    position: Position | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A chain of requirements: the recipe's words and their place, then what each package on the way asks for."""

    text: str
    position: Position | None
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a rule said that looked at the component: silent, accepted, or its worst finding's severity."""

    rule: str
    verdict: str
    title: str
    read: tuple[str, ...]
    """What it looked at: `version`, `presence`, and names of variables."""
    findings: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All about a component in those targets of a recipe for which it is the same."""

    targets: tuple[str, ...]
    lock: LockState
    version: str | None
    decisions: tuple[Decision, ...]
    asked_by: tuple[Asked, ...]
    verdicts: tuple[Verdict, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    """What is not known or not so, and why."""


Asking = tuple[list[Chain], list[str]]
"""The chains of requirements to a component, shortest first, and what cannot be known of them."""


@dataclass(frozen=True, slots=True)
class Case:
    """One target and the component in it. `lock` is there also where it is stale: then the rules do not see it."""

    loaded: LoadedRecipe
    subject: Subject
    lock: Lock | None
    state: LockState
    identity: Identity

    def place(self, path: TreePath) -> Position | None:
        """The place of a value of the recipe; for a variable that others set, that of the network mode."""
        recipe = self.loaded.recipe
        if path[:1] == ("env",) and path[-1] not in recipe.env:
            path = ("edf", *path) if path[-1] in recipe.edf.env else ("network",)
        return self.loaded.evaluated.tree.key_position(path)

    @property
    def command(self) -> str:
        """The recipe as commands name it."""
        path = self.loaded.path
        return str(path.parent if path.name == "recipe.yaml" else path)

    @property
    def then_lock(self) -> str:
        """What follows a change of the recipe."""
        return f"then `uenv lock {self.command}`"

    @property
    def pinned(self) -> tuple[str, str] | None:
        """Name and version of the pin that is about the component."""
        pins = self.loaded.recipe.pins
        found = [(name, getattr(pins, name)) for name in Pins.model_fields if name in self.identity.components]
        return next((pin for pin in found if pin[1]), None)
