"""No recipe, whatever stands in it, makes the check fail in another way than by a finding."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uenv_builder.app.checking import find_in_recipe
from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.systems import load_uarchs, system_names
from uenv_builder.core.variables import family_prefixes, load_family
from uenv_builder.model.errors import RecipeError
from uenv_builder.model.recipe import Pins
from uenv_builder.model.system import NETWORK_MODES

VERSIONS = st.sampled_from(
    [
        "1",
        "2.6.0",
        "2.14.1",
        "2.15.0+cu130",
        "13.0",
        "12.8",
        "2.30.7",
        "1.20.0",
        "1.20.0-aws",
        "3.13",
        "3.9",
        "0",
        "9999.1",
    ]
) | st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,2}){0,3}(rc1|\.post1|\+x)?\Z")
NAMES = st.sampled_from(sorted(name for prefix in family_prefixes() for name in load_family(prefix).variables))
WORDS = st.text(max_size=20)
VALUES = st.sampled_from(
    ["", "0", "1", "-1", "LL128", "^LL128", "alt_read", "cxi", "^cxi", "128K", '"x"', "$(id)", "ofi"]
)
BASES = st.one_of(
    st.sampled_from(["trixie", "bookworm"]).map(lambda suite: {"debian": {"suite": suite, "packages": ["bash"]}}),
    st.fixed_dictionaries(
        {"oci": st.fixed_dictionaries({"image": st.sampled_from(
            ["nvcr.io/nvidia/pytorch:26.06-py3", "alpine", "ubuntu:24.04", "a/b@sha256:" + "0" * 64, "x:latest"]
        )})}
    ),
)  # fmt: skip
RECIPES = st.fixed_dictionaries(
    {
        "name": st.just("demo"),
        "version": st.just("1.0"),
        "description": st.just("a demonstration"),
        "targets": st.lists(
            st.fixed_dictionaries(
                {"system": st.sampled_from(sorted(system_names())), "uarch": st.sampled_from(sorted(load_uarchs()))}
            ),
            min_size=1, max_size=3,
        ),
        "base": BASES,
        "network": st.sampled_from(NETWORK_MODES),
        "pins": st.dictionaries(st.sampled_from(sorted(Pins.model_fields)), VERSIONS),
    },
    optional={
        "env": st.dictionaries(NAMES | WORDS, VALUES | WORDS, max_size=4),
        "python": st.fixed_dictionaries(
            {"requirements": st.lists(st.sampled_from(
                ["torch==2.9.0", "nvidia-nccl-cu12==2.29.7", "nvidia-nccl-cu13>=2", "torch @ file:///x", "x[y]"]
            ), max_size=3)}
        ),
        "edf": st.fixed_dictionaries(
            {}, optional={"env": st.dictionaries(NAMES, VALUES, max_size=3),
                          "annotations": st.dictionaries(WORDS, WORDS, max_size=3),
                          "mounts": st.lists(WORDS, max_size=3)}
        ),
        "accept": st.dictionaries(st.sampled_from(["known-bad", "base-digest", "nothing"]), WORDS),
    },
)  # fmt: skip
QUICKLY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def check(path):
    try:
        loaded = load_recipe(path)
    except RecipeError:
        return []
    found = find_in_recipe(loaded, {})
    assert all(one.message and one.rule for one in found)
    return found


@QUICKLY
@given(recipe=RECIPES)
def test_recipes_made_of_all_kinds_of_values(tmp_path, recipe):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    check(path)


@QUICKLY
@given(content=st.binary(max_size=200) | st.text(alphabet="abc:-[]{}#&*!|>'\"%@` \n\t0", max_size=80).map(str.encode))
def test_files_of_any_bytes(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    check(path)


def test_such_recipes_do_reach_the_rules(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({
        "name": "demo", "version": "1.0", "description": "d", "targets": [{"system": "daint", "uarch": "gh200"}],
        "base": {"debian": {"suite": "trixie", "packages": ["bash"]}}, "network": "hook-artifact",
        "pins": {"pytorch": "2.9.0", "cuda": "13.0"},
    }), encoding="utf-8")  # fmt: skip
    assert "torch-cpu-wheel" in {one.rule for one in check(path)}
