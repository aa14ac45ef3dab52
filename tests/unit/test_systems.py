from __future__ import annotations

import re

import pytest

from uenv_builder.core.environment import check_environment
from uenv_builder.core.systems import load_systems, load_uarchs, parse_system, parse_uarchs
from uenv_builder.model.errors import RecipeError

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
env: {none: {A: "1", B: "2"}}
sources: [one]
"""


def test_a_system_extends_another():
    system = parse_system(
        "x", read_from({"base": BASE, "x": "extends: base\nname: x\nenv: {none: {B: '3'}}\nsources: [two]"})
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
    with pytest.raises(RecipeError, match=r'base\.yaml:8:.*"lauch": extra .*\n  hint: did you mean "launch"'):
        parse_system("base", read_from({"base": BASE + "lauch: 1\n"}))
    with pytest.raises(RecipeError, match='its name is "base"'):
        parse_system("other", read_from({"other": BASE}))
    with pytest.raises(RecipeError, match=r'u\.yaml:1:4.*"x\.machine": field required'):
        parse_uarchs(b"x: 5\n", "u.yaml")
    with pytest.raises(RecipeError, match=r'"env\.none\.A".*string'):
        parse_system("base", read_from({"base": BASE.replace('"1"', "1")}))
