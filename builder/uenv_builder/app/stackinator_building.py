"""`uenv build` on a recipe of Stackinator: imported where all of it can be, else the site's own command builds it."""

from __future__ import annotations

import os
from pathlib import Path

from uenv_builder.app.importing import Imported, import_recipe
from uenv_builder.app.site_command import GUARD, find_site_command, pass_on
from uenv_builder.core.label import Label
from uenv_builder.model.errors import IncompatibleError, UsageError
from uenv_builder.system.events import Listener

_FOLDER = Path("build/imported")


def recipe_to_build(
    recipe: str, label: str | None, *, own: Path, listener: Listener, system: str | None = None,
    uarch: str | None = None,
) -> str:  # fmt: skip
    """The folder of the recipe that is made of the one of Stackinator in the folder `recipe`.

    That one lies below build/imported, with its lock. Where something would be lost, this process becomes the site's
    own uenv command with the same arguments (`own` is the path that this program was started by); where there is
    none, raises IncompatibleError.
    """
    folder = Path(recipe)
    name = Label.parse(label).name if label else folder.resolve().name
    imported = import_recipe(
        folder, _FOLDER / f"{name}-{_place_of(folder)}", label=label, system=system, uarch=uarch, replace=True
    )
    if not imported.losses:
        listener.note(f"{folder} is a recipe of Stackinator: imported as {imported.recipe}")
        return str(imported.recipe.parent)
    for finding in imported.losses:
        listener.note(str(finding))
    _build_on_site(folder, label, imported, own=own)
    return str(imported.recipe.parent)


def _place_of(folder: Path) -> str:
    """Tells recipes of one name apart: the folders that it lies in."""
    place = folder.resolve()
    return f"{place.parent.name}-{place.name}"


def _build_on_site(folder: Path, label: str | None, imported: Imported, *, own: Path) -> None:
    parts = f"{len(imported.losses)} part{'s' if len(imported.losses) > 1 else ''}"
    if os.environ.get(GUARD) or find_site_command(own) is None:
        raise IncompatibleError(
            f"{folder}: {parts} of this recipe cannot be carried over, and there is no site command to build it",
            rule="import-lost",
            hint=f"run `uenv import {folder}`, complete the recipe that it writes, and build that one",
        )
    if label is None:
        raise UsageError(
            f"{folder}: {parts} of this recipe cannot be carried over, and the site's command needs a label",
            hint="add name/version@system%uarch",
        )
    pass_on("build", ["build", str(folder), label], own=own, known=["build"])
