"""Which components a recipe builds, in which version, with which options, and in which order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from uenv_builder.core.component_reader import EvaluatedComponent, parse_need
from uenv_builder.core.digest import Json
from uenv_builder.core.recipe_reader import EvaluatedRecipe
from uenv_builder.core.yaml_tree import Path, suggest
from uenv_builder.model.component import ComponentRecipe, ComponentSource, ComponentVersion
from uenv_builder.model.errors import Diagnostic, Position, RecipeError
from uenv_builder.model.lock import LockedSource

PINNED = {
    "aws_ofi_nccl": "aws-ofi-nccl",
    "libfabric": "libfabric",
    "libcxi": "libcxi",
    "gdrcopy": "gdrcopy",
    "openmpi": "openmpi",
}
"""The component that each pin is about; the others are about wheels and packages."""

OPTION_TEXT = re.compile(r"[A-Za-z0-9_.,:+=@%/ -]*")
"""What an option without a list of values takes: a shell script can hold it as it is."""

Find = Callable[[str], EvaluatedComponent | None]
"""The component of that name, or None where no folder has it; raises RecipeError for one that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenComponent:
    """A component as a recipe builds it. `needs` are the names of components that are built before, and are there."""

    recipe: ComponentRecipe
    version: str
    options: dict[str, str]
    debug: bool
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The component's name."""
        return self.recipe.name

    @property
    def source(self) -> ComponentVersion:
        """Where the version comes from."""
        return self.recipe.versions[self.version]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a recipe builds, each after what it needs; and what its pins ask for that no component has."""

    chosen: tuple[ChosenComponent, ...]
    unavailable: tuple[Diagnostic, ...] = ()


def choose_components(evaluated: EvaluatedRecipe, find: Find) -> Choice:
    """What `components:` and `pins:` of a recipe ask for and all that these need, each after what it needs.

    A pin of which no folder has the component, or none in that version, keeps nobody from judging the recipe: it is in
    `unavailable`, and what needs it is left out. Raises one RecipeError with all other findings.
    """
    chooser = _Chooser(evaluated, find)
    for name in evaluated.recipe.components:
        chooser.visit(name, ("components", name))
    for pin, name in PINNED.items():
        if getattr(evaluated.recipe.pins, pin):
            if find(name) is not None:
                chooser.visit(name, ("pins", pin))
            else:
                chooser.miss(f"pins.{pin}: there is no component {name} that builds it", pin)
    if chooser.found:
        raise RecipeError.collect(chooser.found)
    return Choice(tuple(chooser.chosen.values()), tuple(chooser.unavailable))


@dataclass
class _Chooser:
    evaluated: EvaluatedRecipe
    find: Find
    chosen: dict[str, ChosenComponent] = field(default_factory=dict)
    found: list[Diagnostic] = field(default_factory=list)
    unavailable: list[Diagnostic] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)
    _refused: set[str] = field(default_factory=set)

    def visit(self, name: str, at: Path) -> None:
        """Choose the component `name`, after what it needs; `at` is where the recipe asks for it."""
        if name in self.chosen or name in self._refused:
            return
        place = self.evaluated.tree.key_position(at)
        component = self.find(name)
        if component is None:
            hint = "its folder is looked for in `components`: beside the recipe, in two folders above, in the builder"
            self._refuse(name, f'there is no component "{name}"', place, hint)
            return
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            self._refuse(name, f"components need each other in a circle: {circle}", place, "drop one of the needs")
            return
        self._open.append(name)
        needs = [self._visit_need(component, number, at) for number in range(len(component.recipe.needs.components))]
        self._open.pop()
        chosen = self._choose(component, tuple(need for need in needs if need), at)
        if chosen is None or None in needs:
            self._refused.add(name)
        else:
            self.chosen[name] = chosen

    def miss(self, message: str, pin: str) -> None:
        """Note that no component is what the pin asks for."""
        hint = f"choose a network mode whose hooks bring it and leave the pin out, or write components/{PINNED[pin]}"
        place = self.evaluated.tree.position(("pins", pin))
        self.unavailable.append(Diagnostic(rule="no-component", message=message, position=place, hint=hint))

    def _visit_need(self, component: EvaluatedComponent, number: int, at: Path) -> str | None:
        """The name of the component that satisfies a need; None, with a finding, where there is none."""
        need = parse_need(component.recipe.needs.components[number])
        place = component.tree.position(("needs", "components", number))
        name = self._provider(need.name)
        if name is None:
            hint = "add the component, or name one in the recipe's `components:` that provides it"
            self._refuse(need.name, f'{component.recipe.name} needs "{need.name}", which no component is', place, hint)
            return None
        self.visit(name, at)
        chosen = self.chosen.get(name)
        if chosen is None:
            return None
        if not _allows(need, chosen.version):
            self._refuse(
                component.recipe.name, f"{component.recipe.name} needs {need}, and the recipe builds {chosen.version}",
                self.evaluated.tree.key_position(("components", name)),
                f"choose a version of {name} that fits in the recipe's `components:`, or drop {component.recipe.name}",
            )  # fmt: skip
            return None
        return name

    def _provider(self, name: str) -> str | None:
        """The component that is called so; else the one of the recipe's own that provides it."""
        if self.find(name) is not None:
            return name
        for other in self.evaluated.recipe.components:
            component = self.find(other)
            if component is not None and name in component.recipe.provides:
                return other
        return None

    def _choose(self, component: EvaluatedComponent, needs: tuple[str, ...], at: Path) -> ChosenComponent | None:
        recipe, name = component.recipe, component.recipe.name
        asked = self.evaluated.recipe.components.get(name)
        before = len(self.found)
        version = self._version(recipe, at)
        for option, value in (asked.options if asked else {}).items():
            self._check_option(recipe, option, value)
        if version is None or len(self.found) > before:
            return None
        options = {option: declared.default for option, declared in recipe.options.items()}
        return ChosenComponent(
            recipe=recipe, version=version, options={**options, **(asked.options if asked else {})},
            debug=asked is not None and asked.debug, needs=tuple(dict.fromkeys(needs)),
        )  # fmt: skip

    def _version(self, recipe: ComponentRecipe, at: Path) -> str | None:
        asked = self.evaluated.recipe.components.get(recipe.name)
        pin = next((pin for pin, name in PINNED.items() if name == recipe.name), None)
        pinned = getattr(self.evaluated.recipe.pins, pin) if pin else None
        own = asked.version if asked else None
        path: Path = ("components", recipe.name, "version") if own else ("pins", pin or "") if pinned else at
        place = self.evaluated.tree.position(path)
        if own and pinned and own != pinned:
            self._refuse(recipe.name, f"{recipe.name} is {own} here, and {pinned} in pins.{pin}", place,
                         "keep one of the two")  # fmt: skip
        version = own or pinned or next(iter(recipe.versions))
        if version not in recipe.versions and pin and not own:
            there = ", ".join(recipe.versions)
            self.miss(f"pins.{pin}: the component {recipe.name} has no version {version}; it has {there}", pin)
            return None
        if version not in recipe.versions:
            known = list(recipe.versions)
            self._refuse(recipe.name, f"the component {recipe.name} has no version {version}", place,
                         suggest(version, known) or f"it has {', '.join(known)}")  # fmt: skip
        return str(version)

    def _check_option(self, recipe: ComponentRecipe, option: str, value: str) -> None:
        path: Path = ("components", recipe.name, "options", option)
        declared = recipe.options.get(option)
        if declared is None:
            known = list(recipe.options)
            self._refuse(recipe.name, f"the component {recipe.name} has no option {option}",
                         self.evaluated.tree.key_position(path),
                         suggest(option, known) or f"it has {', '.join(known) or 'none'}")  # fmt: skip
            return
        place = self.evaluated.tree.position(path)
        if declared.values and value not in declared.values:
            self._refuse(recipe.name, f'the option {option} of {recipe.name} cannot be "{value}"', place,
                         suggest(value, declared.values) or f"it takes {', '.join(declared.values)}")  # fmt: skip
        elif not OPTION_TEXT.fullmatch(value):
            self._refuse(recipe.name, f'the option {option} of {recipe.name} cannot be "{value}"', place,
                         "use letters, digits, blanks and _ . , : + = @ % / - alone")  # fmt: skip

    def _refuse(self, name: str, message: str, position: Position | None, hint: str) -> None:
        self._refused.add(name)
        self.found.append(Diagnostic(rule="component", message=message, position=position, hint=hint))


def _allows(need: Requirement, version: str) -> bool:
    try:
        return need.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not need.specifier


def run_packages(chosen: Iterable[ChosenComponent]) -> tuple[str, ...]:
    """The Debian packages that the image has to have for them, each once."""
    return tuple(dict.fromkeys(package for component in chosen for package in component.recipe.run_packages))


def asked_for(component: ChosenComponent) -> Json:
    """What a lock of the component goes by: its sources and packages, and not how it is built."""
    recipe = component.recipe
    return {
        "name": component.name,
        "version": component.version,
        "sources": [locked_source(source).model_dump(mode="json") for source in component.source.sources],
        "build": recipe.build.model_dump(mode="json"),
        "run_packages": recipe.run_packages,
        "wheels": recipe.needs.wheels,
        "needs": component.needs,
        "cross": recipe.cross,
    }


def locked_source(source: ComponentSource) -> LockedSource:
    """The source as a lock has it."""
    if source.git:
        return LockedSource(git=tuple(source.git), commit=source.commit, submodules=source.submodules or None)
    urls = tuple(source.archive) or None
    return LockedSource(archive=urls, debian=source.debian, sha256=source.sha256, size=source.size)
