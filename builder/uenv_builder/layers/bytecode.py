"""Byte code for Python sources, made by an interpreter of the image's own version on the build machine.

The files are of PEP 552's unchecked kind: valid whatever the time stamps of an image say, and not compared with their
source at every start.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol, cast

from uenv_builder.layers import compile_sources
from uenv_builder.model.errors import BuildError
from uenv_builder.system.process import PIPE, start

_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_MULTIARCH = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
_LENGTH = struct.Struct("<II")


class ByteCompiler(Protocol):
    """Whatever makes byte code."""

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
        """The .pyc of each source, by the source's path in the image (without a leading slash).

        Sources that are not valid Python of this version are left out, as pip leaves them.
        """


class NativeCompiler:
    """Runs a Python that lies unpacked in a folder, through its own loader: nothing of it is installed.

    `python` is its minor version (3.13), `machine` that of the build machine (as `uname -m` prints it).
    """

    def __init__(self, tree: Path, *, python: str, machine: str) -> None:
        self._tree = tree
        libraries = tree / "usr" / "lib" / _MULTIARCH[machine]
        places = [tree / "usr" / folder / _LOADERS[machine] for folder in ("lib64", "lib")]
        loader = next((place for place in [*places, libraries / _LOADERS[machine]] if place.exists()), None)
        if loader is None:
            raise BuildError(f"{tree}: there is no program loader in this Python's packages", rule="no-interpreter")
        self._command = [
            str(loader), "--library-path", f"{libraries}:{tree / 'usr/lib'}",
            str(tree / "usr" / "bin" / f"python{python}"), "-S", "-s", "-B", compile_sources.__file__,
        ]  # fmt: skip

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
        """See `ByteCompiler.compile`; one process for all, in their order, so that the bytes are always the same."""
        if not sources:
            return {}
        env = {
            "PYTHONHOME": str(self._tree / "usr"),
            "PYTHONHASHSEED": "0",
            "LC_ALL": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
        }
        with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as messages:
            for path, content in sources:
                name = f"/{path}".encode()
                request.write(_LENGTH.pack(len(name), len(content)) + name + content)
            request.seek(0)
            process = start(self._command, env=env, stdin=request, stdout=PIPE, stderr=messages)
            with cast("IO[bytes]", process.stdout) as answers:
                compiled = dict(_read_answers(answers, [path for path, _ in sources]))
            if process.wait() != 0:
                messages.seek(0)
                tail = messages.read()[-2000:].decode(errors="replace")
                raise BuildError(f"compiling Python sources failed:\n{tail}", rule="byte-compile")
        return compiled


def _read_answers(answers: IO[bytes], paths: Sequence[str]) -> list[tuple[str, bytes]]:
    found = []
    for path in paths:
        head = answers.read(4)
        if len(head) < 4:
            break
        (size,) = struct.unpack("<I", head)
        if size:
            found.append((path, answers.read(size)))
    return found
