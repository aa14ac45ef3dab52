"""Base images from registries: a real one on loopback, and one that asks for logins and does everything wrong."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
from urllib.parse import parse_qs, urlsplit

import faulty_server
import pytest
import requests
from faulty_server import Answer, FaultyServer, serving

from real_registry import docker_registry
from uenv_builder.app.mirroring import fill_mirror
from uenv_builder.app.session import Session
from uenv_builder.core.artefacts import artefact_of, base_parts
from uenv_builder.core.image_reference import RegistryAccess
from uenv_builder.images.oci import write_oci_layout
from uenv_builder.layers.oci_layer import oci_layer_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import IncompatibleError, LockError, NetworkError
from uenv_builder.model.image import ImageConfig
from uenv_builder.sources.oci_base import LockedBase, fetch_base, resolve_base
from uenv_builder.sources.oci_registry import Registries
from uenv_builder.system.events import Silent
from uenv_builder.system.layer_blob import write_layer
from uenv_builder.system.registry_login import INDEX_TYPES, MANIFEST_TYPES
from uenv_builder.system.settings import Settings
from uenv_builder.system.store import Store

EPOCH = 1_700_000_000
USER, PASSWORD = "alice", "hunter2"
HTPASSWD = "alice:$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n"
BIG = os.urandom(300_000)


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No proxies, and no credentials of whoever runs the tests."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def connect(tmp_path, recorder):
    """Registries with a store of their own, and short patience."""

    def make(*, offline=False, attempts=3, folders=(), **access):
        return Registries(
            RegistryAccess(**access), Store(tmp_path / "store"), recorder,
            offline=offline, attempts=attempts, delay=0.001, timeouts=(5.0, 20.0), mirrors=folders,
        )  # fmt: skip

    return make


def log_in(path, registry, entry=None):
    """Write the file of a user who is logged in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = entry or {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    path.write_text(json.dumps({"auths": {registry: entry}}))
    return path


def run(*command):
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def file(path, content, mode=0o644):
    return Entry(path=path, kind="file", mode=mode, mtime=EPOCH, size=len(content), content=io.BytesIO(content))


def link(kind, path, target):
    return Entry(path=path, kind=kind, mode=0o777, mtime=EPOCH, target=target)


def lower():
    yield Entry(path="etc", kind="dir", mode=0o755, mtime=EPOCH)
    yield file("etc/big", BIG, 0o600)
    yield link("hardlink", "etc/same", "etc/big")
    yield link("symlink", "bin", "usr/bin")
    yield file("etc/gone", b"x")


def upper():
    yield file("etc/.wh.gone", b"")
    yield file("new", b"new")


LISTED = [
    [("etc", "dir", b""), ("etc/big", "file", BIG), ("etc/same", "hardlink", b"etc/big"),
     ("bin", "symlink", b"usr/bin"), ("etc/gone", "file", b"x")],
    [("etc/.wh.gone", "file", b""), ("new", "file", b"new")],
]  # fmt: skip


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("lower", "upper")]
    return [write_layer(entries, folder) for entries, folder in zip((lower(), upper()), folders, strict=True)]


@pytest.fixture(scope="module")
def layouts(layers, tmp_path_factory):
    """An OCI layout by architecture."""
    made = {}
    for architecture in ("arm64", "amd64"):
        config = ImageConfig(
            architecture=architecture, env={"PATH": "/bin", "EMPTY": "", "EQUAL": "a=b"}, workdir="/etc",
            entrypoint=("/bin/run", "-x"), cmd=("/bin/sh",), created=EPOCH, history=("lower", architecture),
        )  # fmt: skip
        made[architecture] = tmp_path_factory.mktemp("layouts") / architecture
        write_oci_layout(layers, config, made[architecture], reference="demo:v1")
    return made


def documents(layout):
    """Of the manifest and the config of a layout: their bytes."""
    index = json.loads((layout / "index.json").read_bytes())
    blobs = layout / "blobs/sha256"
    manifest = (blobs / index["manifests"][0]["digest"][7:]).read_bytes()
    return manifest, (blobs / json.loads(manifest)["config"]["digest"][7:]).read_bytes()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def index_of(layouts, **more):
    """An index with the two architectures, and something that is no image among them."""
    entries = [{"mediaType": MANIFEST_TYPES[0], "digest": f"sha256:{'0' * 64}", "size": 7,
                "platform": {"os": "unknown", "architecture": "unknown"}}]  # fmt: skip
    for architecture, layout in layouts.items():
        manifest, _ = documents(layout)
        platform = {"os": "linux", "architecture": architecture}
        platform |= {"variant": "v8"} if architecture == "arm64" else {}
        entries.append({"mediaType": MANIFEST_TYPES[0], "digest": f"sha256:{sha256(manifest)}",
                        "size": len(manifest), "platform": platform})  # fmt: skip
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": entries, **more}).encode()


def listing(base, blobs):
    found = []
    for layer, blob in zip(base.layers, blobs, strict=True):
        entries = oci_layer_entries(blob, media_type=layer.media_type, diff_id=layer.diff_id)
        found.append([
            (entry.path, entry.kind, entry.content.read() if entry.content else entry.target.encode())
            for entry in entries
        ])  # fmt: skip
    return found


def rule(caught):
    return caught.value.diagnostics[0].rule


# A real registry.


@pytest.fixture(scope="module")
def registry(layouts, tmp_path_factory):
    """Its address; holds demo/app:v1 (both architectures), :arm64, :amd64 and :docker (gzip, in docker's format)."""
    with docker_registry(tmp_path_factory.mktemp("real") / "registry") as address:
        push = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false"]
        for architecture, layout in layouts.items():
            run(*push, "--preserve-digests", f"oci:{layout}:demo:v1", f"docker://{address}/demo/app:{architecture}")
        gzipped = f"oci:{tmp_path_factory.mktemp('gzipped')}:demo"  # docker's format knows no zstd
        run(*push, "--dest-compress-format", "gzip", f"oci:{layouts['arm64']}:demo:v1", gzipped)
        run(*push, "--format", "v2s2", gzipped, f"docker://{address}/demo/app:docker")
        both = json.loads(index_of(layouts))
        both["manifests"] = both["manifests"][1:]
        answer = requests.put(f"http://{address}/v2/demo/app/manifests/v1", data=json.dumps(both), timeout=20,
                              headers={"Content-Type": INDEX_TYPES[0]})  # fmt: skip
        assert answer.status_code == 201, answer.text
        yield address


@needs("docker-registry", "skopeo")
def test_an_image_by_its_tag(registry, layouts, layers, connect):
    base = resolve_base(f"{registry}/demo/app:v1", "arm64", connect())
    manifest, config = documents(layouts["arm64"])
    assert (base.manifest_digest, base.manifest_size) == (sha256(manifest), len(manifest))
    assert (base.config_digest, base.config_size) == (sha256(config), len(config))
    assert base.index_digest is not None
    assert base.index_digest != base.manifest_digest
    assert [(layer.digest, layer.size, layer.diff_id) for layer in base.layers] == [
        (layer.digest, layer.size, layer.diff_id) for layer in layers
    ]
    assert base.env == {"PATH": "/bin", "EMPTY": "", "EQUAL": "a=b"}
    assert (base.working_dir, base.entrypoint, base.cmd) == ("/etc", ("/bin/run", "-x"), ("/bin/sh",))
    assert (base.created, base.architecture, base.reference) == (EPOCH, "arm64", f"{registry}/demo/app:v1")
    assert LockedBase.model_validate_json(base.model_dump_json()) == base
    assert listing(base, fetch_base(base, connect())) == LISTED


@needs("docker-registry", "skopeo")
def test_a_digest_decides_alone(registry, layouts, connect):
    by_tag = resolve_base(f"{registry}/demo/app:v1", "amd64", connect())
    named = f"{registry}/demo/app:other@sha256:{by_tag.index_digest}"
    assert resolve_base(named, "amd64", connect()) == by_tag.model_copy(update={"reference": named})
    direct = f"{registry}/demo/app@sha256:{by_tag.manifest_digest}"
    found = resolve_base(direct, "amd64", connect())
    assert found == by_tag.model_copy(update={"reference": direct, "index_digest": None})


@needs("docker-registry", "skopeo")
def test_dockers_format(registry, layers, connect):
    base = resolve_base(f"{registry}/demo/app:docker", "arm64", connect())
    assert {layer.media_type for layer in base.layers} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    assert [layer.diff_id for layer in base.layers] == [layer.diff_id for layer in layers]
    assert listing(base, fetch_base(base, connect())) == LISTED


@needs("docker-registry", "skopeo")
def test_what_the_registry_does_not_have(registry, connect):
    for name in ("demo/app:v2", "demo/none:v1", f"demo/app@sha256:{'1' * 64}"):
        with pytest.raises(NetworkError, match=r"not found \(HTTP 404\): ") as caught:
            resolve_base(f"{registry}/{name}", "arm64", connect())
        assert rule(caught) == "image-not-found"
    with pytest.raises(IncompatibleError, match="is for linux/amd64, and linux/arm64 is needed") as caught:
        resolve_base(f"{registry}/demo/app:amd64", "arm64", connect())
    assert rule(caught) == "base-architecture"


@needs("docker-registry", "skopeo")
def test_a_mirror_serves_another_name(registry, connect):
    registries = connect(mirrors={"r.example/team": f"{registry}/demo"})
    base = resolve_base("r.example/team/app:v1", "arm64", registries)
    assert listing(base, fetch_base(base, registries)) == LISTED


@needs("docker-registry", "skopeo")
def test_a_password(layouts, connect, tmp_path):
    auth = tmp_path / "home/.docker/config.json"
    with docker_registry(tmp_path / "registry", htpasswd=HTPASSWD) as address:
        run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}",
            "--preserve-digests", f"oci:{layouts['arm64']}:demo:v1", f"docker://{address}/private:v1")  # fmt: skip
        with pytest.raises(NetworkError, match=r"unauthorised \(HTTP 401\), asked without credentials") as caught:
            resolve_base(f"{address}/private:v1", "arm64", connect())
        assert rule(caught) == "registry-unauthorised"
        assert str(auth) in str(caught.value)
        assert f"skopeo login {address}" in str(caught.value)
        log_in(auth, address)
        base = resolve_base(f"{address}/private:v1", "arm64", connect())
        assert listing(base, fetch_base(base, connect())) == LISTED
        with pytest.raises(NetworkError, match="not found"):
            resolve_base(f"{address}/private:v2", "arm64", connect())


# A registry of our own.


class LoginRequest(faulty_server._Request):
    """Wants a token for everything below /v2/, and gives it to whoever has the password or the identity token."""

    def do_GET(self):  # noqa: N802
        owner, path = self.server.owner, urlsplit(self.path)
        if path.path.startswith("/v2/") and self.headers.get("Authorization") != f"Bearer {owner.token}":
            owner.asked.append((self.path, None))
            realm = owner.realm or owner.url("/token")
            challenge = f'Bearer realm="{realm}",service="r.example",scope="repository:app:pull"'
            self.send_answer(Answer(status=401, headers={"WWW-Authenticate": challenge}), b"")
        elif path.path == "/token":
            self.give_token(path.query)
        else:
            super().do_GET()

    def do_POST(self):  # noqa: N802
        self.give_token(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def give_token(self, asked):
        owner = self.server.owner
        owner.token_requests.append((self.command, parse_qs(asked), self.headers.get("Authorization")))
        known = self.headers.get("Authorization") in owner.accepted or "sesame" in asked
        content = json.dumps({"token": owner.token}).encode()
        if owner.token_script:
            self.send_answer(answer := owner.token_script.pop(0), answer.content)
            return
        self.send_answer(Answer(content=content) if known else Answer(status=401), content)


class LoginServer(FaultyServer):
    """Its token can be changed, which makes the older ones worthless."""

    def __init__(self):
        super().__init__()
        self._server.RequestHandlerClass = LoginRequest
        self.token, self.realm, self.accepted = "t1", None, {None}
        self.token_requests, self.token_script = [], []


def fill(server, layouts, name="app"):
    """Put the image into a server's files; gives its reference."""
    for layout in layouts.values():
        manifest, _ = documents(layout)
        server.files[f"/v2/{name}/manifests/sha256:{sha256(manifest)}"] = manifest
        for blob in (layout / "blobs/sha256").iterdir():
            server.files[f"/v2/{name}/blobs/sha256:{blob.name}"] = blob.read_bytes()
    server.files[f"/v2/{name}/manifests/v1"] = index_of(layouts)
    return server.url(f"/{name}:v1").removeprefix("http://")


@pytest.fixture
def server(layouts):
    """One without logins."""
    with serving() as running:
        running.image = fill(running, layouts)
        yield running


@pytest.fixture
def login_server(layouts):
    running = LoginServer()
    try:
        running.image = fill(running, layouts)
        running.host = running.image.partition("/")[0]
        yield running
    finally:
        running.close()


BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
MANIFEST = "/v2/app/manifests/v1"


def test_a_token_is_fetched_once_and_renewed(login_server, connect):
    registries = connect()
    base = resolve_base(login_server.image, "arm64", registries)
    asked = {"service": ["r.example"], "scope": ["repository:app:pull"]}
    assert login_server.token_requests == [("GET", asked, None)]
    assert login_server.ranges(f"/v2/app/blobs/sha256:{base.config_digest}") == [None]
    login_server.token = "t2"
    assert listing(base, fetch_base(base, registries)) == LISTED
    assert login_server.token_requests == [("GET", asked, None)] * 2


def test_the_password_goes_to_the_token_service_only(login_server, connect, tmp_path):
    login_server.accepted = {BASIC}
    with pytest.raises(NetworkError, match=r"unauthorised \(HTTP 401\), asked without credentials"):
        resolve_base(login_server.image, "arm64", connect())
    path = log_in(tmp_path / "mine.json", f"{login_server.host}/app")
    resolve_base(login_server.image, "arm64", connect(auth_files=(path,)))
    assert login_server.token_requests[-1][2] == BASIC
    assert BASIC not in {headers.get("Authorization") for headers in login_server.headers}


def test_a_mirror_is_filled_with_the_users_login(login_server, layouts, tmp_path, monkeypatch, recorder):
    login_server.accepted = {BASIC}
    auth = log_in(tmp_path / "logins.json", login_server.host)
    settings = Settings(cache=str(tmp_path / "store"), registry_auth_files=(str(auth),))
    session = Session(settings=settings, listener=recorder)
    base = resolve_base(login_server.image, "arm64", session.registries)
    login_server.files[f"/v2/app/manifests/sha256:{base.index_digest}"] = login_server.files[MANIFEST]
    artefacts = [artefact_of(part) for part in base_parts(base)]
    filled = fill_mirror(session, tmp_path / "mirror", artefacts)
    assert filled.added == len({artefact.sha256 for artefact in artefacts}) == 5
    manifest, config = documents(layouts["arm64"])
    for content in (manifest, config):
        assert (tmp_path / "mirror/sha256" / sha256(content)[:2] / sha256(content)).read_bytes() == content
    stranger = Session(settings=Settings(cache=str(tmp_path / "empty"), registry_auth_files=(str(tmp_path / "none"),)))
    with pytest.raises(NetworkError, match="unauthorised"):
        fill_mirror(stranger, tmp_path / "other", artefacts)


def test_a_refused_password_names_its_file(login_server, connect, tmp_path):
    login_server.accepted = set()
    path = log_in(tmp_path / "mine.json", login_server.host)
    with pytest.raises(NetworkError, match=f"asked as {USER}, from {path}") as caught:
        resolve_base(login_server.image, "arm64", connect(auth_files=(path,)))
    assert rule(caught) == "registry-unauthorised"
    assert PASSWORD not in str(caught.value)


def test_an_identity_token_is_posted(login_server, connect, tmp_path):
    login_server.accepted = set()
    path = log_in(tmp_path / "mine.json", login_server.host, {"identitytoken": "sesame"})
    resolve_base(login_server.image, "arm64", connect(auth_files=(path,)))
    ((method, asked, authorization),) = login_server.token_requests
    assert (method, authorization) == ("POST", None)
    assert asked["refresh_token"] == ["sesame"]
    assert asked["grant_type"] == ["refresh_token"]


def test_a_token_that_does_not_help(login_server, connect):
    login_server.token_script = [Answer(content=b'{"access_token": "wrong"}')] * 9
    with pytest.raises(NetworkError, match="unauthorised") as caught:
        resolve_base(login_server.image, "arm64", connect())
    assert rule(caught) == "registry-unauthorised"
    assert login_server.ranges("/v2/app/manifests/v1") == [None, None]


def test_a_token_service_that_is_busy_is_asked_again(login_server, connect, recorder):
    login_server.token_script = [Answer(status=503), Answer(status=429), Answer(send=3, content=b"{}" * 9)]
    resolve_base(login_server.image, "arm64", connect(attempts=4))
    assert [bool(re.search("HTTP 503|HTTP 429|IncompleteRead", note)) for note in recorder.notes] == [True] * 3


@pytest.mark.parametrize("content", [b"{}", b"[]", b"no", b'"t"'])
def test_a_token_service_that_gives_none(login_server, connect, content):
    login_server.token_script = [Answer(content=content)]
    with pytest.raises(NetworkError, match="/token gave no token: HTTP 200"):
        resolve_base(login_server.image, "arm64", connect())


@pytest.mark.parametrize("realm", ["http://r.example/token", "file:///etc/passwd", "nowhere"])
def test_passwords_are_not_sent_in_the_clear(login_server, connect, tmp_path, realm):
    login_server.realm = realm
    path = log_in(tmp_path / "mine.json", login_server.host)
    with pytest.raises(NetworkError, match="which is not safe"):
        resolve_base(login_server.image, "arm64", connect(auth_files=(path,)))


def test_blobs_may_lie_elsewhere_and_tokens_do_not_go_there(login_server, layers, connect):
    registries = connect()
    base = resolve_base(login_server.image, "arm64", registries)
    with serving() as elsewhere:
        for layer in layers:
            elsewhere.files[f"/store/{layer.digest}"] = layer.blob.read_bytes()
            moved = Answer(status=307, headers={"Location": elsewhere.url(f"/store/{layer.digest}")})
            login_server.scripts[f"/v2/app/blobs/sha256:{layer.digest}"].append(moved)
        assert listing(base, fetch_base(base, registries)) == LISTED
        assert len(elsewhere.headers) == 2
        assert {headers.get("Authorization") for headers in elsewhere.headers} == {None}


def test_a_broken_download_goes_on_where_it_ended(login_server, layers, connect):
    registries = connect()
    base = resolve_base(login_server.image, "arm64", registries)
    login_server.token = "t2"
    path = f"/v2/app/blobs/sha256:{layers[0].digest}"
    login_server.scripts[path].extend([Answer(send=100_000, reset=True), Answer(send=100_000)])
    assert listing(base, fetch_base(base, registries)) == LISTED
    begins = [int(asked[6:-1]) if asked else 0 for asked in login_server.ranges(path)]
    assert len(begins) == 4
    assert begins == sorted(begins)
    assert begins[-1] > 100_000


def test_a_login_that_ended_between_two_parts_is_renewed(login_server, layers, connect, monkeypatch):
    registries = connect()
    base = resolve_base(login_server.image, "arm64", registries)
    path = f"/v2/app/blobs/sha256:{layers[0].digest}"
    login_server.scripts[path].append(Answer(send=100_000))
    register = Recorder.note

    def end_login(self, text):
        login_server.token = "t2"
        register(self, text)

    monkeypatch.setattr(Recorder, "note", end_login)
    assert listing(base, fetch_base(base, registries)) == LISTED
    assert len(login_server.token_requests) == 2


def test_who_asks_too_often_waits_as_told(server, connect, recorder):
    busy = Answer(status=429, headers={"Retry-After": "0"}, content=b"")
    server.scripts[MANIFEST].extend([busy, busy])
    resolve_base(server.image, "arm64", connect())
    assert sum("too many requests (HTTP 429); trying" in note for note in recorder.notes) == 2


@pytest.mark.parametrize(("wait", "count"), [("21600", 1), ("0", 3)])
def test_a_rate_limit_is_told(server, connect, wait, count):
    busy = Answer(status=429, headers={"Retry-After": wait})
    server.scripts[MANIFEST].extend([busy] * 9)
    with pytest.raises(NetworkError, match=r"too many requests \(HTTP 429\)") as caught:
        resolve_base(server.image, "arm64", connect())
    assert rule(caught) == "registry-rate-limit"
    assert "skopeo login" in str(caught.value)
    assert ("asks to come back in 21,600 s" in str(caught.value)) == (count == 1)
    assert len(server.ranges(MANIFEST)) == count


def test_a_manifest_with_another_digest(server, layouts, connect):
    manifest, _ = documents(layouts["arm64"])
    path = f"/v2/app/manifests/sha256:{sha256(manifest)}"
    server.files[path] = manifest + b" "
    with pytest.raises(LockError, match=f"has sha256 {sha256(manifest + b' ')}, expected {sha256(manifest)}") as caught:
        resolve_base(server.image, "arm64", connect())
    assert rule(caught) == "hash-mismatch"


def test_a_layer_with_another_digest(server, layers, connect):
    base = resolve_base(server.image, "arm64", connect())
    content = layers[0].blob.read_bytes()
    server.files[f"/v2/app/blobs/sha256:{layers[0].digest}"] = bytes([content[0] ^ 1]) + content[1:]
    with pytest.raises(LockError, match=f"expected {layers[0].digest}") as caught:
        fetch_base(base, connect())
    assert rule(caught) == "hash-mismatch"
    assert "skopeo inspect" in caught.value.diagnostics[0].hint


def test_a_layer_that_always_ends_early(server, layers, connect):
    base = resolve_base(server.image, "arm64", connect())
    server.scripts[f"/v2/app/blobs/sha256:{layers[0].digest}"].extend([Answer(send=10, ranges=False)] * 9)
    with pytest.raises(NetworkError, match=r"3 attempts") as caught:
        fetch_base(base, connect())
    assert rule(caught) == "download"


def test_a_manifest_that_is_cut_off_is_asked_for_again(server, connect):
    server.scripts[MANIFEST].extend([Answer(send=20), Answer(send=20, reset=True), Answer(status=500)])
    assert resolve_base(server.image, "arm64", connect(attempts=5)).architecture == "arm64"


@pytest.mark.parametrize("content", [b"<html>log in</html>", b"[]", b"\xff", b""])
def test_what_is_no_registry(server, connect, content):
    server.files[MANIFEST] = content
    with pytest.raises(NetworkError, match="is not the JSON of an image") as caught:
        resolve_base(server.image, "arm64", connect())
    assert rule(caught) == "registry-unreachable"


def test_nobody_listens(connect):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(NetworkError, match="Connection refused") as caught:
            resolve_base(f"{host}/app:v1", "arm64", connect())
    assert rule(caught) == "registry-unreachable"
    assert host in caught.value.diagnostics[0].hint


def test_what_a_registry_says_is_quoted_safely(server, connect):
    said = json.dumps({"errors": [{"code": "DENIED", "message": "see \x1b[31mhttps://r.example"}]}).encode()
    server.scripts[MANIFEST].append(Answer(status=403, content=said))
    server._server.RequestHandlerClass = SaysRequest
    with pytest.raises(NetworkError, match=r"unauthorised \(HTTP 403\).*: see \?\[31mhttps://r\.example"):
        resolve_base(server.image, "arm64", connect())


class SaysRequest(faulty_server._Request):
    """Sends the content of an error, too."""

    def choose(self, answer, content):
        status, headers, body = super().choose(answer, content)
        return status, headers, content if status >= 400 else body


def test_the_registry_is_asked_where_its_mirror_fails(server, layouts, layers, connect, recorder):
    with serving() as mirror:
        host = mirror.url("").removeprefix("http://")
        registries = connect(mirrors={server.image.partition(":v1")[0]: f"{host}/copy"})
        mirror.files["/v2/copy/manifests/v1"] = index_of(layouts, annotations={"old": "yes"})
        base = resolve_base(server.image, "arm64", registries)
        mirror.files[f"/v2/copy/blobs/sha256:{layers[0].digest}"] = b"x" * layers[0].size
        assert listing(base, fetch_base(base, registries)) == LISTED
        assert len(mirror.ranges(f"/v2/copy/blobs/sha256:{layers[0].digest}")) == 1
        assert len(mirror.ranges(f"/v2/copy/blobs/sha256:{layers[1].digest}")) == 1
        with pytest.raises(NetworkError) as caught:
            resolve_base(server.image.replace(":v1", ":v2"), "arm64", registries)
        assert str(caught.value).count("not found (HTTP 404)") == 2


def test_a_folder_with_artefacts_is_asked_first(server, layers, connect, tmp_path):
    base = resolve_base(server.image, "arm64", connect())
    for layer in layers:
        place = tmp_path / "mirror/sha256" / layer.digest[:2] / layer.digest
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(layer.blob, place)
    mirror = (tmp_path / "mirror").as_uri()
    assert listing(base, fetch_base(base, connect(offline=True, folders=[mirror]))) == LISTED
    assert not [path for path, _ in server.asked if layers[0].digest in path]


def test_a_damaged_layer_in_the_store_is_fetched_again(server, connect, recorder, tmp_path):
    base = resolve_base(server.image, "arm64", connect())
    path = fetch_base(base, connect())[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    session = Session(settings=Settings(cache=str(tmp_path / "store")), listener=recorder)
    assert listing(base, session.fetch_base(base)) == LISTED
    assert [note for note in recorder.notes if "was dropped" in note]


def test_offline_only_the_store_counts(server, connect):
    base = resolve_base(server.image, "arm64", connect())
    for work in (lambda: resolve_base(server.image, "arm64", connect(offline=True)),
                 lambda: fetch_base(base, connect(offline=True))):  # fmt: skip
        with pytest.raises(NetworkError) as caught:
            work()
        assert rule(caught) == "offline"
    fetch_base(base, connect())
    assert listing(base, fetch_base(base, connect(offline=True))) == LISTED


@pytest.mark.parametrize(
    ("platforms", "offered"),
    [
        (["linux/amd64/", "windows/amd64/", "linux/arm/v7"], "linux/amd64, windows/amd64, linux/arm/v7"),
        (["linux/arm64/v9"], "linux/arm64/v9"),
        ([], "no architecture that it names"),
    ],
)  # fmt: skip
def test_an_index_without_the_architecture(server, connect, platforms, offered):
    fields = ("os", "architecture", "variant")
    entries = [
        {"digest": f"sha256:{'2' * 64}", "size": 1, "platform": dict(zip(fields, platform.split("/"), strict=True))}
        for platform in platforms
    ]
    server.files[MANIFEST] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    with pytest.raises(IncompatibleError, match=f"is for {offered}, and linux/arm64 is needed") as caught:
        resolve_base(server.image, "arm64", connect())
    assert rule(caught) == "base-architecture"


def changed(server, layouts, edit_manifest=None, edit_config=None):
    """Serve an image whose documents were edited, with digests that fit."""
    manifest, config = (json.loads(document) for document in documents(layouts["arm64"]))
    if edit_config:
        edit_config(config)
    content = json.dumps(config).encode()
    server.files[f"/v2/app/blobs/sha256:{sha256(content)}"] = content
    manifest["config"] |= {"digest": f"sha256:{sha256(content)}", "size": len(content)}
    if edit_manifest:
        edit_manifest(manifest)
    server.files[MANIFEST] = json.dumps(manifest).encode()


def test_an_image_that_says_nothing_of_how_it_runs(server, layouts, connect):
    changed(server, layouts, lambda manifest: manifest.pop("mediaType"),
            lambda config: [config.pop(key) for key in ("config", "created", "history")])  # fmt: skip
    base = resolve_base(server.image, "arm64", connect())
    assert (base.env, base.working_dir, base.entrypoint, base.cmd, base.created) == ({}, "", (), (), 0)


LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.distribution.manifest"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["config"].update(mediaType="application/vnd.cncf.helm.config.v1+json"), "its config is of"),
        (lambda m: m["layers"][0].update(mediaType=f"{LAYER}+zstd+encrypted"), "its layer is of the type"),
        (lambda m: m.update(mediaType=f"{DOCKER}.v1+prettyjws"), "its manifest is of the type"),
        (lambda m: m["layers"].pop(), "has 1 layers, and its config has 2"),
        (lambda m: m["layers"][0].update(size="7"), "not as the specification says"),
        (lambda m: m["layers"][0].update(size=-7), "not as the specification says"),
        (lambda m: m["layers"][0].update(digest="md5:7"), "not as the specification says"),
        (lambda m: m.pop("config"), "not as the specification says"),
        (lambda m: m.update(layers=7), "not as the specification says"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_base(server, layouts, connect, edit, reason):
    changed(server, layouts, edit)
    with pytest.raises(IncompatibleError, match=reason) as caught:
        resolve_base(server.image, "arm64", connect())
    assert rule(caught) == "base-image"


def test_a_config_for_another_architecture(server, layouts, connect):
    changed(server, layouts, None, lambda config: config.update(architecture="riscv64", variant="x"))
    with pytest.raises(IncompatibleError, match="is for linux/riscv64/x, and"):
        resolve_base(server.image, "arm64", connect())


def test_indices_that_only_name_each_other_end(server, connect):
    digest = sha256(b"")
    server.files[MANIFEST] = json.dumps({"manifests": [
        {"digest": f"sha256:{digest}", "platform": {"os": "linux", "architecture": "arm64"}}
    ]}).encode()  # fmt: skip
    with pytest.raises(NetworkError, match="not found"):
        resolve_base(server.image, "arm64", connect())
