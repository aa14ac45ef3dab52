"""A verb's session, and the recipe that it works on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Self

from uenv_builder.app import checking
from uenv_builder.app.lock_files import fresh_locks, require_fresh
from uenv_builder.app.preparing import Prepared, prepare
from uenv_builder.app.recipes import LoadedRecipe, find_recipe, load_recipe
from uenv_builder.app.selection import select
from uenv_builder.app.session import Session
from uenv_builder.commands.shared import json_text
from uenv_builder.core.digest import Document
from uenv_builder.model.errors import LockError
from uenv_builder.model.lock import Lock
from uenv_builder.model.system import Uarch
from uenv_builder.system.events import Remembering
from uenv_builder.system.settings import load_settings
from uenv_builder.system.terminal import listener_for


class Run:
    """A session with somebody listening, for as long as a verb takes."""

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False, offline: bool = False,
        jobs: int | None = None, mirror: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        self.as_json = as_json
        self._quiet, self.verbose, self._offline, self._jobs = quiet, verbose, offline, jobs
        self._mirror = tuple(mirror or ())
        self.shown = ""
        """What `show` wrote."""

    def __enter__(self) -> Self:
        self._listener = Remembering(listener_for(quiet=self._quiet, verbose=self.verbose))
        self.session = Session(
            settings=load_settings(), listener=self._listener, offline=self._offline, mirror=self._mirror
        )
        if self._jobs:
            self.session.jobs = self._jobs
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks that were shown."""
        return () if self._quiet else tuple(self._listener.notes)

    def show(self, document: Document, lines: Sequence[str] = ()) -> None:
        """The result: the document with --json, else the lines."""
        self._listener.close()
        self.shown = json_text(document) if self.as_json else "".join(f"{line}\n" for line in lines)
        sys.stdout.write(self.shown)


def prepare_target(
    run: Run, recipe: str, label: str | None, *, uarch: str | None, system: str | None, locked: bool
) -> Prepared:
    """The recipe's target with its lock, checked; warnings are told."""
    loaded = load_recipe(find_recipe(recipe, run.session.settings.recipe_path))
    selection = select(loaded, label=label, uarch=uarch, system=system)
    for finding in checking.check_recipe(loaded, fresh_locks(loaded)[0]):
        run.session.listener.note(str(finding))
    return prepare(loaded, selection, _lock(run, loaded, selection.uarch, locked=locked))


def _lock(run: Run, loaded: LoadedRecipe, uarch: Uarch, *, locked: bool) -> Lock:
    try:
        return require_fresh(loaded, uarch)
    except LockError:
        from uenv_builder.app.lock import require_lock  # what resolves packages is seldom needed

        return require_lock(run.session, loaded, uarch, locked=locked)
