"""Runs one of the programs of `inside/`, mostly with the image's Python, and takes the JSON document that it prints."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.checks.interface import CheckContext
from uenv_builder.core.digest import Json
from uenv_builder.model.errors import BuildError

_INSIDE = Path(__file__).parent / "inside"
_FOLDER = "/run/uenv-checks"
_TAIL_LINES = 25
EMULATION_FACTOR = 4
"""How much longer a program may take under qemu."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program answered, or, where `document` is None, why it did not: the reason and its last lines.

    `returncode` is None where it did not end in time; `log` is what it wrote to standard error.
    """

    document: Mapping[str, Json] | None
    reason: str = ""
    details: tuple[str, ...] = ()
    returncode: int | None = None
    log: str = ""


def run_program(
    ctx: CheckContext,
    program: str,
    *,
    request: Json = None,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    seconds: int,
    gpu: bool = False,
) -> Answer:
    """Run `program` of `inside/` with `request` on its standard input; `seconds` are for this processor, not emulated.

    A program that crashes, hangs or says nothing is the image's fault and in the answer; BuildError is raised where
    the sandbox could not be set up.
    """
    argv = [ctx.python, "-B", f"{_FOLDER}/{program}", *arguments]
    return run_command(
        ctx, argv, name=program, binds={_FOLDER: _INSIDE}, env=env, stdin=json.dumps(request), seconds=seconds, gpu=gpu
    )


def run_command(
    ctx: CheckContext,
    argv: Sequence[str],
    *,
    name: str,
    binds: Mapping[str, Path],
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    seconds: int,
    gpu: bool = False,
) -> Answer:
    """Run `argv`, called `name` in what is said of it, as `run_program` does; `env` is added to the image's."""
    limit = seconds * (EMULATION_FACTOR if is_emulated(ctx) else 1)
    try:
        done = ctx.image.run_inside(
            argv, env={**ctx.env, **(env or {})}, binds=binds, stdin=stdin, timeout=limit, gpu=gpu
        )
    except BuildError as error:
        if error.diagnostics[0].rule != "timeout":
            raise
        first, *rest = error.diagnostics[0].message.splitlines()
        return Answer(None, first, tuple(line.strip() for line in rest))
    code, log = done.returncode, done.stderr
    if code != 0:
        return Answer(None, f"{name} ended with {_describe(code)}", _tail(log or done.stdout), code, log)
    document = _last_answer(done.stdout)
    if document is None:
        return Answer(None, f"{name} printed no result", _tail(done.stdout + log), code, log)
    return Answer(document, returncode=code, log=log)


def is_emulated(ctx: CheckContext) -> bool:
    """Whether the image's code runs under qemu here."""
    return ctx.uarch.machine != platform.machine()


def _last_answer(output: str) -> Mapping[str, Json] | None:
    """What the last line of the form {"answer": {...}} has; modules may print lines of their own around it."""
    for line in reversed(output.splitlines()):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        answer = document.get("answer") if isinstance(document, dict) else None
        if isinstance(answer, dict):
            return answer
    return None


def _describe(returncode: int) -> str:
    """A shell's way of saying that a signal ended the command is 128 and its number."""
    return f"signal {returncode - 128}" if returncode > 128 else f"exit {returncode}"


def _tail(text: str) -> tuple[str, ...]:
    return tuple(text.strip().splitlines()[-_TAIL_LINES:])
