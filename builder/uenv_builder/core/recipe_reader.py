"""From the text of recipe files to one evaluated Recipe, with every error at its place."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from uenv_builder.core.recipe_kind import kind_errors, missing_base
from uenv_builder.core.yaml_tree import Path, Value, YamlTree, suggest
from uenv_builder.model.errors import Diagnostic, RecipeError
from uenv_builder.model.recipe import Recipe

_VARIABLE = re.compile(r"\$\{\{\s*([^{}]*?)\s*\}\}")
_OWN_KEYS = ("extends", "variables")
_SCHEMA_HINT = "`uenv check --schema` lists what each key takes"
_TYPES = {
    "string_type": ("a text", "write one value, in quotes"),
    "list_type": ("a list", "write it in brackets: [first, second]"),
    "dict_type": ("a mapping", "write it as `key: value` lines, indented below the key"),
    "model_type": ("a mapping", "write it as `key: value` lines, indented below the key"),
    "bool_type": ("true or false", "write it without quotes"),
    "int_type": ("a whole number", "write it without quotes"),
}
"""By pydantic's name of the error: what is expected, and how to write it."""
FORMS = {
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$": "letters, digits, _ . and -, the first neither . nor -; for example demo-1",
    r"^[0-9]+(\.[0-9A-Za-z]+)*([-+.][0-9A-Za-z.]+)?$": "a version, for example 2.14.1",
    r"^/[^\x00-\x1f]*$": "an absolute path, for example /opt/tool",
    r"^[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?$": "a Debian package with or without a version, for example python3",
    r"^-[a-z-]+$": "what is added to the suite's name, for example -updates",
    r"^3\.[0-9]+$": 'Python\'s first two numbers in quotes, for example "3.13"',
    r"^[0-9]+\.[0-9]+$": 'the first two numbers in quotes, for example "13.0"',
    r"^[^\s@]+(@sha256:[0-9a-f]{64})?$": "an image of a registry, for example registry.example/name:tag@sha256:...",
    r"^0?[0-7]{3}$": 'an octal mode in quotes, for example "0644"',
    r"^[0-9a-f]{40}$": "a commit's whole id of 40 digits, as `git rev-parse` prints it; a branch or tag goes to `ref`",
    r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$": "a branch or tag, for example releases/v1.2",
    r"^[^\s\x00-\x1f]+$": "a URL or a path without blanks",
    r"^[^\x00-\x1f]*[^\s\x00-\x1f][^\x00-\x1f]*$": "a spec on one line, for example hdf5 +mpi",
    r"^[a-z0-9_][a-z0-9_-]*$": "small letters, digits, _ and -, for example py-numpy",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": 'a version in quotes, for example "14.2.0"',
}
"""The patterns of model/recipe.py in words."""
COMPONENT_FORMS = {
    r"^[0-9a-f]{64}$": "64 hexadecimal digits in small letters, as sha256sum prints them",
    r"^[0-9a-f]{40}([0-9a-f]{24})?$": "a commit's whole id, as `git rev-parse` prints it",
    r"^pool/[^\s\x00-\x1f]+$": "a path below a mirror's root, for example pool/main/h/hwloc/hwloc_2.12.0.orig.tar.bz2",
    r"^[^/\s\x00-\x1f][^\s\x00-\x1f]*$": "a relative path without blanks, for example patches/first.patch",
    r"^[A-Za-z0-9_.,:+=@%/ -]*$": "letters, digits, blanks and _ . , : + = @ % / -",
}
"""Those of model/component.py that recipes do not have."""


@dataclass(frozen=True, slots=True)
class EvaluatedRecipe:
    """A recipe and the tree that it was read from, so that later findings can still point at a line."""

    recipe: Recipe
    tree: YamlTree


def merge_trees(base: YamlTree, own: YamlTree) -> YamlTree:
    """`own` over `base`, as `extends:` means it.

    Mappings merge key by key. Lists append, base first, without repeating an equal item; a list tagged `!replace`
    stands alone. Anything else replaces. A key set to null is removed. Positions stay those of the winning file.
    """
    merged = YamlTree(None)
    merged.value = _merge(base, own, (), (), merged)
    return merged


def _merge(base: YamlTree, own: YamlTree, path: Path, target: Path, merged: YamlTree) -> Value:
    below, above = _at(base.value, path), _at(own.value, path)
    if isinstance(below, dict) and isinstance(above, dict):
        merged.positions[target] = own.positions[path]
        result = {}
        for key in [*below, *(key for key in above if key not in below)]:
            here = (*path, key)
            if key not in above:
                result[key] = _copy(base, here, here, merged)
            elif above[key] is None:
                continue
            elif key not in below:
                result[key] = _copy(own, here, here, merged)
            else:
                result[key] = _merge(base, own, here, here, merged)
        return result
    if isinstance(below, list) and isinstance(above, list) and path not in own.replaced:
        merged.positions[target] = own.positions[path]
        items = [_copy(base, (*path, number), (*target, number), merged) for number in range(len(below))]
        for number, item in enumerate(above):
            if item not in below:
                items.append(_copy(own, (*path, number), (*target, len(items)), merged))
        return items
    return _copy(own, path, target, merged)


def _copy(tree: YamlTree, path: Path, target: Path, merged: YamlTree) -> Value:
    value = _at(tree.value, path)
    merged.positions[target] = tree.positions[path]
    if path in tree.keys:
        merged.keys[target] = tree.keys[path]
    if path in tree.texts:
        merged.texts[target] = tree.texts[path]
    if isinstance(value, dict):
        return {key: _copy(tree, (*path, key), (*target, key), merged) for key in value}
    if isinstance(value, list):
        return [_copy(tree, (*path, number), (*target, number), merged) for number in range(len(value))]
    return value


def _at(value: Value, path: Path) -> Value:
    for part in path:
        value = value[part]
    return value


def evaluate(tree: YamlTree) -> EvaluatedRecipe:
    """Fill in the variables of a merged tree and check every field; raises one RecipeError with all findings."""
    found: list[Diagnostic] = []
    variables = _read_variables(tree, found)
    value = {
        key: _fill(child, (key,), variables, tree, found) for key, child in tree.value.items() if key not in _OWN_KEYS
    }
    recipe = None
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        found += [explain(details, tree) for details in error.errors()]
        found += missing_base(value, tree)
    if recipe:
        found += [*_requirement_errors(recipe, tree), *kind_errors(recipe, tree)]
    if found or recipe is None:
        raise RecipeError.collect(found)
    return EvaluatedRecipe(recipe, tree)


def _read_variables(tree: YamlTree, found: list[Diagnostic]) -> dict[str, str]:
    section = tree.value.get("variables") or {}
    if not isinstance(section, dict):
        found.append(_wrong_type("a mapping of names to texts", ("variables",), tree))
        return {}
    for name, value in section.items():
        if not isinstance(value, str):
            found.append(_wrong_type("a text", ("variables", name), tree))
    return {name: value for name, value in section.items() if isinstance(value, str)}


def _fill(value: Value, path: Path, variables: dict[str, str], tree: YamlTree, found: list[Diagnostic]) -> Value:
    if isinstance(value, dict):
        return {key: _fill(child, (*path, key), variables, tree, found) for key, child in value.items()}
    if isinstance(value, list):
        return [_fill(child, (*path, number), variables, tree, found) for number, child in enumerate(value)]
    if not isinstance(value, str) or "${{" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name in variables:
            return variables[name]
        hint = suggest(name, list(variables)) or "variables are set at the top of the recipe: `variables: {name: text}`"
        message = f'there is no variable "{name}"'
        found.append(Diagnostic(rule="unknown-variable", message=message, position=tree.position(path), hint=hint))
        return match[0]

    return _VARIABLE.sub(replace, value)


def explain(details: ErrorDetails, tree: YamlTree, model: type[BaseModel] = Recipe) -> Diagnostic:
    """What pydantic found wrong with a document that `model` describes, at its place and with a remedy."""
    path = _known_path(details["loc"])
    kind = details["type"]
    dotted = ".".join(str(part) for part in path)
    if kind == "extra_forbidden":
        known = _fields_at(path[:-1], model)
        hint = suggest(str(path[-1]), known) or f"known keys here: {', '.join(known)}"
        return Diagnostic(
            rule="unknown-key", message=f'unknown key "{dotted}"', position=tree.key_position(path), hint=hint
        )
    if kind == "missing":
        hint = f"add `{path[-1]}:`"
        return Diagnostic(
            rule="missing-key", message=f'the key "{dotted}" is missing', position=tree.position(path), hint=hint
        )
    if kind in _TYPES:
        expected, remedy = _TYPES[kind]
        return _wrong_type(expected, path, tree, hint=remedy)
    if kind in {"string_pattern_mismatch", "literal_error", "too_short", "string_too_short", "string_too_long"}:
        return _wrong_value(details, path, tree)
    return Diagnostic(
        rule="wrong-type", message=f'"{dotted}": {details["msg"][0].lower()}{details["msg"][1:]}',
        position=tree.position(path), hint=_SCHEMA_HINT,
    )  # fmt: skip


def _wrong_type(expected: str, path: Path, tree: YamlTree, *, hint: str = _SCHEMA_HINT) -> Diagnostic:
    text = tree.texts.get(path)
    dotted = ".".join(str(part) for part in path)
    message = f'"{dotted}" must be {expected}'
    if text is not None and expected == "a text":
        message = f'"{dotted}": YAML reads {text or "nothing"} as a {_yaml_kind(path, tree)}, and a text is expected'
        hint = f'write it in quotes: "{text}"' if text else "give a value in quotes"
    return Diagnostic(rule="wrong-type", message=message, position=tree.position(path), hint=hint)


def _yaml_kind(path: Path, tree: YamlTree) -> str:
    value = _at(tree.value, path)
    if value is None:
        return "null"
    return {bool: "boolean", int: "number", float: "number (and 3.10 would become 3.1)"}.get(type(value), "list")


def _wrong_value(details: ErrorDetails, path: Path, tree: YamlTree) -> Diagnostic:
    dotted = ".".join(str(part) for part in path)
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        expected = str(context.get("expected", ""))
        hint = suggest(str(details["input"]), re.findall(r"'([^']*)'", expected))
        message = f'"{dotted}" is "{details["input"]}"; expected {expected}'
    elif details["type"] == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        hint = f"it takes {(FORMS | COMPONENT_FORMS).get(pattern, pattern)}"
        if "[key]" in details["loc"]:
            message = f'"{path[-1]}" is no name for a part of "{".".join(map(str, path[:-1]))}"'
            return Diagnostic(rule="wrong-value", message=message, position=tree.key_position(path), hint=hint)
        message = f'"{dotted}" cannot be "{details["input"]}"'
    else:
        message, hint = f'"{dotted}": {details["msg"]}', None
    return Diagnostic(rule="wrong-value", message=message, position=tree.position(path), hint=hint or _SCHEMA_HINT)


def _known_path(location: tuple[str | int, ...]) -> Path:
    return tuple(part for part in location if part != "[key]")


def _fields_at(path: Path, root: type[BaseModel]) -> list[str]:
    model: type[BaseModel] | None = root
    for part in path:
        if model is None or not isinstance(part, str) or part not in model.model_fields:
            continue
        model = _section_of(model.model_fields[part].annotation)
    return [*(_OWN_KEYS if not path and root is Recipe else ()), *(model.model_fields if model else ())]


def _section_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _section_of(argument):
            return found
    return None


def _requirement_errors(recipe: Recipe, tree: YamlTree) -> list[Diagnostic]:
    found = []
    for key in ("requirements", "constraints"):
        for number, text in enumerate(getattr(recipe.python, key)):
            position = tree.position(("python", key, number))
            try:
                name = canonicalize_name(Requirement(text).name)
            except InvalidRequirement as error:
                message = f'"{text}" is not a requirement: {str(error).splitlines()[0]}'
                hint = "write it as PEP 508 says: numpy==2.3.5"
                found.append(Diagnostic(rule="requirement", message=message, position=position, hint=hint))
                continue
            if name == "torch" and recipe.pins.pytorch and key == "requirements":
                message = "torch is pinned by pins.pytorch, and required here a second time"
                found.append(Diagnostic(rule="pinned-twice", message=message, position=position, hint="keep the pin"))
    return found


def recipe_schema() -> dict[str, Value]:
    """The JSON Schema (draft 2020-12) of a recipe; what `extends` may supply is not required."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "uenv-builder recipe"
    schema["properties"] = {
        "extends": {"type": "string", "description": "Folder or file of the recipe that this one builds on."},
        "variables": {"type": "object", "additionalProperties": {"type": "string"}},
        **schema["properties"],
    }
    required = schema.pop("required")
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    return schema


def editor_schema() -> dict[str, Value]:
    """The JSON Schema of a recipe file as people write it: `${{ NAME }}` may stand in every text."""
    schema = _with_expressions(recipe_schema())
    assert isinstance(schema, dict)
    return schema


def _with_expressions(node: Value) -> Value:
    if isinstance(node, list):
        return [_with_expressions(item) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {key: _with_expressions(value) for key, value in node.items()}
    if isinstance(node.get("pattern"), str):
        changed["pattern"] = rf"\$\{{\{{|{node['pattern']}"
    if node.get("type") == "string" and "enum" in node:
        return {"anyOf": [changed, {"type": "string", "pattern": r"\$\{\{"}]}
    return changed
