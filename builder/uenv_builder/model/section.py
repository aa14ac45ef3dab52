"""What all sections of a recipe are made of: the strict base class, and the kinds of text in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=120)]
"""What a label's parts may hold: the grammar of the site's uenv command."""
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f]*$", max_length=4000)]


class Section(BaseModel):
    """A mapping of known keys; an unknown one is an error, and nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class View(Section):
    """A named set of changes to the environment, as users of a uenv select it."""

    description: str = ""
    """One line for whoever chooses."""
    set: dict[str, str] = {}
    """Variables and their values."""
    prepend: dict[str, list[str]] = {}
    """Folders to put before what a search path holds, by variable."""
    append: dict[str, list[str]] = {}
    """Folders to put after it."""
    unset: list[str] = []
    """Variables to remove."""
