"""Words of a shell script as the shell would pass them on, each character with its place in the file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tree_sitter import Node

from uenv_builder.model.errors import Position

UNKNOWN = "\ue000"
"""Stands for a part of a word that only the running shell knows. A private-use character: the parser takes it for part
of a word, so that texts with it can be parsed again."""

_SPLITTING = {"simple_expansion", "expansion", "command_substitution"}
_LITERAL = {"word", "number", "command_name", "variable_name", "file_descriptor"}
_ANSI = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "v": "\v"}


@dataclass(frozen=True)
class Source:
    """A file that positions are counted in; `content` is valid UTF-8."""

    file: str
    content: bytes

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(offset + 1 for offset, byte in enumerate(self.content) if byte == 0x0A)]

    def line(self, offset: int) -> int:
        """The line of a byte, counted from 1."""
        return bisect_right(self._starts, offset)

    def position(self, offset: int) -> Position:
        """The place of a byte; its column is counted in characters."""
        line = self.line(offset)
        before = self.content[self._starts[line - 1] : offset]
        return Position(self.file, line, len(before.decode("utf-8", "replace")) + 1)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command: quotes removed, each expansion in it as one UNKNOWN."""

    text: str
    offsets: tuple[int, ...]
    """For each character of `text` the byte of the file that it comes from."""
    offset: int
    """Where the word starts in the file, with its quotes."""
    raw: str
    """The word as it is written."""
    splits: bool = False
    """Whether it may turn into several words, or none."""

    @property
    def constant(self) -> bool:
        """Whether the text is all there is to it."""
        return UNKNOWN not in self.text

    def place(self, index: int) -> int:
        """The file's byte of the character `index`; the word's own start where there is none."""
        return self.offsets[index] if index < len(self.offsets) else self.offset


@dataclass
class _Letters:
    """A word in the making."""

    places: list[int]
    """The file's byte for each byte that is parsed."""
    text: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    splits: bool = False

    def add(self, text: str, start: int) -> None:
        """Take `text` as it is, from byte `start` on."""
        for character in text:
            self.text.append(character)
            self.offsets.append(self.places[start])
            start += len(character.encode())

    def add_unknown(self, start: int) -> None:
        """Take an expansion at byte `start`."""
        self.add(UNKNOWN, start)

    def add_escaped(self, text: str, start: int, escapable: str | None) -> None:
        """Take `text` with its backslashes removed; `escapable` are the characters that lose theirs, None for all."""
        index = 0
        while index < len(text):
            character, width = text[index], len(text[index].encode())
            following = text[index + 1 : index + 2]
            if character == "\\" and following and (escapable is None or following in escapable or following == "\n"):
                if following != "\n":
                    self.add(following, start + 1)
                index, start = index + 2, start + 1 + len(following.encode())
            else:
                self.add(character, start)
                index, start = index + 1, start + width


def read_word(nodes: Sequence[Node], content: bytes, places: list[int]) -> Word:
    """The word that `nodes` of the tree of `content` are together; `places` has the file's byte for each byte of it."""
    letters, start = _Letters(places), nodes[0].start_byte
    for node in nodes:
        _take(node, content, letters, first=node.start_byte == start)
    raw = content[start : nodes[-1].end_byte].decode("utf-8", "replace")
    return Word("".join(letters.text), tuple(letters.offsets), places[start], raw, letters.splits)


def _take(node: Node, content: bytes, letters: _Letters, *, first: bool) -> None:
    text, start = _text(node, content), node.start_byte
    if node.type == "raw_string":
        letters.add(text[1:-1], start + 1)
    elif node.type == "string":
        _take_string(node, content, letters)
    elif node.type == "translated_string":
        for child in node.named_children:
            _take(child, content, letters, first=False)
    elif node.type == "ansi_c_string":
        _take_ansi(text, start, letters)
    elif node.type in {"concatenation", "variable_assignment"} or (node.type == "command_name" and node.children):
        for child in node.children:
            _take(child, content, letters, first=first and child.start_byte == start)
    elif (node.type in _LITERAL or not node.is_named) and node.child_count == 0:
        if first and text.startswith("~"):
            letters.add_unknown(start)
        else:
            letters.add_escaped(text, start, None)
    else:
        letters.add_unknown(start)
        letters.splits = letters.splits or node.type in _SPLITTING or node.type == "brace_expression"


def _take_string(node: Node, content: bytes, letters: _Letters) -> None:
    """Take what stands between double quotes: the grammar has no nodes for blanks there."""
    end = node.end_byte - (1 if content[node.end_byte - 1 : node.end_byte] == b'"' else 0)
    start = node.start_byte + 1
    for child in node.named_children:
        if child.type == "string_content":
            continue
        _take_quoted(content, start, child.start_byte, letters)
        letters.add_unknown(child.start_byte)
        text = _text(child, content)
        letters.splits = letters.splits or text == "$@" or "@" in text.partition("[")[2][:1] or text == "${@}"
        start = child.end_byte
    _take_quoted(content, start, end, letters)


def _take_quoted(content: bytes, start: int, end: int, letters: _Letters) -> None:
    letters.add_escaped(content[start:end].decode("utf-8", "replace"), start, '"\\$`')


def _take_ansi(text: str, start: int, letters: _Letters) -> None:
    body, index, start = text[2:-1], 0, start + 2
    while index < len(body):
        escaped = body[index] == "\\" and index + 1 < len(body)
        character = body[index + 1] if escaped else body[index]
        if escaped and character in "xuUc01234567":
            letters.add_unknown(start)
        else:
            letters.add(_ANSI.get(character, character) if escaped else character, start)
        start += len(body[index].encode()) + (len(character.encode()) if escaped else 0)
        index += 2 if escaped else 1


def _text(node: Node, content: bytes) -> str:
    return content[node.start_byte : node.end_byte].decode("utf-8", "replace")
