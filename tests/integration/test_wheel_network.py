"""Wheels of the real index: what resolves for aarch64, and that the layer is what pip installs."""

import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
import requests

from uenv_builder.layers.bytecode import NativeCompiler
from uenv_builder.layers.wheel import Installation, wheel_entries
from uenv_builder.model.errors import IncompatibleError
from uenv_builder.sources.python_index import PythonIndex
from uenv_builder.sources.wheel import WheelRequest, read_accelerator, resolve_wheels
from uenv_builder.system.events import Silent
from uenv_builder.system.process import run

pytestmark = pytest.mark.network
PACKAGES = "usr/local/lib/python3.13/dist-packages"
TARGET = Installation(prefix="usr/local", packages=PACKAGES, python="/usr/bin/python3.13")
GLIBC = (2, 41)  # Debian 13
DEBS = ("python3.13-minimal", "libpython3.13-minimal", "libpython3.13-stdlib", "libc6", "zlib1g", "libexpat1")


@pytest.fixture(scope="module")
def index():
    index = PythonIndex.of_machine()
    yield index
    index.close()


def resolve(index, *requirements, machine="aarch64", **more):
    request = WheelRequest(requirements=requirements, python="3.13", machine=machine, glibc=GLIBC, **more)
    return resolve_wheels(request, index, listener=Silent()).wheels


def fetch(index, wheel, folder):
    path = folder / wheel.file
    content = requests.get(index.find_urls(wheel)[0], timeout=120).content
    assert (len(content), hashlib.sha256(content).hexdigest()) == (wheel.size, wheel.sha256)
    path.write_bytes(content)
    return path


def test_torch_for_aarch64_is_a_cuda_build_with_its_nccl(index):
    wheels = resolve(index, "torch==2.14.1")
    accelerator = read_accelerator(wheels)
    assert (accelerator.variant, accelerator.cuda, accelerator.nccl) == ("cuda", "13.0", "2.30.7")
    assert accelerator == read_accelerator(wheels, index=index)
    torch = next(wheel for wheel in wheels if wheel.name == "torch")
    assert torch.file == "torch-2.14.1-cp313-cp313-manylinux_2_28_aarch64.whl"
    assert all(wheel.file.endswith(("aarch64.whl", "-any.whl")) for wheel in wheels)
    assert index.find_urls(torch)[0].endswith(torch.file)


def test_an_older_torch_for_aarch64_is_a_cpu_build(index):
    wheels = resolve(index, "torch==2.10.0")
    assert read_accelerator(wheels).variant == "cpu"
    assert not any(wheel.name.startswith("nvidia-") for wheel in wheels)


def test_real_packages_without_wheels_are_all_named(index):
    with pytest.raises(IncompatibleError) as caught:
        resolve(index, "antlr4-python3-runtime==4.9.3", "pywin32", "sympy")
    assert set(caught.value.names) == {"antlr4-python3-runtime", "pywin32"}
    assert "win_amd64" in str(caught.value)


@pytest.mark.parametrize("requirement", ["numpy==2.3.5", "sympy==1.14.0", "setuptools==80.9.0", "ruff==0.14.5"])
def test_the_layer_is_what_pip_installs(index, tmp_path, requirement):
    (wheel,) = [found for found in resolve(index, requirement) if requirement.startswith(f"{found.name}==")]
    path = fetch(index, wheel, tmp_path)
    platforms = ("manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
    pip = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index",
        *(f"--platform={name}" for name in platforms), "--python-version=3.13", "--only-binary=:all:",
        "--no-compile", "--no-warn-script-location", f"--target={tmp_path / 'pip'}", str(path),
    ]  # fmt: skip
    run(pip, env={**os.environ, "PIP_NO_COLOR": "1"})
    expected = describe_tree(tmp_path / "pip")
    found = {}
    for entry in wheel_entries(path, TARGET, name=wheel.file):
        if entry.kind == "file":
            place = entry.path.removeprefix(f"{PACKAGES}/").removeprefix("usr/local/")
            found[place] = (hashlib.sha256(read_all(entry.content)).hexdigest(), entry.mode)
    own = {name for name in {*found, *expected} if is_installers(name)}
    scripts = {name for name in expected if name.startswith("bin/")}
    assert {name for name in found if name.startswith("bin/")} == scripts
    texts = {name for name in scripts if (tmp_path / "pip" / name).read_bytes()[:2] == b"#!"}
    for name in [*own, *texts]:
        found.pop(name, None)
        expected.pop(name, None)
    assert found == expected


def is_installers(name):
    folder, _, file = name.rpartition("/")
    return folder.endswith(".dist-info") and file in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def describe_tree(root):
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode & 0o777)
        for path in files
    }


def read_all(content):
    return b"".join(iter(lambda: content.read(1 << 20), b""))


@pytest.fixture(scope="module")
def python_tree(tmp_path_factory):
    """Debian 13's Python for this machine, unpacked from its packages; nothing of it is installed."""
    folder = tmp_path_factory.mktemp("debs")
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    fetch_debs(folder, architecture)
    tree = folder / "tree"
    for deb in sorted(folder.glob("*.deb")):
        run(["dpkg-deb", "--extract", str(deb), str(tree)])
    yield tree
    shutil.rmtree(folder)


def fetch_debs(folder, architecture):
    for place in ("lists/partial", "archives/partial", "etc"):
        (folder / place).mkdir(parents=True)
    listing = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).stdout.split()
    mirror = next(uri for uri in listing if "security" not in uri)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "etc/sources.list").write_text(f"deb [signed-by={keyring}] {mirror} trixie main\n")
    (folder / "status").touch()
    options = {
        "Dir::State": folder, "Dir::State::status": folder / "status", "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder, "Dir::Etc::SourceList": folder / "etc/sources.list", "Dir::Etc::SourceParts": "/dev/null",
        "APT::Architecture": architecture, "APT::Architectures": architecture, "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    run([*apt, "update"])
    run([*apt, "download", *DEBS], cwd=folder)


def test_debians_python_compiles_without_being_installed(python_tree):
    compiler = NativeCompiler(python_tree, python="3.13", machine=platform.machine())
    library = python_tree / "usr/lib/python3.13"
    sources = [
        (str(path.relative_to(python_tree)), path.read_bytes())
        for path in sorted(library.rglob("*.py"))[:300]
    ]  # fmt: skip
    sources += [
        ("deep.py", b"x = " + b"(" * 5000 + b")" * 5000),
        ("chain.py", b"x = " + b"1+" * 200_000 + b"1"),
        ("minus.py", b"x = " + b"-" * 200_000 + b"1"),
        ("kinds.py", b"def f(x):\n    return x in {'a', 'b', 'c', 1, 2.5, None}\n"),
    ]
    first, second = compiler.compile(sources), compiler.compile(sources)
    assert first == second
    assert "deep.py" not in first
    assert len(first) >= 301
    assert {code[:8] for code in first.values()} == {
        b"\xf3\x0d\x0d\x0a\1\0\0\0"
    }  # CPython 3.13's magic number, unchecked


def test_debians_python_takes_its_own_byte_code(python_tree, index, tmp_path):
    (wheel,) = resolve(index, "mpmath==1.3.0")
    path = fetch(index, wheel, tmp_path)
    compiler = NativeCompiler(python_tree, python="3.13", machine=platform.machine())
    root = tmp_path / "image"
    root.mkdir()
    for entry in wheel_entries(path, TARGET, name=wheel.file, compiler=compiler):
        place = root / entry.path
        if entry.kind == "dir":
            place.mkdir()
        elif not entry.path.endswith(".py"):
            place.write_bytes(read_all(entry.content))
        else:
            content = read_all(entry.content)
            # Were the source read, the import would fail: so what runs is the byte code, unchecked.
            place.write_bytes(b"raise SystemExit('compiled anew')\n" if entry.path.endswith("math2.py") else content)
    program = "import mpmath, mpmath.math2 as m; print(m.__cached__, mpmath.mpf(2) ** 10)"
    command = [*compiler._command[:4], "-S", "-c", program]
    env = {"PYTHONPATH": str(root / PACKAGES), "PYTHONHOME": str(python_tree / "usr"), "PATH": "/usr/bin:/bin"}
    shown = run(command, env=env).stdout.split()
    assert Path(shown[0]).name == "math2.cpython-313.pyc"
    assert shown[1] == "1024.0"
