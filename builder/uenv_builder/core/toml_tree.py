"""TOML as a person wrote it: values, and for each value and key the place that an error can point at.

The standard library's reader decides what is valid and what it means; the grammar of tree-sitter knows the places.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

from uenv_builder.core.yaml_tree import Path, Value
from uenv_builder.model.errors import Position, RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_KEYS = ("bare_key", "quoted_key", "dotted_key")
_TABLES = ("table", "table_array_element")
_PLACE = re.compile(r" \(at (?:line (?P<line>[0-9]+), column (?P<column>[0-9]+)|end of document)\)$")
_TWICE = ("Cannot", "Duplicate")
_HINT = "look for a quote or a bracket that is not closed, a missing comma or a text without quotes, here or just above"


@dataclass(slots=True)
class TomlTree:
    """A document: `value`, and by path from the root the places of values and of keys.

    A table stands where its name is first written, an inline table and an array at their bracket. The key of
    `a.b.c = 1` at path ("a", "b", "c") is its last part; ("a", "b") and ("a",) are the parts before it.
    """

    file: str
    value: dict[str, Value]
    positions: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)

    def position(self, path: Path) -> Position:
        """Where the value at `path` stands; for a value that does not exist, where its nearest parent does."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, Position(self.file, 1, 1))

    def key_position(self, path: Path) -> Position:
        """Where the key at `path` stands (the value's place for items of an array)."""
        return self.keys.get(path) or self.position(path)


def read_toml(content: bytes, file: str) -> TomlTree:
    """The tree of the TOML document `content`; `file` is its name for error positions.

    Raises RecipeError (rule toml-syntax) for what is not UTF-8 TOML, and (rule toml-size) for more than 1 MiB or 32
    levels of nesting.
    """
    if len(content) > MAX_BYTES:
        raise RecipeError(
            f"the file has {len(content):,} bytes; the limit is {MAX_BYTES:,}", rule="toml-size",
            position=Position(file, 1, 1), hint="name the file that was meant",
        )  # fmt: skip
    value = _load(content, file)
    if _is_deep(value):
        raise _too_deep(file)
    tree = TomlTree(file, value)
    _Places(tree, content).read(_parse(content))
    return tree


def _load(content: bytes, file: str) -> dict[str, Value]:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line, column = _end(content[: error.start])
        raise RecipeError(
            f"not UTF-8 text: byte 0x{content[error.start]:02x}", rule="toml-syntax",
            position=Position(file, line, column), hint="save the file as UTF-8",
        ) from error  # fmt: skip
    except RecursionError as error:
        raise _too_deep(file) from error
    except ValueError as error:
        raise _syntax_error(str(error), content, file) from error


def _too_deep(file: str) -> RecipeError:
    return RecipeError(
        f"nested deeper than {MAX_DEPTH} levels", rule="toml-size", position=Position(file, 1, 1),
        hint="look for a bracket that is never closed, or a dotted key with very many parts",
    )  # fmt: skip


def _is_deep(value: Value) -> bool:
    layer, depth = [value], 0
    while layer and depth <= MAX_DEPTH:
        depth += 1
        inner = [item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, (dict, list))]
        layer = [item for items in inner for item in items]
    return depth > MAX_DEPTH


def _syntax_error(reason: str, content: bytes, file: str) -> RecipeError:
    match = _PLACE.search(reason)
    reason = _PLACE.sub("", reason) if match else "a number has too many digits"
    line, column = (
        (int(match["line"]), int(match["column"])) if match and match["line"] else _end(content.rstrip(b"\r\n"))
    )
    position = Position(file, line, column)
    if content.startswith(b"\xef\xbb\xbf"):
        return RecipeError(
            "not valid TOML: the file begins with a byte order mark", rule="toml-syntax",
            position=Position(file, 1, 1), hint="save it as UTF-8 without a byte order mark",
        )  # fmt: skip
    if reason.startswith(_TWICE):
        key = _find_key(_parse(content), line - 1)
        name = _text(key) if key else "a key"
        return RecipeError(
            f"not valid TOML: {name} is defined a second time", rule="toml-syntax",
            position=_place(key, content, file) if key else position,
            hint="TOML takes each key and each table once: move what is here to where it stands first",
        )  # fmt: skip
    return RecipeError(f"not valid TOML: {reason[:1].lower()}{reason[1:]}", rule="toml-syntax", position=position,
                       hint=_HINT)  # fmt: skip


def _end(content: bytes) -> tuple[int, int]:
    """The place behind the last sign of `content`."""
    lines = content.decode("utf-8").split("\n")
    return len(lines), len(lines[-1]) + 1


@cache
def _language() -> Language:
    return Language(tree_sitter_toml.language())


def _parse(content: bytes) -> Node:
    return Parser(_language()).parse(content).root_node


def _find_key(root: Node, row: int) -> Node | None:
    """The key of the statement in that line: of a pair, or of a table's header."""
    for node in root.named_children:
        if not node.start_point.row <= row <= node.end_point.row:
            continue
        key = _key_of(node)
        if key is not None and (node.type == "pair" or (node.type in _TABLES and key.start_point.row == row)):
            return key
        if node.type in _TABLES and (inner := _find_key(node, row)) is not None:
            return inner
    return None


def _key_of(node: Node) -> Node | None:
    return next((child for child in node.named_children if child.type in _KEYS), None)


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _place(node: Node, content: bytes, file: str) -> Position:
    row, column = node.start_point
    before = content[node.start_byte - column : node.start_byte]
    return Position(file, row + 1, len(before.decode("utf-8", "replace")) + 1)


class _Places:
    """Fills a tree's places from the nodes of its document."""

    def __init__(self, tree: TomlTree, content: bytes) -> None:
        self._tree = tree
        self._content = content
        self._lengths: dict[Path, int] = {}
        """How many tables each array of tables has so far."""

    def read(self, root: Node) -> None:
        self._tree.positions[()] = Position(self._tree.file, 1, 1)
        for node in root.named_children:
            if node.type == "pair":
                self._pair(node, ())
            elif node.type in _TABLES:
                table = self._header(node)
                for child in node.named_children:
                    if child.type == "pair":
                        self._pair(child, table)

    def _header(self, node: Node) -> Path:
        key = _key_of(node)
        path = self._walk(key, ())
        if node.type == "table" or key is None:
            return path
        number = self._lengths.get(path, 0)
        self._lengths[path] = number + 1
        path = (*path, number)
        self._mark(path, key)
        return path

    def _walk(self, key: Node | None, path: Path) -> Path:
        """The path of a key in the table at `path`, with the last table of each array of tables on the way."""
        for name, node in _parts(key):
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
            path = (*path, name)
            self._mark(path, node)
        return path

    def _mark(self, path: Path, node: Node) -> None:
        position = _place(node, self._content, self._tree.file)
        self._tree.keys.setdefault(path, position)
        self._tree.positions.setdefault(path, position)

    def _pair(self, node: Node, table: Path) -> None:
        key = _key_of(node)
        path = self._walk(key, table)
        values = [child for child in node.named_children if child != key and child.type != "comment"]
        if values:
            self._value(values[-1], path)

    def _value(self, node: Node, path: Path) -> None:
        self._tree.positions[path] = _place(node, self._content, self._tree.file)
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(child, path)
        elif node.type == "array":
            items = [child for child in node.named_children if child.type != "comment"]
            for number, child in enumerate(items):
                self._value(child, (*path, number))


def _parts(key: Node | None) -> Iterator[tuple[str, Node]]:
    """The parts of a key, first to last, without quotes and escapes."""
    nodes = []
    while key is not None and key.type == "dotted_key":
        inner = [child for child in key.named_children if child.type in _KEYS]
        nodes += inner[:0:-1]
        key = inner[0] if inner else None
    for node in [*([key] if key is not None else []), *reversed(nodes)]:
        yield _name(node), node


def _name(node: Node) -> str:
    text = _text(node)
    if node.type == "bare_key":
        return text
    try:
        return next(iter(tomllib.loads(f"{text} = 0")))
    except (ValueError, StopIteration):
        return text
