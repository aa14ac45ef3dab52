"""What the processes of a step find when they start: variables, options and versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from uenv_builder.core.batch.script import BatchScript, Step
from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.system import HookStack, NetworkMode, System, Uarch


@dataclass(frozen=True, kw_only=True)
class BatchContext:
    """What is known beside the script's text."""

    system: System | None
    network: NetworkMode | None = None
    """The network mode of the environment that is selected, where it is known."""
    read_edf: Callable[[str], Mapping[str, str] | None]
    """The variables of the EDF (with those of its bases) of that path or name; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a variable of a step has its value from."""

    value: str | None
    """None where it cannot be known."""
    where: str
    """For messages: "exported in line 12", "set by the EDF pytorch"."""
    own: bool = False
    """Whether the script sets it."""


def step_environment(script: BatchScript, step: Step, context: BatchContext) -> dict[str, Origin]:
    """The variables of a step's processes.

    In a container the later of these win: the host's hooks, what the script exports, the image, the EDF
    (eth-cscs/cscs-docs 80abed13, docs/software/container-engine/edf.md), and what a shell in there sets itself.
    Hooks and image are known for environments of a known network mode only.
    """
    script_sets = {
        name: Origin(value, f"exported in line {line}" if (line := _line(script, step, name)) else "exported", own=True)
        for name, value in script.environment(step).items()
    }
    found: dict[str, Origin] = {}
    if step.container is None:
        found = script_sets
    else:
        hooks, mode = _hooks(step, context), context.network
        if hooks is not None and context.system is not None:
            where = f"set by the hooks of {context.system.name} in network mode {mode}"
            found |= {name: Origin(value, where) for name, value in hooks.env.items()}
        found |= script_sets
        if context.system is not None and mode is not None:
            where = f"set by images for {context.system.name} in network mode {mode}"
            found |= {name: Origin(value, where) for name, value in context.system.env.get(mode, {}).items()}
        found |= {name: Origin(value, where) for name, (value, where) in _edf(step, context).items()}
    for setting in step.inside:
        where = f"set in line {script.source.line(setting.offset)}"
        sure = setting.value is not None and all(block.kind != "condition" for block in setting.block.chain())
        if setting.kind != "unset":
            found[setting.name] = Origin(setting.value if sure else None, where, own=True)
    return found


def runtime(script: BatchScript, step: Step, context: BatchContext) -> Runtime:
    """What the shared rules about variables look at for `step`; variables of unknown value are left out."""
    origins = step_environment(script, step, context)
    system, uarch = context.system, _uarch(context.system)
    return Runtime(
        env={name: origin.value for name, origin in origins.items() if origin.value is not None},
        own=frozenset(name for name, origin in origins.items() if origin.own and origin.value is not None),
        gpu=uarch.gpu if uarch else None,
        grace_hopper=bool(uarch and uarch.name == "gh200"),
        slingshot=bool(system and system.slingshot is not None and _mode(step, context) != "none"),
        network=_mode(step, context),
        srun_options=_launch_options(script, step, context),
        multi_node=script.nodes(step) != 1,
        uses_nccl=not any(command.name.startswith("osu_") for command in step.inner.commands),
        versions=_versions(step, context),
    )


def network_options(script: BatchScript, step: Step, context: BatchContext) -> tuple[str, ...] | None:
    """All options of Slurm's network plugin that hold for `step`; None where they cannot be known.

    Those of the job hold for its steps as well; srun's own replace those of SLURM_NETWORK: SchedMD/slurm 284c3b95f0,
    src/plugins/switch/hpe_slingshot/config.c and src/srun/opt.c.
    """
    del context
    given = [script.job("network")] if script.job("network") else []
    texts: list[str | None] = [option.constant for option in given if option]
    if step.network is not None:
        texts.append(step.network.constant)
    elif "SLURM_NETWORK" in (exported := _handed_to_srun(script, step)):
        texts.append(exported["SLURM_NETWORK"])
    if step.options.open or script.lines.heterogeneous or None in texts:
        return None
    return tuple(part.strip() for text in texts for part in (text or "").split(",") if part.strip())


def mpi_type(script: BatchScript, step: Step) -> str | None:
    """What ranks of MPI find each other by: --mpi, else SLURM_MPI_TYPE; None where neither says so for sure."""
    if step.mpi is not None:
        return step.mpi.constant
    return _handed_to_srun(script, step).get("SLURM_MPI_TYPE")


def sets_mpi_type(script: BatchScript, step: Step) -> bool:
    """Whether the step has an MPI type, known or not."""
    return step.mpi is not None or step.options.open or "SLURM_MPI_TYPE" in _handed_to_srun(script, step)


def reads_other_files(script: BatchScript, step: Step) -> bool:
    """Whether something before `step` may set variables that the script's text does not show."""
    return any(
        command.offset < step.offset and command.name in {"source", ".", "module", "ml", "eval"}
        for command in script.shell.commands
    )


def _handed_to_srun(script: BatchScript, step: Step) -> dict[str, str | None]:
    """What srun itself reads: --export is about the step's processes only."""
    return {name: setting.value for name, setting in script.exported(step).items()}


def _line(script: BatchScript, step: Step, name: str) -> int | None:
    setting = script.exported(step).get(name)
    return script.source.line(setting.offset) if setting else None


def _mode(step: Step, context: BatchContext) -> NetworkMode | None:
    return context.network if step.container is not None else None


def _hooks(step: Step, context: BatchContext) -> HookStack | None:
    mode = _mode(step, context)
    return context.system.hooks.get(mode) if context.system is not None and mode is not None else None


def _edf(step: Step, context: BatchContext) -> dict[str, tuple[str | None, str]]:
    name = step.environment.constant if step.environment else None
    env = context.read_edf(name) if name else None
    return {key: (value, f"set by the EDF {name}") for key, value in (env or {}).items()}


def _uarch(system: System | None) -> Uarch | None:
    if system is None or len(system.uarchs) != 1:
        return None
    return load_uarchs().get(system.uarchs[0])


def _launch_options(script: BatchScript, step: Step, context: BatchContext) -> tuple[str, ...] | None:
    network = network_options(script, step, context)
    if step.options.open or network is None:
        return None
    options = [
        option.text if option.value is None else f"--{option.name}={option.constant}"
        for option in step.options.given
        if option.name != "network" and (option.value is None or option.constant is not None)
    ]
    return (*options, *([f"--network={','.join(network)}"] if network else []))


def _versions(step: Step, context: BatchContext) -> dict[str, Version]:
    hooks, found = _hooks(step, context), {}
    for name in ("libfabric", "aws_ofi_nccl"):
        text = getattr(hooks, name, None)
        try:
            found[name] = Version(text or "")
        except InvalidVersion:
            continue
    return found
