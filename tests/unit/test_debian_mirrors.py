"""Where mirrors are taken from, which of them has a suite, and what is said if none has."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
from pathlib import Path

import pytest

from uenv_builder.model.errors import NetworkError, UsageError
from uenv_builder.sources.debian_mirrors import DebianMirrors, read_transport_settings

_NO_APT = "#!/bin/sh\nexit 0\n"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No mirror of the machine: programs named apt-get that know of none, and no setting."""
    monkeypatch.delenv("UENV_DEBIAN_MIRRORS", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    put_apt_get(monkeypatch, tmp_path, _NO_APT)


def put_apt_get(monkeypatch, tmp_path: Path, script: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "apt-get").write_text(script)
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def put_suite(folder: Path, suite: str) -> Path:
    (folder / "dists" / suite).mkdir(parents=True)
    (folder / "dists" / suite / "InRelease").write_text("signed")
    return folder


@pytest.fixture
def serve():
    servers = []

    def start(folder: Path) -> str:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_configured_mirrors_come_before_those_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("UENV_DEBIAN_MIRRORS", "http://second.example/debian/ http://first.example/debian")
    mirrors = DebianMirrors.of_machine(configured=["http://first.example/debian/", str(tmp_path / "a folder")])
    folder = (tmp_path / "a folder").as_uri()
    assert mirrors.roots == ("http://first.example/debian", folder, "http://second.example/debian")
    assert "%20" in folder


def test_the_machines_own_apt_is_asked_last_and_debian_comes_first(monkeypatch, tmp_path):
    put_apt_get(
        monkeypatch, tmp_path,
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*--no-release-info*) printf '\\thttp://other.example/x/\\n\\tcdrom://disc/\\n\\thttp://d.example/debian/\\n';;\n"
        "*) printf 'Other\\thttp://other.example/x/\\nDebian\\thttp://d.example/debian/\\n';;\n"
        "esac\n",
    )  # fmt: skip
    assert DebianMirrors.of_machine().roots == ("http://d.example/debian", "http://other.example/x")
    assert DebianMirrors.of_machine(configured=["http://mine.example/d"]).roots == ("http://mine.example/d",)


def test_a_machine_without_any_mirror_is_told_how_to_name_one():
    with pytest.raises(NetworkError) as caught:
        DebianMirrors.of_machine()
    assert caught.value.diagnostics[0].rule == "no-mirror"
    assert "UENV_DEBIAN_MIRRORS" in str(caught.value)


def test_a_machine_without_apt_needs_none_for_configured_mirrors(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda *arguments, **options: None)
    assert DebianMirrors.of_machine(configured=[str(tmp_path)]).roots == (tmp_path.as_uri(),)
    with pytest.raises(NetworkError, match="no Debian mirror"):
        DebianMirrors.of_machine()


@pytest.mark.parametrize("address", ["ftp://a.example/debian", "http:///debian", "http://a.example/de bian"])
def test_an_address_that_cannot_be_a_mirror_is_refused(address):
    with pytest.raises(UsageError) as caught:
        DebianMirrors.of_machine(configured=[address])
    assert caught.value.diagnostics[0].rule == "mirror-url"


def test_keyring_is_the_users_or_debians(tmp_path):
    assert DebianMirrors.of_machine(configured=[str(tmp_path)]).keyring.name.startswith("debian-archive-keyring.")
    chosen = DebianMirrors.of_machine(configured=[str(tmp_path)], keyring=tmp_path / "own.gpg")
    assert chosen.keyring == tmp_path / "own.gpg"


def test_each_suite_is_found_on_the_first_root_that_has_it(tmp_path, serve):
    main = put_suite(tmp_path / "main", "demo")
    security = put_suite(put_suite(tmp_path / "security root", "demo-security"), "demo")
    server = serve(main)
    mirrors = DebianMirrors.of_machine(configured=[server, str(security)])
    assert mirrors.find_suite("demo") == server
    assert mirrors.find_suite("demo-security") == security.as_uri()


def test_a_found_suite_is_not_asked_for_again(tmp_path):
    root = put_suite(tmp_path / "root", "demo")
    mirrors = DebianMirrors.of_machine(configured=[str(root)])
    mirrors.find_suite("demo")
    (root / "dists/demo/InRelease").unlink()
    assert mirrors.find_suite("demo") == root.as_uri()


def test_a_suite_that_no_root_has_names_everything_that_was_tried_but_no_password(tmp_path, serve):
    server = serve(tmp_path).replace("http://", "http://someone:secret@")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/debian"
        mirrors = DebianMirrors.of_machine(configured=[server, str(tmp_path), closed])
        with pytest.raises(NetworkError) as caught:
            mirrors.find_suite("nosuch")
    text = str(caught.value)
    assert caught.value.diagnostics[0].rule == "unknown-suite"
    assert '"nosuch"' in text
    assert "HTTP 404" in text
    assert f"{tmp_path.as_uri()}: no such file" in text
    assert "Connection refused" in text
    assert "secret" not in text
    assert "secret" in mirrors.roots[0]


def test_urls_join_every_root_and_prefer_the_suites_own(tmp_path):
    main, security = put_suite(tmp_path / "main", "demo"), put_suite(tmp_path / "security", "demo-security")
    mirrors = DebianMirrors.of_machine(configured=[str(main), str(security)])
    path = "pool/main/g/gcc/libstdc++6_14~rc#1_arm64.deb"
    quoted = "pool/main/g/gcc/libstdc++6_14~rc%231_arm64.deb"
    assert mirrors.urls(path, suite="demo-security") == (f"{main.as_uri()}/{quoted}", f"{security.as_uri()}/{quoted}")
    mirrors.find_suite("demo-security")
    assert mirrors.urls(path, suite="demo-security")[0] == f"{security.as_uri()}/{quoted}"
    assert mirrors.urls(path)[0] == f"{main.as_uri()}/{quoted}"


def test_only_the_way_to_servers_is_taken_from_the_machines_apt(monkeypatch, tmp_path):
    passwords = tmp_path / "passwords"
    passwords.write_text("machine a.example login x password y\n")
    configuration = tmp_path / "machine.conf"
    configuration.write_text(f"""
        Acquire::http::Proxy "http://me:a=b@proxy.example:3128/";
        Acquire::https::a.example::CaInfo "/certificates of mine.pem";
        Acquire::Retries "7";
        Acquire::Languages "de";
        Acquire::AllowInsecureRepositories "true";
        APT::Default-Release "old";
        APT::Install-Recommends "true";
        Dir::Etc::netrc "{passwords}";
        Dir::Etc::Parts "/nonexistent";
        Dir::Etc::netrcparts "/nonexistent";
    """)
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    lines = read_transport_settings()
    assert 'Acquire::http::Proxy "http://me:a=b@proxy.example:3128/";' in lines
    assert 'Acquire::https::a.example::CaInfo "/certificates of mine.pem";' in lines
    assert 'Acquire::Retries "7";' in lines
    assert f'Dir::Etc::netrc "{passwords}";' in lines
    assert not [line for line in lines if "Languages" in line or "APT::" in line or "Insecure" in line]
    assert not [line for line in lines if "nonexistent" in line]
