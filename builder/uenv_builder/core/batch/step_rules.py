"""Rules about single srun commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches

from uenv_builder.core.batch.job import Job, Spot
from uenv_builder.core.batch.runtime import (
    Origin,
    mpi_type,
    network_options,
    reads_other_files,
    sets_mpi_type,
    step_environment,
)
from uenv_builder.core.batch.script import CONTAINER_OPTIONS, Step
from uenv_builder.core.batch.shell import Command
from uenv_builder.core.batch.words import UNKNOWN

_DISABLE_GET = "disable_rdzv_get"
_NETWORK_WORDS = (_DISABLE_GET, "no_vni", "job_vni", "single_node_vni", "adjust_limits", "no_adjust_limits", "hwcoll")
_NETWORK_VALUES = re.compile(r"(tcs|nic_distribution_count|depth|(def|res|max)_[a-z]+|hwcoll[a-z_]*)=.+")
_QUIET = {
    "cat", "cd", "chmod", "cp", "cut", "date", "df", "du", "echo", "env", "export", "find", "free", "head",
    "hostname", "id", "ln", "ls", "lscpu", "mkdir", "mv", "nvidia-smi", "printenv", "printf", "pwd", "rm", "rsync",
    "set", "sleep", "sort", "source", "stat", "tail", "tar", "test", "touch", "true", "ulimit", "umask", "uname",
    "uptime", "wc", "which", ".", ":", "[",
}  # fmt: skip
"""Programs that do not talk to other ranks."""
_NCCL_TESTS = re.compile(
    r"(all_gather|all_reduce|alltoall|broadcast|gather|hypercube|reduce|reduce_scatter|scatter|sendrecv)_perf(_mpi)?"
)
_PYTHON = re.compile(r"python[0-9.]*")
_IMAGE = re.compile(r".*\.(sqsh|squashfs|sif)")
_FOREIGN_MPI = ("pmi2", "cray_shasta")


def _network(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        origin = _alt_read(job, step)
        options = network_options(job.script, step, job.context)
        if origin is None or options is None or not _communicates(job, step):
            continue
        if not any(option.startswith(_DISABLE_GET) for option in options):
            unsure = reads_other_files(job.script, step)
            given = step.network
            hint = f"write --network={given.value},{_DISABLE_GET}" if given and given.constant else None
            yield Spot(
                step.offset,
                f"FI_CXI_RDZV_PROTO=alt_read ({origin.where}), but this srun has no --network={_DISABLE_GET}",
                hint,
                "warning" if unsure else None,
            )


def _alt_read(job: Job, step: Step) -> Origin | None:
    """Where alt_read comes from, if it is in effect on a network that has it."""
    system = job.context.system
    if system is not None and system.slingshot is None:
        return None
    origin = step_environment(job.script, step, job.context).get("FI_CXI_RDZV_PROTO")
    return origin if origin is not None and (origin.value or "").replace("-", "_") == "alt_read" else None


def _communicates(job: Job, step: Step) -> bool:
    """Whether the step may have ranks on several nodes that talk to each other."""
    if job.script.nodes(step) == 1 or job.script.is_alone(step) or not step.program:
        return False
    return not all(command.name in _QUIET for command in step.inner.commands)


def _unused_network(job: Job) -> Iterator[Spot]:
    system, mode = job.context.system, job.context.network
    if system is None or system.slingshot is None or mode is None:
        return
    for step in job.steps:
        name = step.environment.constant if step.environment else None
        if name is None or job.context.read_edf(name) is None or step.network is None:
            continue
        origin = step_environment(job.script, step, job.context).get("FI_CXI_RDZV_PROTO")
        known = origin is None or origin.value not in {None, "alt_read", "alt-read"}
        if known and _DISABLE_GET in (step.network.constant or "").split(","):
            yield Spot(step.network.offset, f"--network={_DISABLE_GET}, but FI_CXI_RDZV_PROTO is not alt_read here")


def _network_value(job: Job) -> Iterator[Spot]:
    system = job.context.system
    if system is None or system.slingshot is None:
        return
    options = [job.script.job("network"), *(step.network for step in job.steps)]
    for option in options:
        for word in (option.constant or "").split(",") if option else []:
            known = word.startswith(_NETWORK_WORDS) or _NETWORK_VALUES.fullmatch(word)
            if option is None or known or not word:
                continue
            close = get_close_matches(word, _NETWORK_WORDS, n=1, cutoff=0.6)
            if close:  # what resembles nothing may be an option of another release
                yield Spot(option.offset, f'--network: unknown word "{word}"', f'did you mean "{close[0]}"?')


def _mpi(job: Job) -> Iterator[Spot]:
    system = job.context.system
    if system is not None and "--mpi=pmix" not in system.launch.srun:
        return
    for step in job.steps:
        if step.container is None or job.script.is_alone(step) or sets_mpi_type(job.script, step):
            continue
        program = next((command for command in step.inner.commands if _is_mpi(command)), None)
        if program is not None:
            yield Spot(step.offset, f"{program.name} is a program of MPI, but this srun has no --mpi=pmix")


def _is_mpi(command: Command) -> bool:
    if command.name.startswith(("osu_", "IMB-")) or _NCCL_TESTS.fullmatch(command.name):
        return True
    return _PYTHON.fullmatch(command.name) is not None and any("mpi4py" in word.text for word in command.words)


def _mpi_type(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        found = mpi_type(job.script, step)
        if step.container is not None and found in _FOREIGN_MPI:
            offset = step.mpi.offset if step.mpi else step.offset
            yield Spot(offset, f"--mpi={found} serves images with MPICH only")


def _environment_path(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        option = step.environment
        value = option.value if option else None
        if option is None or not value or value.startswith(("/", UNKNOWN)) or _IMAGE.fullmatch(value):
            continue
        shown = value.replace(UNKNOWN, "...")
        if value.startswith("~"):
            yield Spot(option.offset, f'{option.text}={shown}: the shell does not fill in "~" here')
        elif value.startswith("."):
            if not _folder_is_fixed(job, step):
                yield Spot(option.offset, f"{option.text}={shown} depends on the folder that the job is submitted from")
        elif value.endswith(".toml"):
            yield Spot(option.offset, f"{option.text}={shown} is neither a path with ./ nor a name without .toml")
        elif "/" in value:
            yield Spot(
                option.offset, f"{option.text}={shown} is a path without ./, which engines read in different ways"
            )


def _folder_is_fixed(job: Job, step: Step) -> bool:
    """Whether the script itself says in which folder srun runs."""
    option = step.options.get("chdir") or job.script.job("chdir")
    if option is not None and (option.value or "").startswith(("/", UNKNOWN)):
        return True
    return any(
        command.name in {"cd", "pushd"} and command.offset < step.offset and len(command.words) > 1
        for command in job.script.shell.commands
    )


def _image_path(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        for name in CONTAINER_OPTIONS:
            option = step.options.get(name)
            value = option.value if option else None
            if option is None or not value or not _IMAGE.fullmatch(value):
                continue
            if name != "container-image":
                shown = value.replace(UNKNOWN, "...")
                yield Spot(option.offset, f"{option.text}={shown} names an image, but the option takes an EDF")
            elif not value.startswith(("/", ".", UNKNOWN)):
                hint = f"write {option.text}=./{value}, or an absolute path" if UNKNOWN not in value else None
                yield Spot(option.offset, f"{option.text}={value} is looked up in a registry", hint)


def _nested_environment(job: Job) -> Iterator[Spot]:
    if job.script.directives.get(*CONTAINER_OPTIONS) is None:
        return
    for step in job.steps:
        if step.container is not None:
            yield Spot(step.container.offset, f"{step.container.text} in a script that is in a container already")


def _in_container(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        for command in step.inner.commands if step.container is not None else ():
            if command.name in {"srun", "sbatch", "salloc"}:
                yield Spot(command.offset, f"{command.name} runs inside the container here")


def _uenv_and_environment(job: Job) -> Iterator[Spot]:
    for step in job.steps:
        if step.uenv is not None and step.container is not None:
            later = max(step.uenv, step.container, key=lambda option: option.offset)
            yield Spot(later.offset, f"{step.uenv.text} and {step.container.text} on one srun")


def _cpus_per_task(job: Job) -> Iterator[Spot]:
    option = job.script.job("cpus-per-task")
    if option is None or option.constant == "1" or _has_newer_slurm(job):
        return
    for step in job.steps:
        given = step.options.get("cpus-per-task", "cpus-per-gpu", "tres-per-task", "exclusive")
        if given is None and not step.options.open and "SRUN_CPUS_PER_TASK" not in job.script.exported(step):
            yield Spot(step.offset, "Slurm 22.05 and 23.02 do not hand the job's --cpus-per-task on to this srun")
            return


def _has_newer_slurm(job: Job) -> bool:
    """Whether jobs here use disable_rdzv_get: Slurm has it since 23.11, where srun takes over the CPUs again."""
    system = job.context.system
    used = [word for options in (system.launch.network_srun.values() if system else ()) for word in options]
    used += [
        option.value or "" for option in (job.script.job("network"), *(step.network for step in job.steps)) if option
    ]
    return any(_DISABLE_GET in word for word in used)


RULES: dict[str, Callable[[Job], Iterator[Spot]]] = {
    "srun-network": _network,
    "srun-network-unused": _unused_network,
    "srun-network-value": _network_value,
    "srun-mpi": _mpi,
    "srun-mpi-type": _mpi_type,
    "srun-environment-path": _environment_path,
    "srun-image-path": _image_path,
    "srun-nested-environment": _nested_environment,
    "srun-in-container": _in_container,
    "srun-uenv-environment": _uenv_and_environment,
    "srun-cpus-per-task": _cpus_per_task,
}
