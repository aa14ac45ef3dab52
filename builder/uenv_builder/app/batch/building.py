"""`uenv build --launcher slurm`: many builds as one job array, waited for and collected by whoever is there then."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from uenv_builder.app.batch.build_results import BuildEnd, read_end, worst_code
from uenv_builder.app.batch.build_tasks import COMMAND, TASKS, BuildOptions, plan_tasks, read_tasks, write_tasks
from uenv_builder.app.batch.job_folder import RECORD, JobRecord, Telling, find_record, submit_recorded, write_script
from uenv_builder.app.batch.options import options_for
from uenv_builder.app.batch.shared_store import leave_proof, remove_proof, warn_of_memory
from uenv_builder.app.preparing import Prepared
from uenv_builder.app.session import Session
from uenv_builder.core.digest import Document
from uenv_builder.launchers.slurm_batch import BatchJob, BatchOptions, cancel, wait
from uenv_builder.launchers.slurm_states import JobState
from uenv_builder.model.errors import UsageError
from uenv_builder.system.files import explained, make_new_folder

_SECONDS = 4 * 3600.0
"""The limit of a build where nobody sets one: PyTorch's components compile within an hour on a node."""
_JOBS = Path("build/jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a job array came to; `folder` holds its scripts, logs and results."""

    job: str
    folder: Path
    ends: Sequence[BuildEnd]

    @property
    def exit_code(self) -> int:
        """That of the worst."""
        return worst_code(self.ends)

    def document(self) -> Document:
        """For --json."""
        return {"job": self.job, "folder": str(self.folder), "builds": [end.document() for end in self.ends]}

    def lines(self) -> list[str]:
        """For people; what was not built comes last."""
        built = [end for end in self.ends if end.exit_code == 0]
        others = [end for end in self.ends if end.exit_code]
        lines = [line for end in [*built, *others] for line in end.lines()]
        return [*lines, f"{len(built)} of {len(self.ends)} built by job {self.job}; its folder is {self.folder}"]


def submit_builds(
    session: Session, prepared: Sequence[Prepared], given: BatchOptions, options: BuildOptions, *,
    output: Path | None = None, report: Path | None = None, patience: float | None = None,
) -> Built:  # fmt: skip
    """Submit one job array that builds all of `prepared`, each on a node of its own; wait, collect.

    An interrupt cancels the jobs. Whatever else ends this process leaves them alone: `resume_builds` goes on.
    """
    tasks = plan_tasks(prepared, output)
    store = session.store.root
    if remark := warn_of_memory(store):
        session.listener.note(remark)
    folder = _make_folder(report).resolve()
    name = f"uenv-build-{secrets.token_hex(6)}"
    subject = write_tasks(folder, tasks, options, store=store, proof=leave_proof(store, name))
    what = f"{len(tasks)} builds, each in the folder of its number"
    job = BatchJob(
        name=name, script=write_script(folder, what, ["sh", COMMAND], each_task=True), folder=folder, seconds=_SECONDS,
        tasks=len(tasks), options=options_for(session.settings, prepared[0].selection.system, given),
    )  # fmt: skip
    record = JobRecord(name=name, verb="build", subject=str(subject))
    try:
        record = submit_recorded(record, job)
    except BaseException:
        remove_proof(store, name)
        raise
    session.listener.note(f"job {record.job}, builds: {len(tasks)}; its folder is {folder}")
    return _wait_and_collect(session, record, folder, patience)


def resume_builds(session: Session, asked: str, *, patience: float | None = None) -> Built:
    """Wait for builds that somebody else submitted, by the job's number or folder, and collect; also a second time."""
    record, folder = find_record(asked)
    if record.verb != "build":
        raise UsageError(f"--resume {asked}: is a job of uenv {record.verb}", hint=f"uenv {record.verb} --resume")
    return _wait_and_collect(session, record, folder, patience)


def _wait_and_collect(session: Session, record: JobRecord, folder: Path, patience: float | None) -> Built:
    job = record.job or ""
    tasks = read_tasks(folder / TASKS)
    try:
        with session.listener.task(f"job {job}, {len(tasks)} builds"):
            states = wait(job, told=Telling(session), patience=patience)
    except KeyboardInterrupt:
        cancel(job)
        remove_proof(session.store.root, record.name)
        session.listener.note(f"job {job} is cancelled with all of its builds")
        raise
    remove_proof(session.store.root, record.name)
    ends = [read_end(task, folder / str(number), _state(states, job, number)) for number, task in enumerate(tasks)]
    return Built(job=job, folder=folder, ends=ends)


def _state(states: Mapping[str, JobState], job: str, number: int) -> JobState | None:
    return states.get(f"{job}_{number}")


def _make_folder(asked: Path | None) -> Path:
    """A folder without the record of another job; `asked` or a new one below build/jobs."""
    if asked is not None:
        if (asked / RECORD).exists():
            raise UsageError(f"--report {asked}: has a job already", hint="name another folder")
        with explained(asked):
            asked.mkdir(parents=True, exist_ok=True)
        return asked
    return make_new_folder(_JOBS, f"{datetime.now(tz=UTC):%Y%m%dT%H%M%SZ}")
