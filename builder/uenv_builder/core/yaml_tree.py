"""YAML as a person wrote it: values, and for each value the place that an error can point at.

PyYAML's own loader turns `3.10` into 3.1, keeps the last of two equal keys without a word, and expands aliases without
a limit. This reader works on composed nodes instead, which still know text, line and column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from uenv_builder.model.errors import Position, RecipeError

if TYPE_CHECKING:
    from yaml._yaml import Mark as CMark

Value: TypeAlias = Any
"""Nested dict, list, str, int, float, bool and None; the one place where types are open: it is what people write."""
Path: TypeAlias = tuple[str | int, ...]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
REPLACE_TAG = "!replace"
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge")
}


@dataclass(slots=True)
class YamlTree:
    """A document: `value`, and by path from the root the position, the text as written, and whether it was tagged."""

    value: Value
    positions: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    replaced: set[Path] = field(default_factory=set)

    def position(self, path: Path) -> Position | None:
        """Where the value at `path` stands; for a value that does not exist, where its nearest parent does."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path)

    def key_position(self, path: Path) -> Position | None:
        """Where the key at `path` stands (the value's place for list items)."""
        return self.keys.get(path) or self.position(path)


def read_yaml(content: bytes, file: str) -> YamlTree:
    """The tree of the YAML document `content`; `file` is its name for error positions.

    Raises RecipeError for what is not UTF-8 YAML, larger than 1 MiB, nested deeper than 32 levels, empty, not a
    mapping at its root, or uses aliases or one key twice in a mapping.
    """
    start = Position(file, 1, 1)
    if len(content) > MAX_BYTES:
        raise RecipeError(
            f"the file has {len(content):,} bytes; the limit is {MAX_BYTES:,}",
            rule="too-large", position=start, hint="a recipe names files instead of holding them: see `files:`",
        )  # fmt: skip
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"not UTF-8 text: byte 0x{content[error.start]:02x}", rule="not-utf8", position=Position(file, line, 1),
            hint="save the file as UTF-8",
        ) from error  # fmt: skip
    try:
        _refuse_bombs(text, file)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, file) from error
    if node is None:
        raise RecipeError("the file is empty", rule="empty", position=start, hint="`uenv new` writes a starter recipe")
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(
            "a mapping (key: value lines) is expected here", rule="not-a-mapping", position=start,
            hint="`uenv new` writes a starter recipe",
        )  # fmt: skip
    tree = YamlTree(None)
    tree.value = _convert(node, (), file, tree)
    return tree


def suggest(word: str, known: list[str]) -> str | None:
    """`did you mean "..."?` for the closest of `known`, or None."""
    close = get_close_matches(word, known, n=3, cutoff=0.6)
    swapped = [other for other in close if sorted(other) == sorted(word)]
    return f'did you mean "{[*swapped, *close][0]}"?' if close else None


def _refuse_bombs(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(
                "YAML aliases are not read", rule="alias", position=_mark(event.start_mark, file),
                hint="use `variables:` for a value that is used twice, `extends:` for shared parts",
            )  # fmt: skip
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            position = _mark(event.start_mark, file)
            raise RecipeError(
                f"nested deeper than {MAX_DEPTH} levels", rule="too-deep", position=position,
                hint="look for a bracket or an indentation that is never closed",
            )  # fmt: skip


def _syntax_error(error: yaml.YAMLError, text: str, file: str) -> RecipeError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    hint = "look for a bracket, a quote or an indentation that is not closed, here or in the lines above"
    if mark and text[mark.index : mark.index + 1] == "\t":
        hint = "YAML does not allow tabs for indentation: use spaces"
    return RecipeError(f"not valid YAML: {problem}", rule="yaml-syntax", position=_mark(mark, file), hint=hint)


def _mark(mark: yaml.Mark | CMark | None, file: str) -> Position:
    if mark is None:
        return Position(file, 1, 1)
    return Position(file, mark.line + 1, mark.column + 1)


def _convert(node: yaml.Node, path: Path, file: str, tree: YamlTree) -> Value:
    tree.positions[path] = _mark(node.start_mark, file)
    if node.tag == REPLACE_TAG:
        tree.replaced.add(path)
    elif node.tag not in _PLAIN_TAGS:
        raise RecipeError(
            f"unknown YAML tag {node.tag}", rule="yaml-tag", position=tree.positions[path],
            hint=f"the only tag that means something in a recipe is {REPLACE_TAG}",
        )  # fmt: skip
    if isinstance(node, yaml.MappingNode):
        return {key: _convert(child, (*path, key), file, tree) for key, child in _items(node, path, file, tree)}
    if isinstance(node, yaml.SequenceNode):
        return [_convert(child, (*path, number), file, tree) for number, child in enumerate(node.value)]
    tree.texts[path] = node.value
    return _scalar(node)


def _items(node: yaml.MappingNode, path: Path, file: str, tree: YamlTree) -> Iterator[tuple[str, yaml.Node]]:
    seen: dict[str, Position] = {}
    for key_node, child in node.value:
        position = _mark(key_node.start_mark, file)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            raise RecipeError("a key must be plain text", rule="yaml-key", position=position)
        key = str(key_node.value)
        if key in seen:
            raise RecipeError(
                f'the key "{key}" stands here a second time (first in line {seen[key].line})',
                rule="duplicate-key", position=position, hint="keep one of the two",
            )  # fmt: skip
        seen[key] = tree.keys[(*path, key)] = position
        yield key, child


def _scalar(node: yaml.Node) -> Value:
    text = str(node.value)
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in {"true", "yes", "on"}
    if kind in {"int", "float"}:
        try:
            return int(text, 0) if kind == "int" else float(text)
        except ValueError:
            return text
    return text
