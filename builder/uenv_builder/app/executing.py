"""Running a user's command inside a build's image."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from uenv_builder.app.outputs import BuiltImage, open_build
from uenv_builder.app.reading_ahead import begin_reading_ahead
from uenv_builder.app.start_recording import record_start
from uenv_builder.app.uenv_sessions import is_uenv, uenv_environment, visible_folder
from uenv_builder.core.environment import VARIABLE_NAME
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.errors import MissingToolError, UsageError
from uenv_builder.sandboxes import SANDBOXES, Bind, Command, OpenImage, Sandbox
from uenv_builder.sandboxes.uenv import UenvSandbox


def sandbox_for(build: BuiltImage, name: str = "bwrap") -> Sandbox:
    """The sandbox `name` for the build's node type."""
    uarch = load_uarchs()[build.manifest["uarch"]]
    if is_uenv(build):
        return UenvSandbox(machine=uarch.machine, mount=build.manifest["mount"])
    return SANDBOXES[name](machine=uarch.machine, qemu_cpu=uarch.qemu_cpu)


def require_sandbox(build: BuiltImage) -> Sandbox:
    """As `sandbox_for`; raises MissingToolError with every remedy when this machine cannot run the image."""
    sandbox = sandbox_for(build)
    problems = sandbox.problems(load_uarchs()[build.manifest["uarch"]].machine)
    if problems:
        reasons = "; ".join(problem.reason for problem in problems)
        remedies = "; ".join(dict.fromkeys(problem.remedy for problem in problems))
        raise MissingToolError(f"this machine cannot run the image: {reasons}", hint=remedies)
    return sandbox


def open_image(build: BuiltImage) -> OpenImage:
    """The build's image in the sandbox that runs it here."""
    return OpenImage(require_sandbox(build), build.image)


def execute(
    path: Path, argv: Sequence[str], *, binds: Sequence[str], network: bool, variables: Sequence[str] = (),
    profile: Path | None = None, read_ahead: bool = True, views: Sequence[str] = (),
) -> int:  # fmt: skip
    """Run `argv` (default: the image's own command) in the image of the build at `path`; returns its exit code.

    A uenv is mounted on this machine's own files, and its `views` change this process's environment; without any, its
    default view does. `variables` are NAME=VALUE, or NAME for this process's own value; they win over the image's.
    With `read_ahead`, what the image knows of its start is read meanwhile. With `profile` nothing is read ahead, and
    what the command reads is recorded in that file.
    """
    build = open_build(path)
    config = build.manifest["config"]
    uenv = is_uenv(build)
    env = uenv_environment(build, views) if uenv or views else config["env"]
    command = Command(
        argv=tuple(argv) or ((os.environ.get("SHELL", "/bin/sh"),) if uenv else tuple(config["cmd"])),
        env={**env, **dict(_variable(text) for text in variables)},
        workdir=visible_folder() if uenv else config["workdir"],
        binds=tuple(_bind(text) for text in binds),
        network=network,
        gpu=True,
        interactive=True,
    )
    sys.stdout.flush()
    sandbox = require_sandbox(build)
    if profile:
        return record_start(build, sandbox, command, profile)
    if read_ahead:
        begin_reading_ahead(build.image)
    return sandbox.run(build.image, command).returncode


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not VARIABLE_NAME.match(name):
        raise UsageError(
            f'--env {text}: "{name}" is no name of an environment variable',
            hint="write --env NAME=VALUE, or --env NAME",
        )
    if not sign and name not in os.environ:
        raise UsageError(f"--env {text}: {name} is not set here", hint=f"write --env {name}=VALUE, or set it before")
    return name, value if sign else os.environ[name]


def _bind(text: str) -> Bind:
    source, *rest = text.split(":")
    target = rest[0] if rest else source
    writable = "ro" not in rest[1:]
    if not Path(source).exists():
        raise UsageError(f"--bind {text}: {source} does not exist")
    if not target.startswith("/") or len(rest) > 2 or (len(rest) == 2 and rest[1] not in {"ro", "rw"}):
        raise UsageError(f"--bind {text}: must be SOURCE[:TARGET[:ro]] with an absolute target")
    return Bind(Path(source).resolve(), target, writable)
