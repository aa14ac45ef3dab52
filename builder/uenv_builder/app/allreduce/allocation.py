"""Nodes for a test from Slurm: the command runs once more, inside an allocation that ends with it."""

from __future__ import annotations

import sys
from pathlib import Path

from uenv_builder.app.allreduce.levels import LevelRequest
from uenv_builder.app.outputs import open_build
from uenv_builder.app.session import Session
from uenv_builder.core.systems import load_system
from uenv_builder.launchers.slurm import allocate, in_allocation
from uenv_builder.model.errors import InconclusiveError
from uenv_builder.model.report import HOST_LEVELS
from uenv_builder.model.system import System
from uenv_builder.system.abandoned import scratch_folder
from uenv_builder.system.process import Popen, find_program, start
from uenv_builder.system.site_systems import read_site_systems

_PROGRAMS = 3
"""How many programs a level has at most; twice as many with a known good image."""
_MORE_SECONDS, _BETWEEN_SECONDS = 300.0, 150.0
"""Before and after all programs; after each that hangs, for what its processes were doing, and for its end."""
_NO_NODES = 1
"""How salloc ends where it gets no allocation; a command of ours that fails in itself ends like that, too."""
_BEGIN = ': >"$0"; exec "$@"'
"""Leaves a file, as a sign that there is an allocation."""


def is_needed() -> bool:
    """Whether this process has no allocation yet."""
    return not in_allocation()


def run_again(session: Session, image: Path, request: LevelRequest) -> int:
    """Run this very command with the nodes that `request` asks for; its exit code. MissingToolError without salloc."""
    find_program("salloc")
    system = load_system(open_build(image).manifest["system"], read_site_systems(session.settings.systems))
    seconds = seconds_needed(request)
    gpus = gpus_needed(system, request)
    options = [f"--gpus-per-node={gpus}"] if gpus else []
    session.listener.note(f"asking Slurm for {request.nodes} nodes")
    with scratch_folder("uenv-allocation-") as folder:
        begun = folder / "begun"
        command = ["sh", "-c", _BEGIN, str(begun), sys.executable, "-m", "uenv_builder.cli", *sys.argv[1:]]
        code = _wait_for(start(allocate(request.nodes, seconds, options, command)))
        if code == _NO_NODES and not begun.exists():
            raise InconclusiveError(
                f"Slurm gave no allocation, nodes asked for: {request.nodes}",
                hint="see its message above; SALLOC_ACCOUNT and SALLOC_PARTITION name account and partition",
            )
    return code


def seconds_needed(request: LevelRequest) -> float:
    """How long a job for `request` has to live, in seconds, where each of its programs hangs."""
    runs = _PROGRAMS * (2 if request.known_good else 1)
    return runs * (request.limit + _BETWEEN_SECONDS) + _MORE_SECONDS


def gpus_needed(system: System, request: LevelRequest) -> int:
    """How many GPUs of each node a job for `request` asks for: all, or none."""
    return system.launch.gpus_per_node if request.level not in HOST_LEVELS else 0


def _wait_for(process: Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has interrupted salloc and the command in it as well; both clean up.
            continue
