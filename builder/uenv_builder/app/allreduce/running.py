"""Running the programs of a level in an image, and judging each by its log and its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.allreduce import programs as inside
from uenv_builder.app.allreduce.engines import Engine, Place
from uenv_builder.app.allreduce.programs import Program, Shape
from uenv_builder.app.outputs import BuiltImage
from uenv_builder.core.allreduce.comparison import busbw_name
from uenv_builder.core.allreduce.figures import load_figures
from uenv_builder.core.allreduce.nodes import NodeFault
from uenv_builder.core.allreduce.observing import observe_benchmark, observe_ranks
from uenv_builder.core.allreduce.verdict import Expectation, Observation, Verdict, judge
from uenv_builder.core.lock_file import parse_lock
from uenv_builder.core.logs.failures import printable
from uenv_builder.core.logs.reading import LINE_LIMIT, LogReading, read_log
from uenv_builder.core.systems import SystemFiles, load_system
from uenv_builder.launchers import Ended, Job, Launcher
from uenv_builder.model.lock import Lock
from uenv_builder.model.report import HOST_LEVELS, CheckResult, Level
from uenv_builder.model.system import System

_MPI_IMAGES_NEED = "its ranks are started by MPI, one process each, which needs the engine edf or uenv on many nodes"
_TAIL_BYTES, _TAIL_LINES = 4096, 8
_WAIT_PART = 0.5
"""Of a job's limit: how long ranks wait for each other, so that NCCL's watchdog writes its record before the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A build with what is known of it."""

    build: BuiltImage
    system: System
    lock: Lock
    found: tuple[str, ...]
    """Programs of nccl-tests that the image has."""

    @property
    def has_torch(self) -> bool:
        """Whether torch was locked."""
        return self.lock.accelerator is not None

    @property
    def python(self) -> str:
        """The image's interpreter."""
        return f"/usr/bin/python{self.lock.python.version}" if self.lock.python else "python3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where and how the programs run, and what is wrong with the nodes."""

    level: Level
    shape: Shape
    launcher: Launcher
    engine: Engine
    folder: Path
    limit: float
    gpu: str = ""
    """Its name as the driver has it; not every program tells."""
    faults: tuple[NodeFault, ...] = ()


def open_subject(build: BuiltImage, site: SystemFiles) -> Subject:
    """Read what a test has to know of the build."""
    path = build.folder / "lock.yaml"
    return Subject(
        build=build,
        system=load_system(build.manifest["system"], site),
        lock=parse_lock(path.read_text(encoding="utf-8"), str(path)),
        found=tuple(inside.find_benchmarks(build.image, build.manifest["config"]["env"])),
    )


def expect(subject: Subject, run: Run) -> Expectation:
    """What the image promises: aws-ofi-nccl and cxi on Slingshot, where its network mode is any at all."""
    slingshot = subject.system.slingshot is not None and subject.build.manifest["network"] != "none"
    accelerator = subject.lock.accelerator
    return Expectation(
        system=subject.system.name,
        nodes=run.shape.nodes,
        gpus_per_node=run.shape.ranks_per_node,
        nccl=accelerator.nccl if accelerator else None,
        plugin=slingshot,
        provider="cxi" if slingshot else None,
    )


def run_program(subject: Subject, run: Run, program: Program) -> tuple[CheckResult, Verdict | None, Observation | None]:
    """One program, run and judged; no verdict where it cannot run."""
    one_process = run.engine.one_process_per_rank or run.shape.nodes == 1
    if program.operation not in inside.RANKS and not one_process:
        reason = f"{program.operation} cannot run: {_MPI_IMAGES_NEED}"
        return CheckResult(check=program.check, outcome="skipped", reason=reason, required=False), None, None
    job = _job(subject, run, program)
    ended = run.launcher.run(job)
    seen = _observe(run, program, job, ended)
    verdict = (
        judge_on_host(seen, run) if run.level in HOST_LEVELS else judge(seen, expect(subject, run), load_figures())
    )
    return describe(program, run, ended, seen, verdict), verdict, seen


def judge_on_host(seen: Observation, run: Run) -> Verdict:
    """Without NCCL there is no version and no network to judge: data, and how the ranks ended."""
    expected = Expectation(system="none", nodes=1, gpus_per_node=run.shape.nodes * run.shape.ranks_per_node)
    found = judge(seen, expected, load_figures())
    only_nccl = found.name == "not-proved" and found.reason.startswith("the version of NCCL") and not found.details
    return Verdict("good", "") if only_nccl else found


def describe(program: Program, run: Run, ended: Ended, seen: Observation, verdict: Verdict) -> CheckResult:
    """The verdict as a check's result, with all figures."""
    facts = seen.reading.facts
    gpus = [benchmark.gpu for benchmark in seen.reading.benchmarks if benchmark.gpu]
    told = {
        "verdict": verdict.name,
        "program": program.operation,
        "nodes": run.shape.nodes,
        "ranks": seen.ranks,
        "gpu": gpus[0] if gpus else run.gpu,
        "nccl": ", ".join(seen.nccl),
        "network": ", ".join(facts.networks),
        "provider": ", ".join(facts.providers),
        "aws_ofi_nccl": ", ".join(facts.aws_ofi_nccl),
        "values_compared" if program.operation in inside.RANKS else "rows_compared": seen.compared,
        **{busbw_name(size): round(value, 4) for size, value in sorted(seen.bandwidths.items())},
    }
    remedy = (f"remedy: {verdict.remedy}",) if verdict.remedy else ()
    left = _files_left(run, program) if verdict.name == "hang" else ()
    last = tail_of(run.folder / f"{program.check}.log") if verdict.name in {"crashed", "hang"} else ()
    notes = tuple(f"fault of a node: {fault}" for fault in run.faults)
    return CheckResult(
        check=program.check,
        outcome=verdict.outcome,
        reason=f"{verdict.name}: {verdict.reason}" if verdict.name != "good" else "",
        seconds=ended.seconds,
        measured={name: value for name, value in told.items() if value != ""},
        details=(*verdict.details, *remedy, *left, *notes, *last),
    )


def _job(subject: Subject, run: Run, program: Program) -> Job:
    place = Place(subject.build, run.folder, run.shape.nodes)
    seen_at = run.engine.folder_inside(place)
    launch = subject.system.launch
    env = inside.debug_env(seen_at, program)
    with_gpus = launch.gpus_per_node and run.level not in HOST_LEVELS
    options: tuple[str, ...] = (f"--gpus-per-node={run.shape.ranks_per_node}",) if with_gpus else ()
    options += launch.network_srun.get(subject.build.manifest["network"], ())
    tasks, cpus = 1, launch.cpus_per_rank * run.shape.ranks_per_node
    if program.operation in inside.RANKS:
        argv = inside.ranks_argv(
            run.folder, seen_at, subject.python, program, run.shape,
            seconds=run.limit * _WAIT_PART, meeting=run.launcher.meeting(),
        )  # fmt: skip
    elif run.shape.nodes == 1:
        argv = inside.benchmark_argv(program.operation, run.shape.ranks_per_node, run.level)
    else:
        argv = inside.benchmark_argv(program.operation, 1, run.level)
        tasks, cpus = run.shape.ranks_per_node, launch.cpus_per_rank
        options += launch.srun
    entered = run.engine.enter(place, argv, env)
    return Job(
        name=program.check, argv=entered.argv, folder=run.folder, limit=run.limit, nodes=run.shape.nodes,
        tasks_per_node=tasks, cpus_per_task=cpus, options=(*options, *entered.options), env=env,
    )  # fmt: skip


def _observe(run: Run, program: Program, job: Job, ended: Ended) -> Observation:
    reading = read_log_file(job.log)
    if program.operation not in inside.RANKS:
        return observe_benchmark(
            program.operation, reading, returncode=ended.returncode, limit=run.limit, faults=run.faults
        )
    answers = inside.read_answers(run.folder, program)
    return observe_ranks(
        answers, reading, returncode=ended.returncode, limit=run.limit, faults=run.faults, operation=program.operation
    )


def read_log_file(path: Path) -> LogReading:
    """What a log says; a log of any size needs constant memory."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return read_log(iter(lambda: file.readline(LINE_LIMIT), ""))


def tail_of(log: Path) -> tuple[str, ...]:
    """The last lines of a log, which may be long."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return tuple(printable(line) for line in lines[-_TAIL_LINES:])


def _files_left(run: Run, program: Program) -> Sequence[str]:
    """What tells where a job hung."""
    return tuple(f"see {path}" for path in sorted(run.folder.glob(f"{program.check}.*")) if path.suffix != ".json")
