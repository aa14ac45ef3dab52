"""Byte code of the Python modules that Debian's packages bring, as their maintainer scripts would make it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import PurePosixPath

from uenv_builder.layers.bytecode import ByteCompiler
from uenv_builder.layers.made_entries import new_parents
from uenv_builder.model.entry import Entry
from uenv_builder.model.image import IndexEntry, Layer
from uenv_builder.system.layer_blob import read_files


def module_bytecode_entries(userland: Layer, *, python: str, compiler: ByteCompiler, epoch: int) -> Iterator[Entry]:
    """The `__pycache__` folders for the modules of Python `python` (3.13) and of dist-packages, parents first."""
    roots = (f"usr/lib/python{python}/", "usr/lib/python3/dist-packages/")

    def is_module(entry: IndexEntry) -> bool:
        return entry.kind == "file" and entry.path.endswith(".py") and entry.path.startswith(roots)

    sources = sorted(read_files(userland, is_module).items())
    folders = {entry.path: entry for entry in userland.entries if entry.kind == "dir"}
    done: set[str] = set()
    for path, content in sorted(compiler.compile(sources).items()):
        cache = _cache_path(path, python)
        for name in new_parents(cache, done):
            below = folders.get(name)
            mode, mtime = (below.mode, below.mtime) if below else (0o755, epoch)
            yield Entry(path=name, kind="dir", mode=mode, mtime=mtime)
        yield Entry(
            path=cache, kind="file", mode=0o644, mtime=epoch, size=len(content), content=io.BytesIO(content)
        )  # fmt: skip


def _cache_path(path: str, python: str) -> str:
    source = PurePosixPath(path)
    return str(source.parent / "__pycache__" / f"{source.stem}.cpython-{python.replace('.', '')}.pyc")
