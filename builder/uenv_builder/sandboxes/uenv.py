"""A uenv on the machine's own file system, as the site's uenv command starts one: the image at its mount point, and all
else read-only as the machine has it, with a /tmp of its own.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.model.errors import MissingToolError
from uenv_builder.sandboxes.bwrap import BwrapSandbox
from uenv_builder.sandboxes.interface import Command, Problem

_MADE = {"dev", "proc", "run", "sys", "tmp"}
"""Folders of the root that are made anew inside."""


@dataclass(slots=True)
class UenvSandbox(BwrapSandbox):
    """Runs commands of this machine, or of the image, with the image at `mount`; its processor has to be this one."""

    mount: str = "/user-environment"

    def problems(self, machine: str) -> list[Problem]:
        """See `Sandbox.problems`: what is mounted into a machine's own files runs on such a machine alone."""
        if machine != platform.machine():
            return [
                Problem("uenv", f"the uenv is for {machine}, and this machine is {platform.machine()}",
                        f"run it on a {machine} machine")
            ]  # fmt: skip
        return BwrapSandbox.problems(self, machine)

    def _options(self, root: str, command: Command, *, emulated: bool) -> list[str]:
        if emulated:
            raise MissingToolError(self.problems(self.machine)[0].reason, hint=self.problems(self.machine)[0].remedy)
        options = [*_machine_folders(hidden=(root.split("/")[1], self.mount.split("/")[1]))]
        options += ["--dev-bind", "/dev", "/dev"] if command.gpu else ["--dev", "/dev"]
        options += ["--proc", "/proc", "--ro-bind-try", "/sys", "/sys", "--perms", "0755", "--tmpfs", "/run"]
        options += ["--perms", "1777", "--tmpfs", "/tmp", "--ro-bind", root, self.mount]  # noqa: S108  (inside)
        options += ["--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"]
        options += ["--share-net"] if command.network else []
        options += [] if command.interactive else ["--new-session"]
        for bind in command.binds:
            options += ["--bind" if bind.writable else "--ro-bind", str(bind.source.resolve()), bind.target]
        for name, value in sorted(command.env.items()):
            options += ["--setenv", name, value]
        return [*options, "--chdir", command.workdir]


def _machine_folders(hidden: tuple[str, ...]) -> Iterator[str]:
    """The machine's root: its folders read-only, and its links as links, so that a path means what it means outside."""
    for entry in sorted(Path("/").iterdir()):
        if entry.name in _MADE or entry.name in hidden:
            continue
        if entry.is_symlink():
            yield from ("--symlink", os.fspath(entry.readlink()), f"/{entry.name}")
        elif entry.is_dir():
            yield from ("--ro-bind", f"/{entry.name}", f"/{entry.name}")
