"""Runs checks on an image, family by family; what did not run is in the results too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from uenv_builder.checks import CHECKS
from uenv_builder.checks.interface import CheckContext, Family, WantedCheck
from uenv_builder.model.errors import BuildError, RecipeError
from uenv_builder.model.lock import Lock
from uenv_builder.model.report import CheckResult
from uenv_builder.system.events import Listener


def complete_wanted(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[WantedCheck]:
    """`wanted` and, before it, the checks that every image of this kind has to pass; what the recipe says wins."""
    if ctx.mount is not None:
        given = {check.name for check in wanted}
        return [*(WantedCheck(name=name) for name in ("uenv-views",) if name not in given), *wanted]
    names = [name for name, kind in CHECKS.items() if kind.always]
    names += ["components"] if ctx.scripts else []
    if ctx.lock and ctx.lock.python:
        names += ["python-starts"]
        names += ["wheel-record"] if ctx.lock.python.wheels else []
    accelerator = ctx.lock.accelerator if ctx.lock else None
    names += ["nccl-unique"] if accelerator and accelerator.nccl and _nccl_is_a_wheel(ctx.lock) else []
    names += ["cudart-link"] if accelerator and accelerator.cuda else []
    given = {check.name for check in wanted}
    return [*(WantedCheck(name=name) for name in names if name not in given), *wanted]


def _nccl_is_a_wheel(lock: Lock | None) -> bool:
    """False on a base image that brings a torch and an NCCL of its own."""
    wheels = lock.python.wheels if lock and lock.python else ()
    return not (lock and lock.base) or any(wheel.name.startswith("nvidia-nccl") for wheel in wheels)


def run_checks(ctx: CheckContext, wanted: Sequence[WantedCheck], listener: Listener) -> list[CheckResult]:
    """The results of all that `complete_wanted` gives, in the order of CHECKS; an unknown name is a RecipeError.

    Where the machine cannot run a family, its checks are inconclusive, with the reason. The seconds of checks that
    share one start are those of the whole, unless they were measured one by one.
    """
    checks = {check.name: check for check in complete_wanted(ctx, wanted)}
    unknown = [name for name in checks if name not in CHECKS]
    if unknown:
        raise RecipeError(f'unknown check "{unknown[0]}"', rule="unknown-check", hint=f"known: {', '.join(CHECKS)}")
    families: dict[Family, list[WantedCheck]] = {}
    for name, kind in CHECKS.items():
        if name in checks:
            families.setdefault(kind.family, []).append(checks[name])
    results: list[CheckResult] = []
    for family, members in families.items():
        with listener.task(f"checks: {', '.join(check.name for check in members)}"):
            found = _run_family(ctx, family, members)
        for result in found:
            listener.note(f"{result.check}: {result.outcome}{f' ({result.reason})' if result.reason else ''}")
        results += found
    return results


def _run_family(ctx: CheckContext, family: Family, members: Sequence[WantedCheck]) -> list[CheckResult]:
    started = time.monotonic()
    try:
        results = family(ctx, members)
    except BuildError as error:
        reason = error.diagnostics[0].message
        results = [CheckResult(check=check.name, outcome="inconclusive", reason=reason) for check in members]
    seconds = round(time.monotonic() - started, 3)
    optional = {name for check in members if not check.required for name in _result_names(check.name)}
    return [
        replace(result, seconds=result.seconds or seconds, required=result.required and result.check not in optional)
        for result in results
    ]


def _result_names(check: str) -> tuple[str, ...]:
    """The names of the results that the check gives."""
    return {"allreduce": ("allreduce-gloo", "allreduce-nccl"), "mpi": ("allreduce-mpi",)}.get(check, ()) or (check,)
