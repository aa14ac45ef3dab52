"""The commands and variables of a shell script, in order, with where each stands and under which conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from uenv_builder.core.batch.words import UNKNOWN, Word, read_word

Relation = Literal["certain", "uncertain", "hidden"]
"""Whether what one block sets holds in another."""

_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}
_PLAIN_WRAPPERS = {"exec", "command", "builtin", "time", "nohup", "nice", "stdbuf", "setsid", "timeout", "env", "eval"}
_VALUE_LETTERS = {"nice": "n", "stdbuf": "ioe", "timeout": "ks", "env": "uC", "exec": "a"}
_SUBSHELLS = {"subshell", "command_substitution", "process_substitution", "pipeline"}
_CONDITIONS = {
    "if_statement", "elif_clause", "else_clause", "while_statement", "for_statement", "c_style_for_statement",
    "case_item",
}  # fmt: skip
_NO_ARGUMENT = {
    "file_redirect", "heredoc_redirect", "herestring_redirect", "variable_assignment", "comment",
}  # fmt: skip
_MAX_DEPTH = 4


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a script that may not run, or runs in a shell of its own; each is itself alone."""

    kind: Literal["script", "condition", "function", "subshell"]
    parent: Block | None = None

    def chain(self) -> Iterator[Block]:
        """This block and those around it, from inside out."""
        block: Block | None = self
        while block is not None:
            yield block
            block = block.parent

    def relation(self, reader: Block) -> Relation:
        """Whether what is set in this block holds in block `reader`."""
        around = set(reader.chain())
        relation: Relation = "certain"
        for block in self.chain():
            if block in around:
                break
            if block.kind == "subshell":
                return "hidden"
            relation = "uncertain"
        return relation

    @property
    def function(self) -> Block | None:
        """The function that this is part of."""
        return next((block for block in self.chain() if block.kind == "function"), None)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A variable that is set, exported or taken away."""

    name: str
    value: str | None
    """None where it is not constant, or taken away."""
    raw: str = ""
    """The value as written."""
    kind: Literal["set", "export", "unset"] = "set"
    offset: int
    block: Block


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: its name and words, and the variables that are set for it alone; wrappers such as `exec` are gone."""

    words: tuple[Word, ...]
    assigned: tuple[Setting, ...] = ()
    offset: int
    block: Block

    @property
    def name(self) -> str:
        """The command's name without folders; empty where it is not constant."""
        return self.words[0].text.rsplit("/", 1)[-1] if self.words and self.words[0].constant else ""


@dataclass(frozen=True, slots=True)
class Shell:
    """What a script does."""

    commands: tuple[Command, ...] = ()
    settings: tuple[Setting, ...] = ()
    texts: tuple[tuple[int, int], ...] = ()
    """Start and end of the here-documents."""


@cache
def _language() -> Language:
    return Language(tree_sitter_bash.language())


def read_shell(content: bytes, places: list[int] | None = None, block: Block | None = None, depth: int = 0) -> Shell:
    """What the script `content` (UTF-8) does; `places` gives the file's byte for each of its bytes, and for its end."""
    reader = _Reader(content, list(range(len(content) + 1)) if places is None else places, depth)
    reader.read(Parser(_language()).parse(content).root_node, block or Block("script"))
    by_place = lambda item: item.offset  # noqa: E731
    return Shell(tuple(sorted(reader.commands, key=by_place)), tuple(sorted(reader.settings, key=by_place)),
                 tuple(reader.texts))  # fmt: skip


def read_inner_shell(command: Command, depth: int = 0) -> Shell | None:
    """What the text of `bash -c TEXT` does; None for any other command."""
    word = _shell_text(command)
    if word is None or depth >= _MAX_DEPTH:
        return None
    places: list[int] = []
    for index, character in enumerate(word.text):
        places += [word.place(index)] * len(character.encode())
    places.append(places[-1] if places else word.offset)
    return read_shell(word.text.encode(), places, Block("subshell", command.block), depth + 1)


def unwrap(command: Command) -> Command:
    """The command that runs in the end: without `exec`, `env A=b`, `timeout 10` and such before it."""
    for _ in range(8):
        inner = _unwrap_once(command)
        if inner is command:
            break
        command = inner
    return command


def _unwrap_once(command: Command) -> Command:
    name, words = command.name, command.words[1:]
    if name == "uenv" and len(words) > 1 and words[0].text == "run":
        texts = [word.text for word in words]
        return _from(command, words[texts.index("--") + 1 :]) if "--" in texts else command
    if name not in _PLAIN_WRAPPERS:
        return command
    letters = _VALUE_LETTERS.get(name, "")
    index = 0
    while index < len(words) and words[index].text.startswith("-"):
        text = words[index].text
        index += 2 if len(text) == 2 and text[1] in letters else 1
    if name == "timeout":
        index += 1
    assigned = list(command.assigned)
    while name == "env" and index < len(words) and words[index].text.partition("=")[0].isidentifier():
        key, equals, value = words[index].text.partition("=")
        if not equals:
            break
        known = None if UNKNOWN in value else value
        assigned.append(Setting(name=key, value=known, kind="export", offset=words[index].offset, block=command.block))
        index += 1
    return _from(command, words[index:], assigned)


def _from(command: Command, words: Sequence[Word], assigned: Sequence[Setting] | None = None) -> Command:
    if not words:
        return command
    given = command.assigned if assigned is None else tuple(assigned)
    return replace(command, words=tuple(words), assigned=given, offset=words[0].offset)


def _shell_text(command: Command) -> Word | None:
    if command.name not in _SHELLS:
        return None
    for index, word in enumerate(command.words[1:], 2):
        if not word.text.startswith("-"):
            return None
        if not word.text.startswith("--") and "c" in word.text:
            return command.words[index] if index < len(command.words) else None
    return None


class _Reader:
    """One pass over a tree."""

    def __init__(self, content: bytes, places: list[int], depth: int) -> None:
        self.content, self.places, self.depth = content, places, depth
        self.commands: list[Command] = []
        self.settings: list[Setting] = []
        self.texts: list[tuple[int, int]] = []
        self.export_all = False

    def read(self, root: Node, block: Block) -> None:
        """Collect all below `root`, in the order of the text: no recursion, as scripts may nest without end."""
        stack = [(root, block)]
        while stack:
            node, around = stack.pop()
            self._take(node, around)
            stack += reversed([(child, inner) for child, inner in _inside(node, around)])

    def _take(self, node: Node, block: Block) -> None:
        if node.type == "command":
            self._take_command(node, block)
        elif node.type in {"declaration_command", "unset_command"}:
            self._take_declaration(node, block)
        elif node.type == "variable_assignment" and (node.parent is None or node.parent.type in _STATEMENTS):
            if self._is_option(node):
                word = self._word(node)
                self.commands.append(Command(words=(word,), offset=word.offset, block=block))
            self.settings += self._assignment(node, block, "export" if self.export_all else "set")
        elif node.type == "heredoc_body":
            self.texts.append((self.places[node.start_byte], self.places[node.end_byte]))
        elif node.type == "for_statement" and (name := node.child_by_field_name("variable")) is not None:
            word = self._word(name)
            self.settings.append(Setting(name=word.text, value=None, offset=word.offset, block=block))

    def _take_command(self, node: Node, block: Block) -> None:
        assigned = [
            setting
            for child in node.children if child.type == "variable_assignment"
            for setting in self._assignment(child, block, "export")
        ]  # fmt: skip
        words = list(self._words(node))
        command = unwrap(Command(words=tuple(words), assigned=tuple(assigned), block=block,
                                 offset=words[0].offset if words else self.places[node.start_byte]))  # fmt: skip
        self.commands.append(command)
        if command.name == "set" and [word.text for word in command.words[1:]] in (["-a"], ["-o", "allexport"]):
            self.export_all = True
        elif command.name in {"read", "mapfile", "readarray", "getopts", "printf"}:
            for word in command.words[1:]:
                if word.text.isidentifier():
                    self.settings.append(Setting(name=word.text, value=None, offset=word.offset, block=block))
        inner = read_inner_shell(command, self.depth)
        if inner is not None:
            self.commands += inner.commands
            self.settings += inner.settings

    def _take_declaration(self, node: Node, block: Block) -> None:
        keyword = self.content[node.children[0].start_byte : node.children[0].end_byte] if node.children else b""
        flags = "".join(word.text for word in map(self._word, node.children[1:]) if word.text[:1] in "-+")
        kind: Literal["set", "export", "unset"] = "set"
        if keyword in {b"unset", b"unsetenv"} or (keyword == b"export" and "n" in flags):
            kind = "unset"
        elif keyword == b"export" or "x" in flags.replace("+x", "") or self.export_all:
            kind = "export"
        for child in node.children[1:]:
            if child.type == "variable_assignment":
                self.settings += self._assignment(child, block, "export" if kind == "export" else "set")
            elif child.type in {"variable_name", "word"} and (word := self._word(child)).text.isidentifier():
                self.settings.append(Setting(name=word.text, value=None, raw="", kind=kind, offset=word.offset,
                                             block=block))  # fmt: skip

    def _assignment(self, node: Node, block: Block, kind: Literal["set", "export"]) -> list[Setting]:
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None or name.type != "variable_name":
            return []
        label = self._word(name).text
        if not label.isidentifier():
            return []
        added = any(child.type == "+=" for child in node.children)
        text, raw = "", ""
        if value is not None:
            word = self._word(value)
            text, raw = word.text if value.type != "array" else UNKNOWN, word.raw
        known = None if added or UNKNOWN in text else text
        return [Setting(name=label, value=known, raw=raw, kind=kind, offset=self.places[name.start_byte], block=block)]

    def _word(self, node: Node) -> Word:
        return read_word([node], self.content, self.places)

    def _is_option(self, node: Node) -> bool:
        """Whether an assignment by the grammar is none for a shell: `--mpi=pmix` where a command begins."""
        name = node.child_by_field_name("name")
        return node.type == "variable_assignment" and name is not None and not self._word(name).text.isidentifier()

    def _words(self, node: Node) -> Iterator[Word]:
        """The words of a command: the grammar may have two nodes for one."""
        together: list[Node] = []
        for child in node.children:
            if child.type in _NO_ARGUMENT and not self._is_option(child):
                continue
            if together and together[-1].end_byte != child.start_byte:
                yield read_word(together, self.content, self.places)
                together = []
            together.append(child)
        if together:
            yield read_word(together, self.content, self.places)


_STATEMENTS = {
    "program", "list", "if_statement", "elif_clause", "else_clause", "do_group", "compound_statement", "subshell",
    "case_item", "redirected_statement", "pipeline", "variable_assignments", "ERROR", "command_substitution",
    "while_statement",
}  # fmt: skip


def _inside(node: Node, block: Block) -> Iterator[tuple[Node, Block]]:
    """The children of `node` with the block that each is part of."""
    if node.type in _SUBSHELLS:
        block = Block("subshell", block)
    elif node.type == "function_definition":
        block = Block("function", block)
    elif node.type in _CONDITIONS and node.type not in {"elif_clause", "else_clause"}:
        outer, block = block, Block("condition", block)
        for child in node.children:
            branch = child.type in {"elif_clause", "else_clause"}
            yield child, Block("condition", outer) if branch else block
        return
    elif node.type == "list":
        for index, child in enumerate(node.children):
            yield child, block if index == 0 else Block("condition", block)
        return
    for child in node.children:
        yield child, block
