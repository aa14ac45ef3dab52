"""C programs for the inside of an image: compiled on this machine for the image's processor, or in the image itself."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.model.errors import BuildError
from uenv_builder.system.process import run

SOURCES = Path(__file__).parent / "inside"
SOURCE_FOLDER = "/run/uenv-checks"
BUILT_FOLDER = "/run/uenv-built"
NO_COMPILER = 96
"""How `compile_and_run.sh` ends where the image has no C compiler."""
_FLAGS = ("-std=gnu11", "-O2", "-Wall")
_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class CProgram:
    """What to compile: output by name, with its sources and options; all names are relative to `inside/`."""

    program: str
    outputs: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """How to start the program inside: words before its arguments, and the folders to bind there."""

    argv: tuple[str, ...]
    binds: Mapping[str, Path]
    compiler: str


def find_compiler(machine: str) -> str | None:
    """A C compiler of this machine for `machine`, None where there is none."""
    names = [f"{machine}-linux-gnu-gcc"]
    names += ["gcc", "cc"] if machine == platform.machine() else []
    return next(filter(None, map(shutil.which, names)), None)


def compile_here(program: CProgram, compiler: str, folder: Path) -> Compiled:
    """Compile into `folder`, an empty one; raises BuildError with what the compiler says."""
    for name, words in program.outputs.items():
        sources = [str(SOURCES / word) if word.endswith(".c") else word for word in words]
        run([compiler, *_FLAGS, "-o", str(folder / name), *sources], timeout=_SECONDS, what=f"compiling {name}")
    binds = {SOURCE_FOLDER: SOURCES, BUILT_FOLDER: folder}
    return Compiled(argv=(f"{BUILT_FOLDER}/{program.program}",), binds=binds, compiler=compiler)


def compile_inside(program: CProgram) -> Compiled:
    """Have the program compiled in the image at each start, with the image's own compiler."""
    lines = []
    for name, words in program.outputs.items():
        sources = [f"{SOURCE_FOLDER}/{word}" if word.endswith(".c") else word for word in words]
        lines.append(" ".join([*_FLAGS, "-o", f"{BUILT_FOLDER}/{name}", *sources]))
    argv = ("/bin/sh", f"{SOURCE_FOLDER}/compile_and_run.sh", BUILT_FOLDER, program.program, str(len(lines)), *lines)
    return Compiled(argv=argv, binds={SOURCE_FOLDER: SOURCES}, compiler="the image's compiler")


def compile_somehow(program: CProgram, machine: str, folder: Path) -> Compiled:
    """On this machine where it can, else in the image."""
    compiler = find_compiler(machine)
    if compiler is None:
        return compile_inside(program)
    try:
        return compile_here(program, compiler, folder)
    except BuildError:
        # A compiler without the C library's headers for that machine.
        return compile_inside(program)
