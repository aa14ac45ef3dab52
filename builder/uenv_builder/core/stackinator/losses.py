"""What an imported recipe does not carry over, and what it says in another way."""

from __future__ import annotations

from dataclasses import dataclass, field

from uenv_builder.model.errors import Diagnostic, Position


@dataclass(slots=True)
class Findings:
    """What was found on the way: a `loss` changes what is built or selected, a `note` does not."""

    found: list[Diagnostic] = field(default_factory=list)

    def loss(self, message: str, *, at: Position | None = None, hint: str | None = None) -> None:
        """Something of the recipe that the imported one does not have."""
        self.found.append(
            Diagnostic(rule="import-lost", message=message, severity="warning", position=at, hint=hint)
        )  # fmt: skip

    def note(self, message: str, *, at: Position | None = None, hint: str | None = None) -> None:
        """Something that is said otherwise there, to the same end."""
        self.found.append(Diagnostic(rule="import-changed", message=message, severity="note", position=at, hint=hint))

    @property
    def losses(self) -> tuple[Diagnostic, ...]:
        """Those that change the result."""
        return tuple(finding for finding in self.found if finding.severity != "note")
