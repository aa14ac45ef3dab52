"""What became of each build of a job array: built, failed, or stopped by what is no fault of its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uenv_builder.app.batch.build_tasks import RESULT, BuildTask
from uenv_builder.app.batch.job_folder import NUMBER, log_tail, trouble_of, wait_for_code
from uenv_builder.core.digest import Document
from uenv_builder.launchers.slurm_batch import LOG, bad_nodes
from uenv_builder.launchers.slurm_states import JobState

_INCONCLUSIVE = 8
_NETWORK = 9
_OWN_CODES = range(1, 10)
"""With which `uenv build` ends by itself."""
_NOT_STARTED = {126, 127}
"""With which a shell ends whose command it cannot start."""
_LOG_LINES = 6
_WORST = (1, 2, 3, 4, 5, 6, 7, _NETWORK, _INCONCLUSIVE, 0)
"""Exit codes from the worst: what failed early, then checks, then what says nothing of the recipe."""

Outcome = Literal["built", "failed", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildEnd:
    """How one task ended. `exit_code` is the one that its build has earned; `result` what it printed with --json.

    `log` is the last lines of its log, where it was not built.
    """

    task: BuildTask
    folder: Path
    state: JobState | None
    exit_code: int
    reason: str = ""
    hint: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[str] = ()

    @property
    def outcome(self) -> Outcome:
        """In a word."""
        if self.exit_code == 0:
            return "built"
        return "inconclusive" if self.exit_code == _INCONCLUSIVE else "failed"

    def document(self) -> Document:
        """For --json."""
        return {
            "recipe": self.task.recipe, "label": self.task.label, "folder": self.task.output, "outcome": self.outcome,
            "exit_code": self.exit_code, "state": self.state.name if self.state else None,
            "nodes": self.state.nodes if self.state else None, "reason": self.reason, "hint": self.hint,
            "log": str(self.folder / LOG), "result": dict(self.result),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people: one line, and the reasons of what was not built."""
        if self.exit_code == 0:
            ran = len(self.result.get("built", ()))
            tested = self.result.get("outcome", "untested")
            return [f"{self.task.label}: built, {ran} steps ran, {tested}: {self.task.output}"]
        lines = [f"{self.task.label}: {self.outcome} (exit {self.exit_code}): {self.reason}"]
        lines += [f"  hint: {self.hint}"] if self.hint else []
        return [*lines, *(f"    {line}" for line in self.log), f"  log: {self.folder / LOG}"]


def worst_code(ends: Sequence[BuildEnd]) -> int:
    """The exit code of the worst."""
    return min((end.exit_code for end in ends), key=_WORST.index, default=0)


def read_end(task: BuildTask, folder: Path, state: JobState | None) -> BuildEnd:
    """What became of `task`: from the files that it left in `folder`, and from what Slurm says of it."""
    ended = state is not None and state.name in {"COMPLETED", "FAILED"} and (folder / NUMBER).exists()
    code = wait_for_code(folder, ended=ended)
    result = _read_result(folder)
    if code == 0:
        return BuildEnd(task=task, folder=folder, state=state, exit_code=0, result=result)
    reason, hint, exit_code = _explain(folder, state, code, result)
    return BuildEnd(
        task=task, folder=folder, state=state, exit_code=exit_code, reason=reason, hint=hint, result=result,
        log=() if _diagnostics(result) else log_tail(folder)[-_LOG_LINES:],
    )  # fmt: skip


def _explain(folder: Path, state: JobState | None, code: int | None, result: Mapping[str, Any]) -> tuple[str, str, int]:
    """Reason, hint and exit code of a build that did not come to its end, or to a good one."""
    if trouble := trouble_of(folder, state):
        return trouble, state.remedy if state else "", _INCONCLUSIVE
    said, hint = _said(result)
    drained = bad_nodes(state.nodes) if state else []
    if drained and code is not None:
        return f"a node was taken out of use: {', '.join(drained)}; {said}", "build again", _INCONCLUSIVE
    if code in _OWN_CODES:
        return said or f"uenv build ended with exit code {code}", hint, int(code or 0)
    return (*_explain_absence(folder, code), _INCONCLUSIVE)


def _explain_absence(folder: Path, code: int | None) -> tuple[str, str]:
    """Reason and hint where `uenv build` itself said nothing."""
    if code in _NOT_STARTED:
        where = "install it where all nodes see it: a virtual environment on a shared file system"
        return f"the node could not start uenv (exit code {code})", where
    if code is not None:
        return f"the build was killed (exit code {code})", "build again; look at its log"
    if not (folder / NUMBER).exists():
        shared = "submit from a folder on a file system that all nodes share"
        return f"the job never began there: its node may not see {folder}", shared
    return "the job ended without a result", "build again; look at its log"


def _read_result(folder: Path) -> Mapping[str, Any]:
    try:
        document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _diagnostics(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = result.get("diagnostics")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _said(result: Mapping[str, Any]) -> tuple[str, str]:
    """What the build itself says was wrong, and what to do."""
    if found := _diagnostics(result):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return f"[{found[0].get('rule')}] {found[0].get('message')}{more}", str(found[0].get("hint") or "")
    if result.get("outcome") in {"failed", "inconclusive", "skipped"}:
        return f"the image was built, and its checks are {result['outcome']}", f"see {result.get('folder')}/report.json"
    return "", ""
