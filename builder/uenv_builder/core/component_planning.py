"""The steps that build components from source: the packages to compile with, the components, their debug symbols."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from uenv_builder.core.component_choice import ChosenComponent
from uenv_builder.core.digest import Json, digest_of
from uenv_builder.core.plan_steps import Tools, make_step
from uenv_builder.model.errors import LockError
from uenv_builder.model.lock import Lock, LockedBuild, LockedComponent, LockedDeb, LockedSource
from uenv_builder.model.plan import Step
from uenv_builder.model.system import Uarch


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedComponent:
    """A component as one machine builds it.

    `crossed_on` is the Debian architecture of the machine whose cross compiler does it; None where a compiler of the
    target's own kind does, under an emulator if need be. `script` is the rendered build.sh.j2; `patches` are the
    sha256 of the patches by their names, in the order in which they are applied.
    """

    chosen: ChosenComponent
    crossed_on: str | None
    script: str
    patches: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ComponentSteps:
    """`packages` are no layers of the image, `layers` are, lowest first."""

    packages: tuple[Step, ...] = ()
    layers: tuple[Step, ...] = ()


def plan_components(
    planned: Sequence[PlannedComponent], lock: Lock, uarch: Uarch, tools: Tools, wheels: Mapping[str, Step]
) -> ComponentSteps:
    """The steps of `planned`, each after what it needs; `wheels` are the steps of the image's wheels by name."""
    if not planned:
        return ComponentSteps()
    if lock.build is None:
        raise LockError("the lock holds no components", rule="lock-stale", hint="write it anew with `uenv lock`")
    planner = _Planner(lock.build, uarch, tools, wheels)
    for component in planned:
        planner.add(component)
    return ComponentSteps(tuple(planner.packages.values()), tuple(planner.layers))


def git_step_id(source: LockedSource) -> str:
    """The store's name for what was fetched of a git source: it is a result like those of steps."""
    return digest_of(["git-source", 1, source.commit, bool(source.submodules)])


def packages_of(build: LockedBuild, architecture: str, names: Sequence[str]) -> list[LockedDeb]:
    """The packages of those names for a machine of that Debian architecture."""
    found = {deb.name: deb for deb in build.packages if deb.architecture in {architecture, "all"}}
    return [found[name] for name in names]


def locked_component(build: LockedBuild, name: str) -> LockedComponent:
    """The component of that name; raises LockError where the lock does not have it."""
    for component in build.components:
        if component.name == name:
            return component
    raise LockError(f"the lock holds no component {name}", rule="lock-stale", hint="write it anew with `uenv lock`")


@dataclass
class _Planner:
    build: LockedBuild
    uarch: Uarch
    tools: Tools
    wheels: Mapping[str, Step]
    packages: dict[str, Step] = field(default_factory=dict)
    layers: list[Step] = field(default_factory=list)
    _built: dict[str, Step] = field(default_factory=dict)
    _needs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, planned: PlannedComponent) -> None:
        """The component's steps."""
        chosen, locked = planned.chosen, locked_component(self.build, planned.chosen.name)
        own, machine = self.uarch.debian, planned.crossed_on
        parts = [
            *(self.wheels[name] for name in locked.wheels),
            *(self._built[name] for name in self._all_needs(chosen)),
        ]
        if machine is None:
            root, sysroot = [*self._sets(own, self.build.native, locked.native), *parts], []
        else:
            root = self._sets(machine, self.build.cross[machine], locked.cross[machine])
            sysroot = [*self._sets(own, self.build.sysroot, locked.sysroot), *parts]
        step = make_step(
            self.tools, "component", f"{chosen.name} {chosen.version}", self._options(planned, locked, root, sysroot),
            [*root, *sysroot], download=sum(source.size or 0 for source in locked.sources),
        )  # fmt: skip
        self._built[chosen.name] = step
        self.layers.append(step)
        if chosen.debug:
            self.layers.append(make_step(self.tools, "debug-symbols", f"debug symbols of {step.name}", {}, [step]))

    def _all_needs(self, chosen: ChosenComponent) -> list[str]:
        """What it needs, and what that needs, in the order in which they are built."""
        self._needs[chosen.name] = chosen.needs
        wanted, left = set[str](), list(chosen.needs)
        while left:
            name = left.pop()
            if name not in wanted:
                wanted.add(name)
                left += self._needs[name]
        return [name for name in self._built if name in wanted]

    def _sets(self, architecture: str, common: Sequence[str], more: Sequence[str]) -> list[Step]:
        found = []
        for names in (common, more):
            debs = packages_of(self.build, architecture, names)
            options: Json = {"debian": architecture, "debs": [deb.sha256 for deb in debs]}
            if debs:
                step = make_step(
                    self.tools, "build-packages", f"{len(debs)} packages to compile with, {architecture}", options,
                    download=sum(deb.size for deb in debs),
                )  # fmt: skip
                found.append(self.packages.setdefault(step.id, step))
        return found

    def _options(
        self, planned: PlannedComponent, locked: LockedComponent, root: Sequence[Step], sysroot: Sequence[Step]
    ) -> Json:
        chosen = planned.chosen
        return {
            "name": chosen.name,
            "version": chosen.version,
            "machine": self.uarch.machine,
            "crossed-on": planned.crossed_on,
            "prefix": chosen.recipe.prefix,
            "debug": chosen.debug,
            "script": hashlib.sha256(planned.script.encode()).hexdigest(),
            "patches": [[name, sha256] for name, sha256 in planned.patches.items()],
            "sources": [
                [pin.sha256 or pin.commit, pin.submodules, source.strip, source.folder]
                for pin, source in zip(locked.sources, chosen.source.sources, strict=True)
            ],
            "wheels": {
                machine: [wheel.sha256 for wheel in wheels]
                for machine, wheels in locked.build_wheels.items()
                if machine == (planned.crossed_on or self.uarch.debian)
            },
            "root": [step.id for step in root],
            "sysroot": [step.id for step in sysroot],
        }
