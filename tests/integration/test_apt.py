"""Resolving from a small signed archive of two suites and two architectures, and once from the real one."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from uenv_builder.model.errors import BuildError, IncompatibleError, NetworkError
from uenv_builder.sources.apt import ResolvedUserland, UnknownPackagesError, UserlandRequest, resolve_userland
from uenv_builder.sources.debian_mirrors import DebianMirrors
from uenv_builder.system.events import Silent
from uenv_builder.system.process import run

MISSING = [name for name in ("apt-get", "dpkg-deb", "gpg", "gpgv", "gpgconf") if not shutil.which(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not on this machine: {', '.join(MISSING)}")

BOTH = ("arm64", "amd64")
DEMO = {
    "base-demo 1.0": "Essential: yes\nDepends: libx",
    "shell-demo 2.0": "Essential: yes",
    "libx 1.0": "",
    "tool 1.0": "Depends: libx (>= 1.0)",
    "tool 2.0": "Depends: libx (>= 1.0)\nRecommends: extra-demo",
    "extra-demo 1.0": "",
    "epochal 1:3.0~rc1+b1-1": "",
    "broken 1.0": "Depends: libx (>= 9.0), nowhere-demo",
    "fussy 1.0": "Depends: libx (>= 1.1)",
    "exact 1.0": "Depends: libx (= 1.0)",
    "one-awk 1.0": "Provides: awk-demo, one-only (= 1.0)",
    "two-awk 1.0": "Provides: awk-demo",
}
SECURITY = {"libx 1.1": "", "tool 2.0": "Depends: libx (>= 1.0)\nRecommends: extra-demo"}


class Archive:
    """A folder with dists and pool, signed by a key of its own."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root, self.home = root, home

    def add(self, suite: str, packages: dict[str, str], architectures=BOTH, **release: str) -> None:
        lists = {architecture: [] for architecture in architectures}
        for title, fields in packages.items():
            name, version = title.split()
            for architecture in architectures:
                of_all = name == "epochal"
                lists[architecture].append(self._build(name, version, "all" if of_all else architecture, fields))
        hashes = []
        for architecture, paragraphs in lists.items():
            path = self.root / f"dists/{suite}/main/binary-{architecture}/Packages"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(paragraphs))
            content = path.read_bytes()
            hashes.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} main/binary-{architecture}/Packages")
        fields = {
            "Origin": "Demo", "Suite": suite, "Codename": suite, "Date": "Thu, 01 Jan 2026 12:34:56 UTC",
            "Architectures": " ".join(architectures), "Components": "main",
        } | release  # fmt: skip
        text = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items() if value)
        self.sign(suite, text + "SHA256:\n" + "\n".join(hashes) + "\n")

    def _build(self, name: str, version: str, architecture: str, fields: str) -> str:
        plain = version.partition(":")[2] or version
        file = self.root / f"pool/main/{name[0]}/{name}/{name}_{plain}_{architecture}.deb"
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: Demo <d@example.org>\n"
        )
        control += f"{fields}\n" if fields else ""
        control += "Description: demo\n"
        if not file.exists():
            tree = self.root.parent / "tree"
            (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
            (tree / "DEBIAN/control").write_text(control)
            file.parent.mkdir(parents=True, exist_ok=True)
            run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(file)])
        content = file.read_bytes()
        path = file.relative_to(self.root)
        return f"{control}Filename: {path}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"

    def sign(self, suite: str, text: str) -> None:
        release = self.root / "dists" / suite / "InRelease"
        release.unlink(missing_ok=True)
        run(["gpg", "--homedir", str(self.home), "--batch", "--clearsign", "--output", str(release)], input=text)

    def copy(self, root: Path) -> Archive:
        shutil.copytree(self.root, root)
        return Archive(root, self.home)


def make_key(home: Path, keyring: Path) -> None:
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    run([*gpg, "--passphrase", "", "--quick-generate-key", "Demo <demo@example.org>", "ed25519", "sign", "never"])
    run([*gpg, "--output", str(keyring), "--export"])


@dataclass
class Keys:
    home: Path
    keyring: Path
    stranger: Path


@pytest.fixture(scope="module")
def keys():
    # gpg's agent listens on a socket in its home, whose path must be short.
    with tempfile.TemporaryDirectory(prefix="gpg-", ignore_cleanup_errors=True) as folder:
        homes = [Path(folder, "own"), Path(folder, "other")]
        for home in homes:
            home.mkdir(mode=0o700)
            make_key(home, Path(folder, f"{home.name}.gpg"))
        yield Keys(homes[0], Path(folder, "own.gpg"), Path(folder, "other.gpg"))
        for home in homes:
            run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"])


@pytest.fixture(scope="module")
def archives(keys, tmp_path_factory):
    """The archive of the suite demo, and on another root that of demo-security."""
    folder = tmp_path_factory.mktemp("archives")
    main, security = Archive(folder / "main archive", keys.home), Archive(folder / "security", keys.home)
    main.add("demo", DEMO)
    security.add("demo-security", SECURITY, Suite="stable-security")
    return main, security


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def mirrors(archives, keys):
    return DebianMirrors.of_machine(configured=[str(archive.root) for archive in archives], keyring=keys.keyring)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("UENV_DEBIAN_MIRRORS", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def resolve(mirrors, shared_workspace):
    def call(*packages: str, at=mirrors, keep=None, workspace=shared_workspace, **fields) -> ResolvedUserland:
        request = {
            "suites": ("demo", "demo-security"), "components": ("main",), "architecture": "arm64", "essential": False,
        } | fields  # fmt: skip
        asked = UserlandRequest(packages=packages, **request)
        return resolve_userland(asked, at, workspace=workspace, listener=Silent(), keep=keep)

    return call


def versions(found: ResolvedUserland) -> dict[str, str]:
    return {deb.name: deb.version for deb in found.packages}


def one_mirror(archive: Archive, keyring: Path) -> DebianMirrors:
    return DebianMirrors.of_machine(configured=[str(archive.root)], keyring=keyring)


@pytest.mark.parametrize("architecture", BOTH)
def test_each_package_is_described_as_its_file_is(resolve, archives, architecture):
    found = resolve("tool", "epochal", architecture=architecture)
    assert versions(found) == {"epochal": "1:3.0~rc1+b1-1", "libx": "1.1", "tool": "2.0"}
    roots = {"demo": archives[0].root, "demo-security": archives[1].root}
    for deb in found.packages:
        content = (roots[deb.suite] / deb.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (deb.size, deb.sha256)
    assert [deb.architecture for deb in found.packages] == ["all", architecture, architecture]
    assert [deb.suite for deb in found.packages] == ["demo", "demo-security", "demo"]


def test_releases_tell_date_and_hash_of_what_was_verified(resolve, archives):
    found = resolve("libx")
    assert [release.suite for release in found.releases] == ["demo", "demo-security"]
    assert {release.date for release in found.releases} == {"2026-01-01T12:34:56Z"}
    for release, archive in zip(found.releases, archives, strict=True):
        signed = (archive.root / f"dists/{release.suite}/InRelease").read_bytes()
        assert release.sha256 == hashlib.sha256(signed).hexdigest()


def test_essential_packages_and_recommended_ones_come_on_request(resolve):
    assert set(versions(resolve("tool"))) == {"tool", "libx"}
    assert set(versions(resolve(essential=True))) == {"base-demo", "shell-demo", "libx"}
    assert set(versions(resolve("tool", recommends=True))) == {"tool", "libx", "extra-demo"}
    assert set(versions(resolve("shell-demo=2.0", essential=True))) == {"base-demo", "shell-demo", "libx"}
    assert resolve().packages == ()


def test_a_named_version_is_taken_and_a_provided_name_too(resolve):
    assert versions(resolve("tool=1.0", "libx=1.0")) == {"tool": "1.0", "libx": "1.0"}
    assert versions(resolve("epochal=1:3.0~rc1+b1-1")) == {"epochal": "1:3.0~rc1+b1-1"}
    assert versions(resolve("one-only")) == {"one-awk": "1.0"}


def test_all_unknown_names_are_reported_at_once_with_those_close_to_them(resolve):
    with pytest.raises(UnknownPackagesError) as caught:
        resolve("tool", "epocal", "fusssy=1.0", "zzzzzz")
    assert caught.value.names == {"epocal": ["epochal"], "fusssy": ["fussy"], "zzzzzz": []}
    assert [finding.rule for finding in caught.value.diagnostics] == ["unknown-package"] * 3
    assert "did you mean epochal?" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_package_of_the_other_architecture_alone_is_unknown(keys, resolve, tmp_path):
    archive = Archive(tmp_path / "archive", keys.home)
    archive.add("demo", {"libx 1.0": ""})
    archive.add("other", {"intel-demo 1.0": ""}, architectures=("amd64",))
    at = one_mirror(archive, keys.keyring)
    assert resolve("intel-demo", at=at, suites=("demo", "other"), architecture="amd64").packages[0].suite == "other"
    with pytest.raises(UnknownPackagesError, match='Debian demo for arm64 has no package "intel-demo"'):
        resolve("intel-demo", at=at, suites=("demo", "other"))


def test_a_component_that_the_archive_does_not_have_is_named(resolve):
    with pytest.raises(IncompatibleError) as caught:
        resolve("libx", components=("main", "extra"))
    assert {finding.rule for finding in caught.value.diagnostics} == {"unknown-component"}
    assert "component 'extra'" in str(caught.value)


def test_unknown_versions_name_those_that_exist(resolve):
    with pytest.raises(IncompatibleError) as caught:
        resolve("tool=3.0", "libx=0.5")
    assert [finding.rule for finding in caught.value.diagnostics] == ["unknown-version"] * 2
    assert "it has 2.0, 1.0" in str(caught.value)
    assert "it has 1.1, 1.0" in str(caught.value)


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        (["broken"], "nowhere-demo but it is not installable"),
        (["fussy", "libx=1.0"], "fussy : Depends: libx (>= 1.1) but 1.0 is to be installed"),
        (["awk-demo"], "awk-demo"),
    ],
)
def test_what_cannot_be_installed_is_explained_in_apts_words(resolve, packages, reason):
    with pytest.raises(IncompatibleError) as caught:
        resolve(*packages)
    assert caught.value.diagnostics[0].rule == "unsatisfiable"
    assert reason in caught.value.diagnostics[0].message
    assert "E: " in caught.value.diagnostics[0].message


def test_kept_versions_stay_until_they_are_let_go(resolve):
    older = {"libx": "1.0", "tool": "1.0", "not-needed-any-more": "7"}
    assert versions(resolve("tool", keep=older)) == {"libx": "1.0", "tool": "1.0"}
    del older["tool"]
    assert versions(resolve("tool", keep=older)) == {"libx": "1.0", "tool": "2.0"}
    assert versions(resolve("tool", "libx=1.1", keep=older)) == {"libx": "1.1", "tool": "2.0"}
    assert versions(resolve("tool")) == {"libx": "1.1", "tool": "2.0"}


def test_a_kept_version_that_is_in_the_way_is_explained(resolve):
    with pytest.raises(IncompatibleError) as caught:
        resolve("fussy", keep={"libx": "1.0"})
    assert "libx (>= 1.1) but 1.0 is to be installed" in str(caught.value)
    assert "--upgrade NAME" in str(caught.value)


def test_a_kept_version_that_vanished_is_named_with_the_way_to_renew_it(resolve):
    with pytest.raises(IncompatibleError) as caught:
        resolve("tool", keep={"tool": "1.5", "libx": "0.9", "shell-demo": "0.1"})
    assert [finding.rule for finding in caught.value.diagnostics] == ["version-gone"] * 2
    assert "tool 1.5, which the lock holds, is gone" in str(caught.value)
    assert "they have 2.0, 1.0" in str(caught.value)
    assert "uenv lock RECIPE --upgrade tool" in str(caught.value)


def test_a_vanished_version_is_the_reason_given_where_it_leaves_others_unsatisfied(keys, resolve, tmp_path):
    archive = Archive(tmp_path / "archive", keys.home)
    archive.add("demo", {"libx 1.1": "", "exact 1.0": "Depends: libx (= 1.0)"})
    with pytest.raises(IncompatibleError) as caught:
        resolve("exact", at=one_mirror(archive, keys.keyring), suites=("demo",), keep={"exact": "1.0", "libx": "1.0"})
    assert [finding.rule for finding in caught.value.diagnostics] == ["version-gone"]


def signature_refused(resolve, at: DebianMirrors) -> str:
    with pytest.raises(NetworkError) as caught:
        resolve("libx", at=at, suites=("demo",))
    assert caught.value.diagnostics[0].rule == "release-signature"
    return str(caught.value)


def test_a_release_file_that_was_changed_is_refused(archives, keys, resolve, tmp_path):
    archive = archives[0].copy(tmp_path / "changed")
    release = archive.root / "dists/demo/InRelease"
    release.write_text(release.read_text().replace("Origin: Demo", "Origin: Mode"))
    assert "not signed by a key of the keyring" in signature_refused(resolve, one_mirror(archive, keys.keyring))


def test_a_release_file_without_signature_is_refused(archives, keys, resolve, tmp_path):
    archive = archives[0].copy(tmp_path / "unsigned")
    (archive.root / "dists/demo/InRelease").write_text("Suite: demo\nDate: Thu, 01 Jan 2026 12:34:56 UTC\n")
    signature_refused(resolve, one_mirror(archive, keys.keyring))


def test_a_signature_by_another_key_is_refused(archives, keys, resolve):
    signature_refused(resolve, one_mirror(archives[0], keys.stranger))


def test_an_expired_release_file_is_refused(keys, resolve, tmp_path):
    archive = Archive(tmp_path / "expired", keys.home)
    archive.add("demo", {"libx 1.0": ""}, Valid_Until="Thu, 08 Jan 2026 12:34:56 UTC")
    assert "is expired" in signature_refused(resolve, one_mirror(archive, keys.keyring))


def test_an_old_suite_under_a_new_name_is_refused(archives, keys, resolve, tmp_path):
    archive = archives[0].copy(tmp_path / "renamed")
    (archive.root / "dists/demo").rename(archive.root / "dists/newer")
    with pytest.raises(NetworkError, match="newer calls itself demo"):
        resolve("libx", at=one_mirror(archive, keys.keyring), suites=("newer",))


def test_package_lists_that_were_changed_are_refused(archives, keys, resolve, tmp_path):
    archive = archives[0].copy(tmp_path / "lists")
    packages = archive.root / "dists/demo/main/binary-arm64/Packages"
    packages.write_text(packages.read_text().replace("Package: tool", "Package: fool"))
    with pytest.raises(NetworkError) as caught:
        resolve("libx", at=one_mirror(archive, keys.keyring), suites=("demo",))
    assert caught.value.diagnostics[0].rule == "release-hash"


def test_a_missing_keyring_is_named_with_the_way_to_install_it(archives, resolve, tmp_path):
    with pytest.raises(BuildError) as caught:
        resolve("libx", at=one_mirror(archives[0], tmp_path / "none.gpg"))
    assert "apt-get install debian-archive-keyring" in str(caught.value)


@pytest.fixture
def served(archives):
    """The first archive over HTTP: its URL, and the list of requests that came in."""
    asked: list[str] = []

    class Recorder(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            """Note the request."""
            asked.append(self.path)

    serve = functools.partial(Recorder, directory=str(archives[0].root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def test_http_and_folder_give_the_same_and_lists_are_fetched_once(served, keys, resolve):
    url, asked = served
    over_http = DebianMirrors.of_machine(configured=[url], keyring=keys.keyring)
    first = resolve("tool", at=over_http, suites=("demo",))
    assert first == resolve("tool", suites=("demo",))
    assert url not in repr(first)
    before = len(asked)
    assert resolve("tool", "extra-demo", at=over_http, suites=("demo",)).packages[0].name == "extra-demo"
    assert len(asked) == before
    assert resolve("tool", at=over_http, suites=("demo",), architecture="amd64").packages[0].architecture == "amd64"
    assert len(asked) > before


def test_lists_whose_fetching_was_cut_short_are_fetched_again(resolve, tmp_path):
    expected = resolve("tool", workspace=tmp_path)
    (folder,) = tmp_path.glob("apt-*")
    (folder / "complete").unlink()
    shutil.rmtree(folder / "var/cache")
    for path in (folder / "var/lib/apt/lists").glob("*_Packages"):
        path.unlink()
        path.write_bytes(b"")
    assert resolve("tool", workspace=tmp_path) == expected


def test_a_mirror_that_vanishes_after_it_was_found_is_a_network_error(keys, resolve, archives, tmp_path):
    copy = archives[0].copy(tmp_path / "copy")
    mirrors = one_mirror(copy, keys.keyring)
    mirrors.find_suite("demo")
    shutil.rmtree(copy.root / "dists/demo/main")
    with pytest.raises(NetworkError) as caught:
        resolve("libx", at=mirrors, suites=("demo",))
    assert "could not be fetched" in str(caught.value)


def test_nothing_of_the_machine_plays_a_part(resolve, monkeypatch, tmp_path):
    expected = resolve("tool", workspace=tmp_path / "plain")
    machine = tmp_path / "machine.conf"
    machine.write_text('APT::Install-Recommends "true";\nAPT::Default-Release "demo";\nAPT::Architecture "amd64";\n')
    monkeypatch.setenv("APT_CONFIG", str(machine))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    umask = os.umask(0o077)
    try:
        found = resolve("tool", workspace=tmp_path / "a place with blanks")
    finally:
        os.umask(umask)
    assert found == expected


@pytest.mark.network
@pytest.mark.parametrize("architecture", BOTH)
def test_the_real_archive_gives_what_its_own_index_says(architecture, tmp_path, resolve):
    try:
        mirrors = DebianMirrors.of_machine()
    except NetworkError as error:
        pytest.skip(f"no mirror: {error}")
    request = {"at": mirrors, "suites": ("trixie",), "architecture": architecture}
    first = resolve("python3-minimal", workspace=tmp_path / "first", **request)
    second = resolve("python3-minimal", workspace=tmp_path / "second", **request)
    assert first == second
    assert {"python3-minimal", "python3.13-minimal", "libc6"} <= set(versions(first))
    assert first.releases[0].date.endswith("Z")
    (index,) = (tmp_path / "first").glob("apt-*/var/lib/apt/lists/*_trixie_main_binary-*_Packages")
    paragraphs = index.read_text().split("\n\n")
    for deb in first.packages:
        (text,) = [text for text in paragraphs if text.startswith(f"Package: {deb.name}\n")]
        lines = text.splitlines()
        assert f"Version: {deb.version}" in lines
        assert f"Architecture: {deb.architecture}" in lines
        assert f"Filename: {deb.path}" in lines
        assert f"Size: {deb.size}" in lines
        assert f"SHA256: {deb.sha256}" in lines
