"""The ranks of one node in an all-reduce over plain sockets: Python's standard library, and nothing in between.

`ring_program.py REQUEST FOLDER` reads the JSON file REQUEST (see `Request`) and writes `FOLDER/NODE.json`. It starts
once on each node, whose number is in UENV_NODE. Rank 0 waits at the meeting place and tells all ranks where the others
listen; then partial sums go around the ring of ranks, and whole sums once more. On SIGUSR1, every rank prints the
stacks of its threads.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import platform
import signal
import socket
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypedDict

from exact_sums import EXACT_INTEGERS, bandwidths, contribution, expected_sum, find_wrong, modulus  # type: ignore[import-not-found]

TYPE = "int64"
WIDTH = 8
"""Bytes of one element."""
MOST_WRONG = 12
GRACE = 10.0
"""Seconds that ranks have to end after the first that failed."""


class Request(TypedDict):
    """What to do: `sizes` in elements are reduced and compared, `timed_bytes` timed, too.

    `meeting` is the address and port where the ranks meet; `seconds` is how long one waits for others.
    """

    nodes: int
    ranks_per_node: int
    sizes: list[int]
    timed_bytes: list[int]
    seconds: float
    meeting: str


class Ring:
    """A rank's two neighbours: what comes from the one before it, and what goes to the one after it."""

    def __init__(self, rank: int, ranks: int, meeting: str, seconds: float) -> None:
        self.rank, self.ranks = rank, ranks
        self.deadline = time.monotonic() + seconds
        self.seconds = seconds
        address, _, port = meeting.rpartition(":")
        with socket.create_server(("", 0), backlog=ranks) as mine:
            mine.settimeout(seconds)
            table = self._meet(address, int(port), mine.getsockname()[1])
            self.after = socket.create_connection(table[(rank + 1) % ranks], timeout=seconds)
            self.before, _ = mine.accept()
        self.before.settimeout(seconds)
        for end in (self.after, self.before):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _meet(self, address: str, port: int, listening: int) -> list[tuple[str, int]]:
        """Where every rank listens, by rank."""
        if self.rank == 0:
            return self._host(address, port, listening)
        with self._connect(address, port) as caller, caller.makefile("rwb") as stream:
            stream.write(json.dumps([self.rank, listening]).encode() + b"\n")
            stream.flush()
            return [(host, number) for host, number in json.loads(stream.readline())]

    def _host(self, address: str, port: int, listening: int) -> list[tuple[str, int]]:
        table = {0: (address, listening)}
        callers = []
        with socket.create_server(("", port), backlog=self.ranks) as door:
            door.settimeout(self.seconds)
            while len(table) < self.ranks:
                caller, (host, *_) = door.accept()
                caller.settimeout(self.seconds)
                stream = caller.makefile("rwb")
                rank, number = json.loads(stream.readline())
                table[rank] = (host, number)
                callers.append((caller, stream))
            whole = [table[rank] for rank in range(self.ranks)]
            for caller, stream in callers:
                stream.write(json.dumps(whole).encode() + b"\n")
                stream.close()
                caller.close()
        return whole

    def _connect(self, address: str, port: int) -> socket.socket:
        """Rank 0 may not be there yet."""
        while True:
            try:
                return socket.create_connection((address, port), timeout=self.seconds)
            except OSError:
                if time.monotonic() > self.deadline:
                    raise
                time.sleep(0.1)

    def exchange(self, given: bytes, size: int) -> bytes:
        """Send `given` to the rank after this one while `size` bytes come from the one before it."""
        sender = threading.Thread(target=self.after.sendall, args=(given,), daemon=True)
        sender.start()
        taken = bytearray()
        while len(taken) < size:
            part = self.before.recv(min(1 << 20, size - len(taken)))
            if not part:
                raise ConnectionError(f"rank {(self.rank - 1) % self.ranks} has gone")
            taken += part
        sender.join(self.seconds)
        return bytes(taken)

    def all_reduce(self, values: array[int]) -> None:
        """Replace `values` by the sums over all ranks: partial sums go around the ring, then whole ones."""
        bounds = [len(values) * part // self.ranks for part in range(self.ranks + 1)]
        for step in range(2 * (self.ranks - 1)):
            whole = step >= self.ranks - 1
            mine = (self.rank - step) % self.ranks
            other = (mine - 1) % self.ranks
            low, high = bounds[other], bounds[other + 1]
            taken = array("q")
            given = values[bounds[mine] : bounds[mine + 1]].tobytes()
            taken.frombytes(self.exchange(given, (high - low) * WIDTH))
            values[low:high] = taken if whole else array("q", map(int.__add__, values[low:high], taken))

    def barrier(self) -> None:
        """Wait until all ranks are here: none has its sum before all have given their part."""
        self.all_reduce(array("q", [1] * self.ranks))


def run_rank(local: int, node: int, request: Request, folder: str) -> None:
    """One rank: reduces and compares all sizes, times the large ones, and leaves its findings in `folder`."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    ranks = request["nodes"] * request["ranks_per_node"]
    rank = node * request["ranks_per_node"] + local
    ring = Ring(rank, ranks, request["meeting"], request["seconds"])
    prime = modulus(ranks, EXACT_INTEGERS[TYPE])
    wrong: list[list[object]] = []
    compared = 0
    for size in request["sizes"]:
        values = array("q", [contribution(rank, index, prime) for index in range(size)])
        ring.all_reduce(values)
        expected = [expected_sum(index, ranks, prime) for index in range(size)]
        wrong += [[TYPE, size, rank, *place] for place in find_wrong(values, expected)]
        compared += size
    rates = {str(size): time_size(ring, size) for size in request["timed_bytes"]}
    answer = {"rank": rank, "wrong": wrong[:MOST_WRONG], "compared": compared, "bandwidths": rates}
    (Path(folder) / f"rank{local}.json").write_text(json.dumps(answer), encoding="utf-8")
    ring.barrier()


def time_size(ring: Ring, size: int) -> float:
    """The bus bandwidth of one all-reduce of `size` bytes in GB/s; Python's additions are a part of it."""
    values = array("q", bytes(size // WIDTH * WIDTH))
    ring.barrier()
    started = time.monotonic()
    ring.all_reduce(values)
    ring.barrier()
    return float(bandwidths(size, ring.ranks, time.monotonic() - started)["busbw_GBps"])


def run_node(request: Request, node: int) -> dict[str, object]:
    """Start the ranks of this node, wait for them, and put their findings together."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = range(request["ranks_per_node"])
        workers = [context.Process(target=run_rank, args=(local, node, request, folder)) for local in ranks]
        for worker in workers:
            worker.start()
        while any(worker.exitcode is None for worker in workers) and not any(worker.exitcode for worker in workers):
            time.sleep(0.02)
        late = end_ranks(workers)
        broken = {str(rank): worker.exitcode for rank, worker in enumerate(workers) if worker.exitcode}
        files = sorted(Path(folder).glob("rank*.json"))
        findings = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    name = os.environ.get("UENV_NODE_NAME") or platform.node()
    return {"node": name, "python": platform.python_version(), "findings": findings, "late": late, "broken": broken}


def end_ranks(workers: Sequence[BaseProcess]) -> list[int]:
    """Wait for those that run, then end them; returns which did not end by themselves."""
    deadline = time.monotonic() + GRACE
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    late = [rank for rank, worker in enumerate(workers) if worker.is_alive()]
    for rank in late:
        workers[rank].kill()
        workers[rank].join()
    return late


def main() -> None:
    """Answer the request."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    request: Request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    node = int(os.environ.get("UENV_NODE", "0"))
    answer = run_node(request, node)
    target = Path(sys.argv[2]) / f"{node}.json"
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(answer), encoding="utf-8")
    unfinished.rename(target)
    if answer["late"] or answer["broken"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
