"""The checks of the network stack without a GPU: the NCCL plugin, NCCL's choice, libfabric's providers, and data.

Data go through the plugin and libfabric for real, on host memory over TCP of the loopback interface; a small library of
ours stands in for CUDA's. That is no test of NCCL, of GPU memory or of Slingshot, and the report says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from uenv_builder.checks.c_programs import BUILT_FOLDER, NO_COMPILER, Compiled, CProgram, compile_somehow
from uenv_builder.checks.interface import CheckContext, CheckKind, WantedCheck
from uenv_builder.checks.net_plugin import NAME as PLUGIN_CHECK
from uenv_builder.checks.net_plugin import loaded_interfaces
from uenv_builder.checks.parameters import read_numbers, read_seconds, read_texts
from uenv_builder.checks.programs import EMULATION_FACTOR, Answer, is_emulated, run_command
from uenv_builder.checks.static import run_static
from uenv_builder.checks.transport import judge_exchanges
from uenv_builder.core.digest import Json
from uenv_builder.core.nccl_network import FoundPlugin, predict_network
from uenv_builder.model.report import CheckResult, Outcome
from uenv_builder.system.abandoned import scratch_folder

_SECONDS = 60
_PATIENCE = 20
"""Seconds without any progress of a rank, on a processor of the image's own kind."""
_RANKS = (2, 3)
_BYTES = (1, 17, 4096, 65537, 1048579, 4194304)
_ELEMENTS = (1, 3, 1000, 65537, 1048583)
_PROVIDERS = ("cxi", "tcp")
_CUDA = "13.0"
# The plugin leaves loopback interfaces out, libfabric would take Slingshot's provider, and there is no GPU to look for.
_LOOPBACK = {
    "FI_PROVIDER": "tcp",
    "FI_TCP_IFACE": "lo",
    "FI_HMEM": "system",
    "OFI_NCCL_EXCLUDE_TCP_IF": "none",
}
_TOO_OLD = re.compile(r"version `(GLIBC_[0-9.]+)' not found")


@dataclass(slots=False)
class _Stack:
    """What the checks of one image share: the static verdict on its plugin, and the program that drives it."""

    ctx: CheckContext
    folder: Path
    asked: WantedCheck

    @cached_property
    def plugin(self) -> CheckResult:
        """The result of net-plugin."""
        return run_static(self.ctx, [replace(self.asked, name=PLUGIN_CHECK)])[0]

    @cached_property
    def driver(self) -> Compiled:
        """The program that drives plugins, and the library that stands in for CUDA."""
        accelerator = self.ctx.lock.accelerator if self.ctx.lock else None
        major, _, minor = ((accelerator.cuda if accelerator else None) or _CUDA).partition(".")
        cuda = ["-shared", "-fPIC", f"-DUENV_CUDA_VERSION={int(major) * 1000 + int(minor or 0) * 10}", "cudart_stub.c"]
        outputs = {"net_program": ["net_program.c", "net_ring.c", "-rdynamic", "-ldl"]}
        outputs |= dict.fromkeys(("libcudart.so", f"libcudart.so.{major}"), cuda)
        return compile_somehow(CProgram(program="net_program", outputs=outputs), self.ctx.uarch.machine, self.folder)

    @property
    def nccl(self) -> str | None:
        """NCCL's version by the lock."""
        return self.ctx.lock.accelerator.nccl if self.ctx.lock and self.ctx.lock.accelerator else None

    def drive(self, *arguments: str, env: Mapping[str, str] | None = None, seconds: int) -> Answer:
        """Start the driver inside."""
        argv = [*self.driver.argv, *arguments]
        return run_command(self.ctx, argv, name="net_program", binds=self.driver.binds, env=env, seconds=seconds)


def run_network(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[CheckResult]:
    """One result for each check; all but the static one need a C compiler, on this machine or in the image."""
    checks = {"net-plugin": _check_plugin, "net-choice": _check_choice, "net-transport": _check_transport}
    checks["net-providers"] = _check_providers
    results = []
    with scratch_folder("uenv-net-") as folder:
        asked = next((check for check in wanted if check.name == PLUGIN_CHECK), WantedCheck(name=PLUGIN_CHECK))
        stack = _Stack(ctx, folder, asked)
        for check in wanted:
            started = time.monotonic()
            result = checks[check.name](stack, check)
            results.append(replace(result, check=check.name, seconds=round(time.monotonic() - started, 3)))
    return results


def _check_plugin(stack: _Stack, _: WantedCheck) -> CheckResult:
    return stack.plugin


def _check_choice(stack: _Stack, check: WantedCheck) -> CheckResult:
    """Opens the plugin as NCCL does, and predicts from its names and the environment what NCCL then takes."""
    if stack.plugin.outcome == "skipped":
        return stack.plugin
    path = stack.plugin.measured.get("path")
    found = FoundPlugin(errors=(stack.plugin.reason,))
    if path is not None:
        answer = stack.drive("inspect", str(path), seconds=read_seconds(check, _SECONDS))
        if answer.document is None:
            return _explain_end(stack, check, answer)
        found = _read_plugin(answer.document)
        if found.path is None and (outside := _needs_host(stack, found.errors)):
            return _skip(check, f"{path} needs {outside} of the host, and cannot be opened on this machine")
    choice = predict_network(stack.ctx.env, found, loaded_interfaces(stack.nccl), stack.nccl)
    measured: dict[str, float | int | str] = {"network": choice.network}
    measured |= {"interface": f"v{choice.interface}"} if choice.interface else {}
    outcome: Outcome = "failed" if choice.problem else "passed"
    reason = f"NCCL would use {choice.network}: {choice.problem}" if choice.problem else ""
    return CheckResult(check=check.name, outcome=outcome, reason=reason, measured=measured, details=choice.steps)


def _check_transport(stack: _Stack, check: WantedCheck) -> CheckResult:
    """Drives the plugin with each number of ranks."""
    if stack.plugin.outcome == "skipped":
        return stack.plugin
    path, interface = stack.plugin.measured.get("path"), str(stack.plugin.measured.get("interface", ""))
    if path is None or not interface:
        return _skip(check, f"there is nothing to drive: {stack.plugin.reason}")
    folders = [BUILT_FOLDER, *filter(None, [stack.ctx.env.get("LD_LIBRARY_PATH")])]
    env = {**_LOOPBACK, "LD_LIBRARY_PATH": ":".join(folders)}
    sizes = ",".join(str(size) for size in read_numbers(check, "bytes", _BYTES))
    elements = ",".join(str(size) for size in read_numbers(check, "elements", _ELEMENTS))
    patience = str(_PATIENCE * (EMULATION_FACTOR if is_emulated(stack.ctx) else 1))
    runs: list[tuple[int, Answer]] = []
    for ranks in read_numbers(check, "ranks", _RANKS):
        answer = stack.drive(
            "exchange", str(path), interface.lstrip("v"), str(ranks), patience, sizes, elements, env=env,
            seconds=read_seconds(check, _SECONDS),
        )  # fmt: skip
        if answer.document is None and answer.returncode is not None:
            return _explain_end(stack, check, answer)
        runs.append((ranks, answer))
        if answer.document is None:
            break
    return judge_exchanges(check.name, interface, runs)


def _check_providers(stack: _Stack, check: WantedCheck) -> CheckResult:
    """Asks the image's fi_info for the providers that its libfabric was built with; that needs no hardware."""
    expected = read_texts(check, "providers") or _PROVIDERS
    # With FI_PROVIDER libfabric lists only those that the variable names.
    env = {name: value for name, value in stack.ctx.env.items() if name != "FI_PROVIDER"}
    limit = _SECONDS * (EMULATION_FACTOR if is_emulated(stack.ctx) else 1)
    done = stack.ctx.image.run_inside(["fi_info", "-l"], env=env, timeout=limit)
    if done.returncode == 127:
        required = stack.plugin.outcome != "skipped"
        reason = "the image has no fi_info in its PATH"
        return CheckResult(check=check.name, outcome="skipped", reason=reason, required=required)
    if done.returncode != 0:
        lines = tuple((done.stderr or done.stdout).strip().splitlines()[-10:])
        reason = f"fi_info -l ended with exit {done.returncode}"
        return CheckResult(check=check.name, outcome="failed", reason=reason, details=lines)
    found = re.findall(r"^(\S+?):$", done.stdout, re.MULTILINE)
    missing = [name for name in expected if name not in found]
    reason = f"libfabric was built without the provider {', '.join(missing)}" if missing else ""
    measured: dict[str, float | int | str] = {"providers": ", ".join(found)}
    outcome: Outcome = "failed" if missing else "passed"
    return CheckResult(check=check.name, outcome=outcome, reason=reason, measured=measured)


def _explain_end(stack: _Stack, check: WantedCheck, answer: Answer) -> CheckResult:
    """Skipped where the driver could not be built for the image, failed where the image made it crash."""
    machine = stack.ctx.uarch.machine
    if answer.returncode == NO_COMPILER:
        package = f"apt-get install gcc-{machine.replace('_', '-')}-linux-gnu"
        return _skip(check, f"no C compiler for {machine}, neither here ({package}) nor in the image")
    if answer.returncode == NO_COMPILER + 1:
        return _skip(check, f"the image's C compiler fails: {answer.details[-1] if answer.details else ''}")
    if "net_program" in answer.log and (old := _TOO_OLD.search(answer.log)):
        return _skip(check, f"what {stack.driver.compiler} compiles needs {old[1]}, which the image does not have")
    return CheckResult(check=check.name, outcome="failed", reason=answer.reason, details=answer.details)


def _skip(check: WantedCheck, reason: str) -> CheckResult:
    return CheckResult(check=check.name, outcome="skipped", reason=reason)


def _needs_host(stack: _Stack, errors: Sequence[str]) -> str | None:
    names = str(stack.plugin.measured.get("from_the_host", "")).split(", ")
    return next((name for name in names if name and any(name in error for error in errors)), None)


def _read_plugin(document: Mapping[str, Json]) -> FoundPlugin:
    names, errors, path = document.get("names"), document.get("errors"), document.get("path")
    called = {int(number): str(name) for number, name in names.items()} if isinstance(names, Mapping) else {}
    told = tuple(str(error) for error in errors) if isinstance(errors, list) else ()
    return FoundPlugin(path=str(path) if path else None, names=called, errors=told)


_TIMEOUT = {"timeout": "seconds, on a processor of the image's own kind"}

NETWORK_CHECKS = {
    "net-plugin": CheckKind(
        proves="NCCL finds its net plugin, the plugin finds all that it needs, and the two share an interface",
        family=run_network,
        parameters={"allowed_missing": "as of elf-needed"},
    ),
    "net-choice": CheckKind(
        proves="the plugin can be opened as NCCL opens it, and by the image's environment NCCL then takes it",
        family=run_network, parameters=_TIMEOUT,
    ),
    "net-providers": CheckKind(
        proves="the image's libfabric was built with the providers that jobs need",
        family=run_network, parameters={"providers": "names of providers; default cxi and tcp"},
    ),
    "net-transport": CheckKind(
        proves="plugin and libfabric carry data without a fault over tcp on host memory, every byte and every element "
        "of an all-reduce compared; nothing is proved of NCCL, GPU memory and Slingshot",
        family=run_network,
        parameters={
            "ranks": "numbers of processes to try; default 2 and 3",
            "bytes": "sizes of messages in bytes",
            "elements": "numbers of elements to reduce",
            "timeout": "seconds for each number of processes, on a processor of the image's own kind",
        },
    ),
}  # fmt: skip
"""By name."""
