"""Rules about torchrun, and about where the ranks of torch meet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from uenv_builder.core.batch.job import Job, Spot
from uenv_builder.core.batch.options import Grammar, Kind, Options, parse_options
from uenv_builder.core.batch.script import Step
from uenv_builder.core.batch.shell import Command

_VALUES = (
    "nnodes", "nproc-per-node", "rdzv-backend", "rdzv-endpoint", "rdzv-id", "rdzv-conf", "max-restarts",
    "monitor-interval", "start-method", "event-log-handler", "role", "log-dir", "redirects", "tee",
    "local-ranks-filter", "node-rank", "master-addr", "master-port", "local-addr", "logs-specs", "numa-binding",
    "signals-to-handle",
)  # fmt: skip
_FLAGS = ("standalone", "module", "no-python", "run-path", "use-env", "help")
_KINDS: dict[str, Kind] = {**dict.fromkeys(_VALUES, "required"), **dict.fromkeys(_FLAGS, "none")}
_TORCHRUN = Grammar(_KINDS, {"m": "module", "r": "redirects", "t": "tee", "h": "help"}, underscores=True)
_PYTHON = re.compile(r"python[0-9.]*")
_LOCAL = re.compile(r"(localhost|127\.[0-9.]+|\[?::1\]?|0\.0\.0\.0)(:[0-9]+)?")
_OWN_HOST = re.compile(r"\$\(\s*hostname\b|`\s*hostname\b|\$\{?(HOSTNAME|SLURMD_NODENAME)\b")


def _ranks(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        tasks = job.script.tasks_per_node(step)
        for command, options in _launches(step):
            option = options.get("nproc-per-node")
            value = option.constant if option else None
            many = value in {"gpu", "auto"} or (option is not None and (option.number or 0) > 1)
            if tasks is not None and tasks > 1 and many and not step.options.open:
                yield Spot(
                    command.offset,
                    f"srun starts {tasks} times on each node what starts {value} ranks itself "
                    f"(--ntasks-per-node={tasks}, --nproc-per-node={value})",
                )


def _localhost(job: Job) -> Iterator[Spot]:
    seen: set[int] = set()
    for step in job.steps:
        several = (job.script.nodes(step) or 1) > 1
        settings = [*job.script.exported(step).values(), *step.inside]
        for setting in settings:
            local = setting.name == "MASTER_ADDR" and _LOCAL.fullmatch(setting.value or "")
            if several and local and setting.offset not in seen:
                seen.add(setting.offset)
                yield Spot(setting.offset, f"MASTER_ADDR={setting.value} in a step of {job.script.nodes(step)} nodes")
        for command, options in _launches(step):
            yield from _local_options(command, options, several=several)


def _local_options(command: Command, options: Options, *, several: bool) -> Iterator[Spot]:
    nnodes = options.get("nnodes")
    several = several or bool(nnodes and (nnodes.constant or "").isdigit() and (nnodes.number or 1) > 1)
    if not several:
        return
    address = options.get("rdzv-endpoint", "master-addr")
    if (standalone := options.get("standalone")) is not None:
        yield Spot(standalone.offset, "--standalone makes each node a job of its own", "give --rdzv-endpoint instead")
    elif address is not None and _LOCAL.fullmatch(address.constant or ""):
        yield Spot(address.offset, f"{address.text}={address.value} for ranks on several nodes")
    elif address is None and nnodes is not None and (nnodes.number or 0) > 1 and not options.open:
        hint = 'add --master-addr="$MASTER_ADDR" --node-rank="$SLURM_NODEID", with the job\'s first node as MASTER_ADDR'
        yield Spot(command.offset, f"torchrun for {nnodes.value} nodes without --rdzv-endpoint or --master-addr", hint)


def _own_host(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        if (job.script.nodes(step) or 1) < 2:
            continue
        for setting in step.inside:
            if setting.name == "MASTER_ADDR" and _OWN_HOST.search(setting.raw):
                yield Spot(setting.offset, f"MASTER_ADDR={setting.raw} is another name on each node")
        for _, options in _launches(step):
            for option in options.given:
                raw = _raw(step, option.offset)
                if option.name in {"master-addr", "rdzv-endpoint"} and _OWN_HOST.search(raw):
                    yield Spot(option.offset, f"{option.text} is another name on each node")


def _raw(step: Step, offset: int) -> str:
    """The word at `offset` and the one after it, as a shell inside the step reads them."""
    for command in step.inner.commands:
        for index, word in enumerate(command.words):
            # The words of srun itself are filled in by the batch script, once for all nodes.
            if word.offset == offset and word not in step.program:
                following = command.words[index + 1].raw if index + 1 < len(command.words) else ""
                return word.raw if "=" in word.raw else f"{word.raw} {following}"
    return ""


def _launches(step: Step) -> Iterator[tuple[Command, Options]]:
    """What starts torch's ranks in `step`, with its options."""
    for command in step.inner.commands:
        words = command.words
        texts = [word.text for word in words]
        if command.name == "torchrun":
            yield command, parse_options(words[1:], _TORCHRUN)
        elif _PYTHON.fullmatch(command.name) and "-m" in texts:
            module = texts.index("-m") + 1
            if texts[module : module + 1] in (["torch.distributed.run"], ["torch.distributed.launch"]):
                yield command, parse_options(words[module + 1 :], _TORCHRUN)


RULES: dict[str, Callable[[Job], Iterator[Spot]]] = {
    "torchrun-ranks": _ranks,
    "rendezvous-localhost": _localhost,
    "rendezvous-own-host": _own_host,
}
