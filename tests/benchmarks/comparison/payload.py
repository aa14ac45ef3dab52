"""Recipes and locks to build: the one that is asked for, and variants of it that are made for a case."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import yaml

from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.lock_file import recipe_digest
from uenv_builder.core.systems import load_uarchs

Pin = dict[str, str | int]
_CHANGED_SHARE = 0.1
_MOST_CHANGED = 3


class PayloadError(Exception):
    """The recipe cannot serve for this; the message says what is missing."""


@dataclass(frozen=True)
class Payload:
    """A recipe's folder with a lock for `uarch`, and the folder that has all that the lock names, by sha256."""

    recipe: Path
    uarch: str
    downloads: Path

    @property
    def lock_file(self) -> Path:
        """The lock beside the recipe."""
        return self.recipe / f"{self.uarch}.lock.yaml"

    @cached_property
    def lock(self) -> dict:
        """The lock as it stands in the file."""
        return yaml.safe_load(self.lock_file.read_text(encoding="utf-8"))

    @property
    def wheels(self) -> list[Pin]:
        """What the lock says of each wheel."""
        return self.lock["python"]["wheels"]

    @property
    def debs(self) -> list[Path]:
        """The userland's packages, base-files first: it brings the links that the others go through."""
        pins = sorted(self.lock["userland"]["packages"], key=lambda pin: pin["name"] != "base-files")
        return [self.download(pin) for pin in pins]

    @property
    def python(self) -> str:
        """The image's Python, as in 3.13."""
        return self.lock["python"]["version"]

    @property
    def block_size(self) -> int:
        """The squashfs's, in bytes."""
        return load_recipe(self.recipe / "recipe.yaml").recipe.outputs.squashfs.block_size_kib * 1024

    @property
    def level(self) -> int:
        """The zstd level of layers and squashfs."""
        return load_recipe(self.recipe / "recipe.yaml").recipe.outputs.squashfs.level

    @property
    def is_native(self) -> bool:
        """Whether this machine runs what is in the image."""
        return {"amd64": "x86_64", "arm64": "aarch64"}[self.lock["target"]["debian"]] == os.uname().machine

    def download(self, pin: Pin) -> Path:
        """Where the store has what a pin names."""
        sha256 = str(pin["sha256"])
        return self.downloads / sha256[:2] / sha256

    @property
    def download_bytes(self) -> int:
        """Of packages and wheels."""
        return sum(int(pin["size"]) for pin in [*self.lock["userland"]["packages"], *self.wheels])

    def describe(self, name: Path) -> dict[str, str | int]:
        """What the results say of it; `name` is the recipe's folder as it was given."""
        return {
            "recipe": "/".join(name.resolve().parts[-2:]), "uarch": self.uarch, "level": self.level,
            "block_size": self.block_size, "packages": len(self.debs), "wheels": len(self.wheels),
            "download_bytes": self.download_bytes,
        }  # fmt: skip

    def all_pins(self) -> list[Pin]:
        """Everything that the lock names, also the Python that compiles."""
        userland = self.lock["userland"]
        return [*userland["packages"], *(pin for pins in userland["compilers"].values() for pin in pins), *self.wheels]


def adopt(recipe: Path, uarch: str, folder: Path, *, source: Path, downloads: Path) -> Payload:
    """A copy of the recipe in `folder`; what its lock names is linked (or copied) from the store `source`."""
    shutil.copytree(recipe, folder)
    payload = Payload(folder, uarch, downloads)
    if not payload.lock_file.is_file():
        raise PayloadError(f"{recipe} has no lock for {uarch}")
    for pin in payload.all_pins():
        found, place = replace(payload, downloads=source / "downloads").download(pin), payload.download(pin)
        if found.is_file() and not place.exists():
            link_or_copy(found, place)
    needed = [*payload.lock["userland"]["packages"], *payload.wheels]
    if missing := [str(pin["name"]) for pin in needed if not payload.download(pin).exists()]:
        raise PayloadError(
            f"{source} lacks {len(missing)} downloads of {recipe}: {', '.join(missing[:5])}, ...; build it once"
        )
    return payload


def link_or_copy(file: Path, place: Path) -> None:
    """The same file at another place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:
        shutil.copy2(file, place)


def variant(base: Payload, folder: Path, changes: dict, wheels: Sequence[Pin] | None = None) -> Payload:
    """A recipe that extends `base` by `changes`, with the base's lock, or with other wheels in it."""
    recipe = {"extends": str(base.recipe), **changes}
    return write_recipe(base, folder, recipe, base.lock, base.wheels if wheels is None else wheels)


def write_recipe(base: Payload, folder: Path, recipe: dict, lock: dict, wheels: Sequence[Pin]) -> Payload:
    """Recipe and lock in `folder`, the lock with the digest that this recipe asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    payload = replace(base, recipe=folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    loaded = load_recipe(folder / "recipe.yaml").recipe
    digest = recipe_digest(loaded, load_uarchs()[base.uarch])
    lock = {
        **lock,
        "recipe": {"name": loaded.name, "version": loaded.version, "digest": digest},
        "python": {**lock["python"], "wheels": list(wheels)},
    }
    payload.lock_file.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    return payload


def without_bytecode(base: Payload, folder: Path) -> Payload:
    """The same, but modules are not compiled."""
    return variant(base, folder, {"python": {"byte_compile": False}})


def with_variable(base: Payload, folder: Path, value: int) -> Payload:
    """The same, but for one variable."""
    return variant(base, folder, {"env": {"COMPARISON": str(value)}})


def choose_changed(wheels: Sequence[Pin]) -> list[Pin]:
    """At most a tenth of the wheels (and one to three), together as near to a tenth of all bytes as can be."""
    count = max(1, min(_MOST_CHANGED, round(len(wheels) * _CHANGED_SHARE)))
    wanted = _CHANGED_SHARE * sum(int(wheel["size"]) for wheel in wheels)
    sizes = lambda group: abs(sum(int(wheel["size"]) for wheel in group) - wanted)  # noqa: E731
    groups = [group for number in range(1, count + 1) for group in combinations(wheels, number)]
    return list(min(groups, key=sizes))


def pin_of(file: Path, name: str, version: str) -> Pin:
    """What a lock says of a wheel."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": name, "version": version, "file": file.name, "size": file.stat().st_size, "sha256": digest}


def keep_download(payload: Payload, file: Path, name: str, version: str) -> Pin:
    """Move a wheel to the downloads."""
    pin = pin_of(file, name, version)
    place = payload.download(pin)
    place.parent.mkdir(parents=True, exist_ok=True)
    file.replace(place)
    return pin
