"""`uenv mirror`: a folder with all that recipes need, for machines without internet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uenv_builder.app import mirroring
from uenv_builder.app.recipes import LoadedRecipe, find_recipe, load_recipe
from uenv_builder.app.selection import select
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import (
    DebugOption,
    JobsOption,
    JsonOption,
    MirrorOption,
    OfflineOption,
    QuietOption,
    SystemOption,
    UarchOption,
    VerboseOption,
)
from uenv_builder.model.errors import UsageError

EPILOG = (
    "Examples: uenv mirror pytorch python-mpi /srv/mirror; uenv mirror --verify /srv/mirror; "
    "uenv mirror --verify pytorch /srv/mirror"
)


def mirror(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE", help="Recipes whose locks name what is fetched.")
    ] = None,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The mirror's folder; made if needed.")] = ...,  # type: ignore[assignment]
    *,
    uarch: UarchOption = None,
    system: SystemOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read what is there; with recipes, replace what is damaged (else exit 5).")
    ] = False,
    mirror: MirrorOption = None,
    offline: OfflineOption = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001  (read by verb)
) -> int:
    """Fill a mirror with all that the locks of recipes name, from the store or the network, or verify one."""
    with Run(as_json=as_json, quiet=quiet, verbose=verbose, offline=offline, jobs=jobs, mirror=mirror) as run:
        if not recipes:
            if not verify:
                raise UsageError("which recipes?", hint="uenv mirror RECIPE... DIR, or uenv mirror --verify DIR")
            verified = mirroring.verify_mirror(run.session, folder)
            run.show(verified.document(), verified.summary())
            return 5 if verified.damaged else 0
        loaded = [load_recipe(find_recipe(recipe, run.session.settings.recipe_path)) for recipe in recipes]
        artefacts = [
            artefact
            for one in loaded
            for artefact in mirroring.artefacts_of_recipe(one, _targets(one, uarch=uarch, system=system))
        ]
        names = [f"{one.recipe.name}/{one.recipe.version}" for one in loaded]
        filled = mirroring.fill_mirror(run.session, folder, artefacts, recipes=names, verify=verify)
        run.show(filled.document(), filled.summary())
        return 0


def _targets(loaded: LoadedRecipe, *, uarch: str | None, system: str | None) -> list[str]:
    if uarch or system:
        return [select(loaded, uarch=uarch, system=system).uarch.name]
    return list(dict.fromkeys(target.uarch for target in loaded.recipe.targets))
