"""What a pipeline builds: one target of one recipe, and the names that it goes by in pipelines and registries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from uenv_builder.model.errors import UsageError
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.report import Level
from uenv_builder.model.system import System

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
"""What needs quotes neither in a shell nor in YAML nor in a glob."""
NODES = 2
"""On how many an all-reduce is proved: one node does not use the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CiTarget:
    """One image of a pipeline. `recipe` is its folder, relative to the repository's; `level` that of `uenv test`,
    None for the checks of a build alone.
    """

    recipe: str
    name: str
    version: str
    system: str
    uarch: str
    level: Level | None = None

    @property
    def id(self) -> str:
        """Its name among the jobs."""
        return f"{self.name}-{self.version}-{self.system}-{self.uarch}"

    @property
    def job(self) -> str:
        """The id in letters that GitHub takes for a job."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", self.id)

    @property
    def label(self) -> str:
        """That picks the target of the recipe."""
        return f"{self.name}/{self.version}@{self.system}%{self.uarch}"

    @property
    def repository(self) -> str:
        """Where its images lie below a registry's place, each system's and version's apart: channels are tags there."""
        return f"{self.system}/{self.uarch}/{self.name}/{self.version}".lower()


def check_targets(targets: Sequence[CiTarget]) -> None:
    """Raise UsageError where two could not be told apart."""
    seen: dict[str, CiTarget] = {}
    for target in targets:
        for name in (target.job, target.repository):
            other = seen.setdefault(name, target)
            if other is not target:
                raise UsageError(
                    f"{other.recipe} and {target.recipe} are both {target.name}/{target.version} for {target.system}",
                    hint="give one of them another name or version",
                )


def check_paths(folders: Sequence[str]) -> None:
    """Raise UsageError for a recipe's folder whose name a pipeline would have to quote."""
    for folder in folders:
        if not _PATH.fullmatch(folder):
            raise UsageError(
                f"{folder}: cannot be written into a pipeline",
                hint="run the command in the repository's folder; use letters, digits, `_`, `.`, `+` and `-` in paths",
            )


def level_of(recipe: Recipe, system: System, lock: Lock) -> Level | None:
    """The level of `uenv test` that proves most of an image on several nodes: NCCL between GPUs, else sockets."""
    if lock.accelerator is not None and system.launch.gpus_per_node > 0 and recipe.network != "none":
        return "fabric"
    return "sockets" if lock.python is not None and recipe.kind != "uenv" else None
