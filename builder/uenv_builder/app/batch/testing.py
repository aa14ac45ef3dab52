"""`uenv test --launcher slurm`: the test as a batch job, waited for, and collected by whoever is there at its end."""

from __future__ import annotations

import platform
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from uenv_builder.app.allreduce.allocation import gpus_needed, seconds_needed
from uenv_builder.app.allreduce.levels import LevelRequest, check_request, make_report_folder
from uenv_builder.app.batch.job_folder import (
    JobRecord,
    Telling,
    find_record,
    log_tail,
    submit_recorded,
    trouble_of,
    wait_for_code,
    write_script,
)
from uenv_builder.app.batch.options import options_for
from uenv_builder.app.outputs import REPORT, BuiltImage, open_build
from uenv_builder.app.reports import exit_code_of
from uenv_builder.app.session import Session
from uenv_builder.core.systems import load_system, load_uarchs
from uenv_builder.launchers.slurm_batch import BatchJob, BatchOptions, bad_nodes, cancel, wait, with_gpus
from uenv_builder.launchers.slurm_states import JobState
from uenv_builder.model.errors import UsageError
from uenv_builder.model.report import CheckResult, Report
from uenv_builder.system import report_files
from uenv_builder.system.site_systems import read_site_systems

CHECK = "slurm-job"
_IMAGE_SECONDS = 1800.0
"""For the checks of a build; their own limits are shorter."""
_OWN_CODES = range(1, 10)
"""With which our commands end by themselves; larger ones are signals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a job came to: its report, the folder with it, and the exit code."""

    report: Report
    folder: Path
    exit_code: int


def submit_test(
    session: Session, image: Path, request: LevelRequest | None, options: BatchOptions, *,
    report: Path | None = None, patience: float | None = None,
) -> Collected:  # fmt: skip
    """Submit a job that tests the build at `image`, the checks of a build where `request` is None; wait, collect.

    An interrupt cancels the job. Whatever else ends this process leaves it alone: `resume_test` goes on.
    """
    build = open_build(image)
    system = load_system(build.manifest["system"], read_site_systems(session.settings.systems))
    if request:
        check_request(request)
    level = request.level if request else "image"
    folder = make_report_folder(build, level, request.report if request else report, datetime.now(tz=UTC)).resolve()
    gpus = gpus_needed(system, request) if request else 0
    job = BatchJob(
        name=f"uenv-test-{secrets.token_hex(6)}",
        script=write_script(folder, f"tests of {build.manifest['label']}", _command(build, request, folder)),
        folder=folder,
        nodes=request.nodes if request else 1,
        seconds=seconds_needed(request) if request else _IMAGE_SECONDS,
        options=with_gpus(options_for(session.settings, system, options), gpus),
    )
    subject = str(build.folder.resolve())
    record = JobRecord(name=job.name, verb="test", subject=subject, level=level, nodes=job.nodes)
    record = submit_recorded(record, job)
    session.listener.note(f"job {record.job}, nodes: {job.nodes}; its folder is {folder}")
    return _wait_and_collect(session, record, folder, patience)


def resume_test(session: Session, asked: str, *, patience: float | None = None) -> Collected:
    """Wait for a job that somebody else submitted, by its number or its folder, and collect it; also a second time."""
    record, folder = find_record(asked)
    if record.verb != "test":
        raise UsageError(f"--resume {asked}: is a job of uenv {record.verb}", hint=f"uenv {record.verb} --resume")
    return _wait_and_collect(session, record, folder, patience)


def _command(build: BuiltImage, request: LevelRequest | None, folder: Path) -> Sequence[str]:
    words = [sys.executable, "-m", "uenv_builder.cli", "test", str(build.folder.resolve()), "--verbose"]
    words += ["--report", str(folder)]
    if request is None:
        return words
    paths = {"--known-good": request.known_good, "--compare": request.compare}
    words += [word for name, path in paths.items() if path for word in (name, str(path.resolve()))]
    values = {
        "--level": request.level, "--nodes": request.nodes, "--engine": request.engine, "--sandbox": request.sandbox,
        "--ntasks-per-node": request.ranks_per_node, "--tolerance": request.tolerance, "--limit": request.limit,
    }  # fmt: skip
    return [*words, *(word for name, value in values.items() if value is not None for word in (name, str(value)))]


def _wait_and_collect(session: Session, record: JobRecord, folder: Path, patience: float | None) -> Collected:
    job = record.job or ""
    try:
        with session.listener.task(f"job {job}"):
            states = wait(job, told=Telling(session), patience=patience)
    except KeyboardInterrupt:
        cancel(job)
        session.listener.note(f"job {job} is cancelled")
        raise
    return collect(session, record, folder, states.get(job))


def collect(session: Session, record: JobRecord, folder: Path, state: JobState | None) -> Collected:
    """The report of a job that has ended, with what Slurm says of it: no verdict on the image comes from the nodes."""
    code = wait_for_code(folder, ended=state is not None and state.name == "COMPLETED")
    report = _report_left(folder)
    trouble = trouble_of(folder, state)
    drained = bad_nodes(state.nodes if state else "")
    for node in drained:
        session.listener.note(f"out of use: {node}")
    if report is None:
        report = _report_of_nothing(record, code, trouble, drained)
        results: tuple[CheckResult, ...] = (replace(report.results[0], details=log_tail(folder)),)
    else:
        fault = trouble or ("nodes were taken out of use: " + ", ".join(drained) if drained else "")
        results = tuple(_excuse(result, fault, state) for result in report.results if result.check != CHECK)
        results += (_describe(record, state, drained),)
    report = replace(report, results=results)
    report_files.write_report(report, folder)
    told = code if code in _OWN_CODES and len(results) == 1 and results[0].check == CHECK and not trouble else None
    return Collected(report=report, folder=folder, exit_code=told or exit_code_of(report))


def _report_left(folder: Path) -> Report | None:
    try:
        return report_files.read_report(folder / REPORT)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _excuse(result: CheckResult, fault: str, state: JobState | None) -> CheckResult:
    if not fault or result.outcome != "failed":
        return result
    remedy = f"remedy: {state.remedy if state else 'test again'}"
    reason = f"node-fault: {fault}; without it: {result.reason}"
    return replace(result, outcome="inconclusive", reason=reason, details=(remedy, *result.details))


def _describe(record: JobRecord, state: JobState | None, drained: Sequence[str]) -> CheckResult:
    told = {"job": record.job or "", "state": state.name if state else "", "nodes": state.nodes if state else ""}
    details = tuple(f"out of use: {node}" for node in drained)
    return CheckResult(check=CHECK, outcome="passed", required=False, measured={**told}, details=details)


def _report_of_nothing(record: JobRecord, code: int | None, trouble: str, drained: Sequence[str]) -> Report:
    """For a job that left no report."""
    build = open_build(Path(record.subject))
    reason = trouble or (
        f"the command in the job ended with exit code {code} and left no report" if code is not None
        else "the job ended without a result"
    )  # fmt: skip
    more = "".join(f"; out of use: {node}" for node in drained)
    told: dict[str, float | int | str] = {"job": record.job or ""}
    result = CheckResult(check=CHECK, outcome="inconclusive", reason=reason + more, measured=told)
    machine = load_uarchs()[build.manifest["uarch"]].machine
    return Report(
        image=build.digest, label=build.manifest["label"], plan=build.manifest["plan"], ran_on=platform.machine(),
        emulated=machine != platform.machine(), started=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        results=(result,), level=record.level,
    )  # fmt: skip
