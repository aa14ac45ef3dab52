from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from pydantic import ValidationError

from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.facts import load_facts
from uenv_builder.core.lock_file import parse_lock
from uenv_builder.core.rules import stack_facts
from uenv_builder.core.rules.stack import RULES
from uenv_builder.core.rules.stories import load_chapter
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.verdicts import diagnose, is_incompatible, run_rules
from uenv_builder.core.systems import load_systems, load_uarchs
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.system import HookStack

ROOT = Path(__file__).resolve().parents[2]
FACT_FILES = {
    "cuda": stack_facts.CudaFile,
    "torch": stack_facts.TorchFile,
    "nccl_wheels": stack_facts.NcclFile,
    "base_images": stack_facts.BaseFile,
    "known_bad": stack_facts.KnownBadFile,
}
DIGEST = "@sha256:" + 64 * "a"
FITTING = {"python": "3.13", "cuda": "13.0", "nccl": "2.30.7", "pytorch": "2.14.1"}


def make_subject(
    pins=None,
    *,
    base=None,
    driver="590.48.01",
    uarch="gh200",
    system="daint",
    lock=None,
    slingshot=None,
    hooks=None,
    **fields,
):
    recipe = Recipe.model_validate(
        {
            "name": "mine", "version": "1.0", "description": "for a test",
            "targets": [{"system": system, "uarch": uarch}],
            "base": base or {"debian": {"suite": "trixie"}},
            "pins": FITTING if pins is None else pins,
            "network": "hook-artifact" if system == "daint" else "none",
            **fields,
        }
    )  # fmt: skip
    machine = load_systems()[system].model_copy(update={"driver": driver})
    if slingshot:
        machine = machine.model_copy(update={"slingshot": slingshot})
    if hooks is not None:
        machine = machine.model_copy(update={"hooks": {"hook-artifact": HookStack(**hooks)}})
    return Subject(recipe, machine, load_uarchs()[uarch], lock)


def make_lock(*, wheels=(), accelerator=None, libc6=None, python="3.13"):
    debs = [{"name": "libc6", "version": libc6}] if libc6 else []
    return Lock.model_validate_json(
        json.dumps(
            {
                "lock-format": 1,
                "recipe": {"name": "mine", "version": "1.0", "digest": 64 * "0"},
                "target": {"uarch": "gh200", "debian": "arm64"},
                "epoch": 1,
                "userland": {
                    "releases": [],
                    "packages": [
                        {**deb, "architecture": "arm64", "suite": "x", "path": "pool/x", "size": 1, "sha256": 64 * "0"}
                        for deb in debs
                    ],
                },
                "python": {
                    "version": python,
                    "platform": "p",
                    "wheels": [
                        {"name": file.split("-")[0].replace("_", "-"), "version": file.split("-")[1], "file": file,
                         "size": 1, "sha256": 64 * "0"}
                        for file in wheels
                    ],
                },
                "accelerator": accelerator,
            }
        )
    )  # fmt: skip


def oci(image, **fields):
    return {"oci": {"image": image, **fields}}


def find(subject):
    """All findings as (rule, path, severity), with the whole finding behind it."""
    found = []
    for rule, judge in RULES.items():
        for finding in judge(subject):
            severity = diagnose(rule, finding, lambda _: None).severity
            found.append((rule, finding.at, severity, finding))
    return found


def the_only(subject, rule, at, severity="error"):
    """The finding of `rule`, after making sure that there is one, at that place, and none of another rule."""
    found = find(subject)
    assert [entry[:3] for entry in found] == [(rule, at, severity)]
    return found[0][3]


def has_words(text, *words):
    for word in words:
        assert word in text, text
    return True


def test_a_fitting_stack_has_no_findings():
    assert find(make_subject()) == []


def test_every_rule_has_its_story_and_no_story_is_without_a_rule():
    assert list(load_chapter("stack").stories)
    assert set(load_chapter("stack").stories) == set(RULES)


def test_errors_of_the_stack_are_incompatibilities_and_not_mistakes_in_a_file():
    diagnostics = list(run_rules(RULES, make_subject({**FITTING, "nccl": "2.28.9"}), lambda _: None))
    assert is_incompatible(diagnostics)


# Driver and CUDA


@pytest.mark.parametrize(
    ("driver", "cuda", "floor"), [("570.124.06", "13.0", "580"), ("579.99", "13.3", "580"), ("520.61", "12.1", "525")]
)
def test_a_driver_below_the_floor_of_the_cuda_family_is_refused(driver, cuda, floor):
    finding = the_only(make_subject({"cuda": cuda}, driver=driver), "cuda-driver", ("pins", "cuda"))
    has_words(finding.message, f"CUDA {cuda}", f"driver {floor}", f"daint has {driver}")
    assert "minor-version-compatibility" in finding.source


def test_the_hint_for_an_old_driver_names_a_cuda_that_it_runs():
    finding = the_only(make_subject({"cuda": "13.0"}, driver="570.124.06"), "cuda-driver", ("pins", "cuda"))
    assert finding.hint == 'pin cuda: "12.8" or older'
    assert find(make_subject({"cuda": "12.8"}, driver="570.124.06")) == []
    exact = the_only(make_subject({"cuda": "13.0"}, driver="570.86.10"), "cuda-driver", ("pins", "cuda"))
    assert exact.hint == finding.hint


def test_a_driver_that_is_just_the_floor_is_enough():
    assert [entry[0] for entry in find(make_subject({"cuda": "13.0"}, driver="580"))] == ["cuda-minor-version"]
    assert [entry[0] for entry in find(make_subject({"cuda": "13.0"}, driver="579.9"))] == ["cuda-driver"]


def test_an_old_driver_under_a_torch_is_mended_by_a_build_for_an_older_cuda():
    old = {**FITTING, "nccl": None}
    finding = the_only(make_subject(old, driver="570.124.06"), "cuda-driver", ("pins", "cuda"))
    has_words(finding.hint, "CUDA 12.8", "+cu128")
    mended = {"python": "3.13", "cuda": "12.8", "pytorch": "2.10.0+cu128"}
    assert find(make_subject(mended, driver="570.124.06")) == []


def test_a_driver_older_than_the_toolkits_own_is_a_warning_with_a_torch_that_fits():
    pins = {**FITTING, "pytorch": "2.15.0", "cuda": "13.2"}
    finding = the_only(make_subject(pins), "cuda-minor-version", ("pins", "cuda"), "warning")
    has_words(finding.message, "CUDA 13.2", "595.45.04", "590.48.01")
    has_words(finding.hint, 'pin pytorch: "2.14.1" and cuda: "13.0"', "accept it")
    assert find(make_subject({**pins, "pytorch": "2.14.1", "cuda": "13.0"})) == []
    assert find(make_subject(pins, driver="595.45.04")) == []


def test_the_cuda_of_an_unlocked_torch_counts_where_none_is_pinned_and_points_at_torch():
    pins = {"python": "3.13", "pytorch": "2.15.0"}
    the_only(make_subject(pins), "cuda-minor-version", ("pins", "pytorch"), "warning")


@pytest.mark.parametrize("driver", [None, "unknown", "590.48.01"])
def test_an_unknown_driver_or_cuda_says_nothing(driver):
    assert find(make_subject({"cuda": "14.7"}, driver=driver)) == []
    assert find(make_subject({}, driver=driver)) == []


# Builds of torch for the CPU or for CUDA


@pytest.mark.parametrize("version", ["2.4.0", "2.8.0", "2.10.0", "2.14.1+cpu"])
def test_a_torch_for_the_cpu_on_nodes_with_gpus_is_refused_before_there_is_a_lock(version):
    pins = {"python": "3.12", "pytorch": version}
    finding = the_only(make_subject(pins, base={"debian": {"suite": "sid"}}), "torch-cpu-wheel", ("pins", "pytorch"))
    has_words(finding.message, f"torch {version}", "CPU alone", "GPUs (sm_90)")
    has_words(finding.hint, 'pin pytorch: "2.14.1"', "+cu130")


def test_the_hint_against_a_cpu_torch_mends_the_recipe_with_the_pins_that_have_to_follow():
    pins = {"python": "3.13", "pytorch": "2.9.1", "cuda": "12.8", "nccl": "2.27.5"}
    finding = the_only(make_subject(pins), "torch-cpu-wheel", ("pins", "pytorch"))
    has_words(finding.message, "aarch64", "CUDA 12.8 is pinned")
    has_words(finding.hint, 'pin pytorch: "2.14.1" and cuda: "13.0" and nccl: "2.30.7"', "2.9.1+cu128")
    assert find(make_subject({"python": "3.13", "pytorch": "2.14.1", "cuda": "13.0", "nccl": "2.30.7"})) == []
    assert find(make_subject({**pins, "pytorch": "2.9.1+cu128"})) == []


def test_a_required_torch_for_the_cpu_is_refused_where_it_is_required():
    python = {"requirements": ["numpy", "torch==2.9.1"]}
    finding = the_only(
        make_subject({"python": "3.13"}, python=python), "torch-cpu-wheel", ("python", "requirements", 1)
    )
    has_words(finding.hint, "require torch==2.14.1")
    assert find(make_subject({"python": "3.13"}, python={"requirements": ["numpy", "torch==2.14.1"]})) == []


@pytest.mark.parametrize(
    "requirement", ["torch", "torch>=2.9", "torch==2.9.*", 'torch==2.9.1; python_version<"3"', "=="]
)
def test_a_requirement_that_leaves_the_version_open_says_nothing(requirement):
    assert find(make_subject({"python": "3.13"}, python={"requirements": [requirement]})) == []


def test_a_locked_torch_for_the_cpu_is_refused_and_a_locked_one_for_cuda_is_not():
    pins = {"python": "3.13", "pytorch": "2.99.0"}
    accelerator = {"torch": "2.99.0", "variant": "cpu"}
    subject = make_subject(pins, lock=make_lock(accelerator=accelerator))
    finding = the_only(subject, "torch-cpu-wheel", ("pins", "pytorch"))
    has_words(finding.message, "the locked torch 2.99.0", "CPU alone")
    locked = make_lock(accelerator={"torch": "2.9.1", "variant": "cuda", "cuda": "12.8"})
    assert find(make_subject({"python": "3.13", "pytorch": "2.9.1"}, lock=locked)) == []


def test_a_cpu_torch_is_right_where_there_is_no_gpu_and_no_cuda():
    pins = {"python": "3.13", "pytorch": "2.9.1"}
    assert find(make_subject(pins, uarch="aarch64", system="generic-aarch64")) == []
    pinned = make_subject({**pins, "cuda": "12.8"}, uarch="aarch64", system="generic-aarch64", driver=None)
    the_only(pinned, "torch-cpu-wheel", ("pins", "pytorch"))


def test_the_same_release_has_cuda_for_x86():
    pins = {"python": "3.13", "pytorch": "2.9.1", "cuda": "12.8", "nccl": "2.27.5"}
    assert find(make_subject(pins, uarch="x86_64", system="generic-x86_64", driver=None)) == []


# torch and what it requires


def test_a_pinned_cuda_that_torch_is_not_built_for_is_refused_with_both_ways_out():
    pins = {**FITTING, "cuda": "13.2"}
    finding = the_only(make_subject(pins, driver="610.43.02"), "torch-cuda", ("pins", "cuda"))
    has_words(finding.message, "torch 2.14.1", "CUDA 13.0", "CUDA 13.2 is pinned")
    assert finding.hint == 'pin cuda: "13.0"; or, for CUDA 13.2, pin pytorch: "2.15.0"'
    assert find(make_subject({**pins, "cuda": "13.0"}, driver="610.43.02")) == []
    assert find(make_subject({**pins, "pytorch": "2.15.0"}, driver="610.43.02")) == []


def test_a_locked_torch_decides_about_cuda_and_so_does_a_local_version():
    locked = make_lock(accelerator={"torch": "2.99.0", "variant": "cuda", "cuda": "13.1", "nccl": "2.99.0"})
    the_only(make_subject({"pytorch": "2.99.0", "cuda": "13.0"}, lock=locked), "torch-cuda", ("pins", "cuda"))
    the_only(make_subject({"pytorch": "2.10.0+cu126", "cuda": "12.8"}), "torch-cuda", ("pins", "cuda"))
    assert find(make_subject({"pytorch": "2.10.0+cu126", "cuda": "12.6"})) == []


def test_a_pinned_nccl_that_torch_does_not_require_is_refused_with_who_wins_and_both_ways_out():
    pins = {**FITTING, "nccl": "2.29.7"}
    finding = the_only(make_subject(pins), "torch-nccl", ("pins", "nccl"))
    has_words(finding.message, "torch 2.14.1 requires NCCL 2.30.7", "NCCL 2.29.7 is pinned", "LD_LIBRARY_PATH")
    assert finding.hint == 'pin nccl: "2.30.7"; or, for NCCL 2.29.7, pin pytorch: "2.13.0"'
    assert find(make_subject({**pins, "nccl": "2.30.7"})) == []
    assert find(make_subject({**pins, "pytorch": "2.13.0"})) == []


def test_an_nccl_that_no_known_torch_requires_has_one_way_out():
    finding = the_only(make_subject({**FITTING, "nccl": "2.31.2"}), "torch-nccl", ("pins", "nccl"))
    assert finding.hint == 'pin nccl: "2.30.7"'


@pytest.mark.parametrize(
    ("rule", "text", "mended"),
    [
        ("torch-nccl", "nvidia-nccl-cu13==2.31.2", "nvidia-nccl-cu13==2.30.7"),
        ("torch-nccl", "nvidia_nccl_cu13>=2.31", "nvidia-nccl-cu13>=2.30"),
        ("torch-cudnn", "nvidia-cudnn-cu13<9.24", "nvidia-cudnn-cu13==9.24.0.43"),
    ],
)
def test_a_requirement_or_constraint_against_what_torch_requires_is_refused(rule, text, mended):
    for section in ("requirements", "constraints"):
        finding = the_only(make_subject(python={section: [text]}), rule, ("python", section, 0))
        has_words(finding.message, "torch 2.14.1 requires", "no resolver")
        has_words(finding.hint, "leave it out")
        assert find(make_subject(python={section: [mended]})) == []
    assert find(make_subject(python={})) == []


@pytest.mark.parametrize("version", ["2.99.0", "2.14.1+custom", "2.14.1rc5"])
def test_a_torch_that_the_facts_do_not_have_says_nothing(version):
    pins = {"python": "3.7", "cuda": "12.0", "nccl": "2.11.1", "pytorch": version}
    assert find(make_subject(pins, base={"debian": {"suite": "sid"}})) == []


def test_two_families_of_nccl_wheels_are_refused():
    wheels = ("nvidia_nccl_cu13-2.30.7-py3-none-manylinux_2_18_aarch64.whl", "nvidia_nccl_cu12-2.30.7-py3-none-any.whl")
    both = {"requirements": ["nvidia-nccl-cu12==2.30.7"]}
    finding = the_only(
        make_subject(lock=make_lock(wheels=wheels), python=both), "nccl-two-wheels", ("python", "requirements", 0)
    )
    has_words(finding.message, "nvidia-nccl-cu12 and nvidia-nccl-cu13", "libnccl.so.2")
    assert find(make_subject(lock=make_lock(wheels=wheels[:1]))) == []
    unlocked = {"requirements": ["nvidia-nccl-cu12==2.30.7", "nvidia-nccl-cu13==2.30.7"]}
    the_only(make_subject(python=unlocked), "nccl-two-wheels", ("python", "requirements", 0))


# Python, GPU, wheels


def test_a_python_that_torch_does_not_take_is_refused():
    base = {"debian": {"suite": "sid"}}
    finding = the_only(
        make_subject({"python": "3.10", "pytorch": "2.15.0"}, base=base, driver="610"),
        "torch-python",
        ("pins", "pytorch"),
    )
    has_words(finding.message, "torch 2.15.0 requires Python >=3.11", "Python 3.10")
    has_words(finding.hint, 'pin pytorch: "2.14.1"', "take a base")
    assert find(make_subject({"python": "3.10", "pytorch": "2.14.1"}, base=base, driver="610")) == []


def test_a_python_without_a_wheel_of_torch_is_refused_on_aarch64_alone():
    pins, nodes = (
        {"python": "3.13", "pytorch": "2.5.1"},
        {"uarch": "aarch64", "system": "generic-aarch64", "driver": None},
    )
    finding = the_only(make_subject(pins, **nodes), "torch-python", ("pins", "pytorch"))
    has_words(finding.message, "torch 2.5.1", "up to Python 3.12", "Python 3.13")
    has_words(finding.hint, 'pin pytorch: "2.15.0"')
    assert find(make_subject({**pins, "pytorch": "2.15.0"}, **nodes)) == []
    assert find(make_subject(pins, uarch="x86_64", system="generic-x86_64")) == []


def test_of_a_python_newer_than_those_looked_for_nothing_is_known():
    base = {"debian": {"suite": "sid"}}
    assert find(make_subject({"python": "3.15", "pytorch": "2.14.1"}, base=base)) == []
    nodes = {"uarch": "aarch64", "system": "generic-aarch64", "base": base}
    assert find(make_subject({"python": "3.15", "pytorch": "2.8.0"}, **nodes)) == []
    the_only(make_subject({"python": "3.14", "pytorch": "2.8.0"}, **nodes), "torch-python", ("pins", "pytorch"))


@pytest.mark.parametrize(
    ("gpu", "runs"),
    [
        ("sm_90", True),
        ("sm_89", True),
        ("sm_86", True),
        ("sm_103", True),
        ("sm_121", True),
        ("sm_70", False),
        ("sm_75", False),
    ],
)
def test_machine_code_runs_on_the_same_major_capability_and_a_newer_minor_one(gpu, runs):
    subject = make_subject({"python": "3.13", "pytorch": "2.11.0"}, driver=None)
    node = subject.uarch.model_copy(update={"gpu": gpu})
    found = [entry for entry in find(Subject(subject.recipe, subject.system, node)) if entry[0] == "torch-gpu"]
    assert [entry[1:3] for entry in found] == ([] if runs else [(("pins", "pytorch"), "error")])
    if not runs:
        has_words(found[0][3].message, "sm_80, sm_90", f"none that runs on {gpu}")


@pytest.mark.parametrize(("gpu", "runs"), [("sm_90", False), ("sm_90a", True)])
def test_machine_code_for_one_chip_alone_runs_on_that_chip_alone(monkeypatch, gpu, runs):
    subject = make_subject()
    release = stack_facts.find_release(Version("2.14.1")).model_copy(update={"gpus": ("sm_90a",)})
    monkeypatch.setattr("uenv_builder.core.rules.stack.find_release", lambda _: release)
    node = subject.uarch.model_copy(update={"gpu": gpu})
    assert (find(Subject(subject.recipe, subject.system, node)) == []) is runs


def test_a_torch_whose_machine_code_nobody_looked_at_says_nothing_about_gpus():
    subject = make_subject()
    node = subject.uarch.model_copy(update={"gpu": "sm_70"})
    assert find(Subject(subject.recipe, subject.system, node)) == []


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"pins": {"cuda": "12.4", "nccl": "2.21.5"}}, ("pins", "nccl")),
        (
            {"pins": {"python": "3.13"}, "python": {"requirements": ["nvidia-nccl-cu12==2.21.5"]}},
            ("python", "requirements", 0),
        ),
    ],
)
def test_an_nccl_without_a_wheel_for_aarch64_is_refused(fields, at):
    finding = the_only(make_subject(**fields), "nccl-wheel", at)
    has_words(finding.message, "nvidia-nccl-cu12 2.21.5", "aarch64")
    assert finding.hint == "take 2.23.4 or 2.32.3"
    on_x86 = make_subject(**fields, uarch="x86_64", system="generic-x86_64", driver=None)
    assert find(on_x86) == []


def test_where_torch_requires_its_own_nccl_the_wheel_of_another_is_not_missed():
    found = find(make_subject({"pytorch": "2.14.1", "cuda": "12.4", "nccl": "2.21.5"}))
    assert [entry[0] for entry in found] == ["torch-cuda", "torch-nccl"]


@pytest.mark.parametrize("nccl", ["2.23.4", "2.21.99"])
def test_an_nccl_with_a_wheel_or_an_unknown_one_says_nothing(nccl):
    assert find(make_subject({"cuda": "12.4", "nccl": nccl})) == []


# Bases


def test_a_python_that_the_suite_does_not_have_is_refused():
    finding = the_only(make_subject({"python": "3.12"}), "base-python", ("pins", "python"))
    has_words(finding.message, "Debian trixie is 3.13", "3.12 is pinned")
    assert finding.hint == 'pin python: "3.13", or choose Ubuntu 24.04 as the base'
    assert find(make_subject({"python": "3.13"})) == []
    assert find(make_subject({"python": "3.12"}, base=oci(f"docker.io/library/ubuntu:24.04{DIGEST}"))) == []
    assert find(make_subject({"python": "3.12"}, base=oci(f"python:3.12-slim-bookworm{DIGEST}"))) == []


def test_a_python_beside_an_images_own_is_a_warning():
    image = f"nvcr.io/nvidia/cuda:13.0.1-base-ubuntu24.04{DIGEST}"
    the_only(make_subject({"python": "3.13"}, base=oci(image)), "base-python", ("pins", "python"), "warning")
    ubuntu = {"debian": {"suite": "jammy"}}
    the_only(make_subject({"python": "3.11"}, base=ubuntu), "base-python", ("pins", "python"), "warning")


def test_a_base_without_a_digest_is_a_warning():
    finding = the_only(make_subject({}, base=oci("ubuntu:24.04")), "base-digest", ("base", "oci", "image"), "warning")
    has_words(finding.hint, "ubuntu:24.04@sha256:", "skopeo")
    assert find(make_subject({}, base=oci("ubuntu:24.04" + DIGEST))) == []


@pytest.mark.parametrize("image", ["alpine:3.22", "docker.io/library/python:3.13-alpine", "registry.example/alpine"])
def test_musl_under_hooks_or_wheels_is_refused(image):
    finding = the_only(make_subject({}, base=oci(image + DIGEST)), "musl-base", ("base", "oci", "image"))
    has_words(finding.message, "musl", "hooks")
    has_words(finding.hint, "Debian trixie or Ubuntu 24.04")
    wheels = make_subject(
        {"python": "3.13"}, base=oci(image + DIGEST), uarch="x86_64", system="generic-x86_64",
        python={"requirements": ["numpy"]},
    )  # fmt: skip
    has_words(the_only(wheels, "musl-base", ("base", "oci", "image")).message, "manylinux")
    pinned = make_subject({"pytorch": "2.99"}, base=oci(image + DIGEST), uarch="x86_64", system="generic-x86_64")
    has_words(the_only(pinned, "musl-base", ("base", "oci", "image")).message, "manylinux")
    plain = make_subject({}, base=oci(image + DIGEST), uarch="x86_64", system="generic-x86_64")
    assert find(plain) == []


def test_a_glibc_older_than_torch_is_made_for_is_refused_before_there_is_a_lock():
    pins = {"pytorch": "2.14.1"}
    finding = the_only(make_subject(pins, base=oci("ubuntu:18.04" + DIGEST)), "wheel-glibc", ("base", "oci", "image"))
    has_words(finding.message, "Ubuntu 18.04 has glibc 2.27", "torch 2.14.1 (glibc 2.28)")
    has_words(finding.hint, "glibc 2.28 or newer", "Ubuntu 24.04")
    assert find(make_subject(pins, base=oci("ubuntu:24.04" + DIGEST))) == []
    assert find(make_subject(pins, base=oci("registry.example/mine:1" + DIGEST))) == []
    assert find(make_subject(pins, base=oci("debian:buster" + DIGEST))) == []


def test_the_names_of_locked_wheels_tell_the_glibc_that_they_need():
    wheels = (
        "a-1.0-cp313-cp313-manylinux_2_27_aarch64.manylinux_2_39_aarch64.whl",
        "b-1.0-cp313-cp313-manylinux_2_39_aarch64.whl",
        "c-1.0-py3-none-any.whl",
        "d-1.0-cp313-cp313-manylinux2014_aarch64.whl",
        "e-1.0-cp313-cp313-manylinux_2_38_aarch64.whl",
    )
    base = {"debian": {"suite": "bookworm"}}
    finding = the_only(
        make_subject({}, base=base, lock=make_lock(wheels=wheels)), "wheel-glibc", ("base", "debian", "suite")
    )
    has_words(finding.message, "Debian bookworm has glibc 2.36", "b 1.0 (glibc 2.39), e 1.0 (glibc 2.38)")
    assert "a 1.0" not in finding.message
    assert "d 1.0" not in finding.message
    has_words(finding.hint, "glibc 2.39 or newer")
    assert find(make_subject({}, lock=make_lock(wheels=wheels))) == []
    assert "more" not in finding.message
    many = [f"w{number}-1.0-cp313-cp313-manylinux_2_40_aarch64.whl" for number in range(5)]
    more = the_only(
        make_subject({}, base=base, lock=make_lock(wheels=many)), "wheel-glibc", ("base", "debian", "suite")
    )
    has_words(more.message, "w2 1.0 (glibc 2.40) and 2 more")
    three = make_subject({}, base=base, lock=make_lock(wheels=many[:3]))
    assert "more" not in the_only(three, "wheel-glibc", ("base", "debian", "suite")).message


def test_the_locked_libc_counts_more_than_the_name_of_the_suite():
    lock = make_lock(wheels=("b-1.0-cp313-cp313-manylinux_2_39_aarch64.whl",), libc6="2.38-1+deb13u1")
    finding = the_only(make_subject({}, lock=lock), "wheel-glibc", ("base", "debian", "suite"))
    has_words(finding.message, "glibc 2.38")


def test_a_glibc_older_than_the_hooks_libraries_need_is_refused():
    old = {"debian": {"suite": "bullseye"}}
    finding = the_only(make_subject({}, base=old, hooks={"glibc": "2.34"}), "hook-glibc", ("base", "debian", "suite"))
    has_words(finding.message, "hooks of daint", "glibc 2.34", "Debian bullseye has 2.31")
    has_words(finding.hint, "glibc 2.34 or newer")
    assert find(make_subject({}, hooks={"glibc": "2.41"})) == []
    assert find(make_subject({}, base=old, hooks={})) == []
    assert find(make_subject({}, base=old, hooks={"glibc": "new"})) == []


NGC = f"nvcr.io/nvidia/pytorch:26.06-py3{DIGEST}"
NGC_LEAKS = [
    ("error", "NCCL_NET_PLUGIN"),
    ("error", "/opt/amazon/ofi-nccl"),
    ("warning", "/opt/hpcx"),
    ("warning", "PIP_CONSTRAINT"),
]


def test_an_image_of_another_cluster_leaks_its_plugins():
    found = find(make_subject({}, base=oci(NGC)))
    assert {entry[:2] for entry in found} == {("base-leak", ("base", "oci", "image"))}
    assert [(entry[2], entry[3].hint.split()[1]) for entry in found] == NGC_LEAKS
    has_words(found[0][3].message, "26.06", "Spectrum-X", "libnccl-net.so")


@pytest.mark.parametrize(
    "remove", [["/opt/amazon/ofi-nccl", "/opt/hpcx"], ["/opt/amazon", "/opt/hpcx/"], ["/opt/*/ofi-nccl", "/opt/hpcx/*"]]
)
def test_what_is_removed_or_unset_or_set_anew_no_longer_leaks(remove):
    base = oci(NGC, remove=remove, unset=["NCCL_NET_PLUGIN", "PIP_CONSTRAINT"])
    assert find(make_subject({}, base=base)) == []
    anew = oci(NGC, remove=remove, unset=["PIP_CONSTRAINT"])
    assert find(make_subject({}, base=anew, env={"NCCL_NET_PLUGIN": "none"})) == []


@pytest.mark.parametrize(
    "remove", ["/opt/amazon/ofi-nccl/lib", "/opt/amazon/ofi", "/opt", "/op*", "/opt/amazon/ofi.nccl"]
)
def test_a_pattern_removes_only_what_it_covers(remove):
    covers = remove in {"/opt", "/op*"}
    found = find(make_subject({}, base=oci(NGC, remove=[remove])))
    assert any("/opt/amazon/ofi-nccl" in entry[3].hint for entry in found) is not covers


def test_an_older_image_and_another_network_leak_less():
    older = find(make_subject({}, base=oci(f"registry.example/nvidia/pytorch:25.04-py3{DIGEST}")))
    assert [entry[3].hint.split()[1] for entry in older] == ["PIP_CONSTRAINT"]
    last = find(make_subject({}, base=oci(f"nvcr.io/nvidia/pytorch:26.02-py3{DIGEST}")))
    assert "add /opt/amazon/aws-ofi-nccl to remove: of base: oci:" in [entry[3].hint for entry in last]
    untold = find(make_subject({}, base=oci(f"nvcr.io/nvidia/pytorch:latest{DIGEST}")))
    assert untold == []
    elsewhere = find(make_subject({}, base=oci(NGC), uarch="x86_64", system="generic-x86_64", driver=None))
    assert [entry[3].hint.split()[1] for entry in elsewhere] == ["PIP_CONSTRAINT"]
    unused = make_subject({}, base=oci(NGC), network="none")
    assert [entry[3].hint.split()[1] for entry in find(unused)] == ["PIP_CONSTRAINT"]


def test_a_second_nccl_is_a_warning_beside_the_wheel_of_torch():
    pins = {"python": "3.12", "cuda": "13.0", "nccl": "2.30.7", "pytorch": "2.14.1"}
    image = f"nvcr.io/nvidia/cuda:13.0.1-devel-ubuntu24.04{DIGEST}"
    finding = the_only(make_subject(pins, base=oci(image)), "base-leak", ("base", "oci", "image"), "warning")
    has_words(finding.message, "/usr/lib/aarch64-linux-gnu/libnccl.so*", "second NCCL")
    assert finding.hint == "add /usr/lib/aarch64-linux-gnu/libnccl.so* to remove: of base: oci:"
    assert find(make_subject(pins, base=oci(image, remove=["/usr/lib/aarch64-linux-gnu/libnccl.so*"]))) == []
    assert find(make_subject({"python": "3.12"}, base=oci(image))) == []


# Combinations that are known not to work

IMAGE_STACK = {"aws_ofi_nccl": "1.20.0", "libfabric": "2.6.0", "libcxi": "13.1.0"}
BAD = [
    ({"nccl": "2.29.2"}, "nccl", "warning", "on aarch64", "NCCL 2.29.3", "2.29.7"),
    ({"libfabric": "2.5.0"}, "libfabric", "error", "cxil_svc_get_netns", "libfabric 2.5.1", "2.5.1"),
    ({"libfabric": "1.22.0"}, "libfabric", "error", "CXI_MAP_IOVA_ALLOC", "libfabric 2.1.0", "2.1.0"),
    ({"libcxi": "14.0.0"}, "libcxi", "warning", "libcxi 14", "the host's own", "13.1.0"),
    ({"aws_ofi_nccl": "1.21.0"}, "aws_ofi_nccl", "warning", "libcudart", "1.21.1", "1.21.1"),
    ({"aws_ofi_nccl": "1.17.0", "cuda": "13.0"}, "aws_ofi_nccl", "warning", "CUDA 13", "1.20.0", "1.20.0"),
    ({"nccl": "2.26.2", "cuda": "13.0"}, "nccl", "warning", "from 2.27 on", "that torch", "2.30.7"),
]


@pytest.mark.parametrize(("pins", "name", "severity", "reason", "remedy", "version"), BAD)
def test_known_bad_combinations_are_found_at_the_pin_to_change(pins, name, severity, reason, remedy, version):
    finding = the_only(make_subject({**IMAGE_STACK, **pins}), "known-bad", ("pins", name), severity)
    has_words(finding.message, f"{name} {pins[name]}", reason)
    has_words(finding.hint, remedy)
    assert finding.source
    assert find(make_subject({**IMAGE_STACK, **pins, name: version})) == []


def test_nccl_2_28_9_hangs_with_an_older_plugin():
    pins = {**IMAGE_STACK, "nccl": "2.28.9", "aws_ofi_nccl": "1.17.3"}
    subject = make_subject(pins, uarch="x86_64", system="generic-x86_64", driver=None)
    finding = the_only(subject, "known-bad", ("pins", "nccl"), "warning")
    has_words(finding.message, "nccl 2.28.9 with aws_ofi_nccl 1.17.3", "deadlocks")
    has_words(finding.hint, "1.20.0")
    assert finding.source.startswith("aws/aws-ofi-nccl#1055")
    mended = {**pins, "aws_ofi_nccl": "1.20.0"}
    assert find(make_subject(mended, uarch="x86_64", system="generic-x86_64", driver=None)) == []


def test_the_nccl_of_an_unlocked_torch_counts_and_points_at_torch():
    finding = the_only(
        make_subject({"python": "3.13", "pytorch": "2.11.0"}), "known-bad", ("pins", "pytorch"), "warning"
    )
    has_words(finding.message, "nccl 2.28.9", "hang")
    has_words(finding.hint, "pytorch 2.12.0")
    assert find(make_subject({"python": "3.13", "pytorch": "2.12.0"})) == []


def test_libcxi_13_1_depends_on_the_hosts_release():
    the_only(make_subject(IMAGE_STACK, slingshot="13.0.0"), "known-bad", ("pins", "libcxi"), "warning")
    assert find(make_subject({**IMAGE_STACK, "libcxi": "13.0.0"}, slingshot="13.0.0")) == []
    assert find(make_subject(IMAGE_STACK, slingshot="13.1.0")) == []


def test_what_the_system_alone_decides_is_not_the_recipes_fault():
    assert find(make_subject({}, hooks={"aws_ofi_nccl": "1.21.0", "libfabric": "2.5.0"})) == []
    found = find(make_subject({"python": "3.13", "pytorch": "2.11.0"}, hooks={"aws_ofi_nccl": "1.17.0"}))
    assert {entry[1] for entry in found} == {("pins", "pytorch")}
    assert len(found) == 3


def test_a_wheel_can_be_part_of_a_combination(monkeypatch):
    entry = stack_facts.KnownBad(
        id="wheels", severity="error", message="two that do not go together", remedy="take newer ones",
        conditions=(
            stack_facts.Condition(component="numpy", versions=("<2",)),
            stack_facts.Condition(component="torch", versions=(">=2.14",)),
        ),
    )  # fmt: skip
    facts = stack_facts.KnownBadFile(source="a test", read="2026-11-23", entries=(entry,))
    monkeypatch.setattr("uenv_builder.core.rules.known_bad.known_bad_facts", lambda: facts)
    wheel = "numpy-1.26.4-cp313-cp313-manylinux_2_17_aarch64.whl"
    the_only(make_subject(lock=make_lock(wheels=(wheel,))), "known-bad", ("python", "requirements"))
    assert find(make_subject(lock=make_lock(wheels=(wheel.replace("1.26.4", "2.1.0"),)))) == []
    assert find(make_subject(lock=make_lock())) == []


# What cannot be read says nothing

ODD = [
    {
        "pins": {
            "pytorch": "2.14.1-x",
            "nccl": "1.2-aws",
            "aws_ofi_nccl": "1.13.2-aws",
            "libcxi": "13.x",
            "cuda": "99999.0",
        }
    },
    {"driver": "", "slingshot": "next", "hooks": {"glibc": "", "libfabric": "host", "aws_ofi_nccl": "?"}},
    {
        "base": {"debian": {"suite": "_"}},
        "python": {"requirements": ["", "torch==", "torch @ https://x.y/z.whl", "torch===x"]},
    },
    {"base": {"oci": {"image": "[:(", "remove": ["/[", "/*", "//"], "unset": [""]}}},
    {"base": {"oci": {"image": ":" + DIGEST}}},
    {
        "lock": {
            "accelerator": {"torch": "?", "variant": "cuda", "cuda": "new", "nccl": "?", "cudnn": "?"},
            "python": "3",
        }
    },
    {
        "lock": {
            "libc6": "unknown",
            "wheels": ("x-1-.whl", "y-?-py3-none-manylinux_a_b_c.whl", "z-1-py3-none-manylinux_2_x86.whl"),
        }
    },
]


@pytest.mark.parametrize("odd", ODD)
def test_no_rule_stumbles_over_what_cannot_be_read(odd):
    fields = {**odd, "lock": make_lock(**odd["lock"])} if "lock" in odd else odd
    assert {entry[0] for entry in find(make_subject(**fields))} <= {"base-digest", "base-leak"}


# The facts


@pytest.mark.parametrize(("name", "model"), FACT_FILES.items())
def test_every_fact_file_loads_and_says_where_and_when_it_was_read(name, model):
    facts = load_facts(name, model)
    assert facts.source
    assert facts.read == "2026-11-23"


def test_facts_stand_in_the_order_of_their_versions_and_once():
    for versions in (
        [one.version for one in stack_facts.torch_facts().releases],
        [one.cuda for one in stack_facts.cuda_facts().toolkits],
        *[[one.version for one in stack_facts.nccl_facts().wheels if one.cuda == family] for family in ("12", "13")],
    ):
        assert len(versions) > 3
        assert versions == sorted(set(versions), key=Version)
    ids = [entry.id for entry in stack_facts.known_bad_facts().entries]
    assert len(ids) == len(set(ids))
    assert all(entry.source for entry in stack_facts.known_bad_facts().entries)
    assert all((leak.path is None) != (leak.variable is None) for leak in stack_facts.base_facts().leaks)


def test_torch_has_cuda_for_aarch64_from_2_11_on():
    for release in stack_facts.torch_facts().releases:
        assert ("aarch64" in release.cuda) is (Version(release.version) >= Version("2.11"))


def test_conditions_name_components_that_rules_know():
    known = {"torch", "cuda", "nccl", "python", "aws_ofi_nccl", "libfabric", "libcxi", "slingshot"}
    for entry in stack_facts.known_bad_facts().entries:
        assert {condition.component for condition in entry.conditions} <= known


def test_versions_in_facts_are_quoted_texts():
    for name in FACT_FILES:
        text = (resources.files("uenv_builder.knowledge") / "compat" / f"{name}.yaml").read_text()
        assert not [value for value in _leaves(yaml.safe_load(text)) if isinstance(value, float)]


@pytest.mark.parametrize("versions", [["2.8"], ["=>2"], []])
def test_a_condition_with_a_bad_specifier_is_refused(versions):
    with pytest.raises(ValidationError):
        stack_facts.Condition(component="nccl", versions=tuple(versions))


def test_a_fact_with_a_bad_version_or_pattern_is_refused():
    with pytest.raises(ValidationError, match="not a version"):
        stack_facts.CudaDriver(cuda="13.0", driver="new")
    with pytest.raises((ValidationError, ValueError)):
        stack_facts.BaseRelease(name="x", images="(")


def _leaves(value):
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _leaves(child)
    else:
        yield value


# The repository's own recipes


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*/*/recipe.yaml")), ids=lambda path: path.parts[-3])
@pytest.mark.parametrize("locked", [True, False])
def test_the_recipes_of_this_repository_pass(path, locked):
    loaded = load_recipe(path)
    for target in loaded.recipe.targets:
        system = load_systems()[target.system]
        if target.system in {"daint", "clariden"}:
            system = system.model_copy(update={"driver": "590.48.01"})
        file = loaded.lock_path(target.uarch)
        if locked and not file.exists():
            pytest.skip("it has no lock")
        lock = parse_lock(file.read_text(encoding="utf-8"), str(file)) if locked else None
        found = find(Subject(loaded.recipe, system, load_uarchs()[target.uarch], lock))
        accepted = [entry for entry in found if entry[2] == "warning" and entry[0] in loaded.recipe.accept]
        assert [entry for entry in found if entry[2] != "note" and entry not in accepted] == []
