"""What the rules about batch scripts look at, and what they answer with."""

from __future__ import annotations

from dataclasses import dataclass

from uenv_builder.core.batch.runtime import BatchContext
from uenv_builder.core.batch.script import BatchScript, Step
from uenv_builder.model.errors import Severity


@dataclass(frozen=True, slots=True)
class Job:
    """One batch script, with what is known of where it runs."""

    script: BatchScript
    context: BatchContext

    @property
    def steps(self) -> tuple[Step, ...]:
        """The srun commands."""
        return self.script.steps


@dataclass(frozen=True, slots=True)
class Spot:
    """One verdict; what is not given here comes from the rule's story."""

    offset: int
    """The byte of the file that it is about."""
    message: str
    hint: str | None = None
    severity: Severity | None = None
