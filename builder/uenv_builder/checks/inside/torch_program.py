"""One import of torch for everything that is asked of it: versions, and all-reduce over gloo and NCCL with exact sums.

Reads a request from standard input (JSON: ranks, sizes, seconds, and whether to communicate) and prints one JSON
document on the last line. Ranks over gloo are forked after the import, which takes long under emulation; NCCL needs
processes that start anew.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch  # type: ignore[import-not-found]
import torch.distributed as dist  # type: ignore[import-not-found]
from exact_sums import EXACT_INTEGERS, bandwidths, contribution, expected_sum, find_wrong, modulus  # type: ignore[import-not-found]

DTYPES = ("float32", "float64", "int32", "int64", "bfloat16")
REPEATS = 5


class Findings(TypedDict, total=False):
    """What one rank found; `wrong` has lists of type, size, rank, index, got, expected."""

    wrong: list[list[object]]
    unsupported: dict[str, str]
    compared: int


class Rank(NamedTuple):
    """One process of the group and the device that it computes on."""

    rank: int
    ranks: int
    device: torch.device


def read_versions() -> dict[str, object]:
    """What torch says of itself, and what the libraries say that are really loaded."""
    versions: dict[str, object] = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": 0}
    versions["gpus"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torch.version.cuda:
        versions["nccl"] = ".".join(str(number) for number in torch.cuda.nccl.version()[:3])
        versions["nccl_path"], versions["nccl_loaded"] = ask_loaded_nccl()
        versions["cudnn"] = torch.backends.cudnn.version()
    return versions


def ask_loaded_nccl() -> tuple[str | None, int | None]:
    """Path and version code of the libnccl in this process, None where none is loaded."""
    match = re.search(r"(/\S*/libnccl\.so\S*)$", Path("/proc/self/maps").read_text(encoding="utf-8"), re.MULTILINE)
    if not match:
        return None, None
    code = ctypes.c_int()
    if ctypes.CDLL(match[1]).ncclGetVersion(ctypes.byref(code)) != 0:
        return match[1], None
    return match[1], code.value


def run_rank(rank: int, ranks: int, backend: str, folder: str, request: dict[str, list[int]]) -> None:
    """One rank: reduces every type and size, compares every element, and leaves its findings in `folder`."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    me = Rank(rank, ranks, device)
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=rank, world_size=ranks,
        timeout=timedelta(seconds=request["seconds"][0]),
    )  # fmt: skip
    findings: Findings = {"wrong": [], "unsupported": {}, "compared": 0}
    for dtype in DTYPES:
        reduce_all_sizes(me, dtype, request["sizes"], findings)
    answer = {**findings, **measure(me, max(request["sizes"]))}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(answer), encoding="utf-8")
    dist.destroy_process_group()


def reduce_all_sizes(me: Rank, dtype: str, sizes: list[int], findings: Findings) -> None:
    """All-reduce one type in all sizes; what torch cannot do with the type is `unsupported`, not wrong."""
    prime = modulus(me.ranks, EXACT_INTEGERS[dtype])
    for size in sizes:
        index = torch.arange(size, dtype=torch.int64)
        tensor = contribution(me.rank, index, prime).to(getattr(torch, dtype)).to(me.device)
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            if "scalar type" not in str(error) and "data type" not in str(error):
                raise
            findings["unsupported"][dtype] = str(error).splitlines()[0]
            return
        got, expected = tensor.cpu(), expected_sum(index, me.ranks, prime).to(getattr(torch, dtype))
        findings["compared"] += size
        if not torch.equal(got, expected):
            first = find_wrong(got.tolist(), expected.tolist())
            findings["wrong"] += [[dtype, size, me.rank, *place] for place in first]


def measure(me: Rank, size: int) -> dict[str, float]:
    """Time `size` elements of float32: the mean of some repetitions, after one that is not counted."""
    tensor = torch.zeros(size, dtype=torch.float32, device=me.device)
    for repeat in range(REPEATS + 1):
        if repeat == 1:
            dist.barrier()
            started = time.monotonic()
        dist.all_reduce(tensor)
    if me.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.monotonic() - started) / REPEATS
    return {"bytes": size * 4, "seconds": round(seconds, 6), **bandwidths(size * 4, me.ranks, seconds)}


def run_ranks(backend: str, ranks: int, request: dict[str, list[int]]) -> dict[str, object]:
    """Start `ranks` processes, wait for all of them, and put their findings together."""
    context = multiprocessing.get_context("spawn") if backend == "nccl" else multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=run_rank, args=(rank, ranks, backend, folder, request)) for rank in range(ranks)
        ]
        for worker in workers:
            worker.start()
        return {"ranks": ranks, **end_ranks(workers, folder, request["seconds"][0])}


def end_ranks(workers: Sequence[BaseProcess], folder: str, seconds: float) -> dict[str, object]:
    """Wait so long for the ranks, end those that are late, and put together what the others left in `folder`."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    late = [rank for rank, worker in enumerate(workers) if worker.exitcode is None]
    for worker in workers:
        worker.kill()
        worker.join()
    broken = {rank: worker.exitcode for rank, worker in enumerate(workers) if worker.exitcode and rank not in late}
    files = [Path(folder) / f"rank{rank}.json" for rank in range(len(workers))]
    findings = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return {"late": late, "broken": broken, "findings": findings}


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    answer: dict[str, object] = {"versions": read_versions(), "gloo": [], "nccl": []}
    if request["communicate"]:
        answer["gloo"] = [run_ranks("gloo", ranks, request) for ranks in request["ranks"]]
        fitting = [ranks for ranks in request["ranks"] if ranks <= torch.cuda.device_count()]
        if torch.cuda.is_available() and dist.is_nccl_available():
            answer["nccl"] = [run_ranks("nccl", ranks, request) for ranks in fitting]
    print("\n" + json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
