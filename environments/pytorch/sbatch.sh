#!/bin/bash
# pytorch/2.14:latest@clariden%gh200 on clariden, network mode hook-artifact. Written by uenv-builder.
#
#   sbatch FILE                 runs a short example
#   sbatch FILE COMMAND ...     runs your command on every rank
#
# Options given to sbatch win over those below; your project may need --account or --partition.
#SBATCH --job-name=pytorch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=72
#SBATCH --gpus-per-node=4
#SBATCH --time=00:15:00
#SBATCH --output=%x-%j.out
# The environment is an option of srun, below, and not of sbatch: this script itself needs the host's Slurm.

set -euo pipefail

# The environment definition file; `EDF=... sbatch FILE` takes another one.
[ -n "${EDF-}" ] || EDF=pytorch

if [ $# -eq 0 ]; then
    program=$(cat << 'PY'
import os
import time

import torch
import torch.distributed as dist

BYTES = 128 * 1024 * 1024
ROUNDS = 20

cuda = torch.cuda.is_available()
if cuda:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)
else:
    device = torch.device("cpu")
dist.init_process_group("nccl" if cuda else "gloo")
rank, size = dist.get_rank(), dist.get_world_size()

# Whole numbers below 2**24, which float32 holds exactly: every element of the sum must be right.
pattern = torch.arange(BYTES // 4, device=device, dtype=torch.float32) % 1024
values = pattern + rank
dist.all_reduce(values)
right = torch.equal(values, pattern * size + size * (size - 1) // 2)
values.zero_()


def finish():
    if cuda:
        torch.cuda.synchronize()
    dist.barrier()


for timed in (False, True):
    finish()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        dist.all_reduce(values)
    finish()
    seconds = (time.perf_counter() - start) / ROUNDS
    if timed and rank == 0:
        busbw = 2 * (size - 1) / size * BYTES / seconds / 1e9
        backend = dist.get_backend()
        print(f"all-reduce, {backend}, {size} ranks, {BYTES} bytes: busbw {busbw:.2f} GB/s, data right: {right}")
dist.destroy_process_group()
raise SystemExit(0 if right else 1)
PY
    )
    set -- python3 -c "$program"
fi

# Where the ranks meet: the first node of the job, and a port that depends on the job.
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT

# Slurm knows each rank's numbers only where the rank runs: the inner shell, in the container, names them for torch.
# shellcheck disable=SC2016
srun \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --mpi=pmix \
    --network=disable_rdzv_get \
    --environment="$EDF" \
    sh -c 'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS" && exec "$@"' sh "$@"
