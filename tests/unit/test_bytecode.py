"""Byte code made by another process: unchecked, the same each time, and silent about sources that are none."""

import importlib.util
import marshal
import os
import sys
from pathlib import Path

import pytest

from uenv_builder.layers import bytecode
from uenv_builder.layers.bytecode import NativeCompiler
from uenv_builder.model.errors import BuildError

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MACHINE = os.uname().machine
LOADER = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}
SOURCES = [
    ("usr/lib/demo/a.py", b"# coding: latin-1\nNAME = 'gr\xfcn'\ndef f(x):\n    return x in {'p', 'q', 'r'}\n"),
    ("usr/lib/demo/bad.py", b"def (:\n"),
    ("usr/lib/demo/nul.py", b"a = 1\0"),
    ("usr/lib/demo/deep.py", b"x = " + b"(" * 5000 + b")" * 5000),
    ("usr/lib/demo/chain.py", b"x = " + b"-" * 200_000 + b"1"),
    ("usr/lib/demo/empty.py", b""),
    ("usr/lib/demo/warns.py", b"assert (1, 'always')\nx = '\\d'\n"),
]


@pytest.fixture
def tree(tmp_path):
    """This machine's Python, laid out as Debian's packages lay it out; its loader is one that drops its options."""
    root = tmp_path / "tree"
    for folder in ("usr/bin", "usr/lib64", "usr/lib"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / f"usr/bin/python{PYTHON}").symlink_to(sys._base_executable)
    base = Path(sys.base_prefix) / "lib" / f"python{PYTHON}"
    (root / f"usr/lib/python{PYTHON}").symlink_to(base)
    loader = root / "usr" / LOADER[MACHINE]
    loader.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    loader.chmod(0o755)
    return root


@pytest.fixture
def compiler(tree):
    return NativeCompiler(tree, python=PYTHON, machine=MACHINE)


def test_modules_become_unchecked_byte_code_that_runs(compiler):
    found = compiler.compile(SOURCES)
    code = found["usr/lib/demo/a.py"]
    assert code[:4] == importlib.util.MAGIC_NUMBER
    assert code[4:8] == b"\1\0\0\0"  # PEP 552: a hash in place of the time, and it is not checked
    assert code[8:16] == importlib.util.source_hash(SOURCES[0][1])
    module = marshal.loads(code[16:])
    assert module.co_filename == "/usr/lib/demo/a.py"
    names = {}
    exec(module, names)
    assert names["NAME"] == "gr\xfcn"
    assert names["f"]("q")


def test_sources_that_are_no_python_are_left_out(compiler):
    found = compiler.compile(SOURCES)
    assert {"usr/lib/demo/bad.py", "usr/lib/demo/nul.py", "usr/lib/demo/deep.py"}.isdisjoint(found)
    assert {"usr/lib/demo/a.py", "usr/lib/demo/empty.py", "usr/lib/demo/warns.py"} <= found.keys()


def test_the_interpreter_imports_it_from_the_cache_folder(compiler, tmp_path):
    source = tmp_path / "demo.py"
    source.write_bytes(b"VALUE = 1\n")
    code = compiler.compile([("demo.py", b"VALUE = 2\n")])["demo.py"]
    cache = Path(importlib.util.cache_from_source(str(source)))
    cache.parent.mkdir()
    cache.write_bytes(code)
    spec = importlib.util.spec_from_file_location("demo", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.VALUE == 2


def test_twice_the_same_bytes_whatever_the_environment(compiler, monkeypatch):
    first = compiler.compile(SOURCES)
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LC_ALL", "C")
    assert compiler.compile(SOURCES) == first


def test_nothing_to_compile_starts_nothing(tree):
    compiler = NativeCompiler(tree, python=PYTHON, machine=MACHINE)
    (tree / "usr" / LOADER[MACHINE]).unlink()
    assert compiler.compile([]) == {}


def test_a_tree_without_a_loader(tmp_path):
    with pytest.raises(BuildError) as caught:
        NativeCompiler(tmp_path, python=PYTHON, machine=MACHINE)
    assert caught.value.diagnostics[0].rule == "no-interpreter"


def replace_interpreter(tree, script):
    python = tree / f"usr/bin/python{PYTHON}"
    python.unlink()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def test_an_interpreter_that_dies_names_the_source(tree, compiler):
    replace_interpreter(tree, "printf '\\000\\000\\000\\000'; echo out of order >&2; kill -SEGV $$")
    with pytest.raises(BuildError, match="out of order") as caught:
        compiler.compile(SOURCES)
    assert caught.value.diagnostics[0].rule == "byte-compile"
    assert "signal 11" in str(caught.value)
    assert "at /usr/lib/demo/bad.py" in str(caught.value)


def test_an_interpreter_that_ends_early_is_not_taken_for_invalid_sources(tree, compiler):
    replace_interpreter(tree, "printf '\\000\\000\\000\\000'")
    with pytest.raises(BuildError, match=r"at /usr/lib/demo/bad\.py"):
        compiler.compile(SOURCES)


def test_an_interpreter_that_hangs_is_ended(tree, compiler, monkeypatch):
    replace_interpreter(tree, "exec sleep 600")
    monkeypatch.setattr(bytecode, "_SECONDS", 0.1)
    with pytest.raises(BuildError, match="signal 9"):
        compiler.compile([("a.py", b"")])
