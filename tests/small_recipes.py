"""Recipes that build in a second and ask nobody: made packages and wheels, locked, in a folder by sha256."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from made_debs import folder, make_deb, member, symlink
from python_image import PYTHON, copy_python
from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.lock_file import dump_lock, recipe_digest
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.lock import Lock
from uenv_command import Uenv

RECIPE = """\
name: {name}
version: "1.0"
description: Shares layers with another one
targets:
  - system: {system}
    uarch: x86_64
base:
  debian:
    suite: {suite}
    essential: false
    packages: [python3]
pins:
  python: "{python}"
python:
  byte_compile: false
  requirements: [{requirements}]
env:
  DEMO: {name}
checks: {checks}
"""


SUITES = {"3.11": "bookworm", "3.13": "trixie"}
"""Of Debian, by the Python that it has."""


@dataclass(frozen=True)
class SmallRecipes:
    """Two recipes that have all layers in common but one wheel and the last; `mirror` has what their locks name."""

    alpha: Path
    beta: Path
    mirror: Path
    config: Path

    def uenv(self, folder: Path, cache: Path) -> OfflineUenv:
        """The command in `folder`, with its store at `cache`, and no way to get anything but the mirror folder."""
        folder.mkdir(parents=True, exist_ok=True)
        return OfflineUenv(folder, cache, self.config)


@dataclass(frozen=True)
class OfflineUenv(Uenv):
    """The command with settings of its own."""

    config: Path

    def environment(self, **variables: str) -> dict[str, str]:
        return super().environment(**{"XDG_CONFIG_HOME": str(self.config), **variables})


def build_command(recipe: Path, *more: str) -> list[str]:
    """The arguments that build a recipe into build/NAME."""
    name = recipe.name
    return ["build", str(recipe), "--locked", "--offline", "--no-test", "--json", "--output", f"build/{name}", *more]


def make_small_recipes(place: Path, *, size: int = 400_000) -> SmallRecipes:
    """Write all of it below `place`; each wheel holds about `size` bytes, half of which do not compress."""
    mirror = place / "mirror"
    debs = {name: _deb(place, name, size) for name in ("base-files", "python3", "libc6")}
    shared = {f"shared{number}": _wheel(f"shared{number}", size) for number in range(3)}
    recipes = {}
    for name in ("alpha", "beta"):
        wheels = {**shared, f"own-{name}": _wheel(f"own_{name}", size)}
        recipes[name] = _recipe(place / "recipes" / name, mirror, debs, wheels)
    config = place / "config"
    (config / "uenv-builder").mkdir(parents=True)
    (config / "uenv-builder/config.toml").write_text(f'mirrors = ["{mirror}"]\n')
    return SmallRecipes(recipes["alpha"], recipes["beta"], mirror, config)


def make_broken_recipe(place: Path, mirror: Path, name: str = "gamma") -> Path:
    """A recipe like those, below `place`: one of its wheels is as long and has the sha256 that its lock says, but is no
    archive.
    """
    debs = {each: _deb(place, each, 4000) for each in ("base-files", "python3", "libc6")}
    return _recipe(place / "recipes" / name, mirror, debs, {f"own-{name}": b"no archive" * 100})


def make_python_recipe(
    place: Path, mirror: Path, name: str, *, system: str = "generic-x86_64", checks: str = "{}"
) -> Path:
    """A recipe at `place` for an image with this machine's own Python, which runs; all is locked, and in `mirror`.

    `checks` is what the recipe says below that key.
    """
    version = re.search(r"3\.\d+", os.path.realpath(PYTHON))[0]
    if version not in SUITES:
        pytest.skip(f"no suite of Debian has the Python {version} of this machine")
    with tempfile.TemporaryDirectory() as tree:
        copy_python(Path(tree), version)
        _leave_out_what_lacks_libraries(Path(tree))
        content = make_deb(Path(tree) / "python3.deb", *_members(Path(tree)), suffix=".zst").read_bytes()
    wheels = {f"own-{name}": _wheel(f"own_{name}", 1000)}
    return _recipe(place, mirror, {"python3": content}, wheels, name=name, python=version, system=system, checks=checks)


def _leave_out_what_lacks_libraries(tree: Path) -> None:
    for module in tree.glob("usr/lib/python3*/lib-dynload/*.so"):
        listed = subprocess.run(["ldd", module], capture_output=True, text=True, check=True).stdout
        if not all((tree / library[1:]).exists() for library in re.findall(r"(/\S+) \(", listed)):
            module.unlink()


def _members(tree: Path):
    """All of a tree as members of a package, in the places that merged systems have."""
    for path in sorted(tree.rglob("*")):
        name = f"./{path.relative_to(tree)}"
        if path.is_symlink():
            yield symlink(name, str(path.readlink()))
        elif path.is_dir():
            yield folder(name)
        else:
            yield member(name, path.read_bytes(), mode=path.stat().st_mode & 0o777)


def _content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size // 2) + f"{name}\n".encode() * (size // 2 // (len(name) + 1))


def _deb(place: Path, name: str, size: int) -> bytes:
    place.mkdir(parents=True, exist_ok=True)
    below = f"./usr/lib/{name}"
    members = [folder("./usr/"), folder("./usr/lib/"), folder(f"{below}/"), folder("./etc/")]
    members += [member(f"{below}/data", _content(name, size)), symlink(f"{below}/link", "data")]
    if name == "base-files":
        members += [folder(f"./{each}/") for each in ("tmp", "var", "root", "proc", "dev", "sys")]
        members += [member("./etc/debian_version", b"13.2\n")]
    return make_deb(place / f"{name}.deb", *members, suffix=".zst").read_bytes()


def _wheel(name: str, size: int) -> bytes:
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": f"NAME = {name!r}\n".encode(), f"{name}/data.bin": _content(name, size),
        **{f"{name}/part{number}.py": f"NUMBER = {number}\n".encode() * 20 for number in range(30)},
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
    }  # fmt: skip
    rows = [f"{path},{_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, (2024, 5, 6, 7, 8, 10))
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _recipe(
    place: Path, mirror: Path, debs: Mapping[str, bytes], wheels: Mapping[str, bytes], *, name: str = "",
    python: str = "3.13", system: str = "generic-x86_64", checks: str = "{}",
) -> Path:  # fmt: skip
    place.mkdir(parents=True)
    recipe = RECIPE.format(
        name=name or place.name, requirements=", ".join(wheels), python=python, system=system, suite=SUITES[python],
        checks=checks,
    )  # fmt: skip
    (place / "recipe.yaml").write_text(recipe)
    loaded = load_recipe(place / "recipe.yaml")
    packages = [
        {"name": name, "version": "1.0", "architecture": "amd64", "suite": SUITES[python], "path": f"pool/{name}.deb",
         **_keep(mirror, content)}
        for name, content in debs.items()
    ]  # fmt: skip
    pins = [
        {"name": name, "version": "1.0", "file": f"{name.replace('-', '_')}-1.0-py3-none-any.whl",
         **_keep(mirror, content)}
        for name, content in wheels.items()
    ]  # fmt: skip
    document = {
        "lock-format": 1, "target": {"uarch": "x86_64", "debian": "amd64"}, "epoch": 1_700_000_000,
        "recipe": {
            "name": name or place.name, "version": "1.0",
            "digest": recipe_digest(loaded.recipe, load_uarchs()["x86_64"]),
        },
        "userland": {"releases": [], "packages": packages},
        "python": {"version": python, "platform": "x86_64-manylinux_2_40", "wheels": pins},
    }  # fmt: skip
    loaded.lock_path("x86_64").write_text(dump_lock(Lock.model_validate_json(json.dumps(document))))
    return place


def _keep(mirror: Path, content: bytes) -> dict[str, str | int]:
    sha256 = hashlib.sha256(content).hexdigest()
    path = mirror / "sha256" / sha256[:2] / sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"sha256": sha256, "size": len(content)}
