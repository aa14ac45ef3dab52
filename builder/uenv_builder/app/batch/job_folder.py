"""The folder of a batch job of ours: its script, whose it is, and what it left. Whoever dies, it says what there is."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from uenv_builder.app.session import Session
from uenv_builder.core.logs.failures import printable
from uenv_builder.launchers.slurm_batch import LOG, BatchJob, cancel, find_job, folder_of, submit
from uenv_builder.launchers.slurm_states import JobState, tells_out_of_memory
from uenv_builder.model.errors import InconclusiveError, UsageError
from uenv_builder.system.files import write_json, write_text

RECORD, SCRIPT, NUMBER, EXIT_CODE = "job.json", "job.sh", "job-id", "exit-code"
_FORMAT = 1
_TAIL_BYTES, _TAIL_LINES = 8192, 12
_LOG_BYTES = 1 << 20
_LATE_SECONDS = 10.0
# The last two files appear whole or not at all: a job may be killed at any moment.
_SCRIPT = """\
#!/bin/sh
# A job of uenv: {what}. It leaves {exit_code} when its command has ended by itself.
leave() {{ printf '%s\\n' "$2" >"$1.tmp" && mv "$1.tmp" "$1"; }}
{enter}leave {number} "$SLURM_JOB_ID"
{command}
code=$?
leave {exit_code} "$code"
exit "$code"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job of ours. `name` is its name in Slurm, which no other has; `job` its number, None before it is known.

    `verb` is what submitted it; `subject` the build or the file with the list of recipes that it is about.
    """

    name: str
    verb: str
    subject: str
    level: str = "image"
    nodes: int = 1
    job: str | None = None


def write_script(folder: Path, what: str, command: Sequence[str] | str, *, each_task: bool = False) -> Path:
    """The batch script that runs `command` in `folder`; of an array, in the folder of the task's number there."""
    enter = 'cd "$SLURM_ARRAY_TASK_ID" || exit 1\n' if each_task else ""
    words = command if isinstance(command, str) else shlex.join(command)
    text = _SCRIPT.format(what=what, enter=enter, number=NUMBER, exit_code=EXIT_CODE, command=words)
    write_text(folder / SCRIPT, text)
    return folder / SCRIPT


def write_record(record: JobRecord, folder: Path) -> None:
    """Keep `record` in the job's folder."""
    write_json(folder / RECORD, {"format": _FORMAT, **asdict(record)})


def read_record(folder: Path) -> JobRecord:
    """The record in `folder`; raises UsageError where there is none that this version reads."""
    path = folder / RECORD
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != _FORMAT:
            raise ValueError("its format is not known")
        return JobRecord(**document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: is no record of a job: {error}", hint="name a job's number, or the folder of its report"
        ) from error


def submit_recorded(record: JobRecord, job: BatchJob) -> JobRecord:
    """Submit `job`, and keep its number. The record is there before the job is: a job without one cannot be found."""
    write_record(record, job.folder)
    try:
        number = submit(job)
    except KeyboardInterrupt:
        # sbatch was interrupted as well, before or after the job was made.
        if made := find_job(record.name):
            cancel(made)
        raise
    known = replace(record, job=number)
    write_record(known, job.folder)
    return known


def find_record(asked: str) -> tuple[JobRecord, Path]:
    """The record of a job by its number or its folder, with its number; and the folder."""
    folder = Path(asked)
    if not folder.is_dir():
        if not asked.isdecimal():
            raise UsageError(f"--resume {asked}: is neither a job's number nor a folder")
        told = folder_of(asked)
        if told is None:
            raise UsageError(
                f"--resume {asked}: Slurm does not know this job", hint="name the folder of its report instead"
            )
        folder = told
    record = read_record(folder)
    if record.job is not None:
        return record, folder.resolve()
    # Whoever submitted it died before it could write the number down.
    number = _number_left(folder) or find_job(record.name)
    if number is None:
        raise InconclusiveError(f"{folder}: its job was never submitted, or Slurm forgot it", hint="begin anew")
    record = replace(record, job=number)
    write_record(record, folder)
    return record, folder.resolve()


def _number_left(folder: Path) -> str | None:
    try:
        return (folder / NUMBER).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def exit_code_left(folder: Path) -> int | None:
    """How the job's command ended; None where it did not end by itself."""
    try:
        return int((folder / EXIT_CODE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def wait_for_code(folder: Path, *, ended: bool) -> int | None:
    """As `exit_code_left`; where the job has `ended` by itself, the file is waited for: parallel file systems show a
    file of another node late.
    """
    deadline = time.monotonic() + (_LATE_SECONDS if ended else 0)
    while (code := exit_code_left(folder)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return code


def log_tail(folder: Path) -> tuple[str, ...]:
    """The last lines that the job printed."""
    path = folder / LOG
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return tuple(printable(line) for line in lines[-_TAIL_LINES:])


class Telling:
    """Tells each change of a job, or of each of its tasks, once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told: dict[str, str] = {}

    def __call__(self, states: Mapping[str, JobState]) -> None:
        """Tell what is new in `states`."""
        for job, state in states.items():
            where = f" on {state.nodes}" if state.nodes else ""
            why = f" ({state.reason})" if state.reason not in {"", "None"} else ""
            text = f"job {job} is {state.name.lower()}{where}{why}"
            if text != self._told.get(job):
                self._session.listener.note(text)
            self._told[job] = text


def trouble_of(folder: Path, state: JobState | None) -> str:
    """What ended the job, where that is no fault of what ran in it; empty else."""
    if state and state.fault:
        return state.fault
    for path in sorted(folder.glob("*.log")):
        with path.open(encoding="utf-8", errors="replace") as file:
            if tells_out_of_memory(file.read(_LOG_BYTES)):
                return JobState("OUT_OF_MEMORY", state.nodes if state else "", f"see {path.name}").fault
    return ""
