"""What every check is given, and how checks describe themselves to those who write and validate recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from uenv_builder.model.lock import Lock
from uenv_builder.model.report import CheckResult
from uenv_builder.model.system import Uarch
from uenv_builder.system.process import Completed

Parameters: TypeAlias = Mapping[str, object]
"""What a recipe says of one check; the names are those of `CheckKind.parameters`."""


class ImageAccess(Protocol):
    """How checks reach what is in the image; both raise BuildError where the machine does not allow it."""

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
        """Run `argv` in the image, without network; `binds` are files of this machine by their path inside.

        A command that exceeds `timeout` seconds raises BuildError with the rule `timeout`.
        """

    def run_beside(self, make_argv: Callable[[Path], Sequence[str]], *, stdin: str | None = None) -> Completed:
        """Run a program of this machine that reads the image's files; `make_argv` gets the folder where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCheck:
    """A check as the recipe asks for it."""

    name: str
    parameters: Parameters = field(default_factory=dict)
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckContext:
    """One image and what is known of it.

    `env` is the image's whole environment. `driver_libraries` and `hook_libraries` are names of shared libraries
    (globs) that come from the host; `allowed_missing` has further names with the reason why they may be missing.
    """

    image: ImageAccess
    uarch: Uarch
    env: Mapping[str, str]
    lock: Lock | None = None
    driver_libraries: Sequence[str] = ()
    hook_libraries: Sequence[str] = ()
    allowed_missing: Mapping[str, str] = field(default_factory=dict)
    python: str = "python3"
    """The image's interpreter, looked up in its PATH."""
    scripts: Mapping[str, Path] = field(default_factory=dict)
    """The check.sh of each component that has one, by the component's name."""
    mount: str | None = None
    """Where a uenv is mounted; None for an image with a file system of its own."""


Family: TypeAlias = "Callable[[CheckContext, Sequence[WantedCheck]], list[CheckResult]]"
"""Checks that share the start of one program: runs all that are wanted of them, and answers in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckKind:
    """A check that recipes can name: what it proves, its parameters with what they mean, and who runs it."""

    proves: str
    family: Family
    parameters: Mapping[str, str] = field(default_factory=dict)
    always: bool = False
    """Whether it is run on every image, wanted by the recipe or not."""
