"""What the files of a base image say of it."""

import pytest

from uenv_builder.app.base_locking import base_accelerator, is_met, require_buildable
from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.base_contents import BaseFiles, is_telling, read_contents
from uenv_builder.model.errors import IncompatibleError
from uenv_builder.model.lock import LockedBase, LockedContents
from uenv_command import ROOT

PATH = {"PATH": "/usr/local/bin:/usr/bin"}
STATUS = b"""\
Package: bash
Status: install ok installed
Version: 5.2-1

Package: old
Status: deinstall ok config-files
Version: 1
"""
RELEASE = b"\x7fELF...GNU C Library (Ubuntu GLIBC 2.39-0ubuntu8) stable release version 2.39.\n"


def metadata(name, version):
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: of the text\n".encode()


def read(*paths, links=None, env=PATH, **more):
    """The contents of an image with these paths, or pairs of path and content."""
    contents = dict(each for each in paths if isinstance(each, tuple))
    assert all(map(is_telling, contents))
    every = {*(each for each in paths if isinstance(each, str)), *contents, *(links or {})}
    folders = {path[:at] for path in every for at, sign in enumerate(path) if sign == "/"}
    return read_contents(BaseFiles(paths=every | folders, links=links or {}, contents=contents), env, **more)


def debian(*more, **options):
    return read(
        "usr/bin/python3.12", "usr/lib/python3/dist-packages/x", *more,
        links={"bin": "usr/bin", "lib": "usr/lib", "usr/bin/python3": "python3.12"}, **options,
    )  # fmt: skip


def test_debian_and_ubuntu_look_below_usr_local():
    found = debian(
        ("usr/lib/x86_64-linux-gnu/libc.so.6", RELEASE), "usr/bin/bash",
        ("var/lib/dpkg/status", STATUS),
        ("usr/local/lib/python3.12/dist-packages/Big_One-2.0.dist-info/METADATA", metadata("Big_One", "2.0+nv26")),
        ("usr/lib/python3/dist-packages/big_one-1.0.egg-info", metadata("big-one", "1.0")),
        ("usr/lib/python3/dist-packages/other-1.0.dist-info/METADATA", metadata("other", "1.0")),
        ("opt/tool/lib/python3.12/site-packages/hidden-1.dist-info/METADATA", metadata("hidden", "1")),
    )  # fmt: skip
    assert found.python.model_dump() == {
        "version": "3.12", "executable": "/usr/bin/python3.12", "prefix": "/usr/local",
        "packages": "/usr/local/lib/python3.12/dist-packages",
    }  # fmt: skip
    assert (found.glibc, found.shell) == ("2.39", "/bin/bash")
    assert found.packages == {"bash": "5.2-1"}
    assert found.distributions == {"big-one": "2.0+nv26", "other": "1.0"}


def test_the_python_of_a_virtual_environment_in_the_path():
    found = debian(
        "opt/venv/bin/x", ("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\n"),
        ("opt/venv/lib/python3.12/site-packages/inside-1.dist-info/METADATA", metadata("inside", "1")),
        ("usr/lib/python3/dist-packages/outside-1.dist-info/METADATA", metadata("outside", "1")),
        env={"PATH": "/opt/venv/bin:/usr/bin"},
    )  # fmt: skip
    assert found.python.executable == "/usr/bin/python3.12"  # the environment has no python of its own here
    files = BaseFiles(
        paths={"usr/bin/python3.12", "opt/venv/bin/python3", "opt/venv/pyvenv.cfg", "opt/venv/bin", "usr/bin"},
        links={"opt/venv/bin/python3": "/usr/bin/python3.12"},
        contents={"opt/venv/pyvenv.cfg": b"include-system-site-packages = false\n",
                  "opt/venv/lib/python3.12/site-packages/inside-1.dist-info/METADATA": metadata("inside", "1"),
                  "usr/lib/python3/dist-packages/outside-1.dist-info/METADATA": metadata("outside", "1")},
    )  # fmt: skip
    own = read_contents(files, {"PATH": "/opt/venv/bin:/usr/bin"})
    assert (own.python.prefix, own.python.packages) == ("/opt/venv", "/opt/venv/lib/python3.12/site-packages")
    assert own.python.executable == "/opt/venv/bin/python3"
    assert own.distributions == {"inside": "1"}


def test_another_python_than_the_systems():
    found = read(
        "opt/conda/bin/python3.11", "usr/bin/python3.9", links={"opt/conda/bin/python3": "python3.11"},
        env={"PATH": "/opt/conda/bin:/usr/bin"},
    )  # fmt: skip
    assert found.python.packages == "/opt/conda/lib/python3.11/site-packages"
    wanted = read(
        "opt/conda/bin/python3.11", "usr/bin/python3.9", env={"PATH": "/opt/conda/bin:/usr/bin"}, python="3.9"
    )
    assert wanted.python.packages == "/usr/local/lib/python3.9/site-packages"


def test_what_has_neither_python_nor_glibc_nor_bash():
    found = read("bin/busybox", ("var/lib/dpkg/status.d/tzdata", b"Package: tzdata\nVersion: 2026a\n"))
    assert (found.python, found.glibc, found.shell) == (None, None, "/bin/sh")
    assert found.packages == {"tzdata": "2026a"}  # as images without a package manager keep it
    assert found.distributions == {}


def base(distributions, **env):
    return LockedBase(
        reference="r.example/base:1", architecture="arm64", manifest_digest="1" * 64, manifest_size=1,
        config_digest="2" * 64, config_size=1, layers=(), env=env, working_dir="", entrypoint=(), cmd=(), created=0,
        contents=LockedContents(distributions=distributions),
    )  # fmt: skip


def test_the_accelerator_is_what_the_images_variables_say():
    torch = {"torch": "2.12.0a0+5228986c39.nv26.06"}
    found = base_accelerator(base(torch, CUDA_VERSION="13.1.0.036", NCCL_VERSION="2.29.2-1+cuda13.1"))
    assert found.model_dump() == {
        "torch": torch["torch"], "variant": "cuda", "cuda": "13.1", "nccl": "2.29.2", "cudnn": None,
    }  # fmt: skip
    assert base_accelerator(base(torch)) is None
    assert base_accelerator(base({}, CUDA_VERSION="13.1.0")) is None


@pytest.mark.parametrize(
    ("has", "wanted", "met"),
    [
        ("2.12.0a0+x.nv26.06", "2.12.0", True),
        ("2.12.0", "2.12.0", True),
        ("2.12.1", "2.12.0", False),
        (None, "2", False),
    ],
)
def test_a_pin_of_torch_is_met_by_the_bases_own(has, wanted, met):
    assert is_met(base({"torch": has} if has else {}), "Torch", wanted) == met


def test_components_are_refused_on_a_base_image(tmp_path):
    text = (ROOT / "recipes/ngc-pytorch/26.06/recipe.yaml").read_text().replace("hook-artifact", "image")
    (tmp_path / "recipe.yaml").write_text(f"{text}\ncomponents:\n  xpmem: {{}}\n")
    with pytest.raises(IncompatibleError, match="builds xpmem from source") as caught:
        require_buildable(load_recipe(tmp_path / "recipe.yaml"))
    [finding] = caught.value.diagnostics
    assert finding.rule == "base-components"
    assert finding.position.line == text.splitlines().index("  oci:") + 2
    require_buildable(load_recipe(ROOT / "recipes/ngc-pytorch/26.06/recipe.yaml"))
