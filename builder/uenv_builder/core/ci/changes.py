"""Which targets a pipeline has to work on, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Reason = Literal["new", "plan", "checks", "missing"]
REASONS: dict[Reason, str] = {
    "new": "is new, or had no lock that fits",
    "plan": "its plan changed",
    "checks": "its checks changed, its image did not",
    "missing": "the registry does not have its plan",
}
"""In words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A target's plan and checks now, and where recipes are compared, those before (None: there was none)."""

    plan: str
    checks: str
    before: tuple[str, str] | None = None
    compared: bool = False


def find_reason(seen: Seen, has_plan: Callable[[], bool] | None) -> Reason | None:
    """Why the target is to be built or tested, None where it is not: it did not change, or its image is there already.

    `has_plan` asks the registry whether it has the plan, and is only asked where that decides; None: nobody knows. What
    has changed but for its checks, and is there, was built from another branch before.
    """
    reason = _change(seen)
    if reason is None or reason == "checks" or has_plan is None:
        return reason
    if has_plan():
        return None
    return "missing" if not seen.compared else reason


def _change(seen: Seen) -> Reason | None:
    if not seen.compared or seen.before is None:
        return "new"
    plan, checks = seen.before
    if plan != seen.plan:
        return "plan"
    return "checks" if checks != seen.checks else None
