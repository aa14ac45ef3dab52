"""The ranks of one node in an all-reduce of torch.distributed: every element compared, every size timed.

`ranks_program.py REQUEST FOLDER` reads the JSON file REQUEST (see `Request`) and writes `FOLDER/NODE.json`. It starts
once on each node, whose number is in UENV_NODE. Ranks over gloo are forked after the import, NCCL needs processes that
start anew. On SIGUSR1, every rank prints the stacks of its threads.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TypedDict

import torch  # type: ignore[import-not-found]
import torch.distributed as dist  # type: ignore[import-not-found]
from exact_sums import EXACT_INTEGERS, bandwidths, contribution, expected_sum, find_wrong, modulus  # type: ignore[import-not-found]
from torch_program import DTYPES, Findings, Rank, ask_loaded_nccl, end_ranks, reduce_all_sizes  # type: ignore[import-not-found]

CHUNK = 1 << 24
"""Elements that are computed and compared at once, so that a size as large as half of the memory can be."""
MOST_WRONG = 12
WARM, TIMED, TIMED_LARGE = 2, 20, 5
LARGE = 1 << 30


class Request(TypedDict):
    """What to do: `sizes` in elements are reduced in every type, `timed_bytes` as float32 and timed, too.

    `meeting` is the address and port where the ranks of many nodes meet; `seconds` is how long one waits for others.
    """

    backend: str
    nodes: int
    ranks_per_node: int
    sizes: list[int]
    timed_bytes: list[int]
    seconds: float
    meeting: str


def run_rank(local: int, node: int, request: Request, folder: str) -> None:
    """One rank: reduces all types and sizes, times the large ones, and leaves its findings in `folder`."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    torch.set_num_threads(1)
    device = torch.device("cuda", local) if request["backend"] == "nccl" else torch.device("cpu")
    ranks = request["nodes"] * request["ranks_per_node"]
    me = Rank(node * request["ranks_per_node"] + local, ranks, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meeting = f"tcp://{request['meeting']}" if request["nodes"] > 1 else f"file://{folder}/store"
    dist.init_process_group(
        request["backend"], init_method=meeting, rank=me.rank, world_size=ranks,
        timeout=timedelta(seconds=request["seconds"]),
    )  # fmt: skip
    findings: Findings = {"wrong": [], "unsupported": {}, "compared": 0}
    for dtype in DTYPES:
        reduce_all_sizes(me, dtype, request["sizes"], findings)
    rates = {str(size): time_size(me, size, findings) for size in request["timed_bytes"]}
    answer = {"rank": me.rank, **findings, "bandwidths": rates, "wrong": findings["wrong"][:MOST_WRONG]}
    if request["backend"] == "nccl":
        answer["nccl"] = ask_loaded_nccl()[1]
    (Path(folder) / f"rank{local}.json").write_text(json.dumps(answer), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def time_size(me: Rank, size: int, findings: Findings) -> float:
    """All-reduce `size` bytes of float32: compare every element, then time it; returns the bus bandwidth in GB/s."""
    tensor = torch.empty(size // 4, dtype=torch.float32, device=me.device)
    prime = modulus(me.ranks, EXACT_INTEGERS["float32"])
    for start in range(0, tensor.numel(), CHUNK):
        index = chunk_of(tensor, start)
        tensor[start : start + CHUNK] = contribution(me.rank, index, prime)
    dist.all_reduce(tensor)
    for start in range(0, tensor.numel(), CHUNK):
        expected = expected_sum(chunk_of(tensor, start), me.ranks, prime).to(torch.float32)
        got = tensor[start : start + CHUNK]
        if not torch.equal(got, expected) and len(findings["wrong"]) < MOST_WRONG:
            places = find_wrong(got.tolist(), expected.tolist())
            findings["wrong"] += [["float32", size // 4, me.rank, start + at, *values] for at, *values in places]
    findings["compared"] += tensor.numel()
    tensor.zero_()
    repeats = TIMED_LARGE if size >= LARGE else TIMED
    for repeat in range(WARM + repeats):
        if repeat == WARM:
            finish(me)
            started = time.monotonic()
        dist.all_reduce(tensor)
    finish(me)
    return float(bandwidths(size, me.ranks, (time.monotonic() - started) / repeats)["busbw_GBps"])


def chunk_of(tensor: torch.Tensor, start: int) -> torch.Tensor:
    """The indices of one chunk, as integers that every product of `contribution` fits."""
    return torch.arange(start, min(start + CHUNK, tensor.numel()), dtype=torch.int64, device=tensor.device)


def finish(me: Rank) -> None:
    """Wait until all that was asked of the GPU and of the other ranks is done."""
    if me.device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


def run_node(request: Request, node: int) -> dict[str, object]:
    """Start the ranks of this node, wait for them, and put their findings together."""
    ranks = request["ranks_per_node"]
    anew = request["backend"] == "nccl"
    context = multiprocessing.get_context("spawn") if anew else multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        workers = [context.Process(target=run_rank, args=(local, node, request, folder)) for local in range(ranks)]
        for worker in workers:
            worker.start()
        while any(worker.exitcode is None for worker in workers) and not any(worker.exitcode for worker in workers):
            time.sleep(0.05)
        # The others are told by NCCL or gloo that one is gone; they may not be.
        ended = end_ranks(workers, folder, 10)
    name = os.environ.get("UENV_NODE_NAME") or platform.node()
    return {"node": name, "torch": torch.__version__, **ended}


def main() -> None:
    """Answer the request."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    request: Request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    node = int(os.environ.get("UENV_NODE", "0"))
    if request["nodes"] == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    answer = run_node(request, node)
    target = Path(sys.argv[2]) / f"{node}.json"
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(answer), encoding="utf-8")
    unfinished.rename(target)
    if answer["late"] or answer["broken"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
