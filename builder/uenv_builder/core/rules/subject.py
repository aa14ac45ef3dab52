"""What rules look at: one target of a recipe, with what its lock and its system say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from packaging.version import InvalidVersion, Version

from uenv_builder.core.environment import base_environment, compose_environment
from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.system import HookStack, System, Uarch

Origin = Literal["recipe", "lock", "system"]


@dataclass(frozen=True, slots=True)
class Component:
    """One piece of software in a version; `origin` says who decided it, `at` where the recipe does (or could)."""

    name: str
    text: str
    """The version as written; one that packaging can read."""
    origin: Origin
    at: Path

    @property
    def version(self) -> Version:
        """The version, for comparisons."""
        return Version(self.text)


@dataclass(frozen=True)
class Subject:
    """One target of a recipe. `lock` is None where there is none yet, or it is stale."""

    recipe: Recipe
    system: System
    uarch: Uarch
    lock: Lock | None = None

    @property
    def gpu(self) -> bool:
        """Whether the nodes have a GPU."""
        return self.uarch.gpu is not None

    @property
    def slingshot(self) -> bool:
        """Whether the system's network is Slingshot."""
        return self.system.slingshot is not None

    @property
    def hooks(self) -> HookStack | None:
        """What the host's hooks bring in the recipe's network mode."""
        return self.system.hooks.get(self.recipe.network)

    @property
    def by_hooks(self) -> bool:
        """Whether the network stack comes from the host's hooks."""
        return self.recipe.network in {"hook-host", "hook-artifact"}

    @property
    def base_env(self) -> dict[str, str]:
        """The variables that the locked base image brings, without those that the recipe takes out."""
        return base_environment(self.recipe, self.lock) if self.lock else {}

    @cached_property
    def env(self) -> dict[str, str]:
        """The variables of a job: those that the hooks set, under those of the image (the base's, the system's and the
        recipe's), under those of the EDF.
        """
        image = compose_environment(self.system, self.recipe.network, self.recipe.env, base=self.base_env)
        return {**(self.hooks.env if self.hooks else {}), **image, **self.recipe.edf.env}

    @cached_property
    def srun_options(self) -> tuple[str, ...]:
        """The options of srun that the system's launch line has in this network mode."""
        launch = self.system.launch
        return (*launch.srun, *launch.network_srun.get(self.recipe.network, ()))

    @property
    def runtime(self) -> Runtime:
        """What rules about variables look at."""
        versions = {"nccl": self.nccl, "aws_ofi_nccl": self.aws_ofi_nccl, "libfabric": self.libfabric}
        return Runtime(
            env=self.env,
            own=frozenset({*self.recipe.env, *self.recipe.edf.env}),
            gpu=self.uarch.gpu,
            grace_hopper=self.uarch.name == "gh200",
            slingshot=self.slingshot and self.recipe.network != "none",
            network=self.recipe.network,
            srun_options=self.srun_options,
            uses_nccl=self.torch is not None or self.nccl is not None,
            versions={name: component.version for name, component in versions.items() if component},
        )

    @property
    def python(self) -> Component | None:
        """Python, in two numbers."""
        return self._pinned("python", self.lock.python.version if self.lock and self.lock.python else None)

    @property
    def torch(self) -> Component | None:
        """torch."""
        return self._pinned("pytorch", self._wheel("torch"))

    @property
    def cuda(self) -> Component | None:
        """CUDA, as pinned, else as the locked torch was built for (two numbers)."""
        accelerator = self.lock.accelerator if self.lock else None
        return self._pinned("cuda", accelerator.cuda if accelerator else None)

    @property
    def nccl(self) -> Component | None:
        """NCCL, as pinned, else as the locked torch brings it."""
        accelerator = self.lock.accelerator if self.lock else None
        return self._pinned("nccl", accelerator.nccl if accelerator else None)

    @property
    def aws_ofi_nccl(self) -> Component | None:
        """The NCCL plugin for libfabric: the image's, else the hooks'."""
        return self._pinned("aws_ofi_nccl", self._built("aws-ofi-nccl")) or self._hooked("aws_ofi_nccl")

    @property
    def libfabric(self) -> Component | None:
        """libfabric: the image's, else the hooks'."""
        return self._pinned("libfabric", self._built("libfabric")) or self._hooked("libfabric")

    @property
    def libcxi(self) -> Component | None:
        """The Slingshot release of the image's libcxi."""
        return self._pinned("libcxi", self._built("libcxi"))

    def wheel(self, name: str) -> Component | None:
        """The wheel of that normalised name in the lock, or the Python package of the base."""
        version = self._wheel(name)
        return _component(name, version, "lock", ("python", "requirements"))

    def deb(self, name: str) -> str | None:
        """The version of the locked Debian package of that name, or the base's, as Debian writes it."""
        return self.lock.packages.get(name) if self.lock else None

    def _wheel(self, name: str) -> str | None:
        wheels = self.lock.python.wheels if self.lock and self.lock.python else ()
        own = next((wheel.version for wheel in wheels if wheel.name == name), None)
        return own or (self.lock.base.contents.distributions.get(name) if self.lock and self.lock.base else None)

    def _built(self, name: str) -> str | None:
        components = self.lock.build.components if self.lock and self.lock.build else ()
        return next((component.version for component in components if component.name == name), None)

    def _pinned(self, name: str, locked: str | None = None) -> Component | None:
        pinned = getattr(self.recipe.pins, name)
        if pinned:
            return _component(name, pinned, "recipe", ("pins", name))
        return _component(name, locked, "lock", ("pins",))

    def _hooked(self, name: str) -> Component | None:
        version = getattr(self.hooks, name) if self.hooks else None
        return _component(name, version, "system", ("network",))


def _component(name: str, text: str | None, origin: Origin, at: Path) -> Component | None:
    """None also for a version that cannot be compared: of it nothing is known."""
    try:
        Version(text or "")
    except InvalidVersion:
        return None
    return Component(name, text or "", origin, at)
