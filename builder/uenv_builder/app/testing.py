"""Proving a build: which checks its image gets, running them, and the report beside it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uenv_builder.app import outputs
from uenv_builder.app.executing import sandbox_for
from uenv_builder.app.outputs import BuiltImage, open_sound_build
from uenv_builder.app.session import Session
from uenv_builder.app.uenv_sessions import is_uenv
from uenv_builder.checks import CheckContext, WantedCheck
from uenv_builder.checks.run import complete_wanted, run_checks
from uenv_builder.core.lock_file import parse_lock
from uenv_builder.core.systems import SystemFiles, load_system, load_uarchs
from uenv_builder.model.lock import Lock
from uenv_builder.model.report import CheckResult, Report
from uenv_builder.model.system import System, Uarch
from uenv_builder.sandboxes import OpenImage, Sandbox
from uenv_builder.system import report_files
from uenv_builder.system.files import explained
from uenv_builder.system.site_systems import read_site_systems


def check_again(session: Session, path: Path, *, also: Path | None = None) -> Report:
    """Check the build at `path` again and write its report, into the folder `also` as well; raises LockError when the
    image is not the one it says.
    """
    build = open_sound_build(path)
    report = run_report(session, build)
    report_files.write_report(report, build.folder)
    if also is not None:
        with explained(also):
            also.mkdir(parents=True, exist_ok=True)
            report_files.write_report(report, also)
    return report


def run_report(session: Session, build: BuiltImage) -> Report:
    """Run every check that the build's image should get on this machine."""
    uarch = load_uarchs()[build.manifest["uarch"]]
    sandbox = sandbox_for(build)
    site = read_site_systems(session.settings.systems)
    context = _context(build, uarch, sandbox, site)
    system = load_system(build.manifest["system"], site)
    implied = () if is_uenv(build) else network_checks(build.manifest["network"], system)
    wanted = wanted_checks(build.manifest["checks"], context.lock, implied)
    started = datetime.now(tz=UTC).isoformat(timespec="seconds")
    if problems := sandbox.problems(uarch.machine):
        reason = "this machine cannot run the image: " + "; ".join(problem.reason for problem in problems)
        results = [
            CheckResult(check=check.name, outcome="inconclusive", reason=reason, required=check.required)
            for check in complete_wanted(context, wanted)
        ]
    else:
        results = run_checks(context, wanted, session.listener)
    return Report(
        image=build.digest,
        label=build.manifest["label"],
        plan=build.manifest["plan"],
        ran_on=platform.machine(),
        emulated=uarch.machine != platform.machine(),
        started=started,
        results=tuple(results),
    )


def _context(build: BuiltImage, uarch: Uarch, sandbox: Sandbox, site: SystemFiles) -> CheckContext:
    system = load_system(build.manifest["system"], site)
    path = build.folder / "lock.yaml"
    lock = parse_lock(path.read_text(encoding="utf-8"), str(path))
    return CheckContext(
        image=OpenImage(sandbox, build.image),
        uarch=uarch,
        env=build.manifest["config"]["env"],
        lock=lock,
        mount=build.manifest["mount"] if is_uenv(build) else None,
        driver_libraries=system.driver_libraries,
        hook_libraries=system.hook_libraries.get(build.manifest["network"], ()),
        python=f"/usr/bin/python{lock.python.version}" if lock.python else "python3",
        scripts=outputs.check_scripts(build.folder, [name for name, _ in build.manifest.get("components", ())]),
    )


def network_checks(network: str, system: System) -> tuple[str, ...]:
    """The checks of an image that brings its own network stack; elsewhere the host does."""
    if network != "image":
        return ()
    providers = ("net-providers",) if system.slingshot else ()
    return ("net-plugin", "net-choice", *providers, "net-transport")


def wanted_checks(
    asked: Mapping[str, Mapping[str, Any]], lock: Lock | None, further: Sequence[str] = ()
) -> list[WantedCheck]:
    """The checks that a recipe asks for, torch's own and the allreduce for images that have torch, and `further`."""
    implied = [*(["torch", "allreduce"] if lock and lock.accelerator else []), *further]
    wanted = []
    for name in [*asked, *(name for name in implied if name not in asked)]:
        parameters = dict(asked.get(name, {}))
        required = bool(parameters.pop("required", True))
        wanted.append(WantedCheck(name=name, parameters=parameters, required=required))
    return wanted
