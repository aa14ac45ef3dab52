"""What Slurm says of a job: its state, whether that is its end, and what of it is no fault of what ran in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ACTIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD",
    "REQUEUE_FED", "SPECIAL_EXIT", "RESIZING", "SIGNALING", "STAGE_OUT", "RESV_DEL_HOLD",
})  # fmt: skip
"""States from which a job can go on (SchedMD/slurm, doc of squeue, job state codes)."""
FAULTS: Mapping[str, str] = {
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not start",
    "TIMEOUT": "the job's time limit was reached",
    "DEADLINE": "the job's deadline was reached",
    "PREEMPTED": "the job was preempted",
    "CANCELLED": "the job was cancelled",
    "REVOKED": "the job went to another cluster",
    "OUT_OF_MEMORY": "a node's memory ran out",
}
"""Ends that say nothing of the image, in words."""
REMEDIES: Mapping[str, str] = {
    "NODE_FAIL": "try again; leave the node out with --slurm-option=--exclude=NODE",
    "BOOT_FAIL": "try again; leave the node out with --slurm-option=--exclude=NODE",
    "TIMEOUT": "ask for more with --time, or let a test's programs take less with --limit",
    "PREEMPTED": "try again, in a partition or quality of service that is not preempted",
    "CANCELLED": "try again; whoever may end your jobs has ended this one",
    "OUT_OF_MEMORY": "ask for more with --slurm-option=--mem=0, or do less at once: --ntasks-per-node, --jobs",
}
_OOM = re.compile(r"oom[-_]kill event|: Out Of Memory")


@dataclass(frozen=True, slots=True)
class JobState:
    """One job, or one task of an array: its state in Slurm's words, its nodes in Slurm's form, and why it is so."""

    name: str
    nodes: str = ""
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it will not go on."""
        return self.name not in ACTIVE

    @property
    def fault(self) -> str:
        """What ended it, where that says nothing of what ran in it; empty else."""
        if self.name not in FAULTS:
            return ""
        where = f", nodes {self.nodes}" if self.nodes else ""
        why = f", {self.reason}" if self.reason not in {"", "None"} else ""
        return f"{FAULTS[self.name]} (Slurm: {self.name}{where}{why})"

    @property
    def remedy(self) -> str:
        """What to do about a fault."""
        return REMEDIES.get(self.name, "try again")


def read_squeue(lines: Iterable[str]) -> dict[str, JobState]:
    """States by the job's number, or by NUMBER_TASK, from `squeue --format=%i|%T|%N|%r`."""
    found = {}
    for line in lines:
        cells = line.strip().split("|", 3)
        if len(cells) == 4 and cells[0][:1].isdecimal():
            found[cells[0]] = JobState(*cells[1:])
    return found


def read_sacct(lines: Iterable[str]) -> dict[str, JobState]:
    """States from `sacct --parsable2 --format=JobID,State,NodeList,Reason`.

    A step whose memory ran out makes its job one whose memory ran out, whatever the script ended with.
    """
    found: dict[str, JobState] = {}
    for line in lines:
        cells = line.strip().split("|")
        if len(cells) < 4 or not cells[0][:1].isdecimal():
            continue
        job, _, step = cells[0].partition(".")
        state = JobState(_first_word(cells[1]), _none(cells[2]), _none(cells[3]))
        if not step:
            found[job] = state
        elif state.name == "OUT_OF_MEMORY" and job in found and not found[job].fault:
            found[job] = JobState(state.name, found[job].nodes, f"step {cells[0]}")
    return found


def tells_out_of_memory(text: str) -> bool:
    """Whether Slurm says in a step's log that the system killed processes for want of memory."""
    return _OOM.search(text) is not None


def _first_word(state: str) -> str:
    """sacct says who cancelled a job: `CANCELLED by 1000`."""
    return state.split(" ", 1)[0].rstrip("+")


def _none(cell: str) -> str:
    return "" if cell in {"None", "None assigned", "Unknown"} else cell
