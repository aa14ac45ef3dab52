"""The machine's own file system as a sandbox: all of it read-only and without network, with folders of ours on top.

What compiles for a machine with the machine's own compiler needs that machine's userland, and nothing of it may change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from uenv_builder.model.errors import BuildError
from uenv_builder.sandboxes.interface import Command
from uenv_builder.system.process import PIPE, Completed, find_program, start

_OWN = {"dev", "proc", "tmp", "run", "sys"}
"""Folders of the root that are made anew inside."""

Hear = Callable[[str], None]
"""Takes one line of what a command prints on its standard output, without its end."""


def silently(line: str) -> None:
    """Hear nothing."""


def run_on_host(command: Command, *, hear: Hear = silently, root: Path = Path("/")) -> Completed:
    """Run `command` in this machine's userland; each line of its output is heard as it comes.

    The root is made of the machine's folders, and of the links among them as links: a program that looks where a
    library lies sees the same paths as outside. `binds` come on top, and places that the machine does not have are
    made. Raises BuildError where the sandbox cannot be made; the command's own failure is in what is returned.
    """
    lines: list[str] = []
    with tempfile.TemporaryFile() as errors:
        process = start(_command_line(command, root), stdout=PIPE, stderr=errors)
        try:
            for raw in process.stdout or ():
                lines.append(raw.decode(errors="replace").rstrip("\n"))
                hear(lines[-1])
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout:
                process.stdout.close()
        errors.seek(0)
        told = errors.read().decode(errors="replace")
    if code != 0 and told.startswith("bwrap: ") and not lines:
        raise BuildError(
            f"bubblewrap could not start {command.argv[0]}: {told.strip()}", rule="sandbox",
            hint="uenv doctor says what is missing",
        )  # fmt: skip
    return Completed(command.argv, code, "\n".join(lines), told)


def _command_line(command: Command, root: Path) -> list[str]:
    words = [find_program("bwrap")]
    targets = {bind.target for bind in command.binds}
    for entry in sorted(root.iterdir()):
        place = f"/{entry.name}"
        if entry.name in _OWN or place in targets:
            continue
        if entry.is_symlink():
            # A copy of what it leads to would let programs see /lib as a folder of its own beside /usr/lib.
            words += ["--symlink", str(entry.readlink()), place]
        elif entry.is_dir():
            words += ["--ro-bind", str(entry), place]
    words += ["--dev", "/dev", "--proc", "/proc", "--ro-bind-try", "/sys", "/sys", "--tmpfs", "/run"]
    words += ["--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108  (inside)
    words += ["--unshare-all", "--die-with-parent", "--new-session", "--hostname", "localhost", "--clearenv"]
    words += ["--share-net"] if command.network else []
    for bind in command.binds:
        words += ["--bind" if bind.writable else "--ro-bind", str(bind.source.resolve()), bind.target]
    for name, value in sorted(command.env.items()):
        words += ["--setenv", name, value]
    return [*words, "--chdir", command.workdir, "--", *command.argv]
