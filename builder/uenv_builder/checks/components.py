"""Components from source show in the image that they work: each one's own check.sh is run there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from uenv_builder.checks.interface import CheckContext, CheckKind, WantedCheck
from uenv_builder.checks.parameters import read_seconds
from uenv_builder.checks.programs import is_emulated
from uenv_builder.model.errors import BuildError
from uenv_builder.model.report import CheckResult

_FOLDER = "/run/uenv-components"
_SECONDS = 120
_EMULATION_FACTOR = 4
_SKIPPED = 77
"""As Automake's tests say that they could not be tried (Automake's manual, Scripts-based Testsuites)."""
_TAIL_LINES = 25


def run_components(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[CheckResult]:
    """One result for each component that has a check.sh, in the order in which they are built."""
    (check,) = wanted
    if not ctx.scripts:
        return [CheckResult(check=check.name, outcome="skipped", reason="no component of the image has a check.sh")]
    results = [_run_script(ctx, check, name, script) for name, script in ctx.scripts.items()]
    # What a component says that it cannot try here, such as a network that this machine does not have, proves nothing.
    return [replace(one, required=check.required and one.outcome != "skipped") for one in results]


def _run_script(ctx: CheckContext, check: WantedCheck, name: str, script: Path) -> CheckResult:
    limit = read_seconds(check, _SECONDS) * (_EMULATION_FACTOR if is_emulated(ctx) else 1)
    place, begun = f"{_FOLDER}/{name}.sh", time.monotonic()
    result = f"component-{name}"
    try:
        done = ctx.image.run_inside(["sh", place], env=ctx.env, binds={place: script}, timeout=limit)
    except BuildError as error:
        if error.diagnostics[0].rule != "timeout":
            raise
        first, *rest = error.diagnostics[0].message.splitlines()
        return CheckResult(
            check=result, outcome="failed", reason=first, details=tuple(line.strip() for line in rest),
            seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
    lines = (done.stdout + done.stderr).strip().splitlines()
    seconds = round(time.monotonic() - begun, 3)
    if done.returncode == 0:
        return CheckResult(check=result, outcome="passed", seconds=seconds)
    if done.returncode == _SKIPPED:
        reason = lines[-1] if lines else "check.sh says that it cannot be tried here"
        return CheckResult(check=result, outcome="skipped", reason=reason, seconds=seconds)
    return CheckResult(
        check=result, outcome="failed", reason=f"check.sh of {name} ended with exit {done.returncode}",
        details=tuple(lines[-_TAIL_LINES:]), seconds=seconds,
    )  # fmt: skip


COMPONENT_CHECKS = {
    "components": CheckKind(
        proves="each component from source passes its own check.sh inside the image",
        family=run_components, parameters={"timeout": "seconds for each, on a processor of the image's own kind"},
    ),
}  # fmt: skip
"""By name."""
