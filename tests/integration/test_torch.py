"""The real torch of the package index, as aarch64 code, imported and reduced inside an image of its wheel."""

from __future__ import annotations

import json
import platform
import shutil

import pytest

from uenv_command import ROOT

pytestmark = pytest.mark.network


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.timeout(900)
def test_torch_is_locked_built_imported_and_reduced(uenv):
    recipe = uenv.folder / "torch-cpu"
    shutil.copytree(ROOT / "tests/recipes/torch-cpu", recipe)
    locked = uenv.ok("lock", str(recipe), "--json").document["locks"][0]
    assert locked["accelerator"] == {"torch": "2.10.0", "variant": "cpu", "cuda": None, "nccl": None, "cudnn": None}
    document = uenv.ok("build", str(recipe), "--locked", "--json").document
    report = json.loads((uenv.folder / document["folder"] / "report.json").read_text())
    assert report["outcome"] == "passed"
    assert report["emulated"] == (platform.machine() != "aarch64")
    results = {result["check"]: result for result in report["results"]}
    gloo = results["allreduce-gloo"]
    assert gloo["outcome"] == "passed"
    assert gloo["measured"]["elements_compared_2_ranks"] > 1_000_000
    assert gloo["measured"]["elements_compared_4_ranks"] == 2 * gloo["measured"]["elements_compared_2_ranks"]
    assert gloo["measured"]["busbw_4_ranks_GBps"] > 0
    assert results["torch"]["measured"]["torch"] == "2.10.0+cpu"
    nccl = results["allreduce-nccl"]
    assert (nccl["outcome"], nccl["required"]) == ("skipped", False)
    assert "GPU" in nccl["reason"]


def test_a_recipe_that_pins_cuda_refuses_a_cpu_wheel(uenv):
    recipe = uenv.folder / "torch-cuda"
    shutil.copytree(ROOT / "tests/recipes/torch-cpu", recipe)
    text = (
        (recipe / "recipe.yaml").read_text().replace('  pytorch: "2.10.0"\n', '  pytorch: "2.10.0"\n  cuda: "13.0"\n')
    )
    (recipe / "recipe.yaml").write_text(text)
    outcome = uenv.run("lock", str(recipe))
    assert outcome.code == 4
    assert f"recipe.yaml:{line_of(text, 'pytorch:')}:3: error[torch-cpu-wheel]" in outcome.stderr
    assert "built for the CPU alone" in outcome.stderr
    assert not list(recipe.glob("*.lock.yaml"))


def test_pins_that_disagree_with_the_wheel_are_all_named(uenv):
    recipe = uenv.folder / "pytorch"
    recipe.mkdir()
    text = (ROOT / "recipes/pytorch/2.14/recipe.yaml").read_text()
    (recipe / "recipe.yaml").write_text(text.replace('cuda: "13.0"', 'cuda: "12.8"').replace('"2.30.7"', '"2.27.3"'))
    outcome = uenv.run("lock", str(recipe), "--json")
    assert outcome.code == 4
    found = {finding["rule"]: finding for finding in outcome.document["diagnostics"]}
    assert set(found) == {"torch-cuda", "torch-nccl"}
    assert "13.0" in found["torch-cuda"]["message"]
    assert "2.30.7" in found["torch-nccl"]["message"]
    assert all(finding["line"] for finding in found.values())


def test_packages_without_a_wheel_for_the_target_are_all_named(uenv):
    recipe = uenv.folder / "no-wheels"
    shutil.copytree(ROOT / "tests/recipes/torch-cpu", recipe)
    text = (recipe / "recipe.yaml").read_text()
    text = text.replace("[numpy]", "[numpy, pycrypto, pyaudio]").replace('  pytorch: "2.10.0"\n', "")
    (recipe / "recipe.yaml").write_text(text.replace("[torch, numpy]", "[numpy]"))
    outcome = uenv.run("lock", str(recipe), "--json")
    assert outcome.code == 4
    messages = [finding["message"].lower() for finding in outcome.document["diagnostics"]]
    assert any("pycrypto" in message for message in messages)
    assert any("pyaudio" in message for message in messages)


def test_unknown_debian_packages_are_named_at_their_places(uenv):
    recipe = uenv.folder / "unknown"
    shutil.copytree(ROOT / "tests/recipes/torch-cpu", recipe)
    text = (recipe / "recipe.yaml").read_text().replace("libgomp1]", "libgomp1, pyhton3, no-such-thing-at-all]")
    (recipe / "recipe.yaml").write_text(text)
    outcome = uenv.run("lock", str(recipe), "--json")
    assert outcome.code == 3
    found = outcome.document["diagnostics"]
    assert {finding["rule"] for finding in found} == {"unknown-package"}
    assert len(found) == 2
    assert 'did you mean "python3"?' in {finding["hint"] for finding in found}
    assert {finding["line"] for finding in found} == {line_of(text, "pyhton3")}
