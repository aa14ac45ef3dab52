"""The package as a site installs it: what the wheel holds, and that it works far from any checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import uv

from uenv_builder import __version__
from uenv_command import ROOT

pytestmark = pytest.mark.network
DIST_INFO = f"uenv_builder-{__version__}.dist-info"
KINDS = [
    r"[\w/]+\.py",
    r"py\.typed",
    r"knowledge/[\w/-]+\.yaml",
    r"templates/[\w.-]+\.j2",
    r"checks/inside/\w+\.(c|h|sh)",
    r"launchers/\w+\.sh",
    r"recipes/[\w./-]+/(recipe|\w+\.lock)\.yaml",
    r"recipes/[\w./-]+/\w+\.start\.txt",
    r"recipes/components/[\w-]+/(component\.yaml|build\.sh\.j2|check\.sh|[\w.-]+\.patch)",
    r"environments/[\w./-]+",
    r"(recipes|templates|environments)/\.gitkeep",
]
"""All that may be in the package, whatever lies about in the checkout."""


def run(*command, folder, **variables):
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UENV_", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env={**kept, **variables}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def succeed(*command, folder, **variables):
    done = run(*command, folder=folder, **variables)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with the source archive, and the wheel that was made from that archive."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(uv.find_uv_bin(), "build", "--python", sys.executable, "--out-dir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(made):
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel; its dependencies are those of the running one, to download nothing."""
    venv = tmp_path_factory.mktemp("site") / "venv"
    folder = venv.parent
    succeed(uv.find_uv_bin(), "venv", "--python", sys.executable, venv, folder=folder)
    succeed(
        uv.find_uv_bin(), "pip", "install", "--offline", "--no-deps", "--python", venv / "bin/python", wheel,
        folder=folder,
    )  # fmt: skip
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return venv / "bin"


def wheel_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def checkout_files():
    """What the wheel must hold of the checkout: path in the wheel by path here."""
    folders = {
        "builder/uenv_builder": "",
        "templates": "templates/",
        "recipes": "recipes/",
        "environments": "environments/",
    }
    return {
        f"uenv_builder/{place}{path.relative_to(ROOT / folder).as_posix()}": path
        for folder, place in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    names = wheel_names(wheel)
    assert len(names) == len(set(names))
    own = {name for name in names if name.startswith("uenv_builder/")}
    assert own == set(checkout_files())
    assert {name for name in names if name not in own} == {
        f"{DIST_INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")
    }
    strange = [name for name in own if not any(re.fullmatch(f"uenv_builder/{kind}", name) for kind in KINDS)]
    assert not strange


def test_the_kinds_that_a_build_needs_are_there(wheel):
    names = set(wheel_names(wheel))
    for needed in (
        "py.typed", "cli.py", "checks/inside/mpi_program.py", "checks/inside/torch_program.py", "knowledge/uarchs.yaml",
        "knowledge/systems/clariden.yaml", "templates/recipe.yaml.j2", "templates/sbatch.sh.j2",
        "recipes/python-mpi/1.0/recipe.yaml", "recipes/python-mpi/1.0/aarch64.lock.yaml",
        "recipes/pytorch/2.14/gh200.lock.yaml",
    ):  # fmt: skip
        assert f"uenv_builder/{needed}" in names


def test_the_files_are_those_of_the_checkout_to_the_byte(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for name, path in checkout_files().items():
            assert archive.read(name) == path.read_bytes(), name


def test_the_source_archive_is_complete_and_clean(made):
    (path,) = made.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "ci/setup.sh",
        "ci/uenv",
        "tests/conftest.py",
        "docs/decisions.md",
    ):
        assert needed in names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("build/", ".venv/"))]


@pytest.mark.parametrize("script", ["uenv", "uenv-builder"])
def test_both_names_start_it(installed, script, tmp_path):
    assert succeed(installed / script, "--version", folder=tmp_path) == f"uenv-builder {__version__}\n"


def test_it_runs_from_its_own_files(installed, tmp_path):
    places = succeed(
        installed / "python", "-c",
        "import uenv_builder; from uenv_builder.system.resources import resource_folder as r;"
        "print(uenv_builder.__file__, r('templates'), r('recipes'), r('environments'), sep='\\n')",
        folder=tmp_path,
    ).splitlines()  # fmt: skip
    venv = installed.parent.resolve()
    assert len(places) == 4
    assert all(Path(place).resolve().is_relative_to(venv) for place in places), places


def test_it_checks_plans_and_starts_recipes(installed, tmp_path):
    cache = {"UENV_CACHE": str(tmp_path / "cache")}
    known = succeed(installed / "uenv", "check", "python-mpi", folder=tmp_path, **cache)
    assert "python-mpi/1.0/recipe.yaml: ok" in known
    plan = succeed(installed / "uenv", "plan", "python-mpi", "--json", folder=tmp_path, **cache)
    assert '"steps"' in plan
    assert succeed(installed / "uenv", "new", "mine", folder=tmp_path, **cache) == "mine/recipe.yaml\n"
    assert "mine/recipe.yaml: ok" in succeed(installed / "uenv", "check", "mine", folder=tmp_path, **cache)


def test_a_starter_in_a_folder_of_its_version_is_valid(installed, tmp_path):
    cache = {"UENV_CACHE": str(tmp_path / "cache")}
    assert succeed(installed / "uenv", "new", "x/1.0", folder=tmp_path, **cache) == "x/1.0/recipe.yaml\n"
    assert "x/1.0/recipe.yaml: ok" in succeed(installed / "uenv", "check", "x/1.0", folder=tmp_path, **cache)
    text = (tmp_path / "x/1.0/recipe.yaml").read_text(encoding="utf-8")
    assert 'name: "x"\n' in text
    assert 'version: "1.0"\n' in text


def test_the_plan_does_not_depend_on_where_it_is_installed(installed, tmp_path):
    arguments = ("plan", "python-mpi", "--json")
    cache = {"UENV_CACHE": str(tmp_path / "cache")}
    here = succeed(sys.executable, "-m", "uenv_builder.cli", *arguments, folder=tmp_path, **cache)
    assert succeed(installed / "uenv", *arguments, folder=tmp_path, **cache) == here
