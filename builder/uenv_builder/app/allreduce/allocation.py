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
from uenv_builder.system.process import find_program, start
from uenv_builder.system.site_systems import read_site_systems

_PROGRAMS = 3
"""How many programs a level has at most; twice as many with a known good image."""
_MORE_SECONDS = 300.0
_NO_NODES = 1
"""How salloc ends where it gets no allocation; a test never ends like that."""


def is_needed() -> bool:
    """Whether this process has no allocation yet."""
    return not in_allocation()


def run_again(session: Session, image: Path, request: LevelRequest) -> int:
    """Run this very command with the nodes that `request` asks for; its exit code. MissingToolError without salloc."""
    find_program("salloc")
    system = load_system(open_build(image).manifest["system"], read_site_systems(session.settings.systems))
    runs = _PROGRAMS * (2 if request.known_good else 1)
    gpus = system.launch.gpus_per_node if request.level != "gloo" else 0
    options = [f"--gpus-per-node={gpus}"] if gpus else []
    command = [sys.executable, "-m", "uenv_builder.cli", *sys.argv[1:]]
    session.listener.note(f"asking Slurm for {request.nodes} nodes")
    process = start(allocate(request.nodes, runs * request.limit + _MORE_SECONDS, options, command))
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            # The terminal has interrupted salloc and the command in it as well; both clean up.
            continue
    if code == _NO_NODES:
        raise InconclusiveError(
            f"Slurm gave no allocation, nodes asked for: {request.nodes}",
            hint="see its message above; SALLOC_ACCOUNT and SALLOC_PARTITION name account and partition",
        )
    return code
