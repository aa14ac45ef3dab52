"""From what the processes that drove an NCCL plugin found to a verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from uenv_builder.checks.programs import Answer
from uenv_builder.core.digest import Json
from uenv_builder.model.report import CheckResult

_PROVIDER = re.compile(r"selected provider is ([^,\s]+)", re.IGNORECASE)
_LOG_LINES = 12


def judge_exchanges(check: str, interface: str, runs: Sequence[tuple[int, Answer]]) -> CheckResult:
    """One result for runs with different numbers of ranks; a rank that compared nothing is a failure."""
    problems: list[str] = []
    details: list[str] = []
    measured: dict[str, float | int | str] = {"interface": interface}
    for ranks, answer in runs:
        if answer.document is None:
            problems.append(f"{ranks} processes: {answer.reason}")
            details += answer.details
            continue
        found = _findings(answer.document)
        troubles = _describe(ranks, answer.document, found)
        problems += troubles
        details += _last_warnings(answer.log) if troubles else []
        measured |= _measure(ranks, answer.log, found)
    provider = measured.get("provider", "an unknown provider")
    scope = f"plugin and libfabric tested over {provider} on host memory, not NCCL over CXI"
    reason = f"{len(problems)} problems, the first: {problems[0]}" if problems else ""
    return CheckResult(
        check=check,
        outcome="failed" if problems or not runs else "passed",
        reason=reason if runs else "nothing was run",
        measured=measured,
        details=(*problems, *details, scope),
    )


def _describe(ranks: int, document: Mapping[str, Json], found: Sequence[Mapping[str, Json]]) -> list[str]:
    problems = []
    if document.get("failure") is not None:
        problems.append(f"{ranks} processes: rank {document.get('failed_rank')}: {document['failure']}")
    elif len(found) != ranks:
        problems.append(f"{ranks} processes: only {len(found)} answered")
    for rank, item in enumerate(found):
        examples = item.get("examples")
        if _number(item, "wrong"):
            shown = "; ".join(str(text) for text in examples) if isinstance(examples, list) else ""
            problems.append(f"{ranks} processes: rank {rank} got {_number(item, 'wrong')} wrong: {shown}")
        if not _number(item, "bytes_compared") or not _number(item, "elements_compared"):
            problems.append(f"{ranks} processes: rank {rank} compared nothing")
    return problems


def _measure(ranks: int, log: str, found: Sequence[Mapping[str, Json]]) -> dict[str, float | int | str]:
    measured: dict[str, float | int | str] = {}
    if found:
        measured["network"] = str(found[0].get("name"))
        measured["device"] = str(found[0].get("device"))
    if provider := _PROVIDER.search(log):
        measured["provider"] = provider[1]
    measured[f"messages_{ranks}_ranks"] = sum(_number(item, "messages") for item in found)
    measured[f"bytes_compared_{ranks}_ranks"] = sum(_number(item, "bytes_compared") for item in found)
    measured[f"elements_compared_{ranks}_ranks"] = sum(_number(item, "elements_compared") for item in found)
    rates = [_number(item, "bytes_per_second") for item in found]
    if rates:
        measured[f"slowest_rank_of_{ranks}_MBps"] = round(min(rates) / 1e6, 1)
    return measured


def _last_warnings(log: str) -> list[str]:
    """What the plugin warned of, without the lines of its normal start."""
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("plugin says:")]
    return lines[-_LOG_LINES:]


def _findings(document: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    found = document.get("findings")
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _number(item: Mapping[str, Json], name: str) -> int:
    return int(str(item.get(name, 0)))
