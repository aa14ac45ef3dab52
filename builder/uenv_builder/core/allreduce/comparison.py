"""Bus bandwidth now against that of earlier reports: which sizes got slower."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from uenv_builder.model.report import CheckResult, Report

_BUSBW = re.compile(r"busbw_([0-9]+)_bytes_GBps")
_SAME = ("nodes", "ranks", "gpu")
"""What has to be the same for figures to be comparable."""
CHECK = "busbw-compare"
DEFAULT_TOLERANCE = 10.0
"""Percent that a bandwidth may lie below that of earlier reports: what the published references allow, too."""


def busbw_name(size: int) -> str:
    """The name under which a check's `measured` has the bus bandwidth at `size` bytes."""
    return f"busbw_{size}_bytes_GBps"


def busbw_of(result: CheckResult) -> dict[int, float]:
    """The bus bandwidths of a result in GB/s by size in bytes."""
    matches = ((match, value) for name, value in result.measured.items() if (match := _BUSBW.fullmatch(name)))
    return {int(match[1]): float(value) for match, value in matches}


def compare_busbw(new: Sequence[CheckResult], old: Iterable[Report], tolerance: float) -> CheckResult:
    """Failed where a size is slower than the median of the earlier reports by more than `tolerance` (a part of 1).

    Results are compared with those that passed, of the same check, nodes, ranks and GPU; skipped where there are none.
    Sizes that only one side has are counted, and not judged.
    """
    earlier = [result for report in old for result in report.results]
    slower: list[str] = []
    compared = missing = fresh = 0
    largest = 0.0
    for result in new:
        history, mine = _history(result, earlier), busbw_of(result)
        missing += len(history.keys() - mine.keys())
        fresh += len(mine.keys() - history.keys())
        for size in sorted(history.keys() & mine.keys()):
            usual, now = median(history[size]), mine[size]
            compared += 1
            largest = max(largest, 1 - now / usual)
            if now < usual * (1 - tolerance):
                slower.append(f"{result.check}, {size} bytes: {now:g} GB/s, {usual:g} before ({now / usual - 1:+.0%})")
    if not compared:
        reason = "no earlier report has a check that passed with the same nodes, ranks, GPU and sizes"
        return CheckResult(check=CHECK, outcome="skipped", reason=reason)
    return CheckResult(
        check=CHECK,
        outcome="failed" if slower else "passed",
        reason=f"{len(slower)} of {compared} sizes got slower, the first: {slower[0]}" if slower else "",
        measured={
            "sizes_compared": compared, "sizes_only_before": missing, "sizes_only_now": fresh,
            "largest_loss_percent": round(100 * largest, 1),
        },
        details=tuple(slower),
    )  # fmt: skip


def _history(result: CheckResult, earlier: Iterable[CheckResult]) -> Mapping[int, list[float]]:
    """What earlier runs alike, which passed, had by size."""
    found: dict[int, list[float]] = {}
    for other in earlier:
        alike = other.check == result.check and all(other.measured.get(k) == result.measured.get(k) for k in _SAME)
        for size, value in busbw_of(other).items() if alike and other.outcome == "passed" else ():
            if value > 0:
                found.setdefault(size, []).append(value)
    return found
