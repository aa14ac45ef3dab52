"""The checks that only read the image: asks a process that has it mounted, and takes its results."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from uenv_builder.checks.interface import CheckContext, CheckKind, WantedCheck
from uenv_builder.checks.parameters import read_reasons, read_texts
from uenv_builder.core.nccl_network import plugin_candidates
from uenv_builder.model.report import CheckResult
from uenv_builder.system.process import failure


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRequest:
    """What the process is asked: JSON's types only.

    `outside` has names (globs) of libraries that need not be in the image, with the reason; `nccl` and `cuda` are the
    versions that the lock pins; `plugins` are the names that NCCL opens, in its order; `wanted` has the checks'
    parameters by their names, in the order to run them.
    """

    machine: str
    multiarch: str
    library_path: Sequence[str] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    nccl: str | None = None
    cuda: str | None = None
    plugins: Sequence[str] = ()
    wanted: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)


def run_static(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[CheckResult]:
    """Run all the static checks that are wanted in one process; raises BuildError where that process fails."""
    request = json.dumps(asdict(make_request(ctx, wanted)))
    module = f"{__name__}_child"
    completed = ctx.image.run_beside(lambda root: [sys.executable, "-m", module, str(root)], stdin=request)
    if completed.returncode != 0:
        raise failure(completed, what="reading the image")
    return [CheckResult(**{**item, "details": tuple(item["details"])}) for item in json.loads(completed.stdout)]


def make_request(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> StaticRequest:
    """What to ask for `wanted` of the image that `ctx` describes."""
    accelerator = ctx.lock.accelerator if ctx.lock else None
    outside = dict.fromkeys(ctx.driver_libraries, "comes from the host's GPU driver")
    outside |= dict.fromkeys(ctx.hook_libraries, "comes from the host's network hook")
    outside |= ctx.allowed_missing
    parameters: dict[str, dict[str, Sequence[str]]] = {}
    for check in wanted:
        outside |= read_reasons(check, "allowed_missing")
        parameters[check.name] = {"ignore": read_texts(check, "ignore")}
    folders = ctx.env.get("LD_LIBRARY_PATH", "").split(":")
    return StaticRequest(
        machine=ctx.uarch.machine,
        multiarch=ctx.uarch.multiarch,
        library_path=[folder for folder in folders if folder.startswith("/")],
        outside=outside,
        nccl=accelerator.nccl if accelerator else None,
        cuda=accelerator.cuda if accelerator else None,
        plugins=plugin_candidates(ctx.env),
        wanted=parameters,
    )


_NEEDED = {
    "allowed_missing": "names of shared libraries (globs), each with the reason why it need not be in the image",
    "ignore": "paths (globs) of programs and libraries that nobody starts or loads by name",
}
_IGNORE = {"ignore": "paths (globs) of files for other processors that belong there"}

STATIC_CHECKS = {
    "elf-machine": CheckKind(
        proves="every program, library and object file in the image is for the target's processor",
        family=run_static, parameters=_IGNORE, always=True,
    ),
    "elf-needed": CheckKind(
        proves="every shared library that an ELF file needs is found by the loader's rules, or comes from the host",
        family=run_static, parameters=_NEEDED, always=True,
    ),
    "wheel-record": CheckKind(
        proves="every file that a wheel installed is in the image with the digest and size of its RECORD",
        family=run_static,
    ),
    "nccl-unique": CheckKind(
        proves="there is exactly one libnccl.so.2, that of the pinned wheel",
        family=run_static,
    ),
    "cudart-link": CheckKind(
        proves="/usr/local/cuda/lib64/libcudart.so leads to the pinned CUDA runtime, for programs that link with it",
        family=run_static,
    ),
}  # fmt: skip
"""By name."""
