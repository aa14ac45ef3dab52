"""From the text of a component.yaml to a ComponentRecipe, with every error at its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import ValidationError

from uenv_builder.core.recipe_reader import explain
from uenv_builder.core.yaml_tree import Path, Value, YamlTree, read_yaml, suggest
from uenv_builder.model.component import ComponentRecipe
from uenv_builder.model.errors import Diagnostic, RecipeError

COMPONENT_FILE = "component.yaml"


@dataclass(frozen=True, slots=True)
class EvaluatedComponent:
    """A component and the tree that it was read from, so that later findings can still point at a line."""

    recipe: ComponentRecipe
    tree: YamlTree


def read_component(content: bytes, file: str, *, folder: str) -> EvaluatedComponent:
    """The component that `content` describes; `folder` is the name of its folder, which has to be its own.

    Raises one RecipeError with all findings.
    """
    tree = read_yaml(content, file)
    try:
        recipe = ComponentRecipe.model_validate(tree.value)
    except ValidationError as error:
        raise RecipeError.collect(explain(details, tree, ComponentRecipe) for details in error.errors()) from error
    if found := list(_find_contradictions(recipe, tree, folder)):
        raise RecipeError.collect(found)
    return EvaluatedComponent(recipe, tree)


def component_schema() -> dict[str, Value]:
    """The JSON Schema (draft 2020-12) of a component.yaml."""
    schema = ComponentRecipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "uenv-builder component"
    return schema


def parse_need(text: str) -> Requirement:
    """A component's name with or without bounds for its version; raises ValueError."""
    try:
        need = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if need.extras or need.marker or need.url:
        raise ValueError("only a name and bounds for its version can stand here")
    return need


def _find_contradictions(recipe: ComponentRecipe, tree: YamlTree, folder: str) -> Iterator[Diagnostic]:
    if recipe.name != folder:
        yield _finding(f'the component "{recipe.name}" lies in a folder called "{folder}"', ("name",), tree,
                       "give both the same name: recipes find a component by its folder")  # fmt: skip
    for name, option in recipe.options.items():
        if option.values and option.default not in option.values:
            hint = suggest(option.default, option.values) or f"it takes {', '.join(option.values)}"
            yield _finding(
                f'the default of the option {name} is "{option.default}", which is none of its values',
                ("options", name, "default"), tree, hint,
            )  # fmt: skip
    for number, text in enumerate(recipe.needs.components):
        try:
            parse_need(text)
        except ValueError as error:
            yield _finding(f'"{text}" names no component: {error}', ("needs", "components", number), tree,
                           "write a name with or without bounds: libfabric>=2.0")  # fmt: skip
    for version, entry in recipe.versions.items():
        for number, patch in enumerate(entry.patches):
            if ".." in patch.split("/"):
                yield _finding(
                    f'the patch "{patch}" goes up with ..', ("versions", version, "patches", number), tree,
                    "name a file of the component's own folder",
                )  # fmt: skip


def _finding(message: str, path: Path, tree: YamlTree, hint: str) -> Diagnostic:
    return Diagnostic(rule="component", message=message, position=tree.position(path), hint=hint)
