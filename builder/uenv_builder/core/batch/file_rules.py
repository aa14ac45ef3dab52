"""Rules about a batch script as a file, its directives, and what it starts without srun."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from uenv_builder.core.batch.job import Job, Spot
from uenv_builder.core.batch.options import Option, slurm_grammar
from uenv_builder.core.batch.script import CONTAINER_OPTIONS
from uenv_builder.core.batch.shell import Command
from uenv_builder.core.yaml_tree import suggest

_VARIABLE = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?")
_PYTHON = re.compile(r"python[0-9.]*")
_LAUNCHERS = {"torchrun", "accelerate", "deepspeed"}
_MPI_LAUNCHERS = {"mpirun", "mpiexec", "orterun"}
_SHORT_TASKS = {"-c", "-V", "-h", "--version", "--help", "-m"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _shebang(job: Job) -> Iterator[Spot]:
    content = job.script.source.content
    if job.script.lines.shebang:
        return
    if not content.strip():
        yield Spot(0, "the script is empty")
    elif content.startswith(_BYTE_ORDER_MARK):
        yield Spot(0, "the script begins with a byte order mark", "save the file as UTF-8 without a byte order mark")
    elif content.lstrip().startswith(b"#!"):
        yield Spot(0, "there is something before the script's #!", "make the #! the first two characters of the file")
    else:
        yield Spot(0, "the script does not begin with #! and a shell")


def _line_ends(job: Job) -> Iterator[Spot]:
    if (offset := job.script.lines.dos_line_end) is not None:
        yield Spot(offset, "lines end with CR LF")


def _nul(job: Job) -> Iterator[Spot]:
    if (offset := job.script.lines.nul) is not None:
        yield Spot(offset, "the script holds a NUL character")


def _continuation(job: Job) -> Iterator[Spot]:
    for command in job.script.shell.commands:
        text = command.words[0].text if command.words else ""
        if command.words and command.words[0].constant and re.match(r"--?[A-Za-z]", text):
            yield Spot(command.offset, f"{text.partition('=')[0]} would be run as a program")


def _directive(job: Job) -> Iterator[Spot]:
    if (offset := job.script.lines.quotes) is not None:
        yield Spot(offset, "the directive has a quote that never ends")
    for offset, message in job.script.directives.faults:
        yield Spot(offset, message)
    for word in job.script.directives.rest:
        yield Spot(word.offset, f'"{word.text}" is no option', _option_hint(word.text))


def _option_hint(text: str) -> str | None:
    name = text.partition("=")[0].lstrip("-")
    if name in slurm_grammar("sbatch").kinds:
        return f"write --{text}"
    return None


def _late_directive(job: Job) -> Iterator[Spot]:
    for offset, why in job.script.lines.late:
        yield Spot(offset, f"this #SBATCH line {why}: Slurm does not read it")


def _unknown_option(job: Job) -> Iterator[Spot]:
    grammar = slurm_grammar("sbatch")
    for option in job.script.directives.given:
        if option.known:
            continue
        hint = None
        if option.name in slurm_grammar("srun").kinds:
            hint = f"{option.text} is an option of srun: give it there"
        elif option.text.startswith("--") and (meant := suggest(option.name, list(grammar.kinds))) is not None:
            hint = meant.replace('"', '"--', 1)
        yield Spot(option.offset, f"sbatch has no option {option.text}", hint)


def _variable(job: Job) -> Iterator[Spot]:
    for option in job.script.directives.given:
        if (match := _VARIABLE.search(option.value or "")) is not None:
            yield Spot(option.offset, f"{match[0]} in {option.text} is not filled in")


def _container(job: Job) -> Iterator[Spot]:
    for option in _containers(job):
        yield Spot(option.offset, f"{option.text} as a directive runs the script itself in a container")


def _containers(job: Job) -> Iterator[Option]:
    yield from (option for option in job.script.directives.given if option.name in CONTAINER_OPTIONS)


def _job_view(job: Job) -> Iterator[Spot]:
    directives = job.script.directives
    view = directives.get("view")
    if view is not None and directives.get("uenv") is None and not directives.open:
        yield Spot(view.offset, f"{view.text} without --uenv")
    for step in job.steps:
        given = step.view is not None and step.uenv is None and not step.options.open
        if given and "SLURM_UENV" not in job.script.exported(step) and step.view is not None:
            yield Spot(step.view.offset, f"{step.view.text} without --uenv on this srun")


def _submits_in_uenv(job: Job) -> Iterator[Spot]:
    if job.script.job("uenv") is None:
        return
    for command in job.script.shell.commands:
        texts = [word.text for word in command.words[1:]]
        told = any(re.match(r"--uenv(-passthrough)?(=|$)", text) for text in texts)
        if command.name == "sbatch" and not told:
            yield Spot(command.offset, "sbatch in a job that has a uenv")


def _uenv_start(job: Job) -> Iterator[Spot]:
    inner = [command for step in job.steps for command in step.inner.commands]
    for command in (*job.script.shell.commands, *inner):
        if command.name == "uenv" and [word.text for word in command.words[1:2]] == ["start"]:
            yield Spot(command.offset, "uenv start opens a shell of its own")


def _one_node(job: Job) -> Iterator[Spot]:
    nodes = job.script.nodes()
    if nodes is None or nodes < 2:
        return
    for command in job.script.shell.commands:
        if command.name in _MPI_LAUNCHERS and not _names_hosts(command):
            yield Spot(
                command.offset,
                f"{command.name} starts on the first of {nodes} nodes, and reaches the others only where its MPI was "
                "built for this Slurm",
            )
        elif command.name in _LAUNCHERS or _is_module(command, "torch.distributed"):
            yield Spot(command.offset, f"{command.words[0].text} runs on the first of {nodes} nodes only")
        elif _PYTHON.fullmatch(command.name) and not job.steps and _is_work(command):
            yield Spot(command.offset, f"{command.name} runs on the first of {nodes} nodes only")


def _names_hosts(command: Command) -> bool:
    return any(word.text in {"--host", "-host", "-H", "--hostfile", "-hostfile", "-f"} for word in command.words)


def _is_module(command: Command, prefix: str) -> bool:
    texts = [word.text for word in command.words]
    return _PYTHON.fullmatch(command.name) is not None and any(
        first == "-m" and second.startswith(prefix) for first, second in pairwise(texts)
    )


def _is_work(command: Command) -> bool:
    """Whether python runs a program of its own: not -c, --version, or a tool such as `-m pip`."""
    texts = [word.text for word in command.words[1:]]
    return bool(texts) and not _SHORT_TASKS & set(texts[:1])


RULES: dict[str, Callable[[Job], Iterator[Spot]]] = {
    "batch-shebang": _shebang,
    "batch-line-ends": _line_ends,
    "batch-nul": _nul,
    "batch-continuation": _continuation,
    "batch-one-node": _one_node,
    "sbatch-directive": _directive,
    "sbatch-directive-ignored": _late_directive,
    "sbatch-option": _unknown_option,
    "sbatch-variable": _variable,
    "sbatch-environment": _container,
    "sbatch-in-uenv": _submits_in_uenv,
    "uenv-start": _uenv_start,
    "uenv-view": _job_view,
}
