"""What is known of messages in jobs' logs: knowledge/compat/failures.yaml, checked and ready to search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from uenv_builder.core.facts import Fact, FactFile, load_facts

EVERY_ERROR = "*"
"""In `follows`: every error of more weight explains the entry."""
Component = Literal[
    "nccl", "nccl-tests", "aws-ofi-nccl", "libfabric", "cuda", "pytorch", "python", "mpi",
    "pyxis", "enroot", "container-engine", "sarus", "slurm", "uenv", "system",
]  # fmt: skip
FactName = Literal["nccl", "aws_ofi_nccl", "libfabric", "cuda_driver", "network", "provider", "nodes"]
LogSeverity = Literal["error", "warning", "note", "good"]
_Text = Annotated[str, Field(min_length=5)]
_Literals = Annotated[str, Field(min_length=5)] | tuple[Annotated[str, Field(min_length=5)], ...]
_PLACEHOLDER = re.compile(r"(?<!\$)\{([a-z]+)\}")
_NOT_SAID = "not named"


class SearchedLine(BaseModel):
    """What a line is recognised by: first a literal, then a pattern."""

    literal: _Literals = ()
    pattern: str | None = None

    @cached_property
    def literals(self) -> tuple[str, ...]:
        """Texts of which each matching line holds at least one."""
        return (self.literal,) if isinstance(self.literal, str) else self.literal

    @cached_property
    def regex(self) -> re.Pattern[str] | None:
        """The pattern, compiled; None for what is concluded from several lines."""
        return re.compile(self.pattern) if self.pattern is not None else None

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if (self.regex is None) != (not self.literals):
            raise ValueError("a pattern needs a literal, and a literal a pattern")
        return self


class Failure(SearchedLine, Fact):
    """A message that jobs print, what causes it, and what to do about it."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    component: Component
    severity: LogSeverity
    weight: Annotated[int, Field(ge=0, le=100)] = 50
    """How likely this is a root cause, among findings that do not explain each other."""
    follows: tuple[str, ...] = ()
    """Ids of failures that explain this one."""
    vague: bool = False
    """Whether the message does not name a cause of its own."""
    cause: _Text
    remedy: _Text
    rule: str | None = None
    """The rule of `uenv check` that finds the same before a job runs."""
    example: str | None = None
    """A line that the pattern matches."""


class LogFact(SearchedLine):
    """A line that tells a version or a choice: `value` of the pattern."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    fact: FactName


class FailureFile(FactFile):
    """The whole of failures.yaml."""

    facts: tuple[LogFact, ...]
    failures: tuple[Failure, ...]

    @cached_property
    def by_id(self) -> dict[str, Failure]:
        """Failures by their ids."""
        return {failure.id: failure for failure in self.failures}

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if len(self.by_id) != len(self.failures):
            raise ValueError("an id is used twice")
        for failure in self.failures:
            if unknown := set(failure.follows) - {*self.by_id, EVERY_ERROR}:
                raise ValueError(f"{failure.id} follows unknown {sorted(unknown)}")
            if failure.regex is not None and (unknown := placeholders(failure) - set(failure.regex.groupindex)):
                raise ValueError(f"{failure.id} has no groups for {sorted(unknown)}")
        return self


def load_failures() -> FailureFile:
    """The known failures, from the package."""
    found: FailureFile = load_facts("failures", FailureFile)
    return found


def placeholders(failure: Failure) -> set[str]:
    """The names that cause and remedy want filled in."""
    return set(_PLACEHOLDER.findall(failure.cause + failure.remedy))


def fill_in(text: str, groups: Mapping[str, str | None]) -> str:
    """`text` with {name} replaced by the group's value; `${NAME}` of a shell stays."""
    return _PLACEHOLDER.sub(lambda match: _value(match[1], groups), text)


def _value(name: str, groups: Mapping[str, str | None]) -> str:
    value = printable(groups.get(name) or "").strip()
    if name == "cuda" and value.isdecimal():
        return cuda_version(value)
    return value or _NOT_SAID


def cuda_version(number: str) -> str:
    """13010, as CUDA counts, as 13.1."""
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}"


def printable(text: str) -> str:
    """`text` with U+FFFD for what a terminal would act on."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
