"""A small uenv from real Spack: needs SPACK_ROOT, UENV_SPACK_PACKAGES (a folder of spack-packages) and
UENV_SPACK_MIRROR (a folder with a source mirror that has bzip2 1.0.8, lz4 1.9.4 and compiler-wrapper 1.1.0).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from uenv_builder.sandboxes.uenv import UenvSandbox

NEEDED = ("SPACK_ROOT", "UENV_SPACK_PACKAGES", "UENV_SPACK_MIRROR")
MISSING = [name for name in NEEDED if not os.environ.get(name)]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"real Spack is not tried: {', '.join(MISSING)} not set"),
    pytest.mark.timeout(3600),
]
RECIPE = """\
name: tools
version: "1.0"
description: two small packages
kind: uenv
targets: [{{system: generic-x86_64, uarch: x86_64}}]
default_view: tools
spack:
  repositories:
    builtin: {{folder: {packages}}}
  compilers:
    gcc: {{version: system}}
  externals:
    gmake: [{{spec: gmake@4.3, prefix: /usr}}]
    diffutils: [{{spec: diffutils@3.8, prefix: /usr}}]
  packages:
    gmake: {{buildable: false}}
    diffutils: {{buildable: false}}
  mirrors: ["file://{mirror}"]
  environments:
    tools:
      compilers: [gcc]
      specs: [{specs}]
      views:
        tools: {{link: roots, prefix_paths: {{LD_LIBRARY_PATH: [lib, lib64]}}, set: {{TOOLS: "1"}}}}
        all: {{link: all, exclude: [gcc-runtime]}}
"""


def uenv(store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uenv_builder.cli", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "UENV_CACHE": str(store)},
    )  # fmt: skip


def write_recipe(folder: Path, specs: str = "bzip2@1.0.8, lz4@1.9.4") -> Path:
    folder.mkdir(exist_ok=True)
    text = RECIPE.format(
        packages=os.environ["UENV_SPACK_PACKAGES"], mirror=os.environ["UENV_SPACK_MIRROR"], specs=specs
    )
    (folder / "recipe.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if UenvSandbox(machine="x86_64").problems("x86_64"):
        pytest.skip("this machine cannot mount images")
    place = tmp_path_factory.mktemp("spack")
    recipe = write_recipe(place / "recipe")
    done = uenv(place / "store", "lock", str(recipe))
    assert done.returncode == 0, done.stderr
    done = uenv(place / "store", "build", str(recipe), "--locked", "--output", str(place / "build"))
    assert done.returncode == 0, done.stderr
    yield place
    shutil.rmtree(place)


def test_the_lock_has_every_source_with_its_hash(built):
    text = (built / "recipe/x86_64.lock.yaml").read_text()
    assert "ab5a03176ee106d3f0fa90e381da478ddae405918153cca248e682cd0c4a2269" in text  # of bzip2 1.0.8
    assert (built / "recipe/x86_64.spack.lock").is_file()


def test_each_view_gives_its_environment(built):
    done = uenv(built / "store", "exec", str(built / "build"), "--", "sh", "-c",
                "command -v lz4; lz4 --version; echo $TOOLS $LD_LIBRARY_PATH")  # fmt: skip
    assert done.stdout.splitlines()[0] == "/user-environment/env/tools/bin/lz4", done.stderr
    assert "v1.9.4" in done.stdout
    assert "1 /user-environment/env/tools/lib" in done.stdout
    done = uenv(built / "store", "exec", "--view", "all", str(built / "build"), "--", "sh", "-c",
                "command -v bzip2; echo [$TOOLS]")  # fmt: skip
    assert done.stdout.splitlines() == ["/user-environment/env/all/bin/bzip2", "[]"], done.stderr


def test_another_store_builds_the_same_image(built):
    store = built / "second"
    shutil.copytree(built / "store/spack/cache", store / "spack/cache")
    done = uenv(store, "build", str(built / "recipe"), "--locked", "--no-test", "--json", "--output",
                str(built / "again"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    first = json.loads((built / "build/manifest.json").read_text())["squashfs"]["sha256"]
    assert json.loads(done.stdout)["manifest"]["squashfs"]["sha256"] == first


def test_what_cannot_be_solved_is_told_in_a_few_lines(built):
    done = uenv(built / "store", "lock", str(write_recipe(built / "bad", "bzip2@99.9")))
    assert done.returncode == 4
    assert "bzip2@99.9" in done.stderr
    assert len(done.stderr.splitlines()) < 25
