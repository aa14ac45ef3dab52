"""What was measured, as one JSON document: kept between runs of single cases, and asked for medians and ratios."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .processes import Cost

FORMAT = 1
Results = dict[str, Any]
"""`machine`, `payload`, and `cases` by name; a case has `sides` with their `runs`, and `values` that are no times."""


class MergeError(Exception):
    """Two documents that do not go together; the message says why."""


def new_results(machine: Mapping[str, Any], payload: Mapping[str, Any]) -> Results:
    """A document without cases."""
    return {"format": FORMAT, "machine": dict(machine), "payload": dict(payload), "cases": {}}


def add_run(case: dict[str, Any], side: str, number: int, steps: Mapping[str, Cost] | Cost) -> None:
    """Keep what one run of a side took, in whole and by its steps."""
    parts = {"": steps} if isinstance(steps, Cost) else steps
    total = sum(parts.values(), Cost(0.0, 0.0))
    entry: dict[str, Any] = {"round": number, "wall": round(total.wall, 4), "cpu": round(total.cpu, 4)}
    if len(parts) > 1:
        entry["steps"] = {name: round(cost.wall, 4) for name, cost in parts.items()}
    case.setdefault("sides", {}).setdefault(side, {"runs": []})["runs"].append(entry)


def runs_of(results: Results, case: str, side: str) -> list[dict[str, Any]]:
    """The runs of a side, in the order of their rounds; none where it was not measured."""
    return list(results["cases"].get(case, {}).get("sides", {}).get(side, {}).get("runs", []))


def median_of(results: Results, case: str, side: str, field: str = "wall") -> float | None:
    """The median of all runs."""
    values = [run[field] for run in runs_of(results, case, side)]
    return statistics.median(values) if values else None


def median_steps(results: Results, case: str, side: str) -> dict[str, float]:
    """The median of each step's seconds."""
    runs = [run["steps"] for run in runs_of(results, case, side) if "steps" in run]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else {}


def ratio_of(results: Results, case: str, over: str, under: str) -> float | None:
    """The median of the ratios of wall times, each of the two runs of one round; None without a round of both."""
    below = {run["round"]: run["wall"] for run in runs_of(results, case, under)}
    ratios = [run["wall"] / below[run["round"]] for run in runs_of(results, case, over) if run["round"] in below]
    return statistics.median(ratios) if ratios else None


def merge(old: Results, new: Results) -> Results:
    """The cases of both, the new ones in place of old ones; raises MergeError unless machine and payload are one."""
    for name in ("format", "machine", "payload"):
        if old.get(name) != new[name]:
            different = _difference(old.get(name), new[name])
            raise MergeError(f"the results that are there are of another {name} ({different})")
    return {**new, "cases": {**old["cases"], **new["cases"]}}


def _difference(old: Any, new: Any) -> str:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return f"{old} there, {new} now"
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name}: {old.get(name)} there, {new.get(name)} now" for name in names)


def load(file: Path) -> Results:
    """The document in a file; raises MergeError where it is of another kind."""
    document = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise MergeError(f"{file} does not hold results of this program")
    return document


def save(results: Results, file: Path) -> None:
    """Write beside and rename, so that an interruption loses nothing."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    beside.replace(file)
