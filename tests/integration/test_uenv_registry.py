"""uenvs in registries, as the uenv command pulls them: a registry in memory, and Debian's docker-registry."""

import io
import json
import shutil
import tarfile
from contextlib import ExitStack

import pytest

from made_registry import made_registry
from made_uenv import META, make_uenv
from real_registry import docker_registry
from uenv_builder.app.uenv_image import read_uenv
from uenv_builder.core.image_reference import RegistryAccess, read_image_reference
from uenv_builder.core.label import Label
from uenv_builder.model.artifact import ArtifactFile
from uenv_builder.model.errors import UsageError
from uenv_builder.publishers.oci.client import RegistryClient
from uenv_builder.publishers.oci.referrers import find_referrers, read_artifact
from uenv_builder.publishers.oci.repository import Repository
from uenv_builder.publishers.uenv_registry import UenvArtifact, push_uenv, repository_name
from uenv_builder.system.events import Silent
from uenv_builder.system.files import sha256_of

LABEL = Label.parse("deploy::tools/1.0:v1@daint%gh200")
REAL = pytest.param("real", marks=pytest.mark.skipif(not shutil.which("docker-registry"), reason="not installed"))
REPORT = ArtifactFile("report.json", "application/json", b"{}")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No proxies, and no credentials of whoever runs the tests."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture(params=["referrers", "no-referrers", REAL])
def repository(request, tmp_path):
    with ExitStack() as stack:
        if request.param == "real":
            address = stack.enter_context(docker_registry(tmp_path / "registry"))
        else:
            address = stack.enter_context(made_registry(referrers=request.param == "referrers")).address
        client = RegistryClient(RegistryAccess(), Silent(), attempts=3, delay=0.001, timeouts=(2.0, 5.0))
        named = read_image_reference(repository_name(f"{address}/uenv", LABEL))
        yield Repository(client, client.place(named))


def artifact(place, **more):
    file = make_uenv(place, **more) / "image.squashfs"
    return UenvArtifact(
        file=file, sha256=sha256_of(file), meta=read_uenv(file).files, created=1_700_000_000,
        report_type="application/vnd.uenv-builder.report.v1", report=(REPORT,),
    )  # fmt: skip


def test_an_image_has_the_shapes_that_the_uenv_command_pulls(repository, tmp_path):
    image = artifact(tmp_path / "build")
    pushed = push_uenv(repository, image, "v1", move=False)
    assert (pushed.change, pushed.way) == ("added", "sent")
    assert repository.place.repository == "uenv/deploy/daint/gh200/tools/1.0"
    descriptor, manifest = repository.read_manifest("v1")
    assert descriptor.digest == pushed.manifest
    assert manifest["artifactType"] == "application/x-squashfs"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    [layer] = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    assert layer["annotations"] == {"org.opencontainers.image.title": "store.squashfs"}
    assert layer["digest"] == f"sha256:{image.sha256}", "which is the image's name in a repository, too"
    assert repository.read_blob(layer["digest"]) == image.file.read_bytes()
    assert manifest["annotations"]["org.opencontainers.image.created"] == "2023-11-14T22:13:20Z"


def test_its_meta_refers_to_it_and_unpacks_to_a_folder_of_that_name(repository, tmp_path):
    pushed = push_uenv(repository, artifact(tmp_path / "build"), "v1", move=False)
    [meta] = find_referrers(repository, pushed.manifest, "uenv/meta")
    _, manifest = repository.read_manifest(meta.manifest.digest)
    assert manifest["subject"]["digest"] == pushed.manifest
    [layer] = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert layer["annotations"]["org.opencontainers.image.title"] == "meta"
    assert layer["annotations"]["io.deis.oras.content.unpack"] == "true"
    [file] = read_artifact(repository, meta, pushed.manifest)
    with tarfile.open(fileobj=io.BytesIO(file.content)) as archive:
        assert archive.getnames() == ["meta", "meta/recipe", "meta/env.json", "meta/recipe/recipe.yaml"]
        assert json.load(archive.extractfile("meta/env.json")) == META
    [report] = find_referrers(repository, pushed.manifest, "application/vnd.uenv-builder.report.v1")
    assert read_artifact(repository, report, pushed.manifest)[0].content == b"{}"


def test_again_changes_nothing(repository, tmp_path):
    image = artifact(tmp_path / "build")
    first = push_uenv(repository, image, "v1", move=False)
    second = push_uenv(repository, image, "v1", move=False)
    assert (second.change, second.way, second.manifest) == ("there", "present", first.manifest)
    assert len(find_referrers(repository, first.manifest)) == 2


def test_a_tag_of_another_image_is_moved_only_if_asked_for(repository, tmp_path):
    first = push_uenv(repository, artifact(tmp_path / "build"), "v1", move=False)
    other = artifact(tmp_path / "other", content=b"other")
    with pytest.raises(UsageError, match="and this image is"):
        push_uenv(repository, other, "v1", move=False)
    assert repository.find_manifest("v1").digest == first.manifest
    moved = push_uenv(repository, other, "v1", move=True)
    assert (moved.change, moved.replaced) == ("moved", first.manifest)
    assert repository.find_manifest("v1").digest == moved.manifest


def test_a_label_needs_a_namespace():
    with pytest.raises(UsageError, match="lacks namespace"):
        repository_name("registry.example/uenv", Label.parse("tools/1.0:v1@daint%gh200"))
