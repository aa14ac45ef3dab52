"""Facts about versions that work together, read from knowledge/compat: each file names its source and when it was read.

A file is read only when a rule asks for it, so that a check pays for no more than it needs.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from uenv_builder.model.errors import UenvError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_File = TypeVar("_File", bound="FactFile")


class Fact(BaseModel):
    """One fact; `source` only where it is another one than its file's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    source: str | None = None


class FactFile(BaseModel):
    """A file of facts of one kind, with the source of all that name none of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    source: Annotated[str, Field(min_length=5)]
    read: Annotated[str, Field(pattern=r"^20[0-9]{2}-[01][0-9]-[0-3][0-9]$")]
    """The day on which the source was read, ISO 8601."""


@cache
def load_facts(name: str, model: type[_File]) -> _File:
    """The facts of knowledge/compat/`name`.yaml as `model`; UenvError where it does not fit (our fault)."""
    text = (resources.files("uenv_builder.knowledge") / "compat" / f"{name}.yaml").read_bytes()
    try:
        return model.model_validate_json(json.dumps(yaml.load(text, Loader=_Loader)))  # noqa: S506  (a safe loader)
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise UenvError(f"knowledge/compat/{name}.yaml: {error}", rule="knowledge") from error
