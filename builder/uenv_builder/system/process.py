"""The one place that starts other programs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from uenv_builder.model.errors import BuildError, MissingToolError

_TAIL_LINES = 25
_DEBIAN_PACKAGES = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "bwrap": "bubblewrap",
    "gpgv": "gpgv",
    "mount": "mount",
    "qemu-aarch64": "qemu-user-static",
    "qemu-x86_64": "qemu-user-static",
    "sqfstar": "squashfs-tools",
    "squashfuse": "squashfuse",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
}


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended: its exit code and, where they were captured, its output streams."""

    command: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def install_hint(program: str) -> str:
    """The command that installs `program` on Debian and its relatives."""
    return f"install it: apt-get install {_DEBIAN_PACKAGES.get(program, program)}"


def find_program(program: str) -> str:
    """The absolute path of `program` on PATH; raises MissingToolError with the command that installs it."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if not found:
        raise MissingToolError(f"{program} is not installed on this machine", hint=install_hint(program))
    return found


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: str | None = None,  # noqa: A002  (subprocess's own name)
    timeout: float | None = None,
    check: bool = True,
    what: str | None = None,
) -> Completed:
    """Run `command` to its end and capture its output as text.

    `env` replaces the whole environment. With `check`, a non-zero end raises BuildError, which shows the command ready
    to paste and the last lines that it printed; `what` names the work for that message. A timeout (seconds) raises too.
    """
    argv = [find_program(command[0]) if "/" not in command[0] else command[0], *command[1:]]
    try:
        done = subprocess.run(
            argv, env=env, cwd=cwd, input=input, timeout=timeout, check=False, capture_output=True, text=True,
            errors="replace", stdin=subprocess.DEVNULL if input is None else None,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        raise BuildError(
            f"{what or command[0]}: did not end within {timeout:.0f} s", hint=f"the command was: {shlex.join(command)}"
        ) from expired
    completed = Completed(tuple(command), done.returncode, done.stdout, done.stderr)
    if check and done.returncode != 0:
        raise failure(completed, what=what)
    return completed


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    own_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `command` and hand back its process, for streams; the caller waits for it and looks at its end.

    In its `own_session` it leads a process group, and an interrupt of the terminal does not reach it.
    """
    argv = [find_program(command[0]) if "/" not in command[0] else command[0], *command[1:]]
    return subprocess.Popen(
        argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=own_session
    )  # fmt: skip


PIPE = subprocess.PIPE
Popen = subprocess.Popen


def failure(completed: Completed, *, what: str | None = None) -> BuildError:
    """The error for a command that ended badly: exit code, last lines, and the command to paste."""
    lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()[-_TAIL_LINES:]
    ending = f"killed by signal {-completed.returncode}" if completed.returncode < 0 else f"exit {completed.returncode}"
    tail = "".join(f"\n    {line}" for line in lines)
    return BuildError(
        f"{what or completed.command[0]} failed ({ending}){tail}",
        hint=f"the command was: {shlex.join(completed.command)}",
    )
