"""The systems and node types that the builder knows, read from its knowledge files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from types import MappingProxyType
from typing import TypeAlias, TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from uenv_builder.core.environment import check_environment
from uenv_builder.core.recipe_reader import merge_trees
from uenv_builder.core.yaml_tree import YamlTree, read_yaml, suggest
from uenv_builder.model.errors import Diagnostic, Position, RecipeError
from uenv_builder.model.system import NetworkMode, System, Uarch

SystemFiles: TypeAlias = Mapping[str, tuple[bytes, str]]
"""A site's own systems: content and file name by the system's name."""

_MAX_BASES = 8
_FOLDER = resources.files("uenv_builder.knowledge") / "systems"
_NONE: SystemFiles = MappingProxyType({})
_SEE = "docs/reference/systems.md shows what a system says"
_HINTS = {
    "missing": "add it",
    "string_type": "write the value in quotes",
    "string_too_short": "say it in a few words",
    "value_and_unset": "keep one of the two",
    "other_value": "leave it out there",
}
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
    tree = _read_named(name, read)
    for _ in range(_MAX_BASES):
        base = tree.value.pop("extends", None)
        if base is None:
            return _validate_system(tree)
        try:
            below = _read_named(str(base), read)
        except KeyError as error:
            raise RecipeError(
                f'system "{name}" extends "{base}", which there is not',
                rule="system-extends", position=tree.position(("extends",)),
                hint="name a system that exists, or leave it out",
            ) from error  # fmt: skip
        tree = merge_trees(below, tree)
    raise RecipeError(
        f'system "{name}": more than {_MAX_BASES} files extend each other',
        rule="system-extends", position=tree.position(("extends",)), hint="let one of them stand without `extends:`",
    )  # fmt: skip


def load_uarchs() -> dict[str, Uarch]:
    """The node types of the builder's knowledge by name, in the order of their file."""
    file = resources.files("uenv_builder.knowledge") / "uarchs.yaml"
    return parse_uarchs(file.read_bytes(), "knowledge/uarchs.yaml")


def system_names(extra: SystemFiles = _NONE) -> tuple[str, ...]:
    """The names of all systems, sorted; no file is read for it."""
    return tuple(sorted({*_packaged_names(), *extra}))


def load_system(name: str, extra: SystemFiles = _NONE) -> System:
    """The system `name`; only its file and those that it extends are read.

    `extra` are a site's own systems: content and file name by the system's name. One of them may extend a packaged
    system, and stands in place of a packaged one of the same name, which it then extends under that name. Raises
    RecipeError for a system that is not known, or whose file is not valid.
    """
    if name not in extra and name not in _packaged_names():
        names = system_names(extra)
        hint = suggest(name, list(names)) or f"known systems: {', '.join(names)}"
        raise RecipeError(f'unknown system "{name}"', rule="unknown-system", hint=hint)
    return _load(name, tuple(sorted(extra.items())))


def load_systems(extra: SystemFiles = _NONE) -> dict[str, System]:
    """All systems by name, sorted; see `load_system` for `extra`."""
    return {name: load_system(name, extra) for name in system_names(extra)}


@cache
def _load(name: str, extra: tuple[tuple[str, tuple[bytes, str]], ...]) -> System:
    files, taken = dict(extra), set[str]()

    def read(wanted: str) -> tuple[bytes, str]:
        # A site's file that extends its own name means the packaged system.
        if wanted not in files or (wanted in taken and wanted in _packaged_names()):
            return _read_packaged(wanted)
        taken.add(wanted)
        return files[wanted]

    return parse_system(name, read)


@cache
def _packaged_names() -> frozenset[str]:
    names = (file.name for file in _FOLDER.iterdir())
    return frozenset(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@cache
def _read_packaged(name: str) -> tuple[bytes, str]:
    if name not in _packaged_names():
        raise KeyError(name)
    return (_FOLDER / f"{name}.yaml").read_bytes(), f"knowledge/systems/{name}.yaml"


def _read_named(name: str, read: Callable[[str], tuple[bytes, str]]) -> YamlTree:
    tree = read_yaml(*read(name))
    own = tree.value.get("name")
    if own != name:
        raise RecipeError(
            f'this is the file of system "{name}", but its name is "{own}"',
            rule="system-name", position=tree.position(("name",)),
            hint=f"write `name: {name}`, or give the file the system's name",
        )  # fmt: skip
    return tree


def _validate_system(tree: YamlTree) -> System:
    """The system, whose variables every engine can pass on."""
    system = _validate(System, tree.value, tree, ())
    found: list[Diagnostic] = []
    for mode, env in system.env.items():
        findings = check_environment(env, partial(_place_of_value, tree, mode))
        found += [finding for finding in findings if finding.severity == "error"]
    if found:
        raise RecipeError.collect(found)
    return system


def _place_of_value(tree: YamlTree, mode: NetworkMode, name: str) -> Position | None:
    return tree.position(("variables", name, "values", mode))


def _validate(model: type[_Model], value: object, tree: YamlTree, base: tuple[str, ...]) -> _Model:
    try:
        return model.model_validate_json(json.dumps(value))  # JSON, because there a list may become a tuple
    except ValidationError as error:
        raise RecipeError.collect([_explain(details, model, tree, base) for details in error.errors()]) from error


def _explain(details: ErrorDetails, model: type[BaseModel], tree: YamlTree, base: tuple[str, ...]) -> Diagnostic:
    path = (*base, *(part for part in details["loc"] if part != "[key]"))
    dotted = ".".join(str(part) for part in path)
    message = f'"{dotted}": {details["msg"][0].lower()}{details["msg"][1:]}'
    unknown = details["type"] == "extra_forbidden"
    hint = _HINTS.get(details["type"])
    if unknown:
        known = _keys_beside(model, details["loc"][:-1])
        hint = suggest(str(path[-1]), known) or f"known keys: {', '.join(known)}"
        message = f'unknown key "{dotted}"'
    return Diagnostic(
        rule="unknown-key" if unknown else "system" if model is System else "knowledge",
        message=message,
        position=tree.key_position(path) if unknown else tree.position(path),
        hint=hint or _SEE,
    )


def _keys_beside(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys that the section at `loc` of a `model` may have."""
    fields = model.model_fields
    for part in loc:
        field = fields.get(str(part))
        if field is not None:
            inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)]
            fields = inner[0].model_fields if inner else fields
    return list(fields)


def _is_section(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
