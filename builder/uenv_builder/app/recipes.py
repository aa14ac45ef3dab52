"""Finding a recipe by folder, file or name, and reading it with all that it extends."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from uenv_builder.app.component_files import NO_COMPONENTS, LoadedComponents, load_components
from uenv_builder.core.planning import AddedContent
from uenv_builder.core.recipe_reader import EvaluatedRecipe, evaluate, merge_trees
from uenv_builder.core.yaml_tree import YamlTree, read_yaml, suggest
from uenv_builder.model.errors import Diagnostic, RecipeError, UsageError
from uenv_builder.model.recipe import Recipe
from uenv_builder.system.files import sha256_of
from uenv_builder.system.resources import resource_folder

_FILE = "recipe.yaml"
_MAX_EXTENDS = 10


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe, the folder that its files and locks lie in, and the trees behind it for error positions."""

    path: Path
    evaluated: EvaluatedRecipe
    folders: tuple[Path, ...]
    """The recipe's own folder first, then those of the recipes that it extends."""
    components: LoadedComponents = NO_COMPONENTS
    """What it builds from source."""

    @property
    def recipe(self) -> Recipe:
        """The evaluated recipe."""
        return self.evaluated.recipe

    @property
    def folder(self) -> Path:
        """Where the recipe file lies."""
        return self.path.parent

    def lock_path(self, uarch: str) -> Path:
        """Where the lock for `uarch` lies: beside the recipe."""
        return self.folder / f"{uarch}.lock.yaml"

    def start_path(self, uarch: str) -> Path:
        """Where the record of a start on `uarch` lies, if there is one: beside the recipe."""
        return self.folder / f"{uarch}.start.txt"


def find_recipe(name: str, search: Sequence[str] = ()) -> Path:
    """The recipe file that `name` means: a folder with a recipe.yaml, a file, or NAME[/VERSION] on the recipe path.

    A name without a version means the newest version. Raises UsageError with close matches.
    """
    path, *candidates = recipe_places(name, search)
    if path.is_dir():
        if (path / _FILE).is_file():
            return path / _FILE
        if (newest := _newest(path)) is not None:
            return newest
        raise UsageError(f"{name}: there is no {_FILE} in this folder", hint="`uenv new NAME` writes a starter recipe")
    if path.is_file():
        return path
    for candidate in candidates:
        if (candidate / _FILE).is_file():
            return candidate / _FILE
        if candidate.is_dir() and (newest := _newest(candidate)) is not None:
            return newest
    roots = _roots(search)
    known = sorted({str(file.parent.relative_to(root)) for root in roots for file in root.glob(f"*/*/{_FILE}")})
    hint = suggest(name, [*known, *(entry.split("/")[0] for entry in known)]) or f"known recipes: {', '.join(known)}"
    raise UsageError(f"{name}: no such folder or file, and no recipe of that name", rule="no-recipe", hint=hint)


def recipe_places(name: str, search: Sequence[str] = ()) -> list[Path]:
    """Where `find_recipe` looks: the path itself, then the folders of that name on the recipe path. The first with a
    recipe.yaml, in itself or in folders of its own, is it.
    """
    return [Path(name), *(root / name for root in _roots(search))]


def _roots(search: Sequence[str]) -> list[Path]:
    return [*map(Path, search), resource_folder("recipes")]


def _newest(folder: Path) -> Path | None:
    def order(path: Path) -> tuple[bool, Version, str]:
        try:
            return (True, Version(path.parent.name), "")
        except InvalidVersion:
            return (False, Version("0"), path.parent.name)

    return max(folder.glob(f"*/{_FILE}"), key=order, default=None)


def is_stackinator_recipe(folder: Path) -> bool:
    """Whether `folder` has the files of a recipe of Stackinator, and no recipe.yaml."""
    files = ("config.yaml", "compilers.yaml", "environments.yaml")
    return all((folder / name).is_file() for name in files) and not (folder / _FILE).exists()


def load_recipe(path: Path) -> LoadedRecipe:
    """Read and evaluate the recipe at `path`; raises RecipeError with every finding at its place."""
    chain: list[Path] = []
    tree = _read_chain(path, chain)
    evaluated = evaluate(tree)
    folders = tuple(dict.fromkeys(file.parent for file in chain))
    return LoadedRecipe(path, evaluated, folders, load_components(evaluated, folders))


def _read_chain(path: Path, chain: list[Path]) -> YamlTree:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}", rule="unreadable") from error
    chain.append(path)
    tree = read_yaml(content, str(path))
    if "extends" not in tree.value:
        return tree
    position = tree.position(("extends",))
    base = tree.value["extends"]
    if not isinstance(base, str) or not base:
        raise RecipeError(
            '"extends" must be the path of a folder or file', rule="wrong-type", position=position,
            hint="write one path, relative to this recipe's folder: extends: ../../base/1.0",
        )  # fmt: skip
    target = path.parent / base
    target = target / _FILE if target.is_dir() else target
    if not target.is_file():
        hint = "the path is relative to this recipe's folder"
        raise RecipeError(f"extends {base}: there is no recipe", rule="extends", position=position, hint=hint)
    if target.resolve() in {file.resolve() for file in chain}:
        circle = " -> ".join(str(file) for file in [*chain, target])
        raise RecipeError(
            f"extends goes in a circle: {circle}", rule="extends-cycle", position=position,
            hint="leave `extends:` out of one of them",
        )  # fmt: skip
    if len(chain) >= _MAX_EXTENDS:
        raise RecipeError(
            f"extends goes deeper than {_MAX_EXTENDS} levels", rule="extends", position=position,
            hint="merge some of these recipes",
        )  # fmt: skip
    return merge_trees(_read_chain(target, chain), tree)


def added_contents(loaded: LoadedRecipe) -> tuple[list[AddedContent], dict[str, Path]]:
    """The files that the recipe adds: their identity for the plan, and where each is read from, by path in the image.

    A source is looked up in the recipe's folder, then in those that it extends; it must not leave its folder, by `..`,
    an absolute path or a symbolic link.
    """
    found: list[Diagnostic] = []
    sources: dict[str, tuple[Path, str]] = {}
    for number, added in enumerate(loaded.recipe.files):
        position = loaded.evaluated.tree.position(("files", number))
        try:
            source = _source(loaded, added.source)
        except ValueError as error:
            hint = "name a file or folder of the recipe's folder, relative to it"
            found.append(Diagnostic(rule="file-source", message=str(error), position=position, hint=hint))
            continue
        if problem := _path_problem(added.path, folder=source.is_dir()):
            hint = "for example /etc/motd for a file, and /opt/tool/ for a folder"
            found.append(Diagnostic(rule="file-path", message=f"{added.path}: {problem}", position=position, hint=hint))
            continue
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if file.is_file():
                path = added.path + str(file.relative_to(source)) if source.is_dir() else added.path
                sources[path] = (file, added.mode)
    if found:
        raise RecipeError.collect(found)
    contents = [
        AddedContent(path=path, mode=mode, sha256=sha256_of(file), size=file.stat().st_size)
        for path, (file, mode) in sorted(sources.items())
    ]
    return contents, {path: file for path, (file, _) in sources.items()}


def _path_problem(path: str, *, folder: bool) -> str | None:
    if re.search(r"(^|/)\.\.(/|$)", path):
        return "goes up with .."
    if path.endswith("/") != folder:
        return "must end with /, because its source is a folder" if folder else "is a folder, and its source is a file"
    return None


def _source(loaded: LoadedRecipe, name: str) -> Path:
    for folder in loaded.folders:
        source = folder / name
        if not source.exists():
            continue
        for file in [source, *sorted(source.rglob("*"))]:
            shown = os.path.relpath(file, folder)
            if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
                raise ValueError(f"{shown}: leaves the recipe's folder")
            if not (file.is_file() or file.is_dir()):
                raise ValueError(f"{shown}: neither a file nor a folder, or a link that leads nowhere")
            if file != source and file.is_symlink() and file.is_dir():
                raise ValueError(f"{shown}: a link to a folder, whose files would be left out")
        return source
    raise ValueError(f"{name}: there is no such file in the recipe's folder")
