"""A commented starter recipe."""

from __future__ import annotations

import re
from pathlib import Path

from uenv_builder.core.label import Label
from uenv_builder.model.errors import UsageError
from uenv_builder.system.files import write_text
from uenv_builder.system.resources import load_template


def write_starter(folder: Path, *, system: str, uarch: str) -> Path:
    """Write FOLDER/recipe.yaml, never over another one; the folder NAME/VERSION, or NAME alone, names the recipe."""
    path = folder / "recipe.yaml"
    if path.exists():
        raise UsageError(f"{path}: exists already", hint="choose another folder, or edit this recipe")
    name, version = _name_and_version(folder)
    Label.parse(f"{name}/{version}")
    text = load_template("recipe.yaml.j2").render(name=name, version=version, system=system, uarch=uarch)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def _name_and_version(folder: Path) -> tuple[str, str]:
    place = folder.resolve()
    if re.fullmatch(r"v?[0-9]+(\.[0-9A-Za-z]+)*", place.name) and place.parent.name:
        return place.parent.name, place.name
    return place.name, "1.0"
