"""A commented starter recipe."""

from __future__ import annotations

import re
from pathlib import Path

from uenv_builder.core.label import Label
from uenv_builder.core.systems import load_systems
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import UsageError
from uenv_builder.system.files import write_text
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems
from uenv_builder.system.templates import load_template


def write_starter(folder: Path, *, system: str, uarch: str | None = None) -> Path:
    """Write FOLDER/recipe.yaml, never over another one; the folder NAME/VERSION, or NAME alone, names the recipe.

    Without `uarch`, it is for the system's first node type. Raises UsageError for a system that is not known, or has
    no such nodes.
    """
    path = folder / "recipe.yaml"
    if path.exists():
        raise UsageError(f"{path}: exists already", hint="choose another folder, or edit this recipe")
    node_type = _node_type(system, uarch)
    name, version = _name_and_version(folder)
    Label.parse(f"{name}/{version}")
    text = load_template("recipe.yaml.j2").render(name=name, version=version, system=system, uarch=node_type)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text, durable=True)
    return path


def _node_type(system: str, uarch: str | None) -> str:
    systems = load_systems(read_site_systems(load_settings().systems))
    if system not in systems:
        hint = suggest(system, list(systems)) or f"known systems: {', '.join(systems)}"
        raise UsageError(f'unknown system "{system}"', rule="unknown-system", hint=hint)
    uarchs = systems[system].uarchs
    if uarch and uarch not in uarchs:
        others = [name for name, other in systems.items() if uarch in other.uarchs]
        hint = f"it has {', '.join(uarchs)}" + (f"; --system {' or '.join(others)} has {uarch}" if others else "")
        raise UsageError(f"{system} has no {uarch} nodes", rule="system-uarch", hint=hint)
    return uarch or uarchs[0]


def _name_and_version(folder: Path) -> tuple[str, str]:
    place = folder.resolve()
    if re.fullmatch(r"v?[0-9]+(\.[0-9A-Za-z]+)*", place.name) and place.parent.name:
        return place.parent.name, place.name
    return place.name, "1.0"
