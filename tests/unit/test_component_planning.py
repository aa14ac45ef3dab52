"""Only a component's real inputs decide whether it is compiled again."""

from dataclasses import replace

import pytest

from uenv_builder.app.component_locking import lock_build
from uenv_builder.core.component_choice import choose_components
from uenv_builder.core.component_planning import PlannedComponent, plan_components
from uenv_builder.core.component_reader import read_component
from uenv_builder.core.component_toolchain import Toolchain
from uenv_builder.core.recipe_reader import evaluate
from uenv_builder.core.systems import load_uarchs
from uenv_builder.core.yaml_tree import read_yaml
from uenv_builder.model.lock import LockedDeb

GH200 = load_uarchs()["gh200"]
RECIPE = b"""\
{name: demo, version: "1", description: d, targets: [{system: s, uarch: gh200}], base: {debian: {suite: trixie}},
 components: {top: {}, other: {}}}
"""


def component(name, **more):
    text = f"""\
name: {name}
description: one
versions: {{"1": {{sources: [{{archive: ["https://example.org/{name}"], sha256: "{name.encode().hex():0>64}"}}]}}}}
"""
    text += "".join(f"{key}: {value}\n" for key, value in more.items())
    return read_component(text.encode(), "component.yaml", folder=name)


PARTS = {
    "base": component("base", build="{tools: [m4], libraries: [libz-dev]}", run_packages="[libz]"),
    "top": component("top", needs="{components: [base]}"),
    "other": component("other", cross="false"),
}
CHOSEN = choose_components(evaluate(read_yaml(RECIPE, "recipe.yaml")), PARTS.get).chosen


def resolver(versions):
    """Answers with just what is asked for; `versions` says which packages are newer than 1."""

    def resolve(architecture, packages, keep):
        return tuple(
            LockedDeb(
                name=name, version=keep.get(name, versions.get(name, "1")), architecture=architecture, suite="trixie",
                path=f"pool/{name}", size=1,
                sha256=f"{(architecture + name + keep.get(name, versions.get(name, '1'))).encode().hex():0>64}"[-64:],
            )
            for name in packages
        )  # fmt: skip

    return resolve


class Case:
    """A lock and planned components; changes make other cases of it."""

    def __init__(self, *, versions=None, image=(), crossed="amd64", scripts=None, patches=None, debug=()):
        build = lock_build(CHOSEN, GH200, resolver(versions or {}), image=image, older=())
        self.build = build
        planned = [
            PlannedComponent(
                chosen=replace(one, debug=one.name in debug),
                crossed_on=crossed if one.recipe.cross else None,
                script=(scripts or {}).get(one.name, "make"),
                patches=(patches or {}).get(one.name, {}),
            )
            for one in CHOSEN
        ]
        lock = type("Lock", (), {"build": build})
        self.steps = plan_components(planned, lock, GH200, {}, {})

    @property
    def ids(self):
        return {step.name.split()[0]: step.id for step in self.steps.layers}


def changed(**changes):
    before, after = Case().ids, Case(**changes).ids
    return {name for name in after if before.get(name) != after[name]}


def test_needs_come_before_and_are_inputs():
    steps = Case().steps
    assert [step.name for step in steps.layers] == ["base 1", "top 1", "other 1"]
    base, top, other = steps.layers
    assert base.id in top.inputs
    assert base.id not in other.inputs


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"scripts": {"other": "make all"}}, ["other"]),
        ({"scripts": {"base": "make all"}}, ["base", "top"]),
        ({"patches": {"top": {"a.patch": "0" * 64}}}, ["top"]),
        ({"versions": {"m4": "2"}}, ["base", "top"]),
        ({"versions": {"gcc": "2"}}, ["other"]),
        ({"versions": {"gcc-aarch64-linux-gnu": "2"}}, ["base", "top"]),
        ({"versions": {"less": "2"}}, []),
        ({"crossed": None}, ["base", "top"]),
        ({"debug": ("top",)}, ["debug", "top"]),
    ],
    ids=str,
)
def test_what_is_compiled_again(changes, again):
    assert sorted(changed(**changes)) == again


def test_packages_have_the_images_versions_and_those_of_what_is_linked_with():
    zlib = LockedDeb(name="libz", version="7", architecture="arm64", suite="s", path="pool/z", size=1, sha256="7" * 64)
    build = Case(image=[zlib]).build
    assert {deb.version for deb in build.packages if deb.name == "libz"} == {"7"}
    base, top, other = build.components
    assert set(base.sysroot) == {"libz", "libz-dev"}
    assert base.cross == {"amd64": ("m4",)}
    assert top.sysroot == ("libz",)
    assert (other.cross, other.sysroot) == ({}, ())


def test_a_build_script_finds_the_compilers_of_the_images_machine():
    crossed = Toolchain(
        debian="arm64", crossed_on="amd64", prefix="/opt/x", shown="/usr/src/x", python="3.13", debug=False
    )
    found = crossed.variables(jobs=3, epoch=7)
    assert found["CC"] == "aarch64-linux-gnu-gcc"
    assert "--host=aarch64-linux-gnu" in found["CONFIGURE_FLAGS"]
    assert "--build=x86_64-linux-gnu" in found["CONFIGURE_FLAGS"]
    assert found["SOURCE_DATE_EPOCH"] == "7"
    assert set(crossed.wrappers()) >= {found["CC"], found["CXX"]}
    assert "--sysroot=/sysroot" in crossed.wrappers()["aarch64-linux-gnu-g++"]
    own = replace(crossed, crossed_on=None)
    assert "--sysroot" not in own.wrappers()["gcc"]
    assert own.variables(jobs=3, epoch=7)["WHEELS"] == "/usr/local/lib/python3.13/dist-packages"
