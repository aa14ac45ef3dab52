"""What a build that found nothing to do went by, so that stamps alone tell the next one that it is the same."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import uenv_builder
from uenv_builder.app.component_files import search_folders
from uenv_builder.app.preparing import Prepared
from uenv_builder.app.recipes import recipe_places
from uenv_builder.app.session import Session
from uenv_builder.system.resources import resource_folder
from uenv_builder.system.settings import settings_places
from uenv_builder.system.store_roots import root_file
from uenv_builder.system.up_to_date import Answer, keep_answer


def remember(session: Session, prepared: Prepared, folder: Path, recipe: str, answer: Answer) -> None:
    """Record that the command of this process, which asked for `recipe`, found the build at `folder` up to date."""
    systems = [Path(name).expanduser() for name in session.settings.systems if name]
    places, shelves = recipe_places(recipe, session.settings.recipe_path), search_folders(prepared.loaded.folders)
    sources = [*_code(), *settings_places(), *systems, *_choice(places, shelves, prepared), *_recipe(prepared)]
    results = [*_outputs(folder), *_stored(session, prepared, folder)]
    listed = [*places, *shelves, Path(sysconfig.get_path("purelib"))]
    keep_answer(sys.argv[1:], answer, sources=sources, results=results, listed=listed)


def _code() -> Iterator[Path]:
    """All folders of the builder itself: a checkout changes without another version."""
    yield resource_folder("templates")
    for place, folders, _ in os.walk(Path(uenv_builder.__file__).parent):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield Path(place)


def _choice(places: Sequence[Path], shelves: Sequence[Path], prepared: Prepared) -> Iterator[Path]:
    """Where another recipe of that name, a newer version, or another component of a name would be found first."""
    yield from places
    for place in places:
        if place.is_dir() and not (place / prepared.loaded.path.name).is_file():
            yield from (version for version in place.iterdir() if version.is_dir())
    yield from (shelf / name for shelf in shelves for name in prepared.loaded.components.folders)


def _recipe(prepared: Prepared) -> Iterator[Path]:
    loaded = prepared.loaded
    yield from loaded.folders
    yield from (file.parent for file in prepared.sources.values())
    yield from prepared.sources.values()
    for place in loaded.components.folders.values():
        yield from (Path(found) for found, _, _ in os.walk(place))


def _outputs(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder / name for name in ("edf", "checks", "oci"))


def _stored(session: Session, prepared: Prepared, folder: Path) -> Iterator[Path]:
    """The results that the build needs, and the roots by which the store keeps them."""
    yield from (session.store.step_sums(step.id) for step in prepared.plan.lasting())
    store = session.store.root
    yield root_file(store, "build", folder, plan=prepared.plan.id)
    yield root_file(store, "lock", prepared.loaded.lock_path(prepared.selection.uarch.name))
