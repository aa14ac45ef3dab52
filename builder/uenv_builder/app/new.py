"""A commented starter recipe."""

from __future__ import annotations

from pathlib import Path

from uenv_builder.core.label import Label
from uenv_builder.model.errors import UsageError
from uenv_builder.system.files import write_text
from uenv_builder.system.resources import load_template


def write_starter(folder: Path, *, system: str, uarch: str) -> Path:
    """Write `folder`/recipe.yaml, with the folder's name as the recipe's; never over another one."""
    path = folder / "recipe.yaml"
    if path.exists():
        raise UsageError(f"{path}: exists already", hint="choose another folder, or edit this recipe")
    name = folder.resolve().name
    Label.parse(f"{name}/1.0")
    text = load_template("recipe.yaml.j2").render(name=name, system=system, uarch=uarch)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
