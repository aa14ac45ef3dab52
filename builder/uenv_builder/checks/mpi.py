"""The check of the image's MPI: all-reduce under its own launcher."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace

from uenv_builder.checks.inside.exact_sums import DEFAULT_SIZES
from uenv_builder.checks.interface import CheckContext, CheckKind, WantedCheck
from uenv_builder.checks.parameters import read_numbers, read_seconds
from uenv_builder.checks.programs import run_program
from uenv_builder.checks.reductions import judge_reductions
from uenv_builder.core.digest import Json
from uenv_builder.model.report import CheckResult

RESULT = "allreduce-mpi"
_SECONDS = 120
# MPI libraries copy between the processes of a node with process_vm_readv, which qemu-user does not have.
_EMULATED = {
    "MPIR_CVAR_CH4_CMA_ENABLE": "0",
    "OMPI_MCA_smsc": "^cma",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


def run_mpi(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[CheckResult]:
    """One start of the launcher for each number of ranks."""
    return [_run(ctx, check) for check in wanted]


def _run(ctx: CheckContext, check: WantedCheck) -> CheckResult:
    sizes = ",".join(str(size) for size in read_numbers(check, "sizes", DEFAULT_SIZES))
    env = {"UENV_CHECK_SIZES": sizes, **(_EMULATED if ctx.uarch.machine != platform.machine() else {})}
    runs: list[Mapping[str, Json]] = []
    for ranks in read_numbers(check, "ranks", (2, 4)):
        answer = run_program(
            ctx, "mpi_program.py", arguments=("launch", str(ranks)), env=env,
            seconds=read_seconds(check, _SECONDS),
        )  # fmt: skip
        if answer.document is None:
            reason = f"{ranks} ranks: {answer.reason}"
            return CheckResult(check=RESULT, outcome="failed", reason=reason, details=answer.details)
        if answer.document["ranks"] != ranks:
            reason = f"the launcher started {ranks} processes that do not know of each other: MPI and launcher differ"
            return CheckResult(check=RESULT, outcome="failed", reason=reason)
        runs.append(answer.document)
    result = judge_reductions(RESULT, runs)
    return replace(result, measured={"library": str(runs[0]["library"]), **result.measured})


MPI_CHECKS = {
    "mpi": CheckKind(
        proves="the image's MPI sums exactly under its own launcher, every element compared",
        family=run_mpi,
        parameters={
            "ranks": "numbers of ranks to try; default 2 and 4",
            "sizes": "numbers of elements to try",
            "timeout": "seconds for each number of ranks, on a processor of the image's own kind",
        },
    ),
}
"""By name."""
