"""Byte code for Python sources, made by an interpreter of the image's own version on the build machine.

The files are of PEP 552's unchecked kind: valid whatever the time stamps of an image say, and not compared with their
source at every start.
"""

from __future__ import annotations

import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol, cast

from uenv_builder.layers import compile_sources
from uenv_builder.model.errors import BuildError
from uenv_builder.system.process import PIPE, start

_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_MULTIARCH = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
_LENGTH = struct.Struct("<II")
_SECONDS, _BYTES_A_SECOND = 120.0, 50_000
"""How long a process may take, to start and for its sources: a slow machine compiles twenty times as many."""


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
            limit = _SECONDS + request.tell() / _BYTES_A_SECOND
            request.seek(0)
            code, answers = _run(self._command, env, (request, messages), limit)
            if code != 0 or len(answers) != len(sources):
                messages.seek(0)
                raise _failure(sources, len(answers), code, messages.read())
        return {path: code for (path, _), code in zip(sources, answers, strict=True) if code}


def _run(
    command: Sequence[str], env: dict[str, str], files: tuple[IO[bytes], IO[bytes]], limit: float
) -> tuple[int, list[bytes]]:
    """The exit code and all answers of a process that reads the first file, complains into the second one, and is
    killed after `limit` seconds.
    """
    process = start(command, env=env, stdin=files[0], stdout=PIPE, stderr=files[1])
    clock = threading.Timer(limit, process.kill)
    clock.start()
    try:
        with cast("IO[bytes]", process.stdout) as stream:
            answers = list(_read_answers(stream))
    except BaseException:
        process.kill()
        raise
    finally:
        code = process.wait()
        clock.cancel()
    return code, answers


def _read_answers(stream: IO[bytes]) -> Iterator[bytes]:
    while len(head := stream.read(4)) == 4:
        (size,) = struct.unpack("<I", head)
        if len(code := stream.read(size)) == size:
            yield code


def _failure(sources: Sequence[tuple[str, bytes]], answered: int, code: int, messages: bytes) -> BuildError:
    place = f" at /{sources[answered][0]}" if answered < len(sources) else ""
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit {code}"
    tail = "".join(f"\n    {line}" for line in messages[-2000:].decode(errors="replace").splitlines())
    return BuildError(
        f"the Python that compiles sources {ending}{place}{tail}", rule="byte-compile",
        hint="set `python: {byte_compile: false}` in the recipe to do without byte code",
    )  # fmt: skip
