"""Rules over recipes: each silent failure is refused at its place, and the recipe mended as the hint says is clean."""

import re
from pathlib import Path

import pytest
import yaml

from uenv_builder.app.checking import find_in_recipe
from uenv_builder.app.lock_files import fresh_locks
from uenv_builder.app.recipes import load_recipe
from uenv_builder.app.script_checking import ScriptOptions, find_in_script
from uenv_builder.core.rules import network, settings, stack, tuning
from uenv_builder.core.rules.stories import chapter_names, load_chapter
from uenv_builder.core.rules.tables import RUNTIME_RULES, SUBJECT_RULES
from uenv_builder.core.rules.verdicts import accept, is_incompatible
from uenv_builder.model.errors import Position
from uenv_command import ROOT

COMPAT = ROOT / "builder/uenv_builder/knowledge/compat"
GOOD = """\
name: demo
version: "1.0"
description: a demonstration
targets: [{system: daint, uarch: gh200}]
base: {debian: {suite: trixie, packages: [python3]}}
network: hook-artifact
pins:
  python: "3.13"
  pytorch: "2.14.1"
  cuda: "13.0"
  nccl: "2.30.7"
"""
ON_GENERIC = GOOD.replace("daint", "generic-gh200").replace("hook-artifact", "image")
STACK = '  aws_ofi_nccl: "1.20.0"\n  libfabric: "2.6.0"\n  libcxi: "12.0.1"\n  gdrcopy: "2.5.1"\n'


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def findings(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load_recipe(path)
    return find_in_recipe(loaded, fresh_locks(loaded)[0])


def verdicts(folder, text):
    return [(found.rule, found.severity, found.position.line, found.position.column)
            for found in findings(folder, text)]  # fmt: skip


CASES = {
    "cpu torch": (GOOD.replace("2.14.1", "2.10.0"), [("torch-cpu-wheel", "error", 9, 3)]),
    "another CUDA": (GOOD.replace('"13.0"', '"12.8"'), [("torch-cuda", "error", 10, 3)]),
    "another NCCL": (GOOD.replace("2.30.7", "2.29.7"), [("torch-nccl", "error", 11, 3)]),
    "CUDA newer than the driver's": (
        GOOD.replace("2.14.1", "2.15.0").replace('"13.0"', '"13.2"'),
        [("cuda-minor-version", "warning", 10, 3)],
    ),
    "accepted": (
        GOOD.replace("2.14.1", "2.15.0").replace('"13.0"', '"13.2"') + "accept: {cuda-minor-version: tried on nodes}\n",
        [],
    ),
    "accepts an error": (
        GOOD.replace("2.14.1", "2.10.0") + "accept:\n  torch-cpu-wheel: I know better\n",
        [("torch-cpu-wheel", "error", 9, 3), ("accept", "error", 13, 3)],
    ),
    "accepts what is not": (GOOD + "accept:\n  cuda-minr-version: why not\n", [("accept", "error", 13, 3)]),
    "accepts what a lock may bring": (GOOD + "accept:\n  base-digest: why not\n", []),
    "own stack beside hooks": (
        GOOD + STACK,
        [("hook-own-stack", "error", line, 3) for line in (12, 13, 14)],
    ),
    "image without a stack": (ON_GENERIC, [("image-network-pins", "error", 6, 1)]),
    "image with one": (ON_GENERIC + STACK, []),
    "old plugin": (
        ON_GENERIC + STACK.replace("1.20.0", "1.6.0"),
        [(rule, "warning", 12, 3) for rule in ("known-bad", "nccl-plugin-interface", "plugin-slingshot")],
    ),
    "TCP between nodes": (
        ON_GENERIC.replace("network: image", "network: none"), [("nccl-over-tcp", "warning", 6, 1)]
    ),
    "LL128": (GOOD + "env:\n  NCCL_PROTO: LL128,Simple\n", [("ll128-gh200", "error", 13, 3)]),
    "LL128 not excluded": (GOOD + "env:\n  NCCL_PROTO: ^LL\n", [("ll128-gh200", "error", 13, 3)]),
    "LL128 excluded": (GOOD + "env:\n  NCCL_PROTO: ^LL128\n", []),
    "LL128 off": (GOOD + 'env:\n  NCCL_PROTO: ^LL\n  NCCL_LL128_C2C: "0"\n', []),
    "plugin by name": (
        GOOD + "env:\n  NCCL_NET: AWS Libfabric\n  NCCL_NET_PLUGIN: ofi\n", [("nccl-net-plugin", "error", 14, 3)]
    ),
    "network in an EDF": (GOOD + "edf:\n  env:\n    NCCL_NET: Socket\n", [("nccl-net", "error", 14, 5)]),
    "another provider": (GOOD + "env:\n  FI_PROVIDER: tcp\n", [("fi-provider", "error", 13, 3)]),
    "without cxi": (GOOD + "env:\n  FI_PROVIDER: ^cxi\n", [("fi-provider", "error", 13, 3)]),
    "a link to it": (GOOD + "env:\n  FI_PROVIDER: lnx\n  FI_LNX_PROV_LINKS: shm+cxi\n", []),
    "a link to others": (GOOD + "env:\n  FI_PROVIDER: lnx\n", [("fi-provider", "error", 13, 3)]),
    "without others": (GOOD + "env:\n  FI_PROVIDER: ^tcp\n", []),
    "GPU-aware MPI": (
        GOOD + 'env:\n  MPICH_GPU_SUPPORT_ENABLED: "1"\n', [("gpu-aware-mpi", "warning", 13, 3)]
    ),
    "a typo": (GOOD + 'env:\n  FI_CXI_DEFALT_CQ_SIZE: "131072"\n', [("variable-unknown", "warning", 13, 3)]),
    "a suffix": (GOOD + "env:\n  FI_CXI_DEFAULT_CQ_SIZE: 128K\n", [("variable-size-suffix", "error", 13, 3)]),
    "musl": (
        GOOD.replace("{debian: {suite: trixie, packages: [python3]}}", "{oci: {image: registry.example/alpine:3.22}}"),
        [("musl-base", "error", 5, 14), ("base-digest", "warning", 5, 14)],
    ),
    "good": (GOOD, []),
    "torch that nobody knows": (GOOD.replace("2.14.1", "9.1").replace("2.30.7", "9.9"), []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdicts_on_recipes(tmp_path, name):
    text, expected = CASES[name]
    assert verdicts(tmp_path, text) == expected


def test_accepting_for_nothing_is_told_where_everything_was_seen():
    place = Position("recipe.yaml", 13, 3)
    [found] = accept([], {"base-digest": "why not"}, lambda _: place)
    assert (found.rule, found.severity, found.position) == ("accept", "note", place)
    assert accept([], {"base-digest": "why not"}, lambda _: place, everything=False) == []


def test_incompatibility_is_told_from_mistakes(tmp_path):
    assert is_incompatible(findings(tmp_path, CASES["cpu torch"][0]))
    assert not is_incompatible(findings(tmp_path, CASES["accepts an error"][0]))
    assert not is_incompatible(findings(tmp_path, GOOD))


def test_hints_name_versions_that_are_then_clean(tmp_path):
    [finding] = findings(tmp_path, CASES["another NCCL"][0])
    assert finding.hint == 'pin nccl: "2.30.7"; or, for NCCL 2.29.7, pin pytorch: "2.13.0"'
    assert "METADATA" in finding.source
    assert verdicts(tmp_path, GOOD.replace("2.30.7", "2.29.7").replace("2.14.1", "2.13.0")) == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_recipes_of_this_repository_are_clean(path):
    loaded = load_recipe(path)
    locks, unfit = fresh_locks(loaded)
    if "ngc-pytorch" not in path.parts:  # whoever uses that one locks it
        assert set(locks) == {target.uarch for target in loaded.recipe.targets}
    assert [*unfit, *find_in_recipe(loaded, locks)] == []


def test_batch_scripts_meet_the_same_rules(tmp_path):
    script = tmp_path / "job.sbatch"
    text = (
        "#!/bin/bash\n#SBATCH --nodes=2\nexport NCCL_NET_PLUGIN=ofi\nexport NCCL_NET='AWS Libfabric'\n"
        "srun --mpi=pmix python3 train.py\n"
    )
    script.write_text(text, encoding="utf-8")
    found = find_in_script(script, ScriptOptions(system="daint", network="hook-artifact"))
    assert [(finding.rule, finding.position.line) for finding in found] == [("nccl-net-plugin", 3)]


def test_every_rule_has_a_story_with_a_source():
    stories = {rule: story for name in chapter_names() for rule, story in load_chapter(name).stories.items()}
    for rule in [*SUBJECT_RULES, *RUNTIME_RULES]:
        assert stories[rule].sources, rule
    page = Path(ROOT / "docs/reference/rules.md").read_text(encoding="utf-8")
    assert [rule for rule in stories if f"`{rule}`" not in page] == []


def test_rules_stand_in_one_table_each():
    tables = [stack.RULES, network.RULES, settings.RULES, tuning.RULES]
    assert sum(map(len, tables)) == len(SUBJECT_RULES | RUNTIME_RULES)


@pytest.mark.parametrize("path", sorted(COMPAT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(COMPAT)))
def test_fact_files_say_where_they_come_from(path):
    facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len(facts["source"]) > 10
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", facts["read"])
