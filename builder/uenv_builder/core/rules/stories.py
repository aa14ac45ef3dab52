"""The story of each rule: what it refuses, why, what to do, and who says so; from knowledge/rules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from uenv_builder.model.errors import Severity, UenvError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Text = Annotated[str, Field(min_length=10)]


class Story(BaseModel):
    """A rule as people read about it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    severity: Severity
    """error: it cannot work, or returns wrong results; warning: likely unwanted, and acceptable with a reason; note."""
    title: _Text
    """One line: what is wrong where this rule fires."""
    why: _Text
    """What happens to a job otherwise, and how it shows."""
    remedy: _Text
    """What to change."""
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """Documents, issues or source files, each with version or commit where it has one."""
    compatibility: bool = False
    """Whether an error of this rule means that things cannot work together (exit code 4) or a mistake in a file (3)."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """One file of stories."""

    name: str
    stories: dict[str, Story]


@cache
def load_chapter(name: str) -> Chapter:
    """The stories of knowledge/rules/`name`.yaml by rule id; UenvError where it does not fit: a fault of ours."""
    text = _chapter_file(name).read_bytes()
    try:
        document = json.dumps(yaml.load(text, Loader=_Loader))  # noqa: S506  (a safe loader)
        return Chapter(name, TypeAdapter(dict[str, Story]).validate_json(document))
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise UenvError(f"knowledge/rules/{name}.yaml: {error}", rule="knowledge") from error


def chapter_names() -> list[str]:
    """The files of knowledge/rules, without suffix, sorted."""
    folder = resources.files("uenv_builder.knowledge") / "rules"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def find_story(rule: str) -> Story | None:
    """The story of a rule by its id."""
    for name in chapter_names():
        # Reading a file as YAML takes a hundred times as long as looking whether the id begins a line of it.
        if f"\n{rule}:".encode() in b"\n" + _chapter_file(name).read_bytes():
            return load_chapter(name).stories.get(rule)
    return None


def _chapter_file(name: str) -> Traversable:
    return resources.files("uenv_builder.knowledge") / "rules" / f"{name}.yaml"
