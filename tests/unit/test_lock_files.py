"""Locks beside a recipe: which fit, and that rules are asked about a new one before it replaces the old."""

import shutil

import pytest

from uenv_builder.app import lock as locking
from uenv_builder.app.lock_files import fresh_locks
from uenv_builder.app.recipes import load_recipe
from uenv_builder.app.session import Session
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.errors import IncompatibleError
from uenv_command import ROOT

GH200 = load_uarchs()["gh200"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "recipe"
    shutil.copytree(ROOT / "recipes/pytorch/2.14", folder)
    return folder / "recipe.yaml"


def problems(path):
    locks, found = fresh_locks(load_recipe(path))
    return list(locks), [(one.rule, one.severity) for one in found]


def test_which_locks_fit(recipe):
    lock = recipe.parent / "gh200.lock.yaml"
    assert problems(recipe) == (["gh200"], [])
    text = lock.read_text()
    lock.write_text(text[: len(text) // 2])
    assert problems(recipe) == ([], [("lock-invalid", "warning")])
    lock.write_bytes(b"\xff")
    assert problems(recipe) == ([], [("lock-invalid", "warning")])
    lock.write_text(text)
    recipe.write_text(recipe.read_text().replace("suite: trixie", "suite: bookworm"))
    assert problems(recipe) == ([], [("lock-stale", "note")])
    lock.unlink()
    assert problems(recipe) == ([], [])


def test_a_lock_that_rules_refuse_is_not_written(recipe, monkeypatch):
    loaded = load_recipe(recipe)
    old = fresh_locks(loaded)[0]["gh200"]
    before = loaded.lock_path("gh200").read_bytes()
    cpu = old.model_copy(update={"accelerator": old.accelerator.model_copy(update={"variant": "cpu"})})
    monkeypatch.setattr(locking, "make_lock", lambda *_, **__: cpu)
    with pytest.raises(IncompatibleError) as caught:
        locking.write_lock(Session(), loaded, GH200)
    assert [found.rule for found in caught.value.diagnostics] == ["torch-cpu-wheel"]
    assert loaded.lock_path("gh200").read_bytes() == before


def test_nothing_is_resolved_for_a_recipe_that_rules_refuse(recipe, monkeypatch):
    recipe.write_text(recipe.read_text().replace('torch: "2.14.1"', 'torch: "2.9.0"'))
    monkeypatch.setattr(locking, "make_lock", lambda *_, **__: pytest.fail("asked the mirrors"))
    with pytest.raises(IncompatibleError):
        locking.write_lock(Session(), load_recipe(recipe), GH200)
