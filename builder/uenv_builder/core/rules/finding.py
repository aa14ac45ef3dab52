"""What a rule answers with."""

from __future__ import annotations

from dataclasses import dataclass

from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.errors import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One verdict of a rule; what is not given here comes from the rule's story in knowledge/rules."""

    message: str
    """What is wrong, with the values that are, in one sentence."""
    at: Path = ()
    """The path of the value in the recipe's tree, such as ("pins", "cuda"); ("env", NAME) for a variable."""
    hint: str | None = None
    """What to write instead; the rule's own remedy where None."""
    severity: Severity | None = None
    """Where the rule's own does not fit this case."""
    source: str | None = None
    """The source of the fact that decided; the rule's first where None."""


def about_variable(name: str, message: str, *, severity: Severity | None = None, hint: str | None = None) -> Finding:
    """A finding at a variable."""
    return Finding(message=message, at=("env", name), severity=severity, hint=hint)
