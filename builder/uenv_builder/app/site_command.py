"""Verbs that are not ours: they belong to the site's own `uenv`, further down PATH."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import UsageError

GUARD = "UENV_BUILDER_PASSED_ON"
"""Set for the command that a verb is passed on to, so that two builders on one PATH cannot call each other forever."""


def find_site_command(own: Path) -> Path | None:
    """The first `uenv` on PATH that is not this program; `own` is the path that this program was started by.

    A script of another installation of this project counts as this program.
    """
    for folder in os.get_exec_path():
        candidate = Path(folder) / "uenv"
        if not os.access(candidate, os.X_OK) or candidate.is_dir():
            continue
        if candidate.resolve() == own.resolve() or _is_ours(candidate):
            continue
        return candidate
    return None


def _is_ours(script: Path) -> bool:
    try:
        with script.open("rb") as file:
            return b"uenv_builder" in file.read(4096)
    except OSError:  # a program that may be run and not be read
        return False


def pass_on(verb: str, arguments: Sequence[str], *, own: Path, known: Sequence[str]) -> None:
    """Become the site's own uenv with the same arguments; raises UsageError where there is none that starts."""
    command = None if os.environ.get(GUARD) else find_site_command(own)
    if command is None:
        raise UsageError(
            f'"{verb}" is not a verb of uenv-builder, and there is no other uenv command further down PATH',
            rule="unknown-verb",
            hint=suggest(verb, list(known))
            or f"verbs here: {', '.join(known)}; image, repo, start, run and status are the site's",
        )
    try:
        os.execve(command, [str(command), *arguments], {**os.environ, GUARD: "1"})  # noqa: S606
    except OSError as error:
        raise UsageError(
            f'{command}: cannot be started for "{verb}": {error.strerror}',
            rule="site-command", hint="repair this command, or take its folder off PATH",
        ) from error  # fmt: skip
