"""A Slurm batch script as its parts: directives, steps (`srun ...`), other commands, variables; each with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from uenv_builder.core.batch.options import Option, Options, parse_options, slurm_grammar
from uenv_builder.core.batch.shell import Block, Command, Setting, Shell, read_inner_shell, read_shell, unwrap
from uenv_builder.core.batch.words import Source, Word
from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.errors import Position

CONTAINER_OPTIONS = ("environment", "edf", "container-image")
"""Options that start a container: Container Engine's, Sarus Suite's and pyxis' own."""

_SHELL = re.compile(rb"(ba|da|a|k|z|rba)?sh")
_WHITE = " \t\v\f\r"


@dataclass(frozen=True, slots=True)
class Lines:
    """What sbatch itself looks at, before any shell runs; places are bytes of the file."""

    shebang: bool
    shell: bool
    """Whether a shell runs the script, as far as its first line says."""
    dos_line_end: int | None
    nul: int | None
    words: tuple[Word, ...]
    """The words of the directives that count."""
    first_command: int | None
    late: tuple[tuple[int, str], ...]
    """Directives that sbatch passes over, and why."""
    quotes: int | None
    """The directive with a quote that never ends."""
    heterogeneous: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One `srun` command; what is not given there comes from the job."""

    command: Command
    options: Options
    program: tuple[Word, ...]
    """The words of what runs on each rank."""
    inner: Shell
    """The same as commands: those of TEXT for `srun bash -c TEXT`."""

    @property
    def offset(self) -> int:
        """Where `srun` stands."""
        return self.command.offset

    @property
    def inside(self) -> tuple[Setting, ...]:
        """The variables that the step's own shell sets, for all or for single commands."""
        assigned = (setting for command in self.inner.commands for setting in command.assigned)
        return (*self.inner.settings, *assigned)

    @property
    def container(self) -> Option | None:
        """The option that starts a container."""
        return self.options.get(*CONTAINER_OPTIONS)

    @property
    def environment(self) -> Option | None:
        """The EDF: its path or name."""
        return self.options.get("environment", "edf")

    @property
    def uenv(self) -> Option | None:
        """The uenv."""
        return self.options.get("uenv")

    @property
    def view(self) -> Option | None:
        """The uenv's view."""
        return self.options.get("view")

    @property
    def network(self) -> Option | None:
        """Options of the network for this step."""
        return self.options.get("network")

    @property
    def mpi(self) -> Option | None:
        """How ranks of MPI find each other."""
        return self.options.get("mpi")


@dataclass(frozen=True)
class BatchScript:
    """A batch script. Nothing in it is missing for being wrong: rules say what is."""

    source: Source
    lines: Lines
    directives: Options
    """Those that count, in one list: later ones win."""
    shell: Shell

    def position(self, offset: int) -> Position:
        """The place of a byte of the file."""
        return self.source.position(offset)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All `srun` commands, those within other commands of the host included."""
        return tuple(_read_step(command) for command in self.shell.commands if command.name == "srun")

    @property
    def exports(self) -> tuple[Setting, ...]:
        """All variables that the script exports, in order."""
        return tuple(setting for setting in self.shell.settings if setting.kind == "export")

    def job(self, *names: str) -> Option | None:
        """The directive of one of these names that wins; None also where each part of the job has its own."""
        return None if self.lines.heterogeneous else self.directives.get(*names)

    def environment(self, step: Step) -> dict[str, str | None]:
        """What the script exports to `step`, by name; None where the value cannot be known from the text alone."""
        found = {name: setting.value for name, setting in self.exported(step).items()}
        return self._filter_exports(step, found)

    def exported(self, step: Step) -> dict[str, Setting]:
        """The setting that decides each variable that the script hands to srun, for `step`."""
        if step.offset not in self._exported:
            self._exported[step.offset] = self._export(step)
        return self._exported[step.offset]

    @cached_property
    def _exported(self) -> dict[int, dict[str, Setting]]:
        """What was found already, by the step's place: each rule asks anew."""
        return {}

    def _export(self, step: Step) -> dict[str, Setting]:
        values: dict[str, Setting] = {}
        exported: dict[str, Setting] = {}
        for setting, sure in self._before(step):
            name = setting.name
            if setting.kind == "unset":
                values.pop(name, None)
                exported.pop(name, None)
                continue
            if setting.kind == "export" and setting.value is None and not setting.raw:  # `export NAME`
                known = values.get(name, setting)
            else:
                known = setting
            if not sure:
                known = Setting(name=name, value=None, raw=known.raw, offset=known.offset, block=known.block)
            values[name] = known
            if setting.kind == "export" or name in exported:
                exported[name] = known
        exported |= {setting.name: setting for setting in step.command.assigned}
        return exported

    def locate(self, at: Path, step: Step | None = None) -> Position | None:
        """The place of ("env", NAME): where `step` gets it from, else the last one of the script."""
        if len(at) != 2 or at[0] != "env":
            return None
        settings = [*self.shell.settings]
        for each in self.steps:
            settings += [*each.command.assigned, *each.inside]
        if step is not None:
            inner = [setting for setting in step.inside if setting.name == at[1]]
            decisive = self.exported(step).get(str(at[1]))
            settings = inner or ([decisive] if decisive else settings)
            option = step.options.get("export")
            if not inner and option is not None and f",{at[1]}=" in f",{option.value}":
                return self.position(option.offset)
        offsets = [setting.offset for setting in settings if setting.name == at[1]]
        return self.position(offsets[-1]) if offsets else None

    def nodes(self, step: Step | None = None) -> int | None:
        """How many nodes `step` (or the job) has at least, where the script says so."""
        option = (step.options.get("nodes") if step else None) or self.job("nodes")
        return option.number if option else None

    def tasks_per_node(self, step: Step) -> int | None:
        """How many ranks of `step` share a node, where the script says so."""
        names, nodes = ("ntasks-per-node", "tasks-per-node"), self.nodes(step)
        for per_node, tasks in (
            (step.options.get(*names), step.options.get("ntasks")),
            (self.job(*names), self.job("ntasks")),
        ):
            if tasks and tasks.number and nodes:
                return math.ceil(tasks.number / nodes)
            if tasks is not None:
                return tasks.number if tasks.number == 1 else None
            if per_node:
                return per_node.number
        return None

    def is_alone(self, step: Step) -> bool:
        """Whether `step` is known to have one rank."""
        tasks = step.options.get("ntasks") or self.job("ntasks")
        if tasks is not None:
            return tasks.number == 1
        return self.nodes(step) == 1 and self.tasks_per_node(step) in {None, 1} and not step.options.open

    def _before(self, step: Step) -> Iterator[tuple[Setting, bool]]:
        """What is set before `step`, with whether that is sure."""
        reader = step.command.block
        for setting in self.shell.settings:
            relation = setting.block.relation(reader)
            if relation == "hidden":
                continue
            if setting.offset < step.offset:
                yield setting, relation == "certain"
            elif (function := reader.function) is not None and function not in set(setting.block.chain()):
                yield setting, False  # the function may be called later

    def _filter_exports(self, step: Step, found: dict[str, str | None]) -> dict[str, str | None]:
        """What `srun --export=...` leaves of `found`, and adds."""
        option = step.options.get("export")
        if option is None or option.constant is None:
            return found if option is None else dict.fromkeys(found)
        parts = option.constant.split(",")
        if "ALL" not in parts:
            found = {name: value for name, value in found.items() if name in parts}
        return found | {name: value for name, sign, value in (part.partition("=") for part in parts) if sign}


def read_batch_script(content: bytes, file: str) -> BatchScript:
    """The batch script `content`, whatever is wrong with it; `file` is its name in positions."""
    text = content.decode("utf-8", "replace").encode()
    source = Source(file, text)
    lines = _read_lines(text)
    # A line end of DOS is one error; as a part of each last word it would be many.
    unix = text.replace(b"\\\r\n", b" \\\n").replace(b"\r\n", b" \n")
    shell = read_shell(unix) if lines.shell else Shell()
    lines = _without_texts(lines, shell)
    return BatchScript(source, lines, parse_options(lines.words, slurm_grammar("sbatch")), shell)


def _read_lines(text: bytes) -> Lines:
    words: list[Word] = []
    late: list[tuple[int, str]] = []
    offset, first_command, quotes, heterogeneous = 0, None, None, False
    for raw in text.split(b"\n"):
        line = raw.decode().rstrip("\r")
        if line.startswith("#SBATCH") and first_command is None:
            found, complete = _split_directive(line, offset)
            heterogeneous = heterogeneous or any(word.text.lower() in {"hetjob", "packjob"} for word in found)
            words += [word for word in found if word.text.lower() not in {"hetjob", "packjob"}]
            quotes = offset if quotes is None and not complete else quotes
        elif line.startswith("#SBATCH"):
            late.append((offset, "stands after the first command"))
        elif re.match(r"\s+#SBATCH\b|#sbatch\s+-|#Sbatch\s+-", line) and first_command is None:
            blanks = len(line) - len(line.lstrip())
            late.append((offset + blanks, "does not begin its line" if blanks else "is not written in capitals"))
        elif first_command is None and line.strip() and not line.lstrip().startswith("#"):
            first_command = offset
        offset += len(raw) + 1
    return Lines(
        shebang=text.startswith(b"#!"), shell=_is_shell(text), dos_line_end=_find(text, b"\r\n"),
        nul=_find(text, b"\0"), words=tuple(words), first_command=first_command, late=tuple(late), quotes=quotes,
        heterogeneous=heterogeneous,
    )  # fmt: skip


def _is_shell(text: bytes) -> bool:
    if not text.startswith(b"#!"):
        return True
    words = text.split(b"\n")[0][2:].split()
    names = [word.rsplit(b"/", 1)[-1] for word in words if not word.startswith(b"-") and b"=" not in word]
    if names[:1] == [b"env"]:
        names = names[1:]
    return not names or _SHELL.fullmatch(names[0]) is not None


def _find(text: bytes, sign: bytes) -> int | None:
    index = text.find(sign)
    return None if index < 0 else index


def _without_texts(lines: Lines, shell: Shell) -> Lines:
    """`lines` without those late directives that are part of a here-document: the script writes another one."""
    late = tuple(
        (offset, why) for offset, why in lines.late if not any(start <= offset < end for start, end in shell.texts)
    )
    return Lines(**{name: getattr(lines, name) for name in Lines.__slots__} | {"late": late})


def _split_directive(line: str, offset: int) -> tuple[list[Word], bool]:
    """The words of a directive as sbatch takes it apart, and whether its quotes end; the shell's rules do not hold."""
    places = [offset]
    for character in line:
        places.append(places[-1] + len(character.encode()))
    words: list[Word] = []
    start = _skip_blanks(line, len("#SBATCH"))
    while start < len(line) and line[start] != "#":
        end, letters = _directive_word(line, start)
        if end is None:
            return words, False
        text = "".join(line[letter] for letter in letters)
        if text:
            words.append(Word(text, tuple(places[letter] for letter in letters), places[start], line[start:end]))
        start = _skip_blanks(line, end)
    return words, True


def _skip_blanks(line: str, index: int) -> int:
    while index < len(line) and line[index] in _WHITE:
        index += 1
    return index


def _directive_word(line: str, index: int) -> tuple[int | None, list[int]]:
    """Where the word at `index` ends (None: its quote never does), and which characters it is made of."""
    letters: list[int] = []
    quote = ""
    while index < len(line) and (quote or line[index] not in _WHITE + "#"):
        character = line[index]
        if character == "\\" and index + 1 < len(line):
            index += 1
            letters.append(index)
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        else:
            letters.append(index)
        index += 1
    return (None if quote else index), letters


def _read_step(command: Command) -> Step:
    options = parse_options(command.words[1:], slurm_grammar("srun"))
    block = Block("subshell", command.block)
    program = options.rest
    if not program:
        return Step(command=command, options=options, program=(), inner=Shell())
    ran = unwrap(Command(words=program, offset=program[0].offset, block=block))
    inner = read_inner_shell(ran)
    if inner is None:
        inner = Shell((ran,))
    return Step(command=command, options=options, program=program, inner=inner)
