"""The components that come with the builder: what the Slingshot recipe chooses, and scripts that are scripts."""

import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest

from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.component_reader import read_component

RECIPES = Path(__file__).parents[2] / "recipes"
FOLDERS = sorted(path.parent for path in (RECIPES / "components").glob("*/component.yaml"))
RECIPE = """\
name: stack
version: "1.0"
description: The network stack in the image
targets: [{system: daint, uarch: gh200}]
base: {debian: {suite: trixie}}
pins: {python: "3.13", cuda: "13.0", nccl: "2.30.7", pytorch: "2.14.1", libcxi: "13.1.0", libfabric: "2.6.0"}
components: {aws-ofi-nccl: {}, nccl-tests: {}, openmpi: {}}
network: image
"""


def read(folder):
    return read_component((folder / "component.yaml").read_bytes(), str(folder), folder=folder.name).recipe


def render(folder, machine):
    component = read(folder)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((folder / "build.sh.j2").read_text()).render(
        name=component.name, version=next(iter(component.versions)), prefix=component.prefix, machine=machine,
        cross=machine == "aarch64", options={name: option.default for name, option in component.options.items()},
        versions={}, pins={"cuda": "13.0", "nccl": "2.30.7"},
    )  # fmt: skip


def test_a_recipe_with_the_plugin_builds_the_whole_stack_in_order(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    chosen = load_recipe(tmp_path / "recipe.yaml").components.chosen
    order = [component.name for component in chosen]
    assert set(order) == {folder.name for folder in FOLDERS}
    for component in chosen:
        assert all(order.index(need) < order.index(component.name) for need in component.needs), component.name
    versions = {component.name: component.version for component in chosen}
    assert versions["libfabric"] == "2.6.0"
    # Headers and library of one release: its parts are made together.
    assert {versions[name] for name in ("cassini-headers", "cxi-driver", "libcxi")} == {"13.1.0"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_sources_are_pinned_to_public_places(folder):
    for version in read(folder).versions.values():
        for source in version.sources:
            assert source.debian or all(url.startswith("https://") for url in [*source.git, *source.archive])


def test_build_scripts_are_bash(tmp_path):
    scripts = []
    for folder in FOLDERS:
        for machine in ("aarch64", "x86_64"):
            script = tmp_path / f"{folder.name}-{machine}.sh"
            script.write_text("set -euo pipefail\n" + render(folder, machine))
            subprocess.run(["bash", "-n", script], check=True)
            scripts.append(script)
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck for the rest")
    # Words of flags are split on purpose, and the variables come from the builder.
    command = ["shellcheck", "--shell=bash", "--format=gcc", "--exclude=SC2086,SC2154", *scripts[::2]]
    assert subprocess.run(command, text=True, capture_output=True, check=False).stdout == ""


def test_checks_are_posix_sh():
    checks = [folder / "check.sh" for folder in FOLDERS]
    for check in checks:
        subprocess.run(["sh", "-n", check], check=True)
    if shutil.which("shellcheck"):
        command = ["shellcheck", "--shell=sh", "--format=gcc", *checks]
        assert subprocess.run(command, text=True, capture_output=True, check=False).stdout == ""
