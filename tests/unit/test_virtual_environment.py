"""Wheels in a uenv: a virtual environment on the image's Python that works at its mount point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_wheel_layer import write_wheel

from uenv_builder.core.uenv_meta import apply_views, read_env_json
from uenv_builder.layers.uenv_meta import uenv_meta_entries
from uenv_builder.layers.virtual_environment import VirtualEnvironment, virtual_environment_entries
from uenv_builder.layers.wheel import wheel_entries
from uenv_builder.model.errors import BuildError

VERSION = ".".join(map(str, sys.version_info[:3]))
MINOR = ".".join(map(str, sys.version_info[:2]))


def place(entries, mount: Path):
    """Put entries below a mount point as a mounted image shows them, links as they are."""
    for entry in entries:
        path = mount / entry.path
        if entry.kind == "dir":
            path.mkdir(exist_ok=True)
        elif entry.kind == "symlink":
            path.symlink_to(entry.target)
        else:
            path.write_bytes(entry.content.read())
            path.chmod(entry.mode)


@pytest.fixture
def mount(tmp_path):
    """A uenv whose view links to this machine's Python, and has one package of its own beside it."""
    base = Path(sys.base_prefix)
    view = tmp_path / "user-environment/env/default"
    library = view / f"lib/python{MINOR}"
    library.mkdir(parents=True)
    for path in (base / f"lib/python{MINOR}").iterdir():
        if path.name != "site-packages":
            (library / path.name).symlink_to(path)
    (library / "site-packages").mkdir()
    (library / "site-packages/of_spack.py").write_text("name = 'of spack'\n")
    (library / "site-packages/demo.py").write_text("name = 'of spack'\n")
    (view / "bin").mkdir()
    (view / "bin/python3").symlink_to(base / f"bin/python{MINOR}")
    return tmp_path / "user-environment"


def made(mount):
    return VirtualEnvironment(mount=str(mount), python=f"{mount}/env/default/bin/python3", version=VERSION)


def run(mount, *words, **variables):
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_its_python_sees_its_wheels_before_what_spack_has(mount, tmp_path):
    venv = made(mount)
    wheel = write_wheel(
        tmp_path,
        {
            "demo/__init__.py": b"name = 'of the wheel'\ndef main():\n    print(name)\n",
            "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\ndemo = demo:main\n",
        },
    )
    place(virtual_environment_entries(venv, epoch=0), mount)
    place(wheel_entries(wheel, venv.installation, name=wheel.name), mount)
    code = "import sys, demo, of_spack; print(demo.name, of_spack.name, sys.prefix, sys.base_prefix != sys.prefix)"
    python = f"{mount}/venv/bin/python3"
    assert run(mount, python, "-c", code) == f"of the wheel of spack {mount}/venv True"
    assert run(mount, f"{mount}/venv/bin/demo") == "of the wheel"
    assert run(mount, python, "-c", "import importlib.metadata as m; print(m.version('demo'))") == "1.0"


def test_its_entries_are_the_same_every_time_and_name_no_other_place(mount):
    def told():
        entries = virtual_environment_entries(made(mount), epoch=7)
        return [(e.path, e.kind, e.mode, e.mtime, e.target, e.content.read() if e.content else b"") for e in entries]

    first = told()
    assert first == told()
    assert {mtime for _, _, _, mtime, *_ in first} == {7}
    [configuration] = [content for path, *_, content in first if path == "venv/pyvenv.cfg"]
    assert f"home = {mount}/env/default/bin\n".encode() in configuration
    assert b"include-system-site-packages = true\n" in configuration
    links = {path: target for path, kind, _, _, target, _ in first if kind == "symlink"}
    assert links[f"venv/bin/python{MINOR}"] == f"{mount}/env/default/bin/python3"
    assert links["venv/bin/python3"] == f"python{MINOR}"


@pytest.mark.parametrize(
    ("python", "version"),
    [("/usr/bin/python3", "3.12.1"), ("/m/../usr/bin/python3", "3.12.1"), ("/m/bin/python3", "3.12")],
)
def test_a_python_that_is_none_of_the_image(python, version):
    with pytest.raises(BuildError, match="wheels need a Python of the image"):
        VirtualEnvironment(mount="/m", python=python, version=version)


def test_meta_has_what_the_uenv_command_reads_and_the_recipe():
    document = {"name": "n", "mount": "/m", "views": {"v": {"env": {"values": {"list": {}, "scalar": {"A": "1"}}}}}}
    entries = {
        entry.path: entry.content.read() if entry.content else None
        for entry in uenv_meta_entries(document, {"recipe.yaml": b"name: n\n", "extra/x": b"x"}, epoch=0)
    }
    assert list(entries) == [
        "meta", "meta/env.json", "meta/recipe", "meta/recipe/extra", "meta/recipe/extra/x", "meta/recipe/recipe.yaml"
    ]  # fmt: skip
    assert apply_views(read_env_json(entries["meta/env.json"].decode()), ["v"], {})["A"] == "1"
    assert json.loads(entries["meta/env.json"]) == document
