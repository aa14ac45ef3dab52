"""The parameters of checks as recipes give them: what is allowed, read with their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from uenv_builder.checks.interface import WantedCheck
from uenv_builder.model.errors import RecipeError

Texts: TypeAlias = tuple[str, ...]


def read_texts(check: WantedCheck, name: str) -> Texts:
    """A list of strings, empty where the recipe has none."""
    value = check.parameters.get(name, ())
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _wrong(check, name, "a list of strings")


def read_numbers(check: WantedCheck, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """A list of one or more positive integers."""
    value = check.parameters.get(name, default)
    if isinstance(value, list | tuple) and value and all(_is_positive(item) for item in value):
        return tuple(int(item) for item in value)
    raise _wrong(check, name, "a list of positive integers")


def read_seconds(check: WantedCheck, default: int) -> int:
    """The parameter `timeout`: a positive integer."""
    value = check.parameters.get("timeout", default)
    if _is_positive(value):
        return int(str(value))
    raise _wrong(check, "timeout", "a positive number of seconds")


def read_reasons(check: WantedCheck, name: str) -> dict[str, str]:
    """A mapping of strings to strings, empty where the recipe has none."""
    value = check.parameters.get(name, {})
    if isinstance(value, Mapping) and all(isinstance(word, str) for pair in value.items() for word in pair):
        return dict(value)
    raise _wrong(check, name, "a mapping of names to reasons")


def _is_positive(value: object) -> bool:
    """Whether `value` is a positive integer, or the text of one: readers of recipes keep scalars as written."""
    return (isinstance(value, int) and value > 0) or (isinstance(value, str) and value.isdecimal() and int(value) > 0)


def _wrong(check: WantedCheck, name: str, expected: str) -> RecipeError:
    return RecipeError(f'check "{check.name}": "{name}" must be {expected}', rule="check-parameter")
