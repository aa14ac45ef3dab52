"""The checks that the image's Python starts and imports what the recipe names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from uenv_builder.checks.interface import CheckContext, CheckKind, WantedCheck
from uenv_builder.checks.parameters import read_seconds, read_texts
from uenv_builder.checks.programs import run_program
from uenv_builder.core.digest import Json
from uenv_builder.model.report import CheckResult

_SECONDS = 300


def run_python(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[CheckResult]:
    """Each check is one start of the interpreter."""
    return [_time(ctx, check, _check_start if check.name == "python-starts" else _check_imports) for check in wanted]


def _time(
    ctx: CheckContext, check: WantedCheck, function: Callable[[CheckContext, WantedCheck], CheckResult]
) -> CheckResult:
    started = time.monotonic()
    result = function(ctx, check)
    return replace(result, seconds=round(time.monotonic() - started, 3))


def _check_start(ctx: CheckContext, check: WantedCheck) -> CheckResult:
    answer = run_program(ctx, "imports_program.py", request=[], seconds=read_seconds(check, _SECONDS))
    if answer.document is None:
        return CheckResult(check=check.name, outcome="failed", reason=answer.reason, details=answer.details)
    version, machine = str(answer.document["python"]), str(answer.document["machine"])
    pinned = ctx.lock.python.version if ctx.lock and ctx.lock.python else None
    reason = ""
    if pinned and version.split(".")[:2] != pinned.split(".")[:2]:
        reason = f"the image has Python {version}, the lock has {pinned}"
    elif machine != ctx.uarch.machine:
        reason = f"Python says that it runs on {machine}, not {ctx.uarch.machine}"
    found: dict[str, float | int | str] = {"version": version, "machine": machine}
    return CheckResult(check=check.name, outcome="failed" if reason else "passed", reason=reason, measured=found)


def _check_imports(ctx: CheckContext, check: WantedCheck) -> CheckResult:
    names = read_texts(check, "modules")
    if not names:
        return CheckResult(check=check.name, outcome="skipped", reason="the recipe names no modules")
    answer = run_program(ctx, "imports_program.py", request=names, seconds=read_seconds(check, _SECONDS))
    modules = answer.document["modules"] if answer.document else None
    if not isinstance(modules, Mapping):
        return CheckResult(check=check.name, outcome="failed", reason=answer.reason, details=answer.details)
    broken = {name: _text(modules[name], "error") for name in names if _text(modules[name], "error")}
    versions: dict[str, float | int | str] = {name: _text(modules[name], "version") for name in names}
    return CheckResult(
        check=check.name,
        outcome="failed" if broken else "passed",
        reason=f"cannot be imported: {', '.join(broken)}" if broken else "",
        measured={name: version for name, version in versions.items() if version},
        details=tuple(f"{name}: {error}" for name, error in broken.items()),
    )


def _text(module: Json, key: str) -> str:
    return str(module.get(key, "")) if isinstance(module, Mapping) else ""


_TIMEOUT = {"timeout": "seconds, on a processor of the image's own kind"}

PYTHON_CHECKS = {
    "python-starts": CheckKind(
        proves="the image's Python starts, in the locked version, on the target's machine",
        family=run_python, parameters=_TIMEOUT,
    ),
    "imports": CheckKind(
        proves="the named modules can be imported",
        family=run_python, parameters={"modules": "names of Python modules", **_TIMEOUT},
    ),
}  # fmt: skip
"""By name."""
