"""What every sandbox takes and gives: a command inside an image, and what stands in the way of running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from uenv_builder.system.process import Completed

TIMEOUT_RULE = "timeout"
"""The rule of the BuildError that a sandbox raises when a command did not end in its time."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of this machine that is seen at `target`, an absolute path, inside."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to run inside an image.

    `env` is the whole environment, but for PWD, which names `workdir`, and QEMU_CPU where qemu runs the command.
    Without `network` there is the loopback interface only. `gpu` asks for the GPUs and the driver of this machine if it
    has any. `timeout` is in seconds. An `interactive` command uses the terminal as it is: nothing is captured.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: str = "/"
    binds: tuple[Bind, ...] = ()
    network: bool = False
    gpu: bool = False
    timeout: float | None = None
    stdin: str | None = None
    interactive: bool = False


class Read(NamedTuple):
    """One read of an image's file: when it was asked for, on the monotonic clock in seconds, first byte and length."""

    time: float
    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a command read of an image: the reads of the image's file in their order, and the paths of the files of
    which any content was read. `seconds` is the command's wall time, with its mounting and with what recording costs.
    """

    returncode: int
    seconds: float
    reads: Sequence[Read]
    files: Sequence[str]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why this machine cannot run images: the program or file at fault, the reason and the remedy."""

    program: str
    reason: str
    remedy: str


class Sandbox(Protocol):
    """A way of running commands inside a squashfs image, which it never changes: what they write is thrown away."""

    name: ClassVar[str]

    def run(self, image: Path, command: Command) -> Completed:
        """Run `command` in `image` to its end; its exit code is in the result, whatever it is.

        Raises BuildError where the sandbox itself could not be set up, and, with the rule `timeout`, where the command
        did not end in time; all that it had started is dead then.
        """

    def record(self, image: Path, command: Command) -> Recording:
        """Run `command` as if it were interactive, and record what it reads of `image`, from nothing in memory.

        Raises BuildError where the sandbox could not be set up.
        """

    def look(self, image: Path, make_argv: Callable[[Path], Sequence[str]], *, stdin: str | None = None) -> Completed:
        """Run a program of this machine that reads the image's files; `make_argv` gets the folder where they are."""

    def problems(self, machine: str) -> list[Problem]:
        """What keeps this machine from running images of `machine` (as `uname -m` prints it); found by trying."""


@dataclass(frozen=True, slots=True)
class OpenImage:
    """One image in one sandbox: the two ways in which checks reach what is in it."""

    sandbox: Sandbox
    image: Path

    def run_inside(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        binds: Mapping[str, Path] | None = None,
        stdin: str | None = None,
        timeout: float | None = None,
        gpu: bool = False,
    ) -> Completed:
        """Run `argv` in the image without network; `binds` are read-only, by their path inside."""
        seen = tuple(Bind(source, target) for target, source in (binds or {}).items())
        command = Command(argv=tuple(argv), env=env, binds=seen, stdin=stdin, timeout=timeout, gpu=gpu)
        return self.sandbox.run(self.image, command)

    def run_beside(self, make_argv: Callable[[Path], Sequence[str]], *, stdin: str | None = None) -> Completed:
        """Run a program of this machine with the image's files before it, read-only."""
        return self.sandbox.look(self.image, make_argv, stdin=stdin)
