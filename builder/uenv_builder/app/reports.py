"""Reports of builds: where they lie, what they come to as an exit code, and how people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from uenv_builder.app import outputs
from uenv_builder.core.digest import Document
from uenv_builder.model.report import CheckResult, Report
from uenv_builder.system.report_files import read_report

_DETAIL_LINES = 12
"""Of a failed check's details, on a terminal: some programs end with a page of advice."""
_EXIT_CODES = {"passed": 0, "failed": 7, "inconclusive": 8, "skipped": 8}


def reusable_report(folder: Path) -> Report | None:
    """The report of the build that lies at `folder` now, if it passed; it may be kept for an image that is the same."""
    path = folder / outputs.REPORT
    if not path.is_file():
        return None
    try:
        report = read_report(path)
    except (ValueError, KeyError, TypeError):
        return None
    return report if report.outcome == "passed" else None


def exit_code_of(report: Report) -> int:
    """0 passed, 7 failed, 8 inconclusive."""
    return _EXIT_CODES[report.outcome]


def report_document(report: Report) -> Document:
    """For --json."""
    document: Document = json.loads(json.dumps(asdict(report)))
    return {**document, "outcome": report.outcome}


def summary_lines(report: Report) -> list[str]:
    """One line a check, and the verdict."""
    width = max((len(result.check) for result in report.results), default=0)
    shown = [f"  {result.check:{width}}  {_verdict(result)}" for result in report.results]
    where = f"on {report.ran_on}" + (", under qemu-user" if report.emulated else "")
    return [*shown, f"{report.outcome} ({where})"]


def _verdict(result: CheckResult) -> str:
    measured: Sequence[str] = [f"{name} {value}" for name, value in result.measured.items()]
    text = f"{result.outcome}  {result.seconds:.1f} s" if result.seconds else result.outcome
    extra = f": {result.reason}" if result.reason else (f"  ({', '.join(measured)})" if measured else "")
    lines = [line for detail in result.details for line in detail.splitlines()] if result.outcome == "failed" else []
    more = ["... the rest stands in report.json"] if len(lines) > _DETAIL_LINES else []
    return text + extra + "".join(f"\n      {line}" for line in [*lines[:_DETAIL_LINES], *more])
