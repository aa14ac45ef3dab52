"""One flipped bit in what a build takes from its store: it is made or fetched anew, and never gets into an image."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from small_recipes import SmallRecipes, build_command, make_small_recipes
from uenv_command import refused

SEED = int(os.environ.get("UENV_DAMAGE_SEED") or random.SystemRandom().randrange(2**32))


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> SmallRecipes:
    return make_small_recipes(tmp_path_factory.mktemp("recipes"), size=40_000)


@pytest.fixture(scope="module")
def built(tmp_path_factory, recipes):
    """A store with the results of alpha, and what alpha and beta come to in another one."""
    place = tmp_path_factory.mktemp("built")
    digests = {}
    for store in ("store", "other"):
        uenv = recipes.uenv(place / f"folder-{store}", place / store)
        for recipe in (recipes.alpha, recipes.beta) if store == "other" else (recipes.alpha,):
            digests[recipe.name] = digests_of(uenv.ok(*build_command(recipe)).document)
    return place / "store", digests


@pytest.fixture
def store(built, tmp_path):
    """A copy of that store that can be damaged, with hard links where it has them."""
    copy = tmp_path / "store"
    names = {}
    for path in sorted(built[0].rglob("*")):
        target = copy / path.relative_to(built[0])
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif (first := names.setdefault(path.stat().st_ino, target)) != target:
            os.link(first, target)
        else:
            shutil.copy2(path, target)
    return copy


def digests_of(document):
    return document["manifest"]["squashfs"]["sha256"], document["manifest"]["oci"]["digest"]


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    bit = random.Random(f"{SEED} {path.name}").randrange(len(content) * 8)
    print(f"UENV_DAMAGE_SEED={SEED}: bit {bit} of {path}")
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def results(store: Path, label: str) -> list[Path]:
    """The results with that label."""
    return [file.parent for file in sorted(store.glob("steps/*/*/label")) if file.read_text().strip() == label]


def check_files(folder: Path, document) -> None:
    """The images on the disk are what the manifest says, to the byte."""
    with (folder / "image.squashfs").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == document["manifest"]["squashfs"]["sha256"]
    index = json.loads((folder / "oci/index.json").read_text())
    assert index["manifests"][0]["digest"] == document["manifest"]["oci"]["digest"]
    for blob in (folder / "oci/blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def build_right(uenv, recipe: Path, digests, *more: str, folder: str = "") -> dict:
    """Build; the images are those of an undamaged store, and so is the store afterwards."""
    outcome = uenv.ok(*build_command(recipe), *more)
    assert digests_of(outcome.document) == digests[recipe.name]
    check_files(uenv.folder / (folder or f"build/{recipe.name}"), outcome.document)
    return {"stderr": outcome.stderr, **outcome.document}


@pytest.mark.parametrize("name", ["layer.tar.zst", "index.json", "segment.json"])
def test_a_damaged_layer_is_made_anew(recipes, built, store, tmp_path, name):
    [result] = results(store, "wheel shared1")
    flip_bit(result / name)
    uenv = recipes.uenv(tmp_path / "here", store)
    document = build_right(uenv, recipes.beta, built[1])
    assert "dropped what is damaged in the store, to be made anew: shared1 1.0" in document["stderr"]
    assert "shared1 1.0" in document["built"]
    assert "shared0 1.0" not in document["built"]


IMAGES = {
    "squashfs": lambda result: result / "image.squashfs",
    "sums": lambda result: result / "sums.json",
    "index": lambda result: result / "oci/index.json",
    "manifest": lambda result: min((result / "oci/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size),
    "blob": lambda result: max((result / "oci/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size),
}


@pytest.mark.parametrize("victims", [["squashfs", "index"], ["sums", "manifest"], ["blob"]])
def test_a_damaged_image_is_made_anew(recipes, built, store, tmp_path, victims):
    """Where the build's folder is to be written again, from results that are all there."""
    for victim in victims:
        [result] = results(store, "squashfs alpha" if victim in {"squashfs", "sums"} else "oci alpha")
        flip_bit(IMAGES[victim](result))
    document = build_right(recipes.uenv(tmp_path / "here", store), recipes.alpha, built[1])
    assert document["built"]
    assert "is damaged" in document["stderr"]


def test_a_damaged_layer_does_not_get_into_an_oci_image_that_alone_is_made_anew(recipes, built, store, tmp_path):
    """The squashfs has been there before, so nobody links the layers."""
    shutil.rmtree(results(store, "oci alpha")[0])
    [result] = results(store, "wheel shared2")
    flip_bit(result / "layer.tar.zst")
    uenv = recipes.uenv(tmp_path / "here", store)
    document = build_right(uenv, recipes.alpha, built[1])
    assert document["built"] == ["shared2 1.0", "OCI image layout"]


def test_a_damaged_download_is_fetched_anew_or_named(recipes, built, store, tmp_path):
    shutil.rmtree(store / "steps")
    for path in sorted(store.glob("downloads/*/*")):
        flip_bit(path)
    uenv = recipes.uenv(tmp_path / "here", store)
    outcome = uenv.run(*build_command(recipes.alpha), XDG_CONFIG_HOME=str(tmp_path / "no-mirror"))
    refused(outcome, 9, "is not what its name says", "uenv mirror")
    assert not (tmp_path / "here/build/alpha").exists()
    build_right(uenv, recipes.alpha, built[1])
    assert uenv.ok("cache", "verify", "--json").document == {"damaged": []}


def test_a_damaged_layer_that_cannot_be_made_anew_is_an_error(recipes, built, store, tmp_path):
    """Its download has gone, and nobody has it; the older build stays."""
    uenv = recipes.uenv(tmp_path / "here", store)
    build_right(uenv, recipes.alpha, built[1])
    [result] = results(store, "wheel shared1")
    flip_bit(result / "layer.tar.zst")
    shutil.rmtree(store / "downloads")
    nowhere = str(tmp_path / "no-mirror")
    refused(uenv.run(*build_command(recipes.beta), XDG_CONFIG_HOME=nowhere), 9, "own_beta-1.0", "uenv mirror")
    again = [*build_command(recipes.alpha), "--output", "build/again"]
    for path in (results(store, "squashfs alpha")[0], results(store, "oci alpha")[0]):
        shutil.rmtree(path)
    refused(uenv.run(*again, XDG_CONFIG_HOME=nowhere), 9, "the stored layer is damaged", "shared1-1.0")
    assert not (uenv.folder / "build/again").exists()
    build_right(uenv, recipes.alpha, built[1], "--output", "build/again", folder="build/again")


def test_reports_of_real_nodes_outlive_a_build_that_replaces_the_folder(recipes, built, store, tmp_path):
    uenv = recipes.uenv(tmp_path / "here", store)
    build_right(uenv, recipes.alpha, built[1])
    folder = uenv.folder / "build/alpha"
    report = folder / "tests/fabric-20261123T100000Z/report.json"
    report.parent.mkdir(parents=True)
    report.write_text("{}")
    (folder / "plan.json").write_text("{}")
    build_right(uenv, recipes.alpha, built[1])
    assert (folder / "plan.json").read_text() != "{}"
    assert report.read_text() == "{}"
