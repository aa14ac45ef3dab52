"""Whole builds on disks that are full or read-only: a clear end, nothing half written, and the next run succeeds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from small_recipes import OfflineUenv, SmallRecipes, build_command, make_small_recipes
from uenv_command import Outcome, refused


def can_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        return False
    apart = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(apart, capture_output=True, check=False).returncode == 0


pytestmark = [pytest.mark.root, pytest.mark.skipif(not can_mount(), reason="needs root, to mount small disks")]


@dataclass
class Disk:
    """A tmpfs on `folder` in a mount namespace of its own, which a process holds."""

    folder: Path
    holder: subprocess.Popen[str]

    def inside(self, *command: str) -> list[str]:
        """The command as it runs in that namespace."""
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--", *command]

    def mount(self, options: str) -> None:
        """Change the disk: size=1m, nr_inodes=100, ro, rw."""
        subprocess.run(self.inside("mount", "-o", f"remount,{options}", str(self.folder)), check=True)

    def files(self) -> list[str]:
        """What lies on it, by path."""
        top = Path(f"/proc/{self.holder.pid}/root{self.folder}")
        return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


@dataclass(frozen=True)
class InsideUenv(OfflineUenv):
    """The command in a disk's namespace."""

    disk: Disk

    def command(self, *arguments: str) -> list[str]:
        program = ["sh", "-c", f'cd "{self.folder}" && exec "$@"', "sh", sys.executable, "-m", "uenv_builder.cli"]
        return self.disk.inside(*program, *arguments)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = f'mount -t tmpfs -o size=64m none "{folder}" && echo ready && read end'
    holder = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    yield Disk(folder, holder)
    holder.communicate(timeout=30)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> SmallRecipes:
    return make_small_recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def digests(recipes, tmp_path_factory):
    """What the builds come to where nothing is wrong."""
    place = tmp_path_factory.mktemp("right")
    uenv = recipes.uenv(place / "here", place / "store")
    return {recipe.name: digests_of(uenv.ok(*build_command(recipe))) for recipe in (recipes.alpha, recipes.beta)}


def digests_of(outcome: Outcome) -> tuple[str, str]:
    manifest = outcome.document["manifest"]
    return manifest["squashfs"]["sha256"], manifest["oci"]["digest"]


def unfinished(disk: Disk) -> list[str]:
    """Names of what is half written; what has come of a download may stay, and is gone on with."""
    return [path for path in disk.files() if ".tmp-" in path or ".partial" in path or path.startswith("store/users/")]


# 0.7 MB are needed for the downloads, 1.5 MB more for the layers, and as much again for the squashfs.
@pytest.mark.parametrize("limit", ["size=1600k", "nr_inodes=60"])
def test_a_store_on_a_full_disk(recipes, digests, disk, tmp_path, limit):
    disk.mount(limit)
    (tmp_path / "here").mkdir()
    uenv = InsideUenv(tmp_path / "here", disk.folder / "store", recipes.config, disk)
    outcome = uenv.run(*build_command(recipes.alpha))
    refused(outcome, 6, "error[no-space]: ", f"{disk.folder}/store", "no space left (", "bytes free", "hint: make room")
    assert "UENV_CACHE" in outcome.stderr
    assert outcome.document["diagnostics"][0]["rule"] == "no-space"
    assert not (tmp_path / "here/build/alpha").exists()
    assert unfinished(disk) == []
    disk.mount("size=64m,nr_inodes=10000")
    assert digests_of(uenv.ok(*build_command(recipes.alpha))) == digests["alpha"]
    assert uenv.ok("cache", "verify", "--json").document == {"damaged": []}


def test_a_folder_on_a_full_disk(recipes, digests, disk, tmp_path):
    disk.mount("size=900k")
    (tmp_path / "here").mkdir()
    uenv = InsideUenv(tmp_path / "here", tmp_path / "store", recipes.config, disk)
    command = [*build_command(recipes.alpha), "--output", str(disk.folder / "build/alpha")]
    outcome = uenv.run(*command)
    refused(outcome, 6, "error[no-space]: ", str(disk.folder), "no space left (", "hint: make room")
    assert "--output" in outcome.stderr
    assert set(disk.files()) <= {"build", "build/.alpha.lock"}
    disk.mount("size=64m,nr_inodes=10000")
    assert digests_of(uenv.ok(*command)) == digests["alpha"]


def test_a_store_that_may_only_be_read(recipes, digests, disk, tmp_path):
    """Who finds everything goes on; who does not is told where to go, and so is who finds damage."""
    (tmp_path / "here").mkdir()
    uenv = InsideUenv(tmp_path / "here", disk.folder / "store", recipes.config, disk)
    uenv.ok(*build_command(recipes.alpha))
    before = disk.files()
    disk.mount("ro")
    for place in ("build/alpha", "build/again"):
        outcome = uenv.ok(*build_command(recipes.alpha), "--output", place)
        assert outcome.document["built"] == []
        assert digests_of(outcome) == digests["alpha"]
    outcome = uenv.run(*build_command(recipes.beta))
    refused(outcome, 6, "error[no-permission]: ", f"{disk.folder}/store", "Read-only file system", "set UENV_CACHE")
    assert not (tmp_path / "here/build/beta").exists()
    assert disk.files() == before
    disk.mount("rw")
    [image] = [path for path in disk.files() if path.endswith("/image.squashfs")]
    damaged = Path(f"/proc/{disk.holder.pid}/root{disk.folder}") / image
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    disk.mount("ro")
    third = [*build_command(recipes.alpha), "--output", "build/third"]
    refused(uenv.run(*third), 5, "error[hash-mismatch]", "is damaged", "hint: ")
    assert not (tmp_path / "here/build/third").exists()
    disk.mount("rw")
    assert digests_of(uenv.ok(*third)) == digests["alpha"]
    assert digests_of(uenv.ok(*build_command(recipes.beta))) == digests["beta"]


def test_a_folder_that_may_only_be_read(recipes, digests, disk, tmp_path):
    (tmp_path / "here").mkdir()
    uenv = InsideUenv(tmp_path / "here", tmp_path / "store", recipes.config, disk)
    command = [*build_command(recipes.alpha), "--output", str(disk.folder / "build/alpha")]
    disk.mount("ro")
    refused(uenv.run(*command), 6, "error[no-permission]: ", f"{disk.folder}/build", "--output")
    disk.mount("rw")
    assert digests_of(uenv.ok(*command)) == digests["alpha"]
    before = disk.files()
    disk.mount("ro")
    unchanged = uenv.run(*command)
    assert unchanged.code in {0, 6}
    refused(unchanged, unchanged.code)
    assert disk.files() == before
