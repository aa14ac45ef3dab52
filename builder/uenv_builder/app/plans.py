"""What a build would do: which steps' results the store has, and why the others are not among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app import outputs
from uenv_builder.app.preparing import Prepared
from uenv_builder.app.session import Session
from uenv_builder.core.digest import Document
from uenv_builder.core.plan_changes import find_changes, read_plan
from uenv_builder.model.plan import Plan, Step

_UNNEEDED = "not needed: what is made with it is in the store"


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan and its prospects. `missing` are the steps whose results the store does not have, by id, each with the
    reasons, a line each; `running` is how many of them would run; `compared` is the build that the reasons compare
    with, None where there is none.
    """

    label: str
    plan: Plan
    missing: Mapping[str, Sequence[str]]
    running: int
    compared: Path | None

    def document(self) -> Document:
        """For --json."""
        return {
            "id": self.plan.id,
            "label": self.label,
            "compared_with": str(self.compared) if self.compared else None,
            "steps": [self._step(step) for step in self.plan.steps],
        }

    def _step(self, step: Step) -> Document:
        reasons = self.missing.get(step.id)
        return {
            "name": step.name, "kind": step.kind, "id": step.id, "inputs": step.inputs,
            "stored": reasons is None, "why": list(reasons or ()),
        }  # fmt: skip


def look_ahead(session: Session, prepared: Prepared, folder: Path) -> Outlook:
    """What building `prepared` would run, compared with the build that lies at `folder`, if one does."""
    before = _plan_of(folder)
    plan = prepared.plan
    absent = [step for step in plan.steps if session.store.step_folder(step.id) is None]
    needed = {step.id for step in plan.needed({step.id for step in absent})}
    missing = {step.id: _reasons(step, plan, before) if step.id in needed else [_UNNEEDED] for step in absent}
    running = sum(step.id in needed for step in absent)
    return Outlook(str(prepared.selection.label), plan, missing, running, folder if before else None)


def _reasons(step: Step, plan: Plan, before: Plan | None) -> list[str]:
    if before is None:
        return ["not in the store"]
    return find_changes(step, plan, before) or ["no longer in the store"]


def _plan_of(folder: Path) -> Plan | None:
    """The plan of the build at `folder`; None where there is no build, or one of an earlier version of the builder."""
    try:
        return read_plan((folder / outputs.PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
