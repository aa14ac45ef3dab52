#!/bin/bash
# python-mpi/1.0:latest@generic-x86_64%x86_64 on generic-x86_64, network mode none. Written by uenv-builder.
#
#   sbatch FILE                 runs a short example
#   sbatch FILE COMMAND ...     runs your command on every rank
#
# Options given to sbatch win over those below; your project may need --account or --partition.
#SBATCH --job-name=python-mpi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --time=00:15:00
#SBATCH --output=%x-%j.out
# The environment is an option of srun, below, and not of sbatch: this script itself needs the host's Slurm.

set -euo pipefail

# The environment definition file; `EDF=... sbatch FILE` takes another one.
[ -n "${EDF-}" ] || EDF=python-mpi

if [ $# -eq 0 ]; then
    program=$(cat << 'PY'
import time
from array import array

from mpi4py import MPI

COUNT = 2 * 1024 * 1024
ROUNDS = 20

comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
mine = array("d", [float(index % 1024 + rank) for index in range(COUNT)])
total = array("d", bytes(8 * COUNT))
comm.Allreduce(mine, total)
base = size * (size - 1) // 2
right = all(value == index % 1024 * size + base for index, value in enumerate(total))

comm.Barrier()
start = time.perf_counter()
for _ in range(ROUNDS):
    comm.Allreduce(mine, total)
comm.Barrier()
seconds = (time.perf_counter() - start) / ROUNDS
if rank == 0:
    busbw = 2 * (size - 1) / size * 8 * COUNT / seconds / 1e9
    print(f"all-reduce, MPI, {size} ranks, {8 * COUNT} bytes: busbw {busbw:.2f} GB/s, data right: {right}")
raise SystemExit(0 if right else 1)
PY
    )
    set -- python3 -c "$program"
fi

srun \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --environment="$EDF" \
    "$@"
