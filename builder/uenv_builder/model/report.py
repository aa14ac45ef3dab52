"""The verdict on one image, bound to its digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["passed", "failed", "skipped", "inconclusive"]
Level = Literal["sockets", "gloo", "gpu", "fabric"]
"""Of the all-reduce: with Python's sockets alone, with torch but without NCCL, on one node, and between nodes."""
HOST_LEVELS: tuple[Level, ...] = ("sockets", "gloo")
"""Those that need no GPU, and prove nothing of NCCL and its network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check's verdict. `reason` is required unless it passed; `seconds` is wall time; `measured` has figures
    by name with their unit in the name, such as busbw_GBps.
    """

    check: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    required: bool = True
    measured: dict[str, float | int | str] = field(default_factory=dict)
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All verdicts on the image whose squashfs has the sha256 `image`, made on a machine of `ran_on` (uname -m),
    with `emulated` true where the target's code ran under qemu-user.
    """

    image: str
    label: str
    plan: str
    ran_on: str
    emulated: bool
    started: str
    results: tuple[CheckResult, ...]
    level: str = "image"
    """What was tested: the image by itself, or the all-reduce of `uenv test --level`."""

    @property
    def outcome(self) -> Outcome:
        """failed if any check failed; inconclusive if a required one did not come to a verdict; passed otherwise.

        A required check that was skipped makes the report inconclusive: what did not run did not pass.
        """
        if any(result.outcome == "failed" for result in self.results):
            return "failed"
        required = [result for result in self.results if result.required]
        if not required or any(result.outcome != "passed" for result in required):
            return "inconclusive"
        return "passed"
