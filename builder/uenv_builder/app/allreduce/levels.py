"""`uenv test --level`: the all-reduce that proves an image on real nodes, from the nodes' state to the report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from uenv_builder.app.allreduce.engines import Engine, Place, choose_engine
from uenv_builder.app.allreduce.programs import Program, Shape, place_programs, programs_of
from uenv_builder.app.allreduce.running import Run, Subject, open_subject, run_program
from uenv_builder.app.outputs import REPORT, TESTS, BuiltImage, open_sound_build
from uenv_builder.app.session import Session
from uenv_builder.checks import busbw_plot
from uenv_builder.core.allreduce.comparison import CHECK, DEFAULT_TOLERANCE, busbw_of, compare_busbw
from uenv_builder.core.allreduce.figures import Figure, figures_of_shape, load_figures
from uenv_builder.core.allreduce.nodes import NodeFault, NodeState, find_faults, read_states
from uenv_builder.core.allreduce.verdict import EXCUSES, compare_with_known_good
from uenv_builder.core.systems import load_uarchs
from uenv_builder.launchers import Launcher, LocalLauncher, SlurmLauncher, is_elsewhere
from uenv_builder.model.errors import UsageError
from uenv_builder.model.report import HOST_LEVELS, CheckResult, Level, Report
from uenv_builder.system import report_files
from uenv_builder.system.files import explained, make_new_folder
from uenv_builder.system.site_systems import read_site_systems

DEFAULT_LIMIT = 600.0
"""Seconds for each program."""
_HOST_RANKS = 2
"""On each node, where no GPUs are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRequest:
    """What to test, where, and with what to compare it. `tolerance` is in percent, `limit` in seconds a program."""

    level: Level
    nodes: int
    engine: str | None = None
    known_good: Path | None = None
    compare: Path | None = None
    tolerance: float = DEFAULT_TOLERANCE
    sandbox: str | None = None
    """By which the engine `sandbox` enters; None: the usual one."""
    report: Path | None = None
    limit: float = DEFAULT_LIMIT
    ranks_per_node: int | None = None
    """None: one for each GPU, or two without GPUs."""
    launcher: str | None = None
    """`local` never leaves this machine, `slurm` always goes through an allocation; None: as nodes and engine need."""


@dataclass(frozen=True, slots=True)
class Proved:
    """A level's report, and the folder with it, logs and plots."""

    report: Report
    folder: Path


def prove(session: Session, path: Path, request: LevelRequest) -> Proved:
    """Run the level's programs in the build at `path`, judge them, and write the report."""
    check_request(request)
    site = read_site_systems(session.settings.systems)
    subject = open_subject(open_sound_build(path), site)
    known_good = open_subject(open_sound_build(request.known_good), site) if request.known_good else None
    if known_good and known_good.build.digest == subject.build.digest:
        raise UsageError(
            f"--known-good {request.known_good}: is the image under test itself", hint="name another build"
        )
    earlier = read_reports(request.compare) if request.compare else None
    started = datetime.now(tz=UTC)
    folder = make_report_folder(subject.build, request.level, request.report, started)
    results = _run_level(session, subject, known_good, request, folder.resolve())
    if earlier is not None:
        results.append(compare_busbw(results, earlier, request.tolerance / 100))
    machine = load_uarchs()[subject.build.manifest["uarch"]].machine
    report = Report(
        image=subject.build.digest, label=subject.build.manifest["label"], plan=subject.build.manifest["plan"],
        ran_on=platform.machine(), emulated=machine != platform.machine(),
        started=started.isoformat(timespec="seconds"), results=tuple(results), level=request.level,
    )  # fmt: skip
    report_files.write_report(report, folder)
    _plot(session, subject, report, folder)
    return Proved(report, folder)


def read_reports(path: Path) -> list[Report]:
    """The report at `path`, or all below it; raises UsageError where there is none."""
    files = sorted(path.rglob(REPORT)) if path.is_dir() else [path]
    reports = []
    for file in files:
        try:
            reports.append(report_files.read_report(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"--compare {file}: is no report: {error}", hint="name a report.json, or a folder"
            ) from error
    if not reports:
        raise UsageError(f"--compare {path}: there is no {REPORT} in it", hint="name a report.json, or a folder")
    return reports


def make_report_folder(build: BuiltImage, level: str, asked: Path | None, started: datetime) -> Path:
    """A folder without a report of another test, whose logs and figures would be lost; `asked` or a new one."""
    if asked is not None:
        if (asked / REPORT).exists():
            raise UsageError(f"--report {asked}: has a report already", hint="name another folder")
        with explained(asked):
            asked.mkdir(parents=True, exist_ok=True)
        return asked
    return make_new_folder(build.folder / TESTS, f"{level}-{started:%Y%m%dT%H%M%SZ}")


def check_request(request: LevelRequest) -> None:
    """Raise UsageError for a request that makes no sense."""
    least = 2 if request.level == "fabric" else 1
    if request.nodes < least:
        raise UsageError(f"--level {request.level} needs at least {least} nodes, not {request.nodes}")
    if request.level == "gpu" and request.nodes > 1:
        raise UsageError("--level gpu is for one node", hint="use --level fabric for several")


def _run_level(
    session: Session, subject: Subject, known_good: Subject | None, request: LevelRequest, folder: Path
) -> list[CheckResult]:
    programs = programs_of(
        request.level, subject.found, torch=subject.has_torch, python=subject.lock.python is not None
    )
    engine = choose_engine(request.engine, request.nodes)
    by_slurm = request.launcher == "slurm" or request.nodes > 1 or engine.needs_slurm or is_elsewhere()
    local = request.launcher == "local" or not by_slurm
    launcher: Launcher = LocalLauncher() if local else SlurmLauncher()
    place = Place(subject.build, folder, request.nodes)
    reasons = _obstacles(subject, request, launcher, engine, place)
    if reasons:
        return _skip_all(programs, "; ".join(reasons))
    faults: tuple[NodeFault, ...] = ()
    ranks, gpu = request.ranks_per_node or _HOST_RANKS, ""
    if request.level not in HOST_LEVELS:
        states = _ask_nodes(session, launcher, folder, request.nodes)
        if reason := _no_gpus(states, request.nodes):
            return _skip_all(programs, reason)
        gpus = min(len(state.gpus) for state in states.values())
        ranks = request.ranks_per_node or gpus
        if ranks > gpus:
            return _skip_all(programs, f"{ranks} ranks on each node are asked for, and a node has {gpus} GPUs")
        gpu = next(gpu.name for state in states.values() for gpu in state.gpus.values())
        faults = find_faults(states, load_figures().node_of(subject.system.name))
        for fault in faults:
            session.listener.note(f"fault of a node: {fault}")
    run = Run(
        level=request.level, shape=Shape(request.nodes, ranks), launcher=launcher, engine=engine, folder=folder,
        limit=request.limit, gpu=gpu, faults=faults,
    )  # fmt: skip
    place_programs(folder)
    return _run_programs(session, subject, known_good, run, programs)


def _obstacles(subject: Subject, request: LevelRequest, launcher: Launcher, engine: Engine, place: Place) -> list[str]:
    """Why nothing can run here; the first kind of reasons only, since the next may follow from it."""
    if request.level == "fabric":
        if subject.build.manifest["network"] == "none":
            return ["the recipe's network mode is none: the image promises nothing of a network between nodes"]
        if subject.system.slingshot and engine.name == "sandbox":
            found = launcher.problems(request.nodes)
            return found or ["the sandbox does not show the NIC of Slingshot: use --engine edf"]
    return launcher.problems(request.nodes) or engine.problems(place)


def _ask_nodes(session: Session, launcher: Launcher, folder: Path, nodes: int) -> dict[str, NodeState]:
    with session.listener.task("asking the nodes for GPUs and NICs"):
        return read_states(launcher.probe(folder, nodes).splitlines())


def _no_gpus(states: dict[str, NodeState], nodes: int) -> str:
    """Why there is no node, or no GPU, to test on; empty where there is."""
    if len([state for state in states.values() if state.complete]) < nodes:
        return f"{len(states)} of {nodes} nodes told their state; see nodes.txt in the report's folder"
    without = [
        f"{node} ({state.trouble or 'nvidia-smi lists none'})" for node, state in states.items() if not state.gpus
    ]
    return f"no GPU on {', '.join(without)}" if without else ""


def _skip_all(programs: Sequence[Program], reason: str) -> list[CheckResult]:
    return [CheckResult(check=program.check, outcome="skipped", reason=reason) for program in programs]


def _run_programs(
    session: Session, subject: Subject, known_good: Subject | None, run: Run, programs: Sequence[Program]
) -> list[CheckResult]:
    runnable = [program for program in programs if not program.missing]
    results = [
        CheckResult(check=program.check, outcome="skipped", reason=program.missing, required=not runnable)
        for program in programs if program.missing
    ]  # fmt: skip
    for program in runnable:
        with session.listener.task(f"{program.check}, {run.shape.nodes} times {run.shape.ranks_per_node} ranks"):
            result = _run_one(session, subject, known_good, run, program)
        session.listener.note(f"{result.check}: {result.outcome}{f' ({result.reason})' if result.reason else ''}")
        results.append(result)
        if busbw_of(result) and run.level not in HOST_LEVELS and not _is_judged(subject, result):
            what = f"{result.measured['nodes']} nodes with {run.shape.ranks_per_node} GPUs on {subject.system.name}"
            reason = f"no figure is known for {what}: the bandwidth is measured, and not judged"
            results.append(CheckResult(check=f"{result.check}-busbw", outcome="skipped", reason=reason, required=False))
    return results


def _run_one(session: Session, subject: Subject, known_good: Subject | None, run: Run, program: Program) -> CheckResult:
    result, verdict, _ = run_program(subject, run, program)
    if verdict is None or verdict.name not in EXCUSES or known_good is None:
        return result
    label = str(known_good.build.manifest["label"])
    session.listener.note(f"{program.check}: {verdict.name}; the same in {label}, which is known to be good")
    folder = run.folder / "known-good"
    folder.mkdir(exist_ok=True)
    place_programs(folder)
    other, found, _ = run_program(known_good, replace(run, folder=folder), program)
    if found is None:
        return replace(result, details=(*result.details, f"{label} says nothing of the nodes: {other.reason}"))
    joined = compare_with_known_good(verdict, found, label)
    measured = {**result.measured, "verdict": joined.name, "known_good": known_good.build.digest}
    return replace(
        result, outcome=joined.outcome, reason=f"{joined.name}: {joined.reason}", measured=measured,
        details=(*joined.details, *(line for line in result.details if line not in joined.details)),
    )  # fmt: skip


def _figures(subject: Subject, result: CheckResult) -> Sequence[Figure]:
    """Those of the result's program and shape of job."""
    nodes, ranks = int(result.measured["nodes"]), int(result.measured["ranks"])
    program = str(result.measured["program"])
    return figures_of_shape(load_figures().figures, program, subject.system.name, nodes, ranks // max(nodes, 1))


def _is_judged(subject: Subject, result: CheckResult) -> bool:
    return any(figure.fail_below is not None for figure in _figures(subject, result))


def _plot(session: Session, subject: Subject, report: Report, folder: Path) -> None:
    measured = [result for result in report.results if result.check != CHECK and busbw_of(result)]
    if not measured:
        return
    if not busbw_plot.can_plot():
        session.listener.note(f"no plots: matplotlib is missing; pip install 'uenv-builder[{busbw_plot.EXTRA}]'")
        return
    curves = [busbw_plot.Curve(result.check, busbw_of(result)) for result in measured]
    figures = [figure for result in measured for figure in _figures(subject, result)]
    nodes = measured[0].measured["nodes"]
    title = f"{report.label}, level {report.level}, {nodes} node{'s' if nodes != 1 else ''}: {report.outcome}"
    busbw_plot.plot_busbw(folder, title, curves, figures if report.level not in HOST_LEVELS else [])
