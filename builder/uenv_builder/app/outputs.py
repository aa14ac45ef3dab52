"""The folder that a build leaves: images, what users select, manifest and report; complete or not there at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uenv_builder.model.errors import LockError, UsageError
from uenv_builder.system.files import link_or_copy, sha256_of

IMAGE = "image.squashfs"
MANIFEST = "manifest.json"
PLAN = "plan.json"
REPORT = "report.json"
TESTS = "tests"
"""The folder with reports of `uenv test --level`; a build that replaces this one keeps them."""
CHECKS = "checks"
"""The folder with the check.sh of each component that has one."""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """A build's folder and its manifest (docs/reference/manifest.md)."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def image(self) -> Path:
        """The squashfs."""
        return self.folder / IMAGE

    @property
    def digest(self) -> str:
        """The squashfs's sha256."""
        return str(self.manifest["squashfs"]["sha256"])


def place_folder(source: Path, target: Path) -> None:
    """Put the files below `source` at `target`: linked where the file system allows, copied elsewhere."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, place)


def check_scripts(folder: Path, components: Sequence[str]) -> dict[str, Path]:
    """The scripts that check a build's components, by the components' names."""
    places = {name: folder / CHECKS / f"{name}.sh" for name in components}
    return {name: place for name, place in places.items() if place.is_file()}


def open_build(path: Path) -> BuiltImage:
    """The build whose folder, or whose squashfs, `path` is; raises UsageError where there is none."""
    folder = path if path.is_dir() else path.parent
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UsageError(
            f"{path}: not a build: there is no {MANIFEST}",
            hint="name the folder that `uenv build` wrote, or its squashfs",
        )
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{manifest}: is damaged: {error}", hint="build again") from error
    if not isinstance(document, dict) or document.get("format") != 1:
        raise UsageError(f"{manifest}: is not a manifest that this version reads", hint="build again")
    if not (folder / IMAGE).is_file():
        raise UsageError(f"{path}: is not a whole build: there is no {IMAGE}", hint="build again")
    return BuiltImage(folder, document)


def open_sound_build(path: Path) -> BuiltImage:
    """As `open_build`, after reading the image; raises LockError (hash-mismatch) when it is another one."""
    build = open_build(path)
    if sha256_of(build.image) != build.digest:
        raise LockError(
            f"{build.image}: is not the image of its {MANIFEST}", rule="hash-mismatch", hint="build it again"
        )
    return build
