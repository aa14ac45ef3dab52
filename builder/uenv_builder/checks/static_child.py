"""The program that runs the static checks: a process of its own, since only it sees the image's files.

Started as `python -m uenv_builder.checks.static_child ROOT` in the mount namespace where the image is mounted at ROOT.
It reads a `StaticRequest` as JSON from standard input and writes the results as JSON to standard output.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from uenv_builder.checks.elf import ElfChecks
from uenv_builder.checks.image_tree import ImageTree
from uenv_builder.checks.net_plugin import check_plugin
from uenv_builder.checks.static import StaticRequest
from uenv_builder.checks.wheels import check_records
from uenv_builder.model.report import CheckResult


def run_request(root: str, request: StaticRequest) -> list[CheckResult]:
    """Run what `request` wants on the image's files below the folder `root`, in the request's order."""
    tree = ImageTree(root.rstrip("/"))
    elf = ElfChecks(tree, request.machine, request.multiarch, request.library_path, request.outside)
    results = []
    for name, parameters in request.wanted.items():
        started = time.monotonic()
        result = _run_one(name, parameters, elf, request)
        results.append(replace(result, seconds=round(time.monotonic() - started, 3)))
    return results


def _run_one(name: str, parameters: Mapping[str, Sequence[str]], elf: ElfChecks, request: StaticRequest) -> CheckResult:
    match name:
        case "elf-machine":
            return elf.check_machine(parameters.get("ignore", ()))
        case "elf-needed":
            return elf.check_needed(parameters.get("ignore", ()))
        case "nccl-unique":
            return elf.check_nccl(request.nccl)
        case "cudart-link":
            return elf.check_cudart(request.cuda)
        case "net-plugin":
            return check_plugin(elf.tree, request)
        case _:
            return check_records(elf.tree)


def main() -> None:
    """Read the request, print the results."""
    request = StaticRequest(**json.load(sys.stdin))
    json.dump([asdict(result) for result in run_request(sys.argv[1], request)], sys.stdout)


if __name__ == "__main__":
    main()
