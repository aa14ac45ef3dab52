"""`uenv doctor`: what is missing on this machine."""

from __future__ import annotations

from uenv_builder.app import doctor
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, JsonOption

EPILOG = "Example: uenv doctor"


def examine(*, as_json: JsonOption = False, debug: DebugOption = False) -> int:  # noqa: ARG001
    """Say what is missing on this machine, and the command that installs it."""
    with Run(as_json=as_json, quiet=True) as run:
        findings = doctor.examine(run.session)
        marks = {True: "ok     ", False: "missing"}
        lines = [
            f"{marks[finding.ok]} {finding.subject} (for {finding.need}): {finding.detail}"
            + (f"\n        -> {finding.remedy}" if finding.remedy else "")
            for finding in findings
        ]
        run.show({"findings": doctor.as_documents(findings)}, lines)
        return 0 if all(finding.ok for finding in findings) else 6
