"""The systems and node types that the builder knows, read from its knowledge files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from uenv_builder.core.recipe_reader import merge_trees
from uenv_builder.core.yaml_tree import YamlTree, read_yaml, suggest
from uenv_builder.model.errors import Diagnostic, RecipeError
from uenv_builder.model.system import System, Uarch

_MAX_BASES = 8
_Model = TypeVar("_Model", bound=BaseModel)


def parse_uarchs(content: bytes, file: str) -> dict[str, Uarch]:
    """Node types by name, from a YAML mapping of names to their fields; `file` is its name in errors (RecipeError)."""
    tree = read_yaml(content, file)
    return {
        name: _validate(Uarch, {"name": name, **(fields if isinstance(fields, dict) else {})}, tree, (name,))
        for name, fields in tree.value.items()
    }


def parse_system(name: str, read: Callable[[str], tuple[bytes, str]]) -> System:
    """The system `name`; `read` gives content and file name of a system's YAML, by the system's name.

    `extends: OTHER` stands on the file of another system as a recipe stands on another: mappings merge, lists append,
    everything else replaces. Raises RecipeError for what is not a system, and KeyError as `read` does.
    """
    tree = read_yaml(*read(name))
    own = tree.value.get("name")
    if own != name:
        raise RecipeError(
            f'this is the file of system "{name}", but its name is "{own}"',
            rule="system-name", position=tree.position(("name",)), hint=f"write `name: {name}`",
        )  # fmt: skip
    for _ in range(_MAX_BASES):
        base = tree.value.pop("extends", None)
        if base is None:
            return _validate(System, tree.value, tree, ())
        tree = merge_trees(read_yaml(*read(str(base))), tree)
    raise RecipeError(f'system "{name}": more than {_MAX_BASES} files extend each other', rule="system-extends")


def load_uarchs() -> dict[str, Uarch]:
    """The node types of the builder's knowledge by name, in the order of their file."""
    file = resources.files("uenv_builder.knowledge") / "uarchs.yaml"
    return parse_uarchs(file.read_bytes(), "knowledge/uarchs.yaml")


def load_systems() -> dict[str, System]:
    """The systems of the builder's knowledge by name, sorted."""
    return dict(_known_systems())


@cache
def _known_systems() -> tuple[tuple[str, System], ...]:
    folder = resources.files("uenv_builder.knowledge") / "systems"
    names = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))

    def read(name: str) -> tuple[bytes, str]:
        return (folder / f"{name}.yaml").read_bytes(), f"knowledge/systems/{name}.yaml"

    return tuple((name, parse_system(name, read)) for name in names)


def _validate(model: type[_Model], value: object, tree: YamlTree, base: tuple[str, ...]) -> _Model:
    try:
        return model.model_validate_json(json.dumps(value))  # JSON, because there a list may become a tuple
    except ValidationError as error:
        raise RecipeError.collect([_explain(details, model, tree, base) for details in error.errors()]) from error


def _explain(details: ErrorDetails, model: type[BaseModel], tree: YamlTree, base: tuple[str, ...]) -> Diagnostic:
    path = (*base, *(part for part in details["loc"] if part != "[key]"))
    dotted = ".".join(str(part) for part in path)
    message = f"{details['msg'][0].lower()}{details['msg'][1:]}"
    unknown = details["type"] == "extra_forbidden"
    return Diagnostic(
        rule="knowledge",
        message=f'"{dotted}": {message}',
        position=tree.key_position(path) if unknown else tree.position(path),
        hint=suggest(str(path[-1]), list(model.model_fields)) if unknown else None,
    )
