"""Why a step's id is another one than in the plan of a build."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from uenv_builder.core.digest import Json
from uenv_builder.core.plan_changes import find_changes, plan_document, read_plan
from uenv_builder.core.plan_steps import make_step
from uenv_builder.model.plan import Plan

TOOLS = {"wheel": {"zstd": "1.5.7"}}


def small_plan(
    *, version: str = "2.5.5", env: dict[str, str] | None = None, tools=TOOLS, debs: int = 2, more: bool = False
) -> Plan:
    userland = make_step(
        TOOLS, "userland", f"Debian userland, {debs} packages", {"debs": [f"{deb:064x}" for deb in range(debs)]}
    )
    wheels = [make_step(tools, "wheel", f"numpy {version}", {"file": f"numpy-{version}.whl", "sha256": version})]
    if more:
        wheels.append(make_step(tools, "wheel", "mpi4py 4.1", {"file": "mpi4py.whl", "sha256": "a"}))
    text = "".join(f"{name}={value}\n" for name, value in (env or {}).items())
    options: Json = {"generated": {"etc/environment": [text, "644"]}}
    finish = make_step(TOOLS, "finish", "environment", options, [userland, *wheels])
    config: Json = {"env": env or {}}
    oci = make_step(TOOLS, "oci", "OCI image layout", {"config": config}, [userland, *wheels, finish])
    return Plan(id="x", steps=(userland, *wheels, finish, oci))


def changes(before: Plan, now: Plan) -> dict[str, list[str]]:
    return {step.name: found for step in now.steps if (found := find_changes(step, now, before))}


def test_the_same_plan_has_no_changes():
    assert changes(small_plan(), small_plan()) == {}


def test_a_new_variable_is_named_with_what_follows_from_it():
    before, now = small_plan(env={"A": "1"}), small_plan(env={"A": "1", "B": "2"})
    assert changes(before, now) == {
        "environment": ["generated.etc/environment: new: B=2"],
        "OCI image layout": ["config.env.B: new: 2", "made from: environment"],
    }


def test_a_changed_and_a_dropped_variable():
    found = changes(small_plan(env={"A": "1", "B": "2"}), small_plan(env={"A": "3"}))
    assert found["OCI image layout"] == [
        "config.env.A: 3 instead of 1", "config.env.B: gone", "made from: environment"
    ]  # fmt: skip
    assert found["environment"] == ["generated.etc/environment: 1 of 1 are new, 2 of 2 are gone"]


def test_a_bumped_wheel_is_compared_with_its_earlier_version():
    found = changes(small_plan(), small_plan(version="2.6.0"))
    assert found == {
        "numpy 2.6.0": ["numpy 2.5.5 before"],
        "environment": ["made from: numpy 2.6.0"],
        "OCI image layout": ["made from: numpy 2.6.0, environment"],
    }


def test_a_wheel_more_and_a_wheel_less():
    one, two = small_plan(), small_plan(more=True)
    assert changes(one, two)["mpi4py 4.1"] == ["new in the plan"]
    assert changes(two, one)["environment"] == ["no longer made from: mpi4py 4.1"]


def test_hashes_are_counted_not_shown():
    assert changes(small_plan(), small_plan(debs=3))["Debian userland, 3 packages"] == [
        "Debian userland, 2 packages before", "debs: 1 of 3 are new, 0 of 2 are gone"
    ]  # fmt: skip


def test_another_tool():
    now = small_plan(tools={"wheel": {"zstd": "1.6.0"}})
    assert changes(small_plan(), now)["numpy 2.5.5"] == ["zstd: 1.6.0 instead of 1.5.7"]


def test_equal_inputs_with_another_id_are_the_builders_own_change():
    before = small_plan()
    steps = (replace(before.steps[0], id="0" * 64), *before.steps[1:])
    found = find_changes(before.steps[0], before, Plan(id="y", steps=steps))
    assert found == ["made by another version of the builder"]


def test_another_order_is_told():
    now = small_plan(more=True)
    finish = now.steps[3]
    turned = replace(finish, id="0" * 64, inputs=finish.inputs[::-1])
    before = Plan(id="y", steps=(*now.steps[:3], turned))
    assert find_changes(finish, now, before) == ["another order of what it is made from"]


def test_a_plan_comes_back_from_its_file():
    plan = small_plan(env={"A": "ä\n"}, more=True)
    assert read_plan(json.dumps(plan_document(plan))) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "id": "x", "steps": [{"id": 1}]}'])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        read_plan(text)
