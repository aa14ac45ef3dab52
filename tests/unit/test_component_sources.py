"""Sources of components: archives that are unpacked safely, and commits that are what they are called."""

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
import zipfile

import pytest
import zstandard

from damaged_git import damage_objects
from uenv_builder.layers.installed import installed_entries
from uenv_builder.layers.source_archive import archive_entries
from uenv_builder.model.errors import BuildError, LockError, NetworkError
from uenv_builder.sources.git import GitSource, export_commit, fetch_commit
from uenv_builder.system.events import Silent
from uenv_builder.system.unpack import unpack_entries

TIME = 1_600_000_000


def tar(*members):
    """A tar archive of (name, content or type, target) in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content, *target in members:
            info = tarfile.TarInfo(name)
            info.mtime = TIME
            if isinstance(content, str):
                info.size, info.mode = len(content), 0o4755
                archive.addfile(info, io.BytesIO(content.encode()))
            else:
                info.type, info.linkname = content, *target, *([""] if not target else [])
                archive.addfile(info)
    return buffer.getvalue()


GOOD = tar(
    ("tool-1.0", tarfile.DIRTYPE),
    ("./tool-1.0/src/main.c", "int main;\n"),
    ("tool-1.0/link", tarfile.SYMTYPE, "src/main.c"),
    ("tool-1.0/same", tarfile.LNKTYPE, "tool-1.0/src/main.c"),
)


def write(tmp_path, content):
    path = tmp_path / "archive"
    path.write_bytes(content)
    return path


def entries(tmp_path, content, strip=1):
    return list(archive_entries(write(tmp_path, content), name="tool.tar", strip=strip))


def refusal(call, *arguments):
    with pytest.raises(BuildError) as caught:
        call(*arguments)
    return caught.value.diagnostics[0]


@pytest.mark.parametrize(
    "press",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gz", "bz2", "xz", "zst"],
)
def test_tar_archives_of_every_compression(tmp_path, press):
    path = write(tmp_path, press(GOOD))
    target = tmp_path / "tree"
    target.mkdir()
    unpack_entries(archive_entries(path, name="tool.tar", strip=1), target, keep_times=True)
    assert (target / "src/main.c").read_text() == "int main;\n"
    assert (target / "src/main.c").stat().st_mode & 0o7777 == 0o755
    assert (target / "src/main.c").stat().st_mtime == TIME
    assert (target / "link").resolve() == (target / "src/main.c").resolve()
    assert (target / "same").samefile(target / "src/main.c")


def test_a_zip_archive(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("tool-1.0/", (2020, 1, 1, 0, 0, 0)), "")
        archive.writestr(zipfile.ZipInfo("tool-1.0/a.c", (2020, 1, 1, 0, 0, 0)), "a")
    assert [(entry.path, entry.kind) for entry in entries(tmp_path, buffer.getvalue())] == [("a.c", "file")]


def test_a_zip_archive_without_dates_and_one_with_a_password(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("tool-1.0/a.c", (2020, 1, 1, 0, 0, 0)), "a")
    written = bytearray(buffer.getvalue())
    heads = written.index(b"PK\3\4"), written.index(b"PK\1\2")
    for head, date in zip(heads, (12, 14), strict=True):
        written[head + date : head + date + 2] = b"\0\0"  # year 1980, month 0, day 0
    [entry] = entries(tmp_path, bytes(written))
    assert (entry.path, entry.mtime) == ("a.c", 0)
    for head, flags in zip(heads, (6, 8), strict=True):
        written[head + flags] |= 1
    assert refusal(entries, tmp_path, bytes(written)).rule == "broken-archive"


@pytest.mark.parametrize(
    ("member", "rule"),
    [
        (("tool/../../evil", "x"), "unsafe-path"),
        (("/tool/evil", "x"), "unsafe-path"),
        (("tool/pipe", tarfile.FIFOTYPE), "device-node"),
        (("tool/disk", tarfile.BLKTYPE), "device-node"),
        (("tool/hard", tarfile.LNKTYPE, "../evil"), "unsafe-path"),
    ],
)
def test_members_that_lead_out_are_refused(tmp_path, member, rule):
    assert refusal(entries, tmp_path, tar(("tool/good", "x"), member)).rule == rule


def test_nothing_is_written_through_a_link(tmp_path):
    content = tar(("tool/out", tarfile.SYMTYPE, "/etc"), ("tool/out/passwd", "root"))
    assert refusal(entries, tmp_path, content).rule == "unsafe-path"


@pytest.mark.parametrize("content", [b"<html>no archive</html>", gzip.compress(GOOD)[:-40], b"PK\x03\x04 and then"])
def test_what_is_no_whole_archive(tmp_path, content):
    assert refusal(entries, tmp_path, content).rule == "broken-archive"


def test_too_many_folders_taken_off(tmp_path):
    finding = refusal(entries, tmp_path, GOOD, 5)
    assert finding.rule == "broken-archive"
    assert "strip: 4" in finding.hint


def test_what_is_installed_is_the_same_everywhere(tmp_path):
    for name in ("usr/local/lib/libtool.la", "usr/local/lib/libtool.so", "lib/udev/rule", "usr/local/share/info/dir"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "usr/local/lib/libtool.so").chmod(0o4700)
    (tmp_path / "usr/local/lib/same.so").hardlink_to(tmp_path / "usr/local/lib/libtool.so")
    found = {entry.path: entry for entry in installed_entries(tmp_path, epoch=TIME, what="tool")}
    assert "usr/local/lib/libtool.la" not in found
    assert "usr/local/share/info/dir" not in found
    assert found["usr/lib/udev/rule"].mode == 0o644
    assert found["usr/local/lib/libtool.so"].mode == 0o755
    assert (found["usr/local/lib/same.so"].kind, found["usr/local/lib/same.so"].target) == (
        "hardlink", "usr/local/lib/libtool.so",
    )  # fmt: skip
    assert {(entry.mtime, entry.uid) for entry in found.values()} == {(TIME, 0)}


def test_one_place_is_installed_once(tmp_path):
    for name in ("lib/x", "usr/lib/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert refusal(lambda: list(installed_entries(tmp_path, epoch=0, what="tool"))).rule == "file-conflict"


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Two commits; the first one's id is returned, too."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("first\n")
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    first = git(folder, "rev-parse", "HEAD")
    (folder / "file").write_text("second\n")
    git(folder, "commit", "-q", "-a", "-m", "second")
    return folder, first


def fetch(tmp_path, *urls, commit, **more):
    place = tmp_path / "stored"
    place.mkdir(exist_ok=True)
    fetch_commit(GitSource(commit=commit, urls=urls, **more), place, Silent())
    return place


@pytest.mark.parametrize("kind", ["folder", "url", "bare", "bundle"])
def test_exactly_the_commit_comes_from_any_kind_of_place(tmp_path, repository, kind):
    folder, first = repository
    bare, bundle = tmp_path / "bare.git", tmp_path / "all.bundle"
    if kind == "bare":
        git(tmp_path, "clone", "-q", "--bare", str(folder), str(bare))
    if kind == "bundle":
        git(folder, "bundle", "create", "-q", str(bundle), "--all")
    url = {"folder": str(folder), "url": folder.as_uri(), "bare": str(bare), "bundle": str(bundle)}[kind]
    stored = fetch(tmp_path, (tmp_path / "gone").as_uri(), url, commit=first)
    target = tmp_path / "tree"
    target.mkdir()
    time = export_commit(first, stored, target)
    assert (target / "file").read_text() == "first\n"
    assert (target / "script").stat().st_mode & 0o111
    assert not (target / ".git").exists()
    assert (target / "file").stat().st_mtime == time == int(git(folder, "log", "-1", "--format=%ct", first))


def test_a_commit_that_nobody_has(tmp_path, repository):
    folder, _ = repository
    with pytest.raises(NetworkError) as caught:
        fetch(tmp_path, folder.as_uri(), commit="a" * 40)
    assert folder.as_uri() in str(caught.value)


def test_a_damaged_repository_is_noticed(tmp_path, repository):
    folder, first = repository
    stored = fetch(tmp_path, str(folder), commit=first)
    damage_objects(stored / "repository.git")
    (tmp_path / "tree").mkdir()
    with pytest.raises(LockError) as caught:
        export_commit(first, stored, tmp_path / "tree")
    assert caught.value.diagnostics[0].rule == "hash-mismatch"


@pytest.mark.usefixtures("repository")
def test_submodules_are_refused_or_fetched(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    git(whole, "init", "-q")
    git(whole, "submodule", "--quiet", "add", "../upstream", "parts/one")
    git(whole, "commit", "-q", "-m", "with a part")
    commit = git(whole, "rev-parse", "HEAD")
    finding = refusal(lambda: fetch(tmp_path, whole.as_uri(), commit=commit))
    assert finding.rule == "git-submodules"
    assert "parts/one" in finding.message
    again = tmp_path / "again"
    again.mkdir()
    fetch_commit(GitSource(commit=commit, urls=(whole.as_uri(),), submodules=True), again, Silent())
    (tmp_path / "tree").mkdir()
    export_commit(commit, again, tmp_path / "tree")
    assert (tmp_path / "tree/parts/one/file").read_text() == "second\n"
