import base64
import io
import json
import os
from pathlib import Path

import pytest
import requests

from uenv_builder.core.image_reference import RegistryAccess, is_loopback, read_image_reference
from uenv_builder.model.errors import RecipeError, UsageError
from uenv_builder.system.registry_auth import Credentials, auth_files, find_login, read_challenges
from uenv_builder.system.registry_login import RegistryAuth
from uenv_builder.system.transfer import GiveUpError

DIGEST = "0123456789abcdef" * 4


def encoded(user, password):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def write(tmp_path):
    def write_file(document, name="auth.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write_file


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Puts a credential helper on PATH that prints what it is told to, and keeps what it was asked."""

    def make(name, output, code=0):
        program = tmp_path / "bin" / f"docker-credential-{name}"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat >> {tmp_path}/asked\n'
                           f"cat <<'END'\n{output}\nEND\nexit {code}\n")  # fmt: skip
        program.chmod(0o755)
        return tmp_path / "asked"

    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return make


def user_of(path, registry, repository="team/app"):
    found = find_login(registry, repository, files=[path]).credentials
    return found and found.user


def test_where_credentials_lie(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    assert auth_files() == (
        Path(f"/run/containers/{os.getuid()}/containers/auth.json"),
        Path("/home/someone/.config/containers/auth.json"),
        Path("/home/someone/.docker/config.json"),
    )
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    monkeypatch.setenv("DOCKER_CONFIG", "/d")
    assert auth_files() == (
        Path("/run/user/7/containers/auth.json"), Path("/c/containers/auth.json"), Path("/d/config.json"),
    )  # fmt: skip
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/only.json")
    assert auth_files() == (Path("/only.json"),)


def test_the_first_file_with_an_entry_counts(write, tmp_path):
    first = write({"auths": {"other.example": encoded("o", "x")}}, "1.json")
    second = write({"auths": {"r.example": encoded("second", "x:y")}}, "2.json")
    third = write({"auths": {"r.example": encoded("third", "x")}}, "3.json")
    login = find_login("r.example", "a", files=[tmp_path / "missing.json", first, second, third])
    assert login.credentials == Credentials("second", "x:y", "", str(second))
    assert login.searched == f"as second, from {second}"
    none = find_login("elsewhere.example", "a", files=[first, tmp_path / "missing.json"])
    assert none.credentials is None
    assert none.searched == f"without credentials: none in {first}, {tmp_path}/missing.json"


def test_the_longest_name_wins(write):
    path = write({"auths": {
        "r.example": encoded("host", "x"), "r.example/team": encoded("team", "x"),
        "r.example/team/app": encoded("app", "x"), "r.example/te": encoded("no", "x"),
        "r.example:5000": encoded("port", "x"),
    }})  # fmt: skip
    wanted = {
        "team/app": "app", "team/app/deep": "app", "team/apple": "team", "team": "team", "tea": "host",
        "x/team": "host",
    }  # fmt: skip
    assert {name: user_of(path, "r.example", name) for name in wanted} == wanted
    assert user_of(path, "r.example:5000") == "port"
    assert user_of(path, "example") is None


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"])
@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io"])
def test_the_names_of_docker_hub(write, key, host):
    assert user_of(write({"auths": {key: encoded("hub", "x")}}), host, "library/debian") == "hub"


def test_dockers_older_keys(write):
    assert user_of(write({"auths": {"https://r.example/v1/": encoded("old", "x")}}), "r.example") == "old"
    both = {"https://r.example": encoded("old", "x"), "r.example": encoded("new", "x")}
    assert user_of(write({"auths": both}), "r.example") == "new"


def test_an_identity_token_stands_for_a_password(write):
    path = write({"auths": {"r.example": {"identitytoken": "secret", **encoded("u", "")}}})
    found = find_login("r.example", "a", files=[path]).credentials
    assert (found.user, found.password, found.identity_token) == ("u", "", "secret")


def test_secrets_are_not_shown(write):
    path = write({"auths": {"r.example": {"identitytoken": "sesame", **encoded("u", "hunter2")}}})
    login = find_login("r.example", "a", files=[path])
    assert login.credentials.password == "hunter2"
    assert "hunter2" not in repr(login) + login.searched
    assert "sesame" not in repr(login) + login.searched


def test_a_helper_is_asked_for_its_registry(write, helper):
    asked = helper("vault", json.dumps({"ServerURL": "x", "Username": "u", "Secret": "s"}))
    path = write({"credHelpers": {"r.example": "vault"}, "auths": {"r.example": encoded("file", "x")}})
    assert find_login("r.example", "a", files=[path]).credentials == Credentials(
        "u", "s", "", f"docker-credential-vault, which {path} names"
    )
    assert asked.read_text().split() == ["get", "r.example"]
    assert user_of(path, "other.example") is None


def test_a_helper_for_all_registries(write, helper):
    asked = helper("store", json.dumps({"Username": "<token>", "Secret": "s"}))
    path = write({"credsStore": "store", "auths": {"https://index.docker.io/v1/": {}}})
    found = find_login("docker.io", "library/debian", files=[path]).credentials
    assert (found.user, found.password, found.identity_token) == ("", "", "s")
    assert asked.read_text().split() == ["get", "https://index.docker.io/v1/"]


def test_a_helper_that_has_none_leaves_it_to_the_file(write, helper):
    helper("store", "credentials not found in native keychain", code=1)
    path = write({"credsStore": "store", "auths": {"r.example": encoded("file", "x"), "s.example": {}}})
    assert user_of(path, "r.example") == "file"
    assert user_of(path, "s.example") is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "not valid JSON"),
        ([], "no JSON object"),
        ({"auths": []}, None),
        ({"auths": ["x"]}, "its auths is no JSON object"),
        ({"auths": {"r.example": "x"}}, "its entry for r.example is no JSON object"),
        ({"auths": {"r.example": {"auth": "***"}}}, "not user:password in base64"),
        ({"auths": {"r.example": {"auth": "aGk="}}}, "not user:password in base64"),
        ({"auths": {"r.example": {"auth": 5}}}, "not user:password in base64"),
        ({"credHelpers": {"r.example": "../x"}}, "no name of a credential helper"),
        ({"credHelpers": {"r.example": "missing"}}, "docker-credential-missing is not on PATH"),
        ({"credsStore": "bad"}, "its helper docker-credential-bad failed for r.example: locked"),
        ({"credsStore": "odd"}, "answered with no credentials"),
    ],
)
def test_files_that_cannot_be_used(write, helper, document, reason):
    helper("bad", "locked", code=3)
    helper("odd", "hello")
    path = write(document)
    if reason is None:
        assert find_login("r.example", "a", files=[path]).credentials is None
        return
    with pytest.raises(UsageError, match=reason) as caught:
        find_login("r.example", "a", files=[path])
    assert caught.value.diagnostics[0].rule == "registry-auth"
    assert str(path) in str(caught.value)


def test_another_registrys_entry_may_be_broken(write):
    path = write({"auths": {"bad.example": {"auth": "***"}, "r.example": encoded("good", "x")}})
    assert user_of(path, "r.example") == "good"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("debian", "docker.io", "library/debian", "latest", ""),
        ("nvidia/cuda:12.8.1-base", "docker.io", "nvidia/cuda", "12.8.1-base", ""),
        ("docker.io/debian:trixie", "docker.io", "library/debian", "trixie", ""),
        ("index.docker.io/library/debian", "docker.io", "library/debian", "latest", ""),
        (f"nvcr.io/nvidia/pytorch:26.02-py3@sha256:{DIGEST}", "nvcr.io", "nvidia/pytorch", "26.02-py3", DIGEST),
        (f"quay.io/a/b@sha256:{DIGEST}", "quay.io", "a/b", "", DIGEST),
        ("localhost/a", "localhost", "a", "latest", ""),
        ("127.0.0.1:5000/a/b__c:1", "127.0.0.1:5000", "a/b__c", "1", ""),
        ("R.Example/a", "r.example", "a", "latest", ""),
    ],
)
def test_references(text, registry, repository, tag, digest):
    found = read_image_reference(text)
    assert (found.registry, found.repository, found.tag, found.digest) == (registry, repository, tag, digest)
    assert found.manifest == (f"sha256:{digest}" if digest else tag)
    assert read_image_reference(str(found)) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("docker://debian", "write debian"),
        ("nvcr.io#nvidia/cuda:1", "write nvcr.io/nvidia/cuda:1"),
        ("Debian", "in lower case"),
        ("a//b", "registry.example/name"),
        ("a:" + "x" * 129, "copy the tag"),
        ("debian@sha256:12", "write registry.example"),
        ("", "write registry.example"),
        ("oci:folder", None),
    ],
)
def test_what_is_no_reference(text, hint):
    if hint is None:
        assert read_image_reference(text).tag == "folder"
        return
    with pytest.raises(RecipeError) as caught:
        read_image_reference(text)
    assert caught.value.diagnostics[0].rule == "image-reference"
    assert hint in caught.value.diagnostics[0].hint


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (
            'Bearer realm="https://a.example/token",service="r.example",scope="repository:a/b:pull,push"',
            {
                "bearer": {
                    "realm": "https://a.example/token",
                    "service": "r.example",
                    "scope": "repository:a/b:pull,push",
                }
            },
        ),
        ('Basic realm="Registry", charset="UTF-8"', {"basic": {"realm": "Registry", "charset": "UTF-8"}}),
        ('basic realm=x, BEARER realm="y=z"', {"basic": {"realm": "x"}, "bearer": {"realm": "y=z"}}),
        ("Negotiate, Basic realm=x", {"negotiate": {}, "basic": {"realm": "x"}}),
        ("", {}),
    ],
)
def test_challenges(header, challenges):
    assert read_challenges(header) == challenges


def places(text, **access):
    return [place.url("blobs", "x") for place in RegistryAccess(**access).places(read_image_reference(text))]


def test_where_images_are_asked_for():
    assert places("debian") == ["https://registry-1.docker.io/v2/library/debian/blobs/x"]
    assert places("127.0.0.1:5000/a") == ["http://127.0.0.1:5000/v2/a/blobs/x"]
    assert places("r.example:5000/a", insecure=frozenset({"r.example:5000"})) == ["http://r.example:5000/v2/a/blobs/x"]
    assert places("r.example/a", insecure=frozenset({"r.example:5000"})) == ["https://r.example/v2/a/blobs/x"]


def test_mirrors_are_asked_first():
    mirrors = {"docker.io": "m.example/hub", "docker.io/nvidia": "n.example", "quay.io/a": "q.example:5000/b"}
    assert places("debian", mirrors=mirrors) == [
        "https://m.example/v2/hub/library/debian/blobs/x", "https://registry-1.docker.io/v2/library/debian/blobs/x",
    ]  # fmt: skip
    assert places("nvidia/cuda", mirrors=mirrors)[0] == "https://n.example/v2/cuda/blobs/x"
    assert places("nvidiax/cuda", mirrors=mirrors)[0] == "https://m.example/v2/hub/nvidiax/cuda/blobs/x"
    assert places("quay.io/ab/c", mirrors=mirrors) == ["https://quay.io/v2/ab/c/blobs/x"]
    assert places("quay.io/a", mirrors=mirrors)[0] == "https://q.example:5000/v2/b/blobs/x"


@pytest.mark.parametrize("mirror", ["https://m.example", ""])
def test_a_mirror_is_named_as_images_are(mirror):
    with pytest.raises(UsageError, match=r"the mirror of docker\.io"):
        places("debian", mirrors={"docker.io": mirror})


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("localhost:5000", True), ("127.0.0.1", True), ("127.8.8.8:80", True),
        ("[::1]:5000", True),
        ("localhost.example", False), ("127.0.0.1.example", False), ("10.0.0.1", False), ("", False),
    ],
)  # fmt: skip
def test_loopback(host, local):
    assert is_loopback(host) is local


def test_http_is_believed_only_where_it_is_allowed():
    access = RegistryAccess(insecure=frozenset({"r.example"}))
    allowed = ["https://x.example/token", "http://r.example/token", "http://127.0.0.1:5/token"]
    assert [
        url for url in [*allowed, "http://x.example/t", "file:///etc", "", "ftp://r.example"] if access.allows(url)
    ] == allowed


@pytest.mark.parametrize(
    ("target", "followed"),
    [("https://s.example/x", True), ("/v2/b/blobs/x", True), ("http://s.example/x", False), ("ftp://s.example", False)],
)
def test_no_redirection_leaves_https(target, followed):
    answer = requests.Response()
    answer.raw = io.BytesIO()
    answer.status_code, answer.url, answer.headers["Location"] = 307, "https://r.example/v2/a/blobs/x", target
    if followed:
        assert RegistryAuth(RegistryAccess())._judge(answer) is answer
        return
    with pytest.raises(GiveUpError, match=f"leads to {target}, which is not https"):
        RegistryAuth(RegistryAccess())._judge(answer)
