"""Plans: what changes a step's id, and what does not."""

from dataclasses import replace

import pytest

from uenv_builder.core.lock_file import dump_lock, parse_lock, recipe_digest
from uenv_builder.core.planning import AddedContent, PlanInputs, make_plan
from uenv_builder.core.recipe_reader import evaluate
from uenv_builder.core.yaml_tree import read_yaml
from uenv_builder.model.errors import LockError
from uenv_builder.model.image import ImageConfig
from uenv_builder.model.lock import (
    Lock,
    LockedDeb,
    LockedPython,
    LockedRecipe,
    LockedRelease,
    LockedTarget,
    LockedUserland,
    LockedWheel,
)
from uenv_builder.model.start import StartFile, StartRecord
from uenv_builder.model.system import Uarch

UARCH = Uarch(name="x86_64", machine="x86_64", debian="amd64", oci="amd64", multiarch="x86_64-linux-gnu")
RECIPE = evaluate(
    read_yaml(
        b'{name: demo, version: "1", description: d, targets: [{system: s, uarch: x86_64}],'
        b' base: {debian: {suite: trixie}}, pins: {python: "3.13"}, python: {requirements: [numpy]}}',
        "recipe.yaml",
    )
).recipe


def deb(name: str, digit: str) -> LockedDeb:
    return LockedDeb(
        name=name, version="1.0-1", architecture="amd64", suite="trixie", path=f"pool/{name}.deb", size=7,
        sha256=digit * 64,
    )  # fmt: skip


def wheel(name: str, digit: str) -> LockedWheel:
    return LockedWheel(name=name, version="2.0", file=f"{name}-2.0-py3-none-any.whl", size=9, sha256=digit * 64)


LOCK = Lock.model_validate(
    {
        "lock-format": 1,
        "recipe": LockedRecipe(name="demo", version="1", digest=recipe_digest(RECIPE, UARCH)),
        "target": LockedTarget(uarch="x86_64", debian="amd64"),
        "epoch": 1_760_000_000,
        "userland": LockedUserland(
            releases=(LockedRelease(suite="trixie", date="2025-10-09T08:53:20+00:00", sha256="e" * 64),),
            packages=(deb("bash", "a"), deb("python3.13-minimal", "b")),
            compilers={"amd64": (deb("python3.13-minimal", "b"),)},
        ),
        "python": LockedPython(
            version="3.13", platform="manylinux_2_41", wheels=(wheel("numpy", "c"), wheel("six", "d"))
        ),
    }
)
INPUTS = PlanInputs(
    recipe=RECIPE,
    lock=LOCK,
    uarch=UARCH,
    config=ImageConfig(architecture="amd64", env={"PATH": "/usr/bin"}, workdir="/"),
    added=(),
    generated={"etc/environment": ("PATH=/usr/bin\n", 0o644)},
    tools={"squashfs": {"writer": "4.6"}},
)


def ids(inputs: PlanInputs) -> dict[str, str]:
    return {step.name: step.id for step in make_plan(inputs).steps}


def changed(inputs: PlanInputs) -> set[str]:
    before, after = ids(INPUTS), ids(inputs)
    return {name for name in after if after[name] != before.get(name)}


LOADER, FINISH = "loader cache", "environment and start scripts"
IMAGES = {"image.squashfs", "OCI image layout"}


def test_the_ids_of_this_plan_are_known():
    # These change only when somebody means to invalidate every stored layer and image.
    expected = "627893e7c38829ea"
    assert make_plan(INPUTS).id[:16] == expected


def test_each_step_comes_after_its_inputs():
    done: set[str] = set()
    for step in make_plan(INPUTS).steps:
        assert set(step.inputs) <= done
        done.add(step.id)


def test_one_changed_wheel_leaves_the_other_layers_alone():
    wheels = (wheel("numpy", "c"), wheel("six", "f"))
    lock = LOCK.model_copy(update={"python": LOCK.python.model_copy(update={"wheels": wheels})})
    assert changed(replace(INPUTS, lock=lock)) == {"six 2.0", LOADER, FINISH, *IMAGES}


def test_a_changed_variable_leaves_the_layers_alone():
    config = replace(INPUTS.config, env={"PATH": "/bin"})
    assert changed(replace(INPUTS, config=config, generated={"etc/environment": ("PATH=/bin\n", 0o644)})) == {
        FINISH,
        *IMAGES,
    }


def test_another_squashfs_tool_changes_the_squashfs_alone():
    assert changed(replace(INPUTS, tools={"squashfs": {"writer": "4.7"}})) == {"image.squashfs"}


def test_an_added_file_is_a_layer_of_its_own():
    added = (AddedContent(path="/etc/motd", mode="0644", sha256="9" * 64, size=3),)
    assert "files of the recipe" in changed(replace(INPUTS, added=added))


def test_a_new_epoch_leaves_wheels_alone():
    lock = LOCK.model_copy(update={"epoch": 1_770_000_000})
    assert not {"numpy 2.0", "six 2.0"} & changed(replace(INPUTS, lock=lock))


def test_a_lock_survives_its_file():
    text = dump_lock(LOCK)
    assert parse_lock(text, "x86_64.lock.yaml") == LOCK
    assert dump_lock(parse_lock(text, "x")) == text


@pytest.mark.parametrize("text", ["", "[]", "a: [", "<<<<<<< HEAD\n", "lock-format: 2\n"])
def test_what_is_not_a_lock(text):
    with pytest.raises(LockError) as caught:
        parse_lock(text, "gh200.lock.yaml")
    assert "gh200.lock.yaml" in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_damaged_hash_in_a_lock_is_named():
    with pytest.raises(LockError, match=r"userland\.packages\.0\.sha256"):
        parse_lock(dump_lock(LOCK).replace("a" * 64, "a" * 63), "x")


def test_the_recipe_digest_changes_with_requests_only():
    same = RECIPE.model_copy(update={"env": {"A": "b"}, "description": "other"})
    other = RECIPE.model_copy(update={"python": RECIPE.python.model_copy(update={"requirements": ["numpy<2"]})})
    assert recipe_digest(same, UARCH) == recipe_digest(RECIPE, UARCH)
    assert recipe_digest(other, UARCH) != recipe_digest(RECIPE, UARCH)


def test_a_recorded_start_changes_the_squashfs_alone():
    plain = {step.kind: step.id for step in make_plan(INPUTS).steps}
    one, same, other = (
        {step.kind: step.id for step in make_plan(replace(INPUTS, start=record)).steps}
        for record in (
            StartRecord((StartFile("a"), StartFile("b"))),
            StartRecord((StartFile("a"), StartFile("b")), repeated=("a",)),
            StartRecord((StartFile("b"), StartFile("a"))),
        )
    )
    assert {kind for kind in plain if plain[kind] != one[kind]} == {"squashfs"}
    assert one == same
    assert one["squashfs"] != other["squashfs"]
