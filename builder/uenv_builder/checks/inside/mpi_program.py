"""All-reduce with mpi4py and numpy under the image's own launcher, every element compared with the exact sum.

`mpi_program.py launch N` becomes the launcher with N ranks of itself; a rank reads nothing from standard input, takes
the sizes from UENV_CHECK_SIZES, and rank 0 prints one JSON document on the last line.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

from exact_sums import EXACT_INTEGERS, bandwidths, contribution, expected_sum, find_wrong, modulus  # type: ignore[import-not-found]

DTYPES = ("float32", "float64", "int32", "int64")
REPEATS = 5
LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "mpirun.mpich", "mpirun.openmpi")
# One sandbox is one machine with few processors, a loopback interface, no ssh, and root as its user.
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_plm_rsh_agent": "true",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMPI_MCA_btl_sm_use_cma": "0",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_plm_ssh_agent": "true",
    "FI_TCP_IFACE": "lo",
}


def launch(ranks: str) -> None:
    """Become the launcher."""
    launcher = next((path for name in LAUNCHERS if (path := shutil.which(name))), None)
    if launcher is None:
        sys.exit(f"no MPI launcher in the image's PATH: {', '.join(LAUNCHERS)}")
    arguments = [launcher, "-n", ranks, sys.executable, "-B", __file__, "rank"]
    os.execve(launcher, arguments, {**SETTINGS, **os.environ})  # noqa: S606


def run_rank() -> None:
    """Reduce every type and size, compare, gather the findings at rank 0."""
    import numpy as np  # noqa: PLC0415  (the launching process needs neither)
    from mpi4py import MPI  # type: ignore[import-not-found]  # noqa: PLC0415

    world = MPI.COMM_WORLD
    rank, ranks = world.Get_rank(), world.Get_size()
    sizes = [int(text) for text in os.environ["UENV_CHECK_SIZES"].split(",")]
    wrong: list[list[object]] = []
    for dtype in DTYPES:
        prime = modulus(ranks, EXACT_INTEGERS[dtype])
        for size in sizes:
            index: np.ndarray = np.arange(size, dtype=np.int64)
            values = contribution(rank, index, prime).astype(dtype)
            world.Allreduce(MPI.IN_PLACE, values)
            expected = expected_sum(index, ranks, prime).astype(dtype)
            if not np.array_equal(values, expected):
                first = find_wrong(values.tolist(), expected.tolist())
                wrong += [[dtype, size, rank, *place] for place in first]
    seconds = measure(world, MPI.IN_PLACE, np.zeros(max(sizes), dtype=np.float32))
    found = world.gather({"wrong": wrong, "compared": sum(sizes) * len(DTYPES)}, root=0)
    if rank == 0:
        size_bytes = max(sizes) * 4
        answer = {"ranks": ranks, "library": MPI.Get_library_version().split("\n")[0].strip("\0 "), "findings": found}
        answer |= {"bytes": size_bytes, **bandwidths(size_bytes, ranks, seconds)}
        print("\n" + json.dumps({"answer": answer}), flush=True)


def measure(world, in_place, values) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Seconds of one all-reduce of `values`: the mean of some repetitions, after one that is not counted."""
    world.Allreduce(in_place, values)
    world.Barrier()
    started = time.monotonic()
    for _ in range(REPEATS):
        world.Allreduce(in_place, values)
    return (time.monotonic() - started) / REPEATS


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        launch(sys.argv[2])
    else:
        run_rank()
