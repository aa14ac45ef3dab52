"""environments/ holds what `uenv render` writes for the recipes of this repository today."""

import pytest

from uenv_builder.app.lock_files import require_fresh
from uenv_builder.app.preparing import prepare
from uenv_builder.app.recipes import find_recipe, load_recipe
from uenv_builder.app.rendering import render_user_files
from uenv_builder.app.selection import select
from uenv_command import ROOT

UNLOCKED = {"ngc-pytorch"}
"""Whoever uses it locks it: its base is named by a tag, in a registry that not every machine reaches."""
RECIPES = [path for path in ROOT.glob("recipes/*/*/recipe.yaml") if path.parents[1].name not in UNLOCKED]
NAMES = sorted({path.parents[1].name for path in RECIPES})


@pytest.mark.parametrize("name", NAMES)
def test_the_kept_files_are_current(name):
    loaded = load_recipe(find_recipe(str(ROOT / "recipes" / name)))
    selection = select(loaded)
    texts = render_user_files(prepare(loaded, selection, require_fresh(loaded, selection.uarch)))
    kept = ROOT / "environments" / name
    found = {str(path.relative_to(kept)): path.read_text() for path in kept.rglob("*") if path.is_file()}
    assert found == texts, f"stale: run `uenv render recipes/{name} --output environments/{name}`"


def test_every_recipe_has_a_fresh_lock_for_each_of_its_node_types():
    for path in RECIPES:
        loaded = load_recipe(path)
        for target in loaded.recipe.targets:
            lock = require_fresh(loaded, select(loaded, uarch=target.uarch, system=target.system).uarch)
            assert lock.target.uarch == target.uarch
