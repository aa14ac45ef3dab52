"""`uenv lock`: exact versions, sizes and hashes."""

from __future__ import annotations

from typing import Annotated

import typer

from uenv_builder.app import lock as locking
from uenv_builder.app.checking import check_recipe
from uenv_builder.app.lock_files import require_fresh
from uenv_builder.app.recipes import find_recipe, load_recipe
from uenv_builder.app.selection import select
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import (
    DebugOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SystemOption,
    UarchOption,
    VerboseOption,
)
from uenv_builder.core.digest import Document

EPILOG = "Examples: uenv lock recipes/pytorch/2.14; uenv lock pytorch --upgrade numpy; uenv lock pytorch --check"


def lock(
    recipe: RecipeArgument,
    *,
    uarch: UarchOption = None,
    system: SystemOption = None,
    check_only: Annotated[bool, typer.Option("--check", help="Only say whether the locks fit; write nothing.")] = False,
    upgrade: Annotated[
        list[str] | None, typer.Option("--upgrade", help="Let this package move; may be repeated.")
    ] = None,
    upgrade_all: Annotated[bool, typer.Option("--upgrade-all", help="Let every package move.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Resolve a recipe to exact versions, sizes and hashes, for each of its node types (or the chosen one)."""
    with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
        loaded = load_recipe(find_recipe(recipe, run.session.settings.recipe_path))
        chosen = select(loaded, uarch=uarch, system=system).uarch.name if uarch or system else None
        names = [chosen] if chosen else list(dict.fromkeys(target.uarch for target in loaded.recipe.targets))
        if not check_only:
            for finding in check_recipe(loaded, {}):
                run.session.listener.note(str(finding))
        results: list[Document] = []
        for name in names:
            node_type = select(loaded, uarch=name).uarch
            if check_only:
                lock = require_fresh(loaded, node_type)
            else:
                what = locking.Upgrade(everything=upgrade_all, names=frozenset(upgrade or ()))
                lock = locking.write_lock(run.session, loaded, node_type, upgrade=what)
            results.append(locking.describe(loaded, node_type, lock))
        run.show({"locks": results}, [_line(result) for result in results])


def _line(result: Document) -> str:
    base = (
        f"{result['layers']} layers of {result['base']}"
        if "base" in result
        else f"{result['packages']} Debian packages"
    )
    return f"{result['lock']}: {base}, {result['wheels']} wheels, {result['megabytes']} MB to download"
