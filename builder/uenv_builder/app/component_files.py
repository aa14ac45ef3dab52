"""Finding components by name, and the files that lie beside each component.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uenv_builder.core.component_choice import ChosenComponent, choose_components
from uenv_builder.core.component_reader import COMPONENT_FILE, EvaluatedComponent, read_component
from uenv_builder.core.recipe_reader import EvaluatedRecipe
from uenv_builder.model.errors import Diagnostic, RecipeError
from uenv_builder.system.resources import resource_folder

FOLDER = "components"
BUILD_SCRIPT, CHECK_SCRIPT = "build.sh.j2", "check.sh"
_LEVELS = 2
"""How many folders above a recipe's own are looked in: recipes/NAME/VERSION and recipes/components lie so."""


@dataclass(frozen=True)
class LoadedComponents:
    """The components that a recipe builds, each after what it needs, and where each one's files lie."""

    chosen: tuple[ChosenComponent, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)
    trees: Mapping[str, EvaluatedComponent] = field(default_factory=dict)
    unavailable: tuple[Diagnostic, ...] = ()
    """What the recipe's pins ask for, and no component is: then there can be no lock."""


NO_COMPONENTS = LoadedComponents()


def load_components(evaluated: EvaluatedRecipe, recipe_folders: Sequence[Path]) -> LoadedComponents:
    """The components of a recipe whose file, and those that it extends, lie in `recipe_folders`.

    Raises RecipeError with every finding at its place, in the recipe or in a component.yaml.
    """
    shelf = _Shelf(search_folders(recipe_folders))
    choice = choose_components(evaluated, shelf.find)
    chosen = choice.chosen
    names = [component.name for component in chosen]
    folders = {name: shelf.folders[name] for name in names}
    for name, folder in folders.items():
        _require_files(name, folder, [BUILD_SCRIPT, *_patches(chosen, name)])
    trees = {name: tree for name, tree in shelf.read.items() if tree is not None}
    return LoadedComponents(chosen, folders, trees, choice.unavailable)


@dataclass
class _Shelf:
    search: Sequence[Path]
    read: dict[str, EvaluatedComponent | None] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)

    def find(self, name: str) -> EvaluatedComponent | None:
        """The component of that name in the first folder that has one."""
        if name not in self.read:
            self.read[name] = self._read(name)
        return self.read[name]

    def _read(self, name: str) -> EvaluatedComponent | None:
        for folder in self.search:
            file = folder / name / COMPONENT_FILE
            if not file.is_file():
                continue
            self.folders[name] = file.parent
            try:
                content = file.read_bytes()
            except OSError as error:
                raise RecipeError(f"{file}: cannot be read: {error.strerror}", rule="unreadable") from error
            return read_component(content, str(file), folder=name)
        return None


def search_folders(recipe_folders: Sequence[Path]) -> list[Path]:
    """Where components are looked for by name, the first place first; few of these folders are there."""
    found = []
    for folder in recipe_folders:
        place = folder
        for _ in range(_LEVELS + 1):
            found.append(place / FOLDER)
            place = place / ".." if place.name in {"", "..", "."} else place.parent
    return [*dict.fromkeys(found), resource_folder("recipes") / FOLDER]


def _patches(chosen: Sequence[ChosenComponent], name: str) -> list[str]:
    return [patch for component in chosen if component.name == name for patch in component.source.patches]


def _require_files(name: str, folder: Path, files: Sequence[str]) -> None:
    for file in files:
        path = folder / file
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise RecipeError(
                f"{path}: the component {name} has no such file", rule="component",
                hint="write the file, or correct its name in component.yaml",
            )  # fmt: skip
