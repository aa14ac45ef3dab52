from __future__ import annotations

import re

import pytest

from uenv_builder.core.environment import check_environment
from uenv_builder.core.systems import (
    load_system,
    load_systems,
    load_uarchs,
    parse_system,
    parse_uarchs,
    system_names,
)
from uenv_builder.model.errors import RecipeError, UsageError
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems

SYSTEMS = load_systems()
MODES = [(name, mode) for name, system in SYSTEMS.items() for mode in system.networks]


def test_the_known_systems_are_those_that_recipes_name():
    assert list(SYSTEMS) == ["clariden", "daint", "generic-aarch64", "generic-gh200", "generic-x86_64"]
    assert list(load_uarchs()) == ["gh200", "aarch64", "x86_64"]


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_every_system_has_sources_a_contract_and_known_nodes(system):
    assert system.sources
    assert re.fullmatch(r"[a-z0-9-]+/[0-9]+", system.contract)
    assert set(system.uarchs) <= set(load_uarchs())
    assert system.networks
    for table in (system.env, system.annotations, system.sarus_annotations, system.hook_libraries):
        assert set(table) <= set(system.networks)
    assert set(system.launch.network_srun) <= set(system.networks)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_contract_variables_reach_every_engine_unchanged(name, mode):
    assert check_environment(SYSTEMS[name].env.get(mode, {})) == []


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_contracts_keep_the_rules_of_slingshot(name, mode):
    system, env = SYSTEMS[name], SYSTEMS[name].env.get(mode, {})
    assert "NCCL_NET_PLUGIN" not in env
    if "gh200" in system.uarchs:
        assert env["NVIDIA_VISIBLE_DEVICES"] == "all"
        if mode != "none":
            assert env["NCCL_PROTO"] == "^LL128"
            assert system.launch.network_srun[mode] == ("--network=disable_rdzv_get",)
    if env.get("FI_CXI_RDZV_PROTO") == "alt_read":
        assert {env[f"FI_CXI_RDZV_{name}"] for name in ("EAGER_SIZE", "GET_MIN", "THRESHOLD")} == {"0"}
    for name, value in env.items():
        if name.startswith("FI_") and re.match("[0-9]", value):
            assert value.isdigit(), f"{name}: libfabric reads no suffixes"


@pytest.mark.parametrize("name", ["daint", "clariden"])
def test_hooks_and_a_stack_in_the_image_exclude_each_other(name):
    system = SYSTEMS[name]
    assert system.annotations["image"] == {"com.hooks.cxi.enabled": "false"}
    assert system.annotations["hook-artifact"]["com.hooks.netstack.source"] == "artifact"
    assert system.annotations["hook-host"]["com.hooks.aws_ofi_nccl.variant"] == "cuda-dl"
    for mode in ("hook-artifact", "hook-host"):
        assert system.sarus_annotations[mode]["com.hooks.cxi.enabled"] == "true"
        assert "NCCL_NET" not in system.env[mode], "the hook sets it"
        assert "libfabric.so.1" in system.hook_libraries[mode]
    assert system.env["image"]["NCCL_NET"] == "AWS Libfabric"
    assert "libcuda.so.1" in system.driver_libraries
    assert system.launch.ranks_per_node * system.launch.cpus_per_rank == 288


def read_from(files: dict[str, str]):
    return lambda name: (files[name].encode(), f"{name}.yaml")


BASE = """\
name: base
description: d
uarchs: [gh200]
networks: [none]
launch: {ranks_per_node: 4, cpus_per_rank: 72}
variables:
  A: {values: {none: "1"}, reason: why, source: where}
  B: {values: {none: "2"}, reason: why, source: where, others: {"4": someone}}
sources: [one]
"""


def test_a_system_extends_another():
    system = parse_system(
        "x",
        read_from({"base": BASE, "x": "extends: base\nname: x\nvariables: {B: {values: {none: '3'}}}\nsources: [two]"}),
    )
    assert system.name == "x"
    assert system.env == {"none": {"A": "1", "B": "3"}}
    assert system.sources == ("one", "two")


def test_systems_that_extend_each_other_end_in_an_error():
    files = {"a": "extends: b\nname: a", "b": "extends: a\nname: b"}
    with pytest.raises(RecipeError, match="extend each other"):
        parse_system("a", read_from(files))


def test_errors_name_file_and_line():
    with pytest.raises(RecipeError, match=r'base\.yaml:4:\d+: .*"networks\.0"'):
        parse_system("base", read_from({"base": BASE.replace("[none]", "[wifi]")}))
    with pytest.raises(RecipeError, match=r'base\.yaml:10:1: .*unknown key "lauch"\n  hint: did you mean "launch"'):
        parse_system("base", read_from({"base": BASE + "lauch: 1\n"}))
    with pytest.raises(RecipeError, match='its name is "base"'):
        parse_system("other", read_from({"other": BASE}))
    with pytest.raises(RecipeError, match=r'u\.yaml:1:4.*"x\.machine": field required'):
        parse_uarchs(b"x: 5\n", "u.yaml")
    with pytest.raises(RecipeError, match=r'base\.yaml:7:22: .*"variables\.A\.values\.none".*string\n  hint: .*quotes'):
        parse_system("base", read_from({"base": BASE.replace('"1"', "1")}))


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("reason: why, source: where}", "source: where}", "7:6", 'error[system]: "variables.A.reason": field required'),
        ("reason: why,", 'reason: "",', "7:36", '"variables.A.reason": string should have at least 3'),
        ("others:", "other:", "8:56", 'error[unknown-key]: unknown key "variables.B.other"'),
        ('{"4": someone}', '{"2": someone}', "8:6", 'others have "2"'),
        ("  A:", "  1A:", None, "variables.1A"),
        ('none: "1"', 'none: "${HOME}"', "7:22", "error[env-expansion]: A: the value holds ${"),
        ('none: "1"', 'none: "a\\nB=2"', "7:22", "error[env-control]"),
        ('none: "1"}', 'none: "1"}, unset: [none]', "7:6", "has a value and is unset in none"),
    ],
)
def test_a_variable_needs_its_story_and_a_value_that_engines_keep(old, new, place, message):
    with pytest.raises(RecipeError) as caught:
        parse_system("base", read_from({"base": BASE.replace(old, new, 1)}))
    assert message in str(caught.value)
    assert "hint: " in str(caught.value)
    assert place is None or f"base.yaml:{place}: " in str(caught.value)


SITE = """extends: generic-gh200
name: alpine
description: our own
driver: "570.1"
variables:
  NCCL_CROSS_NIC: {values: {image: "2"}, reason: measured here, source: our notes}
"""


def site(**files: str):
    return {name: (text.encode(), f"/site/{name}.yaml") for name, text in files.items()}


def test_a_site_s_system_stands_on_a_packaged_one():
    extra = site(alpine=SITE)
    alpine = load_system("alpine", extra)
    assert (alpine.name, alpine.driver, alpine.slingshot) == ("alpine", "570.1", SYSTEMS["generic-gh200"].slingshot)
    assert alpine.env["image"] == {**SYSTEMS["generic-gh200"].env["image"], "NCCL_CROSS_NIC": "2"}
    assert alpine.variables["NCCL_CROSS_NIC"].reason == "measured here"
    assert system_names(extra) == tuple(sorted([*SYSTEMS, "alpine"]))
    assert load_systems(extra) == dict(sorted({**SYSTEMS, "alpine": alpine}.items()))
    assert "alpine" not in load_systems()


def test_a_site_s_system_of_the_same_name_stands_in_place_and_may_extend_what_it_replaces():
    extra = site(daint="extends: daint\nname: daint\ndriver: '600.1'\n")
    daint = load_system("daint", extra)
    assert daint.driver == "600.1"
    assert daint.model_copy(update={"driver": SYSTEMS["daint"].driver}) == SYSTEMS["daint"]
    assert load_system("clariden", extra).driver == "600.1", "what stands on it follows"
    assert load_system("daint").driver == SYSTEMS["daint"].driver


def test_only_the_system_that_is_asked_for_is_read():
    extra = site(alpine=SITE, broken="name: [")
    assert load_system("alpine", extra).name == "alpine"
    with pytest.raises(RecipeError, match=r"/site/broken\.yaml:2:"):
        load_systems(extra)


def test_a_changed_site_file_is_read_again():
    assert load_system("alpine", site(alpine=SITE)).driver == "570.1"
    assert load_system("alpine", site(alpine=SITE.replace("570.1", "575.2"))).driver == "575.2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SITE.replace("generic-gh200", "generic-gh20"),
            '/site/alpine.yaml:1:10: error[system-extends]: system "alpine"',
        ),
        (SITE.replace("driver", "drivers"), '/site/alpine.yaml:4:1: error[unknown-key]: unknown key "drivers"'),
        (SITE.replace("name: alpine", "name: other"), "/site/alpine.yaml:2:7: error[system-name]"),
        (SITE + "driver: '1'\n", "/site/alpine.yaml:7:1: error[duplicate-key]"),
        ("", "/site/alpine.yaml:1:1: error[empty]"),
        ("extends: alpine\nname: alpine\n", "/site/alpine.yaml:1:10: error[system-extends]"),
    ],
)
def test_what_is_wrong_with_a_site_s_file_has_place_and_remedy(text, message):
    with pytest.raises(RecipeError) as caught:
        load_system("alpine", site(alpine=text))
    assert str(caught.value).startswith(message)
    assert "\n  hint: " in str(caught.value)


def test_a_system_that_nobody_knows():
    with pytest.raises(RecipeError, match=r'unknown system "dait"\n  hint: did you mean "daint"'):
        load_system("dait")


def test_folders_of_systems_are_read_by_name(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    (one / "alpine.yaml").write_text(SITE)
    (one / "README.md").write_text("no system")
    (one / ".hidden.yaml").write_text("no system")
    (two / "daint.yaml").write_text("extends: daint\nname: daint\n")
    found = read_site_systems([str(one), "", str(two), str(one)])
    assert found["alpine"] == (SITE.encode(), str(one / "alpine.yaml"))
    assert sorted(found) == ["alpine", "daint"]
    (two / "alpine.yaml").write_text(SITE)
    with pytest.raises(RecipeError, match=r"two/alpine\.yaml:1:1: error\[duplicate-system\].*one/alpine\.yaml"):
        read_site_systems([str(one), str(two)])
    with pytest.raises(UsageError, match=r"three cannot be read: No such file.*\n  hint: .*UENV_SYSTEM_PATH"):
        read_site_systems([str(tmp_path / "three")])


def test_settings_and_the_environment_name_folders_of_systems(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("UENV_SITE_CONFIG", str(tmp_path / "site.toml"))
    (tmp_path / "site.toml").write_text('systems = ["/srv/systems"]\n')
    assert load_settings().systems == ("/srv/systems",)
    monkeypatch.setenv("UENV_SYSTEM_PATH", "/a:/b")
    assert load_settings().systems == ("/a", "/b")
