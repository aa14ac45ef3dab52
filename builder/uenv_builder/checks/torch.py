"""The checks of torch: the versions that really run, and all-reduce over gloo and NCCL. All in one start of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from uenv_builder.checks.inside.exact_sums import DEFAULT_SIZES
from uenv_builder.checks.interface import CheckContext, CheckKind, WantedCheck
from uenv_builder.checks.parameters import read_numbers, read_seconds
from uenv_builder.checks.programs import Answer, run_program
from uenv_builder.checks.reductions import judge_reductions
from uenv_builder.core.digest import Json
from uenv_builder.model.lock import LockedAccelerator
from uenv_builder.model.report import CheckResult

_SECONDS = 300
_DEFAULT_RANKS = (2, 4)


def run_torch(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[CheckResult]:
    """`torch` gives one result, `allreduce` two: allreduce-gloo, and allreduce-nccl, which needs two GPUs to run."""
    allreduce = next((check for check in wanted if check.name == "allreduce"), None)
    source = allreduce or WantedCheck(name="torch")
    request: Json = {
        "communicate": allreduce is not None,
        "ranks": read_numbers(source, "ranks", _DEFAULT_RANKS),
        "sizes": read_numbers(source, "sizes", DEFAULT_SIZES),
        "seconds": [_SECONDS],
    }
    seconds = max(read_seconds(check, _SECONDS) for check in wanted)
    answer = run_program(ctx, "torch_program.py", request=request, seconds=seconds, gpu=True)
    results: list[CheckResult] = []
    for check in wanted:
        if answer.document is None:
            results += _all_failed(check, answer)
        elif check.name == "torch":
            accelerator = ctx.lock.accelerator if ctx.lock else None
            results.append(compare_versions(_mapping(answer.document["versions"]), accelerator))
        else:
            results += _judge(check, answer.document)
    return results


def compare_versions(found: Mapping[str, Json], locked: LockedAccelerator | None) -> CheckResult:
    """Whether torch and what it has loaded are what the lock says; `found` is the program's `versions`.

    A lock's version without a local part (+cu130) fits any build of it. NCCL's version code has two digits for minor
    and patch since 2.9 (nccl.h, NCCL_VERSION); cuDNN's code is major * 10000 + minor * 100 + patch since 9.
    """
    problems: list[str] = []
    if locked:
        problems += _compare_torch(str(found.get("torch")), locked)
        if locked.cuda != found.get("cuda"):
            problems.append(f"torch is built for CUDA {found.get('cuda')}, the lock has {locked.cuda}")
        if locked.nccl:
            loaded = found.get("nccl_loaded")
            in_use = _nccl_version(int(str(loaded))) if loaded else None
            if in_use != locked.nccl:
                where = f" from {found.get('nccl_path')}" if loaded else ""
                problems.append(f"NCCL {in_use or 'none'}{where} is loaded, the lock has {locked.nccl}")
        cudnn = found.get("cudnn")
        if locked.cudnn and cudnn and _cudnn_version(int(str(cudnn))) != ".".join(locked.cudnn.split(".")[:3]):
            problems.append(f"cuDNN {_cudnn_version(int(str(cudnn)))} is loaded, the lock has {locked.cudnn}")
    return CheckResult(
        check="torch",
        outcome="failed" if problems else "passed",
        reason="; ".join(problems),
        measured={name: value for name, value in found.items() if isinstance(value, str | int | float)},
    )


def _compare_torch(version: str, locked: LockedAccelerator) -> list[str]:
    have, want = version, locked.torch
    if "+" not in have or "+" not in want:
        have, want = have.partition("+")[0], want.partition("+")[0]
    return [] if have == want else [f"the image has torch {version}, the lock has {locked.torch}"]


def _nccl_version(code: int) -> str:
    major, minor, patch = (code // 10000, code // 100 % 100, code % 100)
    return f"{major}.{minor}.{patch}"


def _cudnn_version(code: int) -> str:
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"


def _judge(check: WantedCheck, document: Mapping[str, Json]) -> list[CheckResult]:
    gloo = judge_reductions("allreduce-gloo", _runs(document["gloo"]))
    gpus = int(str(_mapping(document["versions"]).get("gpus", 0)))
    runs = _runs(document["nccl"])
    if runs:
        return [gloo, judge_reductions("allreduce-nccl", runs)]
    reason = f"needs at least {min(read_numbers(check, 'ranks', _DEFAULT_RANKS))} GPUs, this machine has {gpus}"
    return [gloo, _skip_nccl(check, reason if gpus else "no GPU on this machine")]


def _skip_nccl(check: WantedCheck, reason: str) -> CheckResult:
    """Skipped; that decides the verdict only where the recipe says `nccl: required`."""
    required = check.parameters.get("nccl") == "required"
    return CheckResult(check="allreduce-nccl", outcome="skipped", reason=reason, required=required)


def _all_failed(check: WantedCheck, answer: Answer) -> list[CheckResult]:
    name = "torch" if check.name == "torch" else "allreduce-gloo"
    failed = CheckResult(check=name, outcome="failed", reason=answer.reason, details=answer.details)
    return [failed] if check.name == "torch" else [failed, _skip_nccl(check, "torch could not be started")]


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _runs(value: Json) -> list[Mapping[str, Json]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


_TIMEOUT = {"timeout": "seconds, on a processor of the image's own kind"}

TORCH_CHECKS = {
    "torch": CheckKind(
        proves="torch can be imported, and it, its CUDA, and the NCCL and cuDNN that it loads are the locked ones",
        family=run_torch, parameters=_TIMEOUT,
    ),
    "allreduce": CheckKind(
        proves="torch.distributed sums exactly, every element compared: over gloo, and over NCCL where there are GPUs",
        family=run_torch,
        parameters={
            "ranks": "numbers of ranks to try; default 2 and 4",
            "sizes": "numbers of elements to try",
            "nccl": "`required`: without GPUs there is no verdict, and nothing is published",
            **_TIMEOUT,
        },
    ),
}  # fmt: skip
"""By name."""
