from __future__ import annotations

import pytest

from uenv_builder.core.environment import check_environment, compose_environment
from uenv_builder.core.systems import load_systems
from uenv_builder.model.errors import IncompatibleError, Position

DAINT = load_systems()["daint"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("A", ""),
        ("A", "a b  c"),
        ("A", "a#b"),
        ("A", "it's"),
        ("A", 'one"'),
        ("A", "^LL128"),
        ("A", "100$"),
        ("_x9", "ü"),
        ("PATH", "/opt/a b/bin:/usr/bin"),
    ],
)
def test_values_that_every_engine_keeps(name, value):
    assert check_environment({name: value}) == []


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("1A", "x", "env-name"),
        ("A-B", "x", "env-name"),
        ("A B", "x", "env-name"),
        ("", "x", "env-name"),
        ("A\n", "x", "env-name"),
        ("ENROOT_X", "x", "env-reserved"),
        ("A", "a\nINJECT=1", "env-control"),
        ("A", "a\0", "env-control"),
        ("A", "a\tb", "env-control"),
        ("A", "\ud800", "env-control"),
        ("A", "x${HOME}", "env-expansion"),
        ("A", "$(id)", "env-expansion"),
        ("A", "`id`", "env-expansion"),
        ("A", "'quoted'", "env-quotes"),
        ("A", "\"mixed'", "env-quotes"),
        ("NCCL_NET", '"AWS Libfabric"', "env-quotes"),
        ("A", " x", "env-blank"),
        ("A", "x ", "env-blank"),
        ("PATH", "/usr/bin:", "env-path"),
        ("PATH", "/usr/bin:bin", "env-path"),
        ("PATH", "/opt/bin", "env-path"),
    ],
)
def test_values_that_engines_would_change(name, value, rule):
    assert rule in {finding.rule for finding in check_environment({name: value}) if finding.severity == "error"}


def test_a_bare_variable_is_a_warning():
    (finding,) = check_environment({"A": "$HOME/x"})
    assert (finding.rule, finding.severity) == ("env-literal", "warning")


def test_findings_stand_at_their_place():
    place = Position("recipe.yaml", 4, 3)
    (finding,) = check_environment({"1A": "x"}, lambda name: place if name == "1A" else None)
    assert finding.position == place
    assert finding.hint


def test_the_order_is_path_language_contract_recipe():
    env = compose_environment(DAINT, "hook-artifact", {"Z": "1", "B": "2", "CUDA_CACHE_DISABLE": "0"})
    names = list(env)
    assert names[:2] == ["PATH", "LANG"]
    assert names[2:-2] == sorted(DAINT.env["hook-artifact"])
    assert names[-2:] == ["B", "Z"]
    assert env["LANG"] == "C.UTF-8"
    assert env["CUDA_CACHE_DISABLE"] == "0", "the recipe wins"
    assert check_environment(env) == []


def test_the_order_does_not_depend_on_the_recipe_s():
    one = compose_environment(DAINT, "image", {"A": "1", "B": "2"})
    other = compose_environment(DAINT, "image", {"B": "2", "A": "1"})
    assert list(one.items()) == list(other.items())


def test_search_paths_go_in_front():
    paths = {"PATH": ["/opt/t/bin"], "LD_LIBRARY_PATH": ["/opt/t/lib", "/opt/u/lib"]}
    env = compose_environment(DAINT, "none", {}, search_paths=paths)
    assert env["PATH"].startswith("/opt/t/bin:/usr/local/sbin:")
    assert env["LD_LIBRARY_PATH"] == "/opt/t/lib:/opt/u/lib"
    assert compose_environment(DAINT, "none", {"PATH": "/x:/bin"}, search_paths=paths)["PATH"] == "/x:/bin"


def test_a_mode_that_the_system_does_not_have():
    with pytest.raises(IncompatibleError, match="generic-x86_64 cannot run network mode image"):
        compose_environment(load_systems()["generic-x86_64"], "image", {})
