"""From what the ranks of an all-reduce found to a verdict; the same for gloo, NCCL and MPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from uenv_builder.core.digest import Json
from uenv_builder.model.report import CheckResult

_MAX_LINES = 20


def judge_reductions(check: str, runs: Sequence[Mapping[str, Json]]) -> CheckResult:
    """One result for all-reduces over different numbers of ranks.

    A run has `ranks`, `findings` of each rank (`wrong`: lists of type, size, rank, index, got, expected; `compared`),
    and, where known, ranks that were `late`, exit codes of `broken` ones, and figures. A rank without findings, or
    one that compared nothing, is a failure.
    """
    problems: list[str] = []
    notes: list[str] = []
    measured: dict[str, float | int | str] = {}
    for run in runs:
        ranks = int(str(run["ranks"]))
        findings = [item for item in _list(run["findings"]) if isinstance(item, Mapping)]
        problems += _describe_ends(run, ranks, findings)
        problems += [f"{ranks} ranks: {_describe(place)}" for item in findings for place in _list(item.get("wrong"))]
        notes += sorted({note for item in findings for note in _unsupported(ranks, item)})
        measured |= _measure(run, ranks, findings)
    reason = f"{len(problems)} problems, the first: {problems[0]}" if problems else ""
    return CheckResult(
        check=check,
        outcome="failed" if problems or not runs else "passed",
        reason=reason if runs else "no ranks were run",
        measured=measured,
        details=(*problems[:_MAX_LINES], *notes),
    )


def _describe_ends(run: Mapping[str, Json], ranks: int, findings: Sequence[Mapping[str, Json]]) -> list[str]:
    broken = run.get("broken")
    codes = broken if isinstance(broken, Mapping) else {}
    problems = [f"{ranks} ranks: rank {rank} did not end in time" for rank in _list(run.get("late"))]
    problems += [f"{ranks} ranks: rank {rank} ended with {code}" for rank, code in codes.items()]
    if len(findings) != ranks and not problems:
        problems.append(f"{ranks} ranks: only {len(findings)} reported")
    problems += [f"{ranks} ranks: a rank compared nothing" for item in findings if not item.get("compared")]
    return problems


def _describe(place: Json) -> str:
    dtype, size, rank, index, got, expected = _list(place)
    return f"{dtype}, {size} elements: rank {rank} has {got} at {index}, exact is {expected}"


def _unsupported(ranks: int, item: Mapping[str, Json]) -> list[str]:
    found = item.get("unsupported")
    types = found if isinstance(found, Mapping) else {}
    return [f"{ranks} ranks: {dtype} was not reduced: {reason}" for dtype, reason in types.items()]


def _measure(
    run: Mapping[str, Json], ranks: int, findings: Sequence[Mapping[str, Json]]
) -> dict[str, float | int | str]:
    measured: dict[str, float | int | str] = {f"elements_compared_{ranks}_ranks": sum(_integer(i) for i in findings)}
    for name in ("algbw_GBps", "busbw_GBps"):
        # The slowest rank is the one that a job waits for.
        figures = [float(str(source[name])) for source in (run, *findings) if name in source]
        if figures:
            measured[f"{name.split('_')[0]}_{ranks}_ranks_GBps"] = min(figures)
    return measured


def _integer(item: Mapping[str, Json]) -> int:
    return int(str(item.get("compared", 0)))


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list | tuple) else ()
