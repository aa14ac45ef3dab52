"""The programs that run inside an image on real nodes, their command lines, and what they leave behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uenv_builder.checks.inside.exact_sums import DEFAULT_SIZES
from uenv_builder.core.allreduce.figures import Operation, load_figures
from uenv_builder.core.digest import Json
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import find_node
from uenv_builder.model.report import Level
from uenv_builder.system.files import write_json

NCCL_TESTS: tuple[Operation, ...] = ("all_reduce_perf", "sendrecv_perf")
RANKS: Mapping[Operation, str] = {"torch": "ranks_program.py", "ring": "ring_program.py"}
"""Our own programs, one process for each rank."""
_CHECKS: Mapping[Operation, str] = {"all_reduce_perf": "allreduce", "sendrecv_perf": "sendrecv", "torch": "torch"}
_MIB = 1 << 20
_GLOO_BYTES = (1 * _MIB, 4 * _MIB)
_RING_BYTES = (1 << 14, 1 << 17)
"""Python adds some ten million numbers in a second."""
_TIMED_BYTES = tuple(_MIB << power for power in range(11))
"""1 MiB to 1 GiB."""
_PROGRAMS = Path(__file__).parents[2] / "checks" / "inside"
_FILES = (*RANKS.values(), "torch_program.py", "exact_sums.py")


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a job is."""

    nodes: int
    ranks_per_node: int


@dataclass(frozen=True, slots=True)
class Program:
    """One program of a level: the check that it is for, and why the image cannot run it, if so."""

    check: str
    operation: Operation
    backend: Literal["sockets", "gloo", "nccl"]
    missing: str = ""


def programs_of(level: Level, found: Sequence[str], *, torch: bool, python: bool = True) -> list[Program]:
    """The programs of `level` for an image that has the programs `found` of nccl-tests, and torch and Python or not."""
    if level == "sockets":
        return [Program("sockets-ring", "ring", "sockets", "" if python else "the image has no Python")]
    without = "" if torch else "the image has no torch"
    if level == "gloo":
        return [Program("torch-gloo", "torch", "gloo", without)]
    programs = [
        Program(f"{level}-{_CHECKS[name]}", name, "nccl", "" if name in found else f"the image has no {name}")
        for name in NCCL_TESTS
    ]
    return [*programs, Program(f"{level}-torch", "torch", "nccl", without)]


def find_benchmarks(image: Path, env: Mapping[str, str]) -> list[str]:
    """Which programs of nccl-tests the image has in its PATH; the squashfs is read, not mounted."""
    with open_squashfs(image) as opened:
        places = [b"/".join(filter(None, path.encode().split(b"/"))) for path in env.get("PATH", "").split(":")]
        folders = [find_node(opened.root, place) for place in places]
        return [name for name in NCCL_TESTS if any(name.encode() in folder.children for folder in folders if folder)]


def benchmark_argv(operation: Operation, gpus_per_process: int, level: Level) -> tuple[str, ...]:
    """A program of nccl-tests over sizes from 8 bytes on, with every value compared."""
    largest = "8G" if level == "gpu" else "1G"
    words = ["-b", "8", "-e", largest, "-f", "2", "-g", str(gpus_per_process), "-c", "1", "-w", "5", "-n", "20"]
    return (operation, *words)


def place_programs(folder: Path) -> None:
    """Copy what runs inside into the job's folder, which all nodes see."""
    target = folder / "programs"
    target.mkdir(exist_ok=True)
    for name in _FILES:
        shutil.copyfile(_PROGRAMS / name, target / name)


def ranks_argv(
    folder: Path, inside: str, python: str, program: Program, shape: Shape, *, seconds: float, meeting: str
) -> tuple[str, ...]:
    """The command that starts one node's ranks of a program of ours; writes its request into `folder`."""
    (folder / program.check).mkdir(exist_ok=True)
    for old in (folder / program.check).glob("*.json"):
        old.unlink()
    on_host = {"sockets": _RING_BYTES, "gloo": _GLOO_BYTES}.get(program.backend)
    request = {
        "backend": program.backend,
        "nodes": shape.nodes,
        "ranks_per_node": shape.ranks_per_node,
        "sizes": [size for size in DEFAULT_SIZES if not on_host or size * 4 < min(on_host)],
        "timed_bytes": list(on_host) if on_host else _timed_bytes(shape),
        "seconds": seconds,
        "meeting": meeting,
    }
    write_json(folder / f"{program.check}.request.json", request)
    return (
        python, "-B", f"{inside}/programs/{RANKS[program.operation]}", f"{inside}/{program.check}.request.json",
        f"{inside}/{program.check}",
    )  # fmt: skip


def read_answers(folder: Path, program: Program) -> list[Mapping[str, Json]]:
    """What the nodes wrote, in their order; those that wrote nothing are left out."""
    files = sorted((folder / program.check).glob("*.json"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def debug_env(inside: str, program: Program) -> dict[str, str]:
    """Variables that make NCCL tell what it chose, and torch leave a record of its collectives when one hangs."""
    env = {"PYTHONUNBUFFERED": "1"}
    if program.backend == "nccl":
        env |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET,ENV"}
    if program.backend == "nccl" and program.operation == "torch":
        record = f"{inside}/{program.check}.flight-rank"
        # The flight recorder's variables have an older and a newer name.
        env |= {"TORCH_NCCL_TRACE_BUFFER_SIZE": "2000", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": record}
        env |= {"TORCH_FR_BUFFER_SIZE": "2000", "TORCH_FR_DUMP_TEMP_FILE": record, "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}
    return env


def _timed_bytes(shape: Shape) -> list[int]:
    """The usual sizes, and those that there is a figure for in this shape."""
    known = [
        figure.bytes for figure in load_figures().figures
        if figure.operation == "torch" and (figure.nodes, figure.gpus_per_node) == (shape.nodes, shape.ranks_per_node)
    ]  # fmt: skip
    return sorted({*_TIMED_BYTES, *known})
