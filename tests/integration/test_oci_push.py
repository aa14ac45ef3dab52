"""Blobs, manifests and artifacts into registries: a real one, one with the referrers API, and faults before both."""

import json
import os
import re
import shutil
import threading
from contextlib import ExitStack

import pytest

import uenv_builder.publishers.oci.upload as upload_module
from faulty_proxy import Fault, proxy
from made_registry import made_registry
from real_registry import docker_registry
from uenv_builder.core.image_reference import RegistryAccess, read_image_reference
from uenv_builder.model.artifact import MANIFEST_TYPE, ArtifactFile, digest_of_bytes
from uenv_builder.model.errors import LockError, NetworkError
from uenv_builder.publishers.oci.client import RegistryClient
from uenv_builder.publishers.oci.referrers import attach, find_referrers, read_artifact
from uenv_builder.publishers.oci.repository import Repository
from uenv_builder.publishers.oci.upload import Blob, push_blob
from uenv_builder.system.events import Silent

CONTENT = os.urandom(200_000)
PIECE = 1 << 16
REAL = pytest.param("real", marks=pytest.mark.skipif(not shutil.which("docker-registry"), reason="not installed"))


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No proxies, and no credentials of whoever runs the tests."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def open_repository(recorder):
    def make(address, name="team/app", attempts=4, **more):
        limits = {"attempts": attempts, "delay": 0.001, "timeouts": (2.0, 5.0)}
        client = RegistryClient(RegistryAccess(), recorder, **limits, **more)
        return Repository(client, client.place(read_image_reference(f"{address}/{name}")))

    return make


@pytest.fixture(scope="module")
def real_address(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("real") / "registry") as address:
        yield address


@pytest.fixture(params=["made", REAL])
def registry(request):
    """Its address: one in memory, and Debian's, which lacks the referrers API."""
    with ExitStack() as stack:
        if request.param == "real":
            yield request.getfixturevalue("real_address")
        else:
            yield stack.enter_context(made_registry()).address


def blob_of(tmp_path, content=CONTENT):
    path = tmp_path / "blob"
    path.write_bytes(content)
    return Blob(digest_of_bytes(content), len(content), path)


def push_image(repository, tag="v1", content=b"{}"):
    """An image with one layer; its digest."""
    config, layer = Blob.of(content), Blob.of(b"layer")
    for blob in (config, layer):
        push_blob(repository, blob)
    described = [{"mediaType": "application/octet-stream", "digest": blob.digest, "size": blob.size}
                 for blob in (config, layer)]  # fmt: skip
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described[0],
                           "layers": described[1:]}).encode()  # fmt: skip
    repository.put_manifest(tag, manifest, MANIFEST_TYPE)
    return digest_of_bytes(manifest)


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 200_000])
def test_a_blob_is_sent_once(registry, open_repository, tmp_path, size):
    repository = open_repository(registry, f"sizes/s{size}")
    blob, heard = blob_of(tmp_path, CONTENT[:size]), []
    assert push_blob(repository, blob, advance=heard.append, piece=PIECE) == "sent"
    assert repository.read_blob(blob.digest) == CONTENT[:size]
    assert sum(heard) == size
    assert push_blob(repository, blob, advance=heard.append, piece=PIECE) == "present"
    assert sum(heard) == 2 * size


def test_a_blob_is_taken_over_from_another_repository(registry, open_repository, tmp_path):
    blob = blob_of(tmp_path)
    push_blob(open_repository(registry, "team/base"), blob)
    with proxy(registry) as front:
        target = open_repository(front.address, "team/mounted")
        assert push_blob(target, blob, mount_from=("team/none", "team/base")) == "mounted"
        assert sum(size for method, _, size in front.asked) == 0
    assert open_repository(registry, "team/mounted").has_blob(blob.digest)


FAULTS = {
    "busy": Fault(method="PATCH|PUT|POST", status=503, times=3),
    "asked to wait": Fault(method="PATCH", status=429, headers={"Retry-After": "0"}, times=2),
    "cut in the middle": Fault(method="PATCH", cut=PIECE // 2),
    "cut twice": Fault(method="PATCH", cut=PIECE // 2, times=2, skip=1),
    "answer lost": Fault(method="PATCH", lose=True, skip=1),
    "last answer lost": Fault(method="PUT", lose=True),
    "first answer lost": Fault(method="POST", lose=True),
    "slow": Fault(method="PATCH", wait=0.05, times=9),
    "internal error at the end": Fault(method="PUT", status=500),
    "upload forgotten": Fault(method="PATCH", status=404, skip=1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_blob_arrives_in_spite_of(registry, open_repository, tmp_path, name):
    blob = blob_of(tmp_path)
    with proxy(registry) as front:
        front.faults = [Fault(**vars(FAULTS[name]))]
        repository = open_repository(front.address, f"faults/{re.sub('[^a-z]', '', name)}")
        assert push_blob(repository, blob, piece=PIECE) == "sent"
        assert all(fault.times == 0 or name == "slow" for fault in front.faults)
        assert repository.read_blob(blob.digest) == CONTENT


def test_what_has_arrived_is_not_sent_again(open_repository, tmp_path):
    with made_registry() as registry, proxy(registry.address) as front:
        front.faults = [Fault(method="PATCH", cut=10_000, skip=2)]
        push_blob(open_repository(front.address), blob_of(tmp_path), piece=PIECE)
        begins = [int(asked.partition("-")[0]) for asked in registry.ranges]
        assert begins == [0, PIECE, 2 * PIECE, 2 * PIECE + 10_000]


@pytest.mark.parametrize(("features", "sent"), [({"pieces": False}, 1), ({"largest": 1 << 20}, 4)])
def test_registries_that_take_no_pieces_or_smaller_ones(open_repository, tmp_path, features, sent):
    content = os.urandom(3 << 20)
    with made_registry(**features) as registry, proxy(registry.address) as front:
        repository = open_repository(front.address)
        push_blob(repository, blob_of(tmp_path, content), piece=2 << 20)
        assert repository.read_blob(digest_of_bytes(content)) == content
        assert front.count("PATCH") == sent


def test_a_registry_that_wants_larger_pieces(open_repository, tmp_path):
    with made_registry(smallest=150_000) as registry:
        push_blob(open_repository(registry.address), blob_of(tmp_path), piece=PIECE)
        assert registry.ranges == ["0-149999", "150000-199999"]


def test_a_registry_that_is_gone_is_told(open_repository, tmp_path):
    with made_registry() as registry, proxy(registry.address) as front:
        front.faults = [Fault(method="PATCH", cut=0, times=99)]
        with pytest.raises(NetworkError, match=r"4 attempts") as caught:
            push_blob(open_repository(front.address), blob_of(tmp_path), piece=PIECE)
    assert caught.value.diagnostics[0].rule == "registry-unreachable"


def test_who_is_to_come_back_in_an_hour_is_told_so(open_repository, tmp_path):
    with made_registry() as registry, proxy(registry.address) as front:
        front.faults = [Fault(method="POST", status=429, headers={"Retry-After": "3600"})]
        with pytest.raises(NetworkError, match=r"come back in 3,600 s") as caught:
            push_blob(open_repository(front.address), blob_of(tmp_path))
        assert front.count("POST") == 1
    assert caught.value.diagnostics[0].rule == "registry-rate-limit"


def test_a_damaged_file_does_not_leave_the_machine(open_repository, tmp_path):
    blob = blob_of(tmp_path)
    blob.content.write_bytes(b"x" + CONTENT[1:])
    with made_registry() as registry, proxy(registry.address) as front:
        with pytest.raises(LockError, match="should be sha256:") as caught:
            push_blob(open_repository(front.address), blob)
        assert front.count("POST") == 0
    assert caught.value.diagnostics[0].rule == "hash-mismatch"


def test_artifacts_refer_to_an_image(registry, open_repository):
    repository = open_repository(registry, "team/attached")
    digest = push_image(repository)
    files = [ArtifactFile("a.json", "application/json", b"{}"), ArtifactFile("empty", "text/plain", b"")]
    made = attach(repository, digest, "application/x.report", files, annotations={"result": "passed"})
    other = attach(repository, digest, "application/x.sbom", files[:1])
    assert attach(repository, digest, "application/x.report", files, annotations={"result": "passed"}) == made
    found = find_referrers(repository, digest)
    assert sorted(found, key=lambda item: item.artifact_type) == [made, other]
    (found,) = find_referrers(repository, digest, "application/x.report")
    assert (found, found.annotations) == (made, {"result": "passed"})
    assert list(read_artifact(repository, found, digest)) == files
    assert find_referrers(repository, f"sha256:{'0' * 64}") == ()


def test_an_artifact_of_another_image_is_refused(registry, open_repository):
    repository = open_repository(registry, "team/foreign")
    one, two = push_image(repository, "one"), push_image(repository, "two", b"[]")
    made = attach(repository, one, "application/x.report", [ArtifactFile("a", "text/plain", b"x")])
    with pytest.raises(NetworkError, match=f"is no artifact of {two}"):
        read_artifact(repository, made, two)


def test_nothing_is_attached_to_what_is_not_there(registry, open_repository):
    repository = open_repository(registry, "team/empty")
    with pytest.raises(NetworkError, match="not found") as caught:
        attach(repository, f"sha256:{'1' * 64}", "application/x.report", [])
    assert caught.value.diagnostics[0].rule == "image-not-found"


def test_several_attach_at_once_without_the_api(open_repository):
    with made_registry(referrers=False) as registry:
        digest = push_image(open_repository(registry.address))

        def work(number):
            attach(open_repository(registry.address), digest, "application/x.report",
                   [ArtifactFile("a", "text/plain", str(number).encode())])  # fmt: skip

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(find_referrers(open_repository(registry.address), digest)) == 3


def test_tags_are_listed_page_by_page(open_repository):
    with made_registry(page=2) as registry:
        repository = open_repository(registry.address)
        assert repository.tags() == ()
        for tag in ("a", "b", "c", "d", "e"):
            push_image(repository, tag)
        assert repository.tags() == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("fault", [{"status": 500, "times": 99}, {"lose": True}, {"cut": 20}])
def test_a_tag_stays_or_moves_as_a_whole(registry, open_repository, fault):
    with proxy(registry) as front:
        repository = open_repository(front.address, f"team/whole{'-'.join(fault)}")
        old = push_image(repository, "moving")
        front.faults = [Fault(method="PUT", path="manifests/moving", **fault)]
        try:
            new = push_image(repository, "moving", b"[]")
        except NetworkError:
            assert repository.find_manifest("moving").digest == old
        else:
            assert repository.find_manifest("moving").digest == new != old
            assert "times" not in fault


def test_pieces_are_as_large_as_documented():
    assert upload_module.PIECE == 32 << 20
