"""Options of Slurm's commands and of torchrun, as getopt reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import Field

from uenv_builder.core.batch.words import UNKNOWN, Word
from uenv_builder.core.facts import Fact, FactFile, load_facts

Kind = Literal["required", "optional", "none"]
"""Whether an option has a value."""


class OptionTable(Fact):
    """The options of one command."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    short: Mapping[str, str] = Field(default_factory=dict)
    """Long names by letter."""


class SlurmOptions(FactFile):
    """knowledge/compat/slurm_options.yaml."""

    sbatch: OptionTable
    srun: OptionTable
    plugins: OptionTable
    """What SPANK plugins add to both."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option as it was given."""

    name: str
    """Its long name without dashes; as written where the command has no such option."""
    text: str
    """As written, without its value."""
    value: str | None
    """May hold UNKNOWN."""
    offset: int
    known: bool = True

    @property
    def constant(self) -> str | None:
        """The value where it is all known."""
        return None if self.value is None or UNKNOWN in self.value else self.value

    @property
    def number(self) -> int | None:
        """The value, or the first number of a range such as 2-4."""
        first = (self.constant or "").split("-")[0]
        return int(first) if first.isascii() and first.isdigit() and len(first) < 9 else None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one command, and what follows them."""

    given: tuple[Option, ...] = ()
    rest: tuple[Word, ...] = ()
    open: bool = False
    """Whether expansions or unknown options may bring further options: nothing can then be called missing."""
    faults: tuple[tuple[int, str], ...] = ()
    """Places where getopt would give up, and why."""

    def get(self, *names: str) -> Option | None:
        """The last option of one of these names: it wins."""
        return next((option for option in reversed(self.given) if option.name in names), None)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a command's options are."""

    kinds: Mapping[str, Kind]
    short: Mapping[str, str]
    underscores: bool = False
    """Whether `_` serves as `-` in names."""
    permute: bool = False
    """Whether options may follow other arguments."""

    def find(self, text: str) -> str | None:
        """The long name that `text` means: itself, or the only one that starts with it."""
        name = text.replace("_", "-") if self.underscores else text
        if name in self.kinds:
            return name
        longer = [known for known in self.kinds if known.startswith(name)]
        return longer[0] if len(longer) == 1 and name else None


@cache
def slurm_grammar(command: Literal["sbatch", "srun"]) -> Grammar:
    """The options of sbatch (in a script's directives) or srun, with those of the plugins."""
    facts = load_facts("slurm_options", SlurmOptions)
    table = facts.sbatch if command == "sbatch" else facts.srun
    kinds: dict[str, Kind] = {}
    for source in (table, facts.plugins):
        kinds |= dict.fromkeys(source.required, "required")
        kinds |= dict.fromkeys(source.optional, "optional")
        kinds |= dict.fromkeys(source.none, "none")
    return Grammar(kinds, table.short, permute=command == "sbatch")


def parse_options(words: Sequence[Word], grammar: Grammar) -> Options:
    """The options that `words` (without the command's name) begin with, and the words after them."""
    reader = _Reader(tuple(words), grammar)
    reader.run()
    return Options(tuple(reader.given), tuple(reader.rest), reader.open, tuple(reader.faults))


class _Reader:
    """One pass over the words of a command."""

    def __init__(self, words: tuple[Word, ...], grammar: Grammar) -> None:
        self.words, self.grammar, self.next = words, grammar, 0
        self.given: list[Option] = []
        self.rest: list[Word] = []
        self.faults: list[tuple[int, str]] = []
        self.open = False

    def run(self) -> None:
        while self.next < len(self.words):
            word = self.words[self.next]
            self.next += 1
            if word.text == "--":
                self.rest += self.words[self.next :]
                return
            if word.text.startswith("--"):
                self._long(word)
            elif word.text.startswith("-") and word.text != "-":
                self._short(word)
            elif word.splits and word.text.startswith(UNKNOWN) and not self._is_program(word):
                self.open = True
            else:
                self.rest.append(word)
                if not self.grammar.permute:
                    self.rest += self.words[self.next :]
                    return

    def _is_program(self, word: Word) -> bool:
        """Whether an expansion is what the command runs: `"$@"` at the end. Anything else may be options."""
        return self.next == len(self.words) and word.raw.startswith('"')

    def _long(self, word: Word) -> None:
        text, equals, value = word.text[2:].partition("=")
        name = self.grammar.find(text)
        if name is None:
            self.open = True
            self.given.append(Option(text, f"--{text}", value if equals else None, word.offset, known=False))
            return
        found: str | None = value if equals else None
        if self.grammar.kinds[name] == "required" and not equals:
            found = self._value(word, f"--{text}")
        elif self.grammar.kinds[name] == "none" and equals:
            self.faults.append((word.offset, f"--{text} takes no value"))
        self.given.append(Option(name, f"--{text}", found, word.offset))

    def _short(self, word: Word) -> None:
        letters = word.text[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            name = self.grammar.short.get(letter)
            kind = self.grammar.kinds.get(name or "", "none")
            if name is None:
                self.open = True
                self.given.append(Option(letter, f"-{letter}", None, word.offset, known=False))
                return
            value: str | None = None
            if kind != "none" and letters:
                value, letters = letters, ""
            elif kind == "required":
                value = self._value(word, f"-{letter}")
            self.given.append(Option(name, f"-{letter}", value, word.offset))

    def _value(self, word: Word, text: str) -> str | None:
        if self.next >= len(self.words):
            self.faults.append((word.offset, f"{text} needs a value"))
            return None
        self.next += 1
        return self.words[self.next - 1].text
