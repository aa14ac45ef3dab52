"""The OCI layout: stable digests, complete descriptors, and damage that is named."""

import errno
import hashlib
import io
import json
import shutil

import pytest

from uenv_builder.images.oci import read_oci_layout, write_oci_layout
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.image import ImageConfig
from uenv_builder.system.layer_blob import write_layer

CONFIG = ImageConfig(
    architecture="arm64",
    env={"PATH": "/usr/local/bin:/usr/bin", "A_LATER_NAME": "comes second", "SIGN": "ü=1"},
    workdir="/workspace",
    entrypoint=("/bin/entry", "--"),
    labels={"org.opencontainers.image.version": "2.11", "ch.cscs.name": "pytorch"},
    created=1_700_000_000,
    history=("debian userland", "torch 2.11"),
)


def layer_of(folder, **files):
    folder.mkdir()
    entries = (
        Entry(path=name, kind="file", mode=0o644, mtime=0, size=len(text), content=io.BytesIO(text.encode()))
        for name, text in files.items()
    )
    return write_layer(entries, folder)


@pytest.fixture
def layers(tmp_path):
    return [layer_of(tmp_path / "one", a="A"), layer_of(tmp_path / "two", b="B")]


def blob(folder, digest):
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def load(path):
    return json.loads(path.read_bytes())


def test_the_layout_is_complete_and_each_digest_is_true(layers, tmp_path):
    image = write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="pytorch/2.11:v1")
    assert load(tmp_path / "oci" / "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    index = load(tmp_path / "oci" / "index.json")
    assert index["schemaVersion"] == 2
    (descriptor,) = index["manifests"]
    assert descriptor["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert descriptor["digest"] == f"sha256:{image.manifest_digest}"
    assert descriptor["annotations"] == {"org.opencontainers.image.ref.name": "pytorch/2.11:v1"}
    assert descriptor["platform"] == {"architecture": "arm64", "os": "linux", "variant": "v8"}
    blobs = list((tmp_path / "oci" / "blobs" / "sha256").iterdir())
    assert len(blobs) == 4
    for path in blobs:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert image.size == sum(path.stat().st_size for path in blobs)
    assert blob(tmp_path / "oci", descriptor["digest"]).stat().st_size == descriptor["size"]


def test_manifest_and_config_say_what_the_image_is(layers, tmp_path):
    image = write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="demo")
    manifest, config = read_oci_layout(tmp_path / "oci")
    assert manifest["config"]["digest"] == f"sha256:{image.config_digest}"
    assert manifest["layers"] == [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
            "digest": f"sha256:{layer.digest}",
            "size": layer.size,
        }
        for layer in layers
    ]
    assert manifest["annotations"] == {**CONFIG.labels, "org.opencontainers.image.created": "2023-11-14T22:13:20Z"}
    assert (config["architecture"], config["os"], config["variant"]) == ("arm64", "linux", "v8")
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert config["config"] == {
        "Env": ["PATH=/usr/local/bin:/usr/bin", "A_LATER_NAME=comes second", "SIGN=ü=1"],
        "WorkingDir": "/workspace",
        "Entrypoint": ["/bin/entry", "--"],
        "Cmd": ["/bin/bash"],
        "Labels": CONFIG.labels,
    }
    assert config["rootfs"] == {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]}
    assert [line["created_by"] for line in config["history"]] == ["debian userland", "torch 2.11"]


def test_the_digests_follow_from_the_content(layers, tmp_path):
    first = write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="a")
    turned = ImageConfig(
        architecture="arm64", env=CONFIG.env, workdir=CONFIG.workdir, entrypoint=CONFIG.entrypoint,
        labels=dict(reversed(CONFIG.labels.items())), created=CONFIG.created, history=CONFIG.history,
    )  # fmt: skip
    (tmp_path / "else").mkdir()
    assert write_oci_layout(layers, turned, tmp_path / "else" / "where", reference="b") == first
    other = ImageConfig(architecture="amd64", env={}, workdir="/", history=CONFIG.history)
    assert write_oci_layout(layers, other, tmp_path / "amd64", reference="a").manifest_digest != first.manifest_digest
    assert "variant" not in read_oci_layout(tmp_path / "amd64")[1]


def test_blobs_are_linked_and_the_way_can_be_chosen(layers, tmp_path):
    write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="a")
    assert blob(tmp_path / "oci", layers[0].digest).stat().st_ino == layers[0].blob.stat().st_ino
    write_oci_layout(layers, CONFIG, tmp_path / "copied", reference="a", place=shutil.copyfile)
    assert blob(tmp_path / "copied", layers[0].digest).stat().st_ino != layers[0].blob.stat().st_ino


def test_the_same_layer_twice(layers, tmp_path):
    image = write_oci_layout([layers[0], layers[0]], CONFIG, tmp_path / "oci", reference="a")
    manifest, config = read_oci_layout(tmp_path / "oci")
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == 2
    blobs = list((tmp_path / "oci" / "blobs" / "sha256").iterdir())
    assert len(blobs) == 3
    assert image.size == sum(path.stat().st_size for path in blobs)


def test_an_older_layout_is_replaced_as_a_whole(layers, tmp_path):
    write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="a")
    other = ImageConfig(architecture="arm64", env={}, workdir="/")
    write_oci_layout(layers[:1], other, tmp_path / "oci", reference="a")
    assert len(list((tmp_path / "oci").rglob("*"))) == 4 + 3
    assert read_oci_layout(tmp_path / "oci")[1]["history"] == []


def test_a_failure_leaves_the_older_layout(layers, tmp_path):
    write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="a")

    def full(source, target):
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(BuildError, match="no space left"):
        write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="b", place=full)
    assert load(tmp_path / "oci" / "index.json")["manifests"][0]["annotations"].popitem()[1] == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["oci", "one", "two"]


def test_a_history_that_misses_layers_is_refused(layers, tmp_path):
    with pytest.raises(BuildError, match="1 layers, but a history of 2 lines"):
        write_oci_layout(layers[:1], CONFIG, tmp_path / "oci", reference="a")


def change(path):
    path.write_bytes(path.read_bytes().replace(b"arm64", b"amd64"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder, image, layer: (folder / "index.json").unlink(),
        lambda folder, image, layer: (folder / "oci-layout").write_text("{}"),
        lambda folder, image, layer: (folder / "index.json").write_text('{"manifests": []}'),
        lambda folder, image, layer: (folder / "index.json").write_text('{"manifests": [{"digest": "../../x"}]}'),
        lambda folder, image, layer: change(blob(folder, image.config_digest)),
        lambda folder, image, layer: blob(folder, image.manifest_digest).write_text("{}"),
        lambda folder, image, layer: blob(folder, layer.digest).unlink(),
        lambda folder, image, layer: blob(folder, layer.digest).write_bytes(b"short"),
    ],
)
def test_damage_is_named(layers, tmp_path, damage):
    image = write_oci_layout(layers, CONFIG, tmp_path / "oci", reference="a", place=shutil.copyfile)
    damage(tmp_path / "oci", image, layers[0])
    with pytest.raises(LockError, match="the OCI layout is damaged") as caught:
        read_oci_layout(tmp_path / "oci")
    assert caught.value.diagnostics[0].rule == "hash-mismatch"
