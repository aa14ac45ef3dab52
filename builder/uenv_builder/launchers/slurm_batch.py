"""Batch jobs of Slurm: submitting, asking after them, cancelling. They write into a folder that all nodes see."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from uenv_builder.launchers.slurm_states import JobState, read_sacct, read_squeue
from uenv_builder.model.errors import BuildError, InconclusiveError
from uenv_builder.model.system import SlurmDefaults
from uenv_builder.system.process import Completed, find_program, run

LOG = "slurm.log"
"""What the batch script prints, in its folder; of an array, with the task's number."""
_SECONDS = 60
"""For one question to Slurm."""
_OUTPUT_VARIABLES = ("SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_JOB_NAME", "SBATCH_ARRAY_INX", "SBATCH_REQUEUE")
"""Of a user's own jobs: these must not reach ours."""
_USERS = {
    "account": "SBATCH_ACCOUNT", "partition": "SBATCH_PARTITION", "constraint": "SBATCH_CONSTRAINT",
    "time": "SBATCH_TIMELIMIT",
}  # fmt: skip
"""Where a user sets the same for sbatch: it counts more than the system's file."""
_NUMBER = re.compile(r"[0-9]{1,12}")
SHORTEST, LONGEST, PART = 0.25, 15.0, 0.1
"""Seconds between two questions after a job: a part of the time that has passed, so that short jobs are seen soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What a user or a site wants of a job; None is not said."""

    account: str | None = None
    partition: str | None = None
    constraint: str | None = None
    time: str | None = None
    further: tuple[str, ...] = ()

    def over(self, weaker: BatchOptions) -> BatchOptions:
        """These, and where they say nothing the weaker ones; further options of both, the weaker first."""
        return BatchOptions(
            account=self.account or weaker.account, partition=self.partition or weaker.partition,
            constraint=self.constraint or weaker.constraint, time=self.time or weaker.time,
            further=(*weaker.further, *self.further),
        )  # fmt: skip

    def words(self) -> list[str]:
        """As options of sbatch."""
        named = {name: getattr(self, name) for name in _USERS}
        return [*(f"--{name}={value}" for name, value in named.items() if value), *self.further]


def system_options(defaults: SlurmDefaults) -> BatchOptions:
    """Those of a system's file, but for what the environment sets for sbatch."""
    wanted = {name: getattr(defaults, name) for name, variable in _USERS.items() if not os.environ.get(variable)}
    return BatchOptions(**wanted, further=defaults.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """A script to submit; `seconds` is the limit where the options name none. `tasks` makes it an array of so many."""

    name: str
    script: Path
    folder: Path
    nodes: int = 1
    seconds: float
    tasks: int | None = None
    options: BatchOptions
    exclusive: bool = True

    def command(self) -> list[str]:
        """The sbatch line. No requeue: a node that fails shall be told, and not hidden by a second run."""
        words = ["sbatch", "--parsable", f"--job-name={self.name}", f"--chdir={self.folder}", f"--nodes={self.nodes}"]
        words += ["--no-requeue", "--exclusive"] if self.exclusive else ["--no-requeue"]
        words += ["--open-mode=append", f"--output={self.folder / LOG}"] if self.tasks is None else []
        if self.tasks is not None:
            words += [f"--array=0-{self.tasks - 1}", f"--output={self.folder}/%a/{LOG}"]
        own_limit = self.options.time or os.environ.get(_USERS["time"])
        words += [] if own_limit else [f"--time={int(self.seconds) // 60 + 2}"]
        return [*words, *self.options.words(), str(self.script)]


def submit(job: BatchJob) -> str:
    """The number of the job that Slurm made; InconclusiveError with its words where it refuses."""
    find_program("sbatch")
    env = {name: value for name, value in os.environ.items() if name not in _OUTPUT_VARIABLES}
    done = run(job.command(), env=env, timeout=_SECONDS, check=False)
    number = _NUMBER.match(done.stdout.strip())
    if done.returncode or not number:
        words = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()) or f"exit {done.returncode}"
        raise InconclusiveError(
            f"Slurm refuses the job: {words}",
            hint="see --account, --partition, --constraint, --time, --slurm-option and the settings slurm-*",
        )
    return number[0]


def ask_states(job: str) -> dict[str, JobState] | None:
    """What Slurm knows of the job, or of each of its tasks; empty where it knows none, None without an answer."""
    words = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%i|%T|%N|%r"]
    asked = _ask(words)
    known = read_squeue(asked.stdout.splitlines()) if asked else {}
    if known and not all(state.has_ended for state in known.values()):
        return known
    # Also of what has ended: only the accounts know how its steps ended, and jobs that squeue has forgotten.
    counted = _ask(["sacct", "--noheader", "--parsable2", f"--jobs={job}", "--format=JobID,State,NodeList,Reason"])
    found = known | _firmer(read_sacct(counted.stdout.splitlines()) if counted else {}, known)
    gone = asked is not None and (asked.returncode == 0 or "nvalid job id" in asked.stderr)
    return found if found or gone else None


def _firmer(counted: Mapping[str, JobState], known: Mapping[str, JobState]) -> dict[str, JobState]:
    """What the accounts add: jobs that squeue does not know, and faults that it does not tell."""
    return {job: state for job, state in counted.items() if job not in known or (state.fault and not known[job].fault)}


def find_job(name: str) -> str | None:
    """The number of the job of that name, where squeue knows one."""
    asked = _ask(["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%F"])
    number = _NUMBER.match(asked.stdout.strip()) if asked else None
    return number[0] if number else None


def folder_of(job: str) -> Path | None:
    """The folder that the job was submitted for, from Slurm's controller, else from its accounts."""
    asked = _ask(["scontrol", "--oneliner", "show", "job", job])
    told = (
        re.search(r"\bWorkDir=(.*?)(?: [A-Z]\w+=|$)", asked.stdout.strip().splitlines()[0])
        if asked and asked.stdout.strip()
        else None
    )
    if told:
        return Path(told[1])
    counted = _ask(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=WorkDir"])
    lines = counted.stdout.strip().splitlines() if counted else []
    return Path(lines[0]) if lines and lines[0].startswith("/") else None


def cancel(job: str) -> None:
    """End the job with all of its tasks; one that has ended stays as it is."""
    _ask(["scancel", job])


def bad_nodes(nodes: str) -> list[str]:
    """Which of `nodes` (in Slurm's form) Slurm has taken out of use: NODE (STATE: REASON)."""
    if not nodes:
        return []
    asked = _ask(["sinfo", "--noheader", "--Node", f"--nodes={nodes}", "--format=%N|%T|%E"])
    found = []
    for line in dict.fromkeys(asked.stdout.splitlines() if asked else ()):
        name, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if state.rstrip("*~#$@!%").lower() in {"drained", "draining", "down", "fail", "failing", "error"}:
            found.append(f"{name} ({state}: {reason})")
    return found


def wait(
    job: str, *, told: Callable[[Mapping[str, JobState]], None], silence: float = 600.0, patience: float | None = None
) -> dict[str, JobState]:
    """The states in which the job, or all of its tasks, ended; `told` hears of every answer.

    InconclusiveError where Slurm does not answer for `silence` seconds, or where nothing has begun after `patience`
    seconds; in the latter case the job is cancelled.
    """
    begun = answered = time.monotonic()
    while True:
        states = ask_states(job)
        now = time.monotonic()
        if states is not None:
            answered = now
            told(states)
            if all(state.has_ended for state in states.values()):
                return states
            if patience is not None and now - begun > patience and all(_waits(state) for state in states.values()):
                cancel(job)
                reasons = ", ".join(sorted({state.reason for state in states.values()}))
                raise InconclusiveError(
                    f"job {job} did not begin within {patience:g} s (Slurm: {reasons}), and was cancelled",
                    hint="wait longer, or ask for less",
                )
        elif now - answered > silence:
            raise InconclusiveError(
                f"Slurm did not answer for {silence:g} s; job {job} may go on", hint=f"later: --resume {job}"
            )
        time.sleep(min(LONGEST, max(SHORTEST, PART * (now - begun))))


def _waits(state: JobState) -> bool:
    return state.name == "PENDING"


def _ask(command: list[str]) -> Completed | None:
    """The answer, None where there is none: a controller that is busy or starts anew is no reason to give up."""
    try:
        return run(command, timeout=_SECONDS, check=False)
    except BuildError:
        return None


def with_gpus(options: BatchOptions, gpus: int) -> BatchOptions:
    """The options, and so many GPUs on each node; what a user says comes later, and counts more."""
    return replace(options, further=(f"--gpus-per-node={gpus}", *options.further)) if gpus else options
