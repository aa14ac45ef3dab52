"""Errors with a place, a reason and a remedy, and the exit code that each kind ends the process with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

Severity = Literal["error", "warning", "note"]

_LINE_END = re.compile(r"(\n(?= {4}))")
"""Further lines of a message are indented by four blanks."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a text file: path as the user named it, line and column counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding about the input: what is wrong, where, and what to do about it.

    `rule` is the stable id that is printed in brackets, `source` the document that the rule relies on.
    """

    rule: str
    message: str
    severity: Severity = "error"
    position: Position | None = None
    hint: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        place = f"{self.position}: " if self.position else ""
        text = f"{place}{self.severity}[{self.rule}]: {self.message}"
        remedy = self.hint or ""
        if self.source:
            remedy = f"{remedy} (source: {self.source})".strip()
        return f"{_visible(text)}\n  hint: {_visible(remedy)}" if remedy else _visible(text)


def _visible(text: str) -> str:
    """`text` with control characters spelled out: it quotes input, and goes to terminals and logs."""
    lines = _LINE_END.split(text)
    return "".join(line if line == "\n" else _spell_out(line) for line in lines)


def _spell_out(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in line)


class UenvError(Exception):
    """The root of all errors that the builder raises on purpose; carries one or more diagnostics."""

    exit_code: ClassVar[int] = 1
    rule: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        rule: str | None = None,
        hint: str | None = None,
        position: Position | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message)
        self.diagnostics: tuple[Diagnostic, ...] = (
            Diagnostic(rule=rule or self.rule, message=message, hint=hint, position=position, source=source),
        )

    @classmethod
    def collect(cls, diagnostics: Iterable[Diagnostic]) -> UenvError:
        """One error that carries all `diagnostics` (at least one), so that a user sees them together."""
        found = tuple(diagnostics)
        error = cls(found[0].message)
        error.diagnostics = found
        return error

    def __str__(self) -> str:
        return "\n".join(str(diagnostic) for diagnostic in self.diagnostics)


class UsageError(UenvError):
    """The command line asks for something that makes no sense."""

    exit_code = 2
    rule = "usage"


class RecipeError(UenvError):
    """The recipe, or a file that it names, is not valid."""

    exit_code = 3
    rule = "recipe"


class IncompatibleError(UenvError):
    """The pins cannot work together, or nothing satisfies them."""

    exit_code = 4
    rule = "unsatisfiable"


class LockError(UenvError):
    """The lock is missing, stale, or does not match what was downloaded or stored."""

    exit_code = 5
    rule = "lock"


class BuildError(UenvError):
    """A build step failed, or this machine lacks what it needs."""

    exit_code = 6
    rule = "build"


class MissingToolError(BuildError):
    """A program that a step runs is not installed on this machine."""

    rule = "missing-tool"


class CheckError(UenvError):
    """A check of the image failed, and the image is at fault."""

    exit_code = 7
    rule = "check-failed"


class InconclusiveError(UenvError):
    """A required check could not run; says nothing about the image."""

    exit_code = 8
    rule = "inconclusive"


class NetworkError(UenvError):
    """A registry, an index or a mirror could not be reached, or refused."""

    exit_code = 9
    rule = "network"
