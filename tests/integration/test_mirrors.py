"""Mirrors: filled, damaged, unreachable, half filled; folders and web servers; and what is missing."""

import hashlib
import io
import os
import random
import resource
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from faulty_server import Answer, serving

from uenv_builder.app.component_sources import fetch_sources, git_folder, unpack_sources
from uenv_builder.app.mirroring import fill_mirror, verify_mirror
from uenv_builder.app.missing import require_reachable
from uenv_builder.app.session import Session
from uenv_builder.core.artefacts import artefact_of, artefacts_of
from uenv_builder.core.lock_file import parse_lock
from uenv_builder.model.component import ComponentSource
from uenv_builder.model.errors import BuildError, LockError, NetworkError, UsageError
from uenv_builder.model.lock import LockedComponent, LockedSource, LockedWheel
from uenv_builder.sources.git import export_commit
from uenv_builder.system.download import Download, Downloader
from uenv_builder.system.events import Silent
from uenv_builder.system.mirrors import MirrorFolder, file_place, mirror_root
from uenv_builder.system.settings import Settings
from uenv_builder.system.store import Store
from uenv_command import ROOT

CONTENTS = [random.Random(number).randbytes(20_000 + 1000 * number) for number in range(5)]
CONTENTS.append(random.Random(5).randbytes(300_000))


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "UENV_CACHE", "UENV_PYTHON_INDEX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with serving() as running:
        yield running


def sha(content):
    return hashlib.sha256(content).hexdigest()


def wheel(number):
    content = CONTENTS[number]
    return LockedWheel(
        name=f"thing{number}", version="1.0", file=f"thing{number}-1.0-py3-none-any.whl",
        size=len(content), sha256=sha(content),
    )  # fmt: skip


ARTEFACTS = [artefact_of(wheel(number)) for number in range(len(CONTENTS))]


@pytest.fixture
def index(tmp_path):
    """A folder of wheels, as an index that needs no server."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, content in enumerate(CONTENTS):
        (folder / wheel(number).file).write_bytes(content)
    return folder


def session(tmp_path, *, index="http://127.0.0.1:1/simple", offline=False, mirror=(), store="store"):
    settings = Settings(cache=str(tmp_path / store), python_index=str(index))
    return Session(settings=settings, listener=Notes(), offline=offline, jobs=2, mirror=mirror)


def tree(folder):
    """All that a copy of the folder would have: names, content, permissions and times."""
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes(),
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_mtime,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def filled(tmp_path, index, name="mirror"):
    fill_mirror(session(tmp_path, index=index), tmp_path / name, ARTEFACTS)
    return tmp_path / name


def wanted(number, *urls):
    content = CONTENTS[number]
    return Download(name=f"thing{number}", sha256=sha(content), size=len(content), urls=urls)


def put(server, number, content=None, below="/mirror"):
    server.files[f"{below}/{file_place(sha(CONTENTS[number]))}"] = CONTENTS[number] if content is None else content


def asking(tmp_path, mirrors, *, offline=False):
    notes = Notes()
    store = Store(tmp_path / "own-store")
    return Downloader(store, notes, offline=offline, attempts=2, delay=0.001, mirrors=mirrors), notes


def test_filled_with_what_is_named_by_hash_and_nothing_else(tmp_path, index):
    mirror = tmp_path / "mirror"
    one = fill_mirror(session(tmp_path, index=index), mirror, [*ARTEFACTS, ARTEFACTS[0]], recipes=["a/1"])
    assert tree(mirror) == {file_place(sha(content)): (content, 0o644, 0) for content in CONTENTS}
    assert not (mirror / ".unfinished").exists()
    assert (one.added, one.added_bytes, one.present) == (6, sum(map(len, CONTENTS)), 0)
    two = fill_mirror(session(tmp_path), mirror, ARTEFACTS)  # nobody is asked: that index is not there
    assert (two.added, two.present, two.present_bytes) == (0, 6, one.added_bytes)
    assert one.document()["recipes"] == ["a/1"]
    assert tree(filled(tmp_path, index, "second")) == tree(mirror)


def test_filled_from_the_store_first_and_from_other_mirrors(tmp_path, index):
    own = session(tmp_path)
    for number in (0, 1):
        path = own.store.download_path(sha(CONTENTS[number]))
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENTS[number] if number == 0 else CONTENTS[1][::-1])
    other = filled(tmp_path, index, "other")
    offline = session(tmp_path, mirror=[str(other)], offline=True)
    assert fill_mirror(offline, tmp_path / "mirror", ARTEFACTS).added == 6
    assert tree(tmp_path / "mirror") == tree(other)
    # Each is a file of its own: what happens to the store's does not happen to the mirror's.
    place = tmp_path / "mirror" / file_place(sha(CONTENTS[0]))
    assert place.stat().st_nlink == 1
    with pytest.raises(NetworkError) as caught:
        fill_mirror(session(tmp_path, offline=True, store="empty"), tmp_path / "third", ARTEFACTS)
    assert len(caught.value.diagnostics) == 6


def test_what_is_damaged_is_found_and_replaced(tmp_path, index):
    mirror = filled(tmp_path, index)
    place = mirror / file_place(sha(CONTENTS[2]))
    place.write_bytes(CONTENTS[2][:-1] + b"?")
    (mirror / "sha256/stray").write_text("x")
    (mirror / "sha256/ab").mkdir(exist_ok=True)
    (mirror / "sha256/ab/cd").write_text("x")
    before = tree(mirror)
    found = verify_mirror(session(tmp_path), mirror)
    assert tree(mirror) == before
    assert set(found.damaged) == {"sha256/ab/cd", file_place(sha(CONTENTS[2]))}
    assert "has sha256 " in found.damaged[file_place(sha(CONTENTS[2]))]
    assert found.files == 7
    assert fill_mirror(session(tmp_path), mirror, ARTEFACTS).added == 0  # the size is right
    mended = fill_mirror(session(tmp_path, index=index), mirror, ARTEFACTS, verify=True)
    assert mended.replaced == (wheel(2).file,)
    assert (mended.added, mended.present) == (1, 5)
    assert place.read_bytes() == CONTENTS[2]
    place.write_bytes(b"short")
    assert fill_mirror(session(tmp_path, index=index), mirror, ARTEFACTS).added == 1
    with pytest.raises(UsageError, match="there is no mirror"):
        verify_mirror(session(tmp_path), tmp_path / "nowhere")


def test_a_full_disk_is_told_once_and_what_came_stays(tmp_path, index):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (21_500, hard))
    try:
        with pytest.raises(BuildError) as caught:
            filled(tmp_path, index)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    (finding,) = caught.value.diagnostics
    assert finding.rule == "no-space"
    assert "make room, name another folder" in finding.hint
    there = {name for name in tree(tmp_path / "mirror") if name.startswith("sha256/")}
    assert there == {file_place(sha(CONTENTS[0])), file_place(sha(CONTENTS[1]))}
    assert fill_mirror(session(tmp_path, index=index), tmp_path / "mirror", ARTEFACTS).added == 4


PROGRAM = """
    import sys
    from pathlib import Path
    from uenv_builder.system.download import Download, Downloader
    from uenv_builder.system.events import Silent
    from uenv_builder.system.mirrors import MirrorFolder

    class Loud(Silent):
        def note(self, text):
            print(text, flush=True)

    mirror = MirrorFolder(Path(sys.argv[1]))
    with mirror.filling():
        Downloader(mirror, Loud(), mirrors=sys.argv[2:3]).fetch(
            Download(name="thing", sha256=sys.argv[3], size=int(sys.argv[4]), urls=())
        )
"""


@contextmanager
def filling(folder, server, number):
    content = CONTENTS[number]
    arguments = [folder, server.url("/mirror"), sha(content), len(content)]
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_and_gone_on_with_by_another_process_that_waited(tmp_path, server):
    put(server, 5)
    server.scripts[f"/mirror/{file_place(sha(CONTENTS[5]))}"].append(Answer(send=196_608, hold=True))
    part = MirrorFolder(tmp_path / "m").part_path(sha(CONTENTS[5]))
    with filling(tmp_path / "m", server, 5) as first:
        assert server.held.wait(60)
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size == 196_608) and time.monotonic() < deadline:
            time.sleep(0.02)
        with filling(tmp_path / "m", server, 5) as second:
            assert second.stdout.readline().startswith("waiting for another download of thing")
            first.kill()
            assert second.wait(60) == 0
    assert server.ranges(f"/mirror/{file_place(sha(CONTENTS[5]))}") == [None, "bytes=196608-"]
    assert set(tree(tmp_path / "m")) == {file_place(sha(CONTENTS[5]))}
    assert not part.parent.exists()


@pytest.mark.parametrize("below", ["/mirror", "/deeper/mirror"])
def test_a_web_server_serves_a_mirror(tmp_path, server, below):
    put(server, 0, below=below)
    mirror = mirror_root(server.url(f"{below}/"))
    downloader, _ = asking(tmp_path, [mirror], offline=True)
    assert downloader.fetch(wanted(0)).read_bytes() == CONTENTS[0]
    with pytest.raises(NetworkError, match="neither in the store nor in a mirror") as caught:
        downloader.fetch(wanted(1, server.url("/upstream")))
    assert "uenv mirror" in caught.value.diagnostics[0].hint
    assert not server.ranges("/upstream")


def test_a_damaged_file_is_told_and_the_next_place_is_asked(tmp_path, server, index):
    put(server, 0, CONTENTS[0][::-1])
    folder = filled(tmp_path, index)
    place = folder / file_place(sha(CONTENTS[0]))
    place.write_bytes(CONTENTS[0][:-1] + b"?")
    server.files["/upstream"] = CONTENTS[0]
    downloader, notes = asking(tmp_path, [server.url("/mirror"), folder.as_uri()])
    assert downloader.fetch(wanted(0, server.url("/upstream"))).read_bytes() == CONTENTS[0]
    assert [note.partition(" (")[0] for note in notes.notes] == [
        f"thing0: the mirror {server.url('/mirror')} has a damaged file",
        f"thing0: the mirror {folder.as_uri()} has a damaged file",
    ]
    nobody, _ = asking(tmp_path / "other", [folder.as_uri()], offline=True)
    with pytest.raises(LockError) as caught:
        nobody.fetch(wanted(0))
    assert caught.value.diagnostics[0].rule == "hash-mismatch"
    assert not list((tmp_path / "other").rglob("*.part"))


def test_a_mirror_that_lacks_some_leaves_them_to_the_next(tmp_path, server):
    for number in (0, 2):
        put(server, number)
    server.files |= {f"/{number}": CONTENTS[number] for number in range(6)}
    downloader, notes = asking(tmp_path, [server.url("/mirror")])
    fetched = downloader.fetch_all([wanted(number, server.url(f"/{number}")) for number in range(6)])
    assert {path.read_bytes() for path in fetched.values()} == set(CONTENTS)
    assert [bool(server.ranges(f"/{number}")) for number in range(6)] == [False, True, False, True, True, True]
    assert notes.notes == []


def test_an_unreachable_mirror_is_told_once_and_left_out(tmp_path, server):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}/mirror"
        server.files |= {f"/{number}": CONTENTS[number] for number in range(6)}
        downloader, notes = asking(tmp_path, [gone, (tmp_path / "nowhere").as_uri()])
        downloader.fetch_all([wanted(number, server.url(f"/{number}")) for number in range(6)])
    assert sorted(note.partition(" fails")[0].partition(" is not")[0] for note in notes.notes) == [
        f"the mirror {tmp_path / 'nowhere'}",
        f"the mirror {gone}",
    ]


def test_a_mirror_that_always_fails_is_left_out(tmp_path, server):
    server.files |= {f"/{number}": CONTENTS[number] for number in range(6)}
    for number in range(6):
        server.scripts[f"/mirror/{file_place(sha(CONTENTS[number]))}"].extend([Answer(status=503)] * 9)
    downloader, notes = asking(tmp_path, [server.url("/mirror")])
    for number in range(6):
        downloader.fetch(wanted(number, server.url(f"/{number}")))
    assert len([path for path, _ in server.asked if path.startswith("/mirror")]) == 2
    assert sum("going on without it" in note for note in notes.notes) == 1


def test_reading_leaves_a_mirror_as_it_is(tmp_path, index):
    mirror = filled(tmp_path, index)
    everything = sorted((path, path.stat().st_ctime_ns) for path in [mirror, *mirror.rglob("*")])
    downloader, _ = asking(tmp_path, [mirror.as_uri()], offline=True)
    downloader.fetch_all([wanted(number) for number in range(6)])
    fill_mirror(session(tmp_path), mirror, ARTEFACTS)
    assert sorted((path, path.stat().st_ctime_ns) for path in [mirror, *mirror.rglob("*")]) == everything


def test_a_server_that_cannot_be_reached_is_called_twice_and_not_for_each_file(tmp_path, monkeypatch):
    calls = []
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda own, place: (calls.append(place), connect(own, place)))
    downloader = Downloader(Store(tmp_path / "s"), Silent(), delay=0.001, jobs=1)
    with pytest.raises(NetworkError) as caught:
        downloader.fetch_all([wanted(number, f"http://127.0.0.1:1/{number}") for number in range(6)])
    assert len(caught.value.diagnostics) == 6
    assert all("Connection refused (2 attempts)" in finding.message for finding in caught.value.diagnostics)
    assert len(calls) == 2


LOCK = parse_lock((ROOT / "recipes/python-mpi/1.0/x86_64.lock.yaml").read_text(), "x86_64.lock.yaml")


def test_all_that_a_lock_names_is_an_artefact_once():
    found = artefacts_of(LOCK)
    debs = [*LOCK.userland.packages, *(deb for some in LOCK.userland.compilers.values() for deb in some)]
    hashes = [pin.sha256 for pin in (*debs, *LOCK.python.wheels)]
    assert [artefact.key for artefact in found] == list(dict.fromkeys(hashes))
    assert all(artefact.size > 0 and artefact.name and artefact.origin for artefact in found)


def test_offline_everything_that_is_missing_is_named_with_its_hash_and_origin(tmp_path):
    own = session(tmp_path, offline=True)
    with pytest.raises(NetworkError) as caught:
        require_reachable(own, artefacts_of(LOCK))
    *each, last = caught.value.diagnostics
    assert {finding.rule for finding in (*each, last)} == {"offline"}
    for artefact, finding in zip(artefacts_of(LOCK), each, strict=True):
        for text in (artefact.name, artefact.sha256, f"{artefact.size:,} bytes", artefact.origin):
            assert text in finding.message
    assert f"{len(each)} of the build's files" in last.message
    assert "uenv mirror" in last.hint
    require_reachable(own, [])


def test_without_a_network_it_is_told_in_seconds(tmp_path):
    settings = Settings(
        cache=str(tmp_path / "store"), python_index="http://127.0.0.1:1/simple",
        debian_mirrors=("http://127.0.0.1:1/debian", "http://127.0.0.1:2/debian"),
    )  # fmt: skip
    own = Session(settings=settings, listener=Notes())
    with pytest.raises(NetworkError) as caught:
        require_reachable(own, artefacts_of(LOCK))
    assert len(caught.value.diagnostics) == len(artefacts_of(LOCK)) + 1
    assert caught.value.exit_code == 9
    assert "cannot be reached" in caught.value.diagnostics[-1].message


def test_what_a_mirror_or_a_server_has_is_not_missing(tmp_path, server, index):
    folder = filled(tmp_path, index)
    for number in range(3):
        (folder / file_place(sha(CONTENTS[number]))).unlink()
    put(server, 0)
    put(server, 1, CONTENTS[1][:-1])
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}/mirror"
        own = session(tmp_path, mirror=[str(folder), gone, server.url("/mirror")], offline=True)
        with pytest.raises(NetworkError) as caught:
            require_reachable(own, ARTEFACTS)
    assert [finding.message.partition(":")[0] for finding in caught.value.diagnostics[:-1]] == [
        wheel(1).file,
        wheel(2).file,
    ]
    assert own.listener.notes == [f"the mirror {gone} cannot be reached; going on without it"]
    online = session(tmp_path, index=server.url("/simple"), mirror=[str(folder)])
    require_reachable(online, ARTEFACTS)
    assert server.heads.count("/") == 2  # the mirror's server, and then the index's


def test_many_files_of_a_web_server(tmp_path):
    """A real web server that knows nothing of mirrors, and many files."""
    contents = [str(number).encode() for number in range(400)]
    mirror = MirrorFolder(tmp_path / "mirror")
    for content in contents:
        path = mirror.download_path(sha(content))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(mirror.root)))
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        own = session(tmp_path, offline=True, mirror=[f"http://127.0.0.1:{httpd.server_port}"])
        pins = [LockedSource(archive=("a",), sha256=sha(content), size=len(content)) for content in contents]
        require_reachable(own, list(map(artefact_of, pins)))
        fetched = own.downloader.fetch_all(own.archive_downloads(pins[:40]))
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
    assert [path.read_bytes() for path in fetched.values()] == contents[:40]
    assert verify_mirror(own, mirror.root).files == 400


@pytest.mark.parametrize("text", ["ftp://host/x", "http://", "http:///x"])
def test_what_is_no_mirror_is_refused(text):
    with pytest.raises(UsageError, match="not a mirror"):
        mirror_root(text)


def test_two_processes_without_locks_cannot_mix_their_bytes(tmp_path, server, monkeypatch):
    """Another process writes into the same unfinished file: it is noticed before the file gets its name."""
    import uenv_builder.system.files as files

    def no_locks(*_):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    server.files["/f"] = CONTENTS[0]
    downloader, _ = asking(tmp_path, [])
    store = Store(tmp_path / "own-store")
    part = store.part_path(sha(CONTENTS[0]))
    sync = os.fsync

    def meddle(handle):
        if part.exists():
            with part.open("r+b") as file:
                file.write(b"other")
        sync(handle)

    monkeypatch.setattr(os, "fsync", meddle)
    with pytest.raises(NetworkError, match="another process wrote into the same file"):
        downloader.fetch(wanted(0, server.url("/f")))
    assert not store.has_download(sha(CONTENTS[0]), len(CONTENTS[0]))
    monkeypatch.setattr(os, "fsync", sync)
    assert downloader.fetch(wanted(0, server.url("/f"))).read_bytes() == CONTENTS[0]


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with a history and a submodule; its folder and its last commit."""
    for name in ("inner", "outer"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", "--quiet")
        for number in range(3):
            (tmp_path / name / "file").write_text(f"{name} {number}\n")
            git(tmp_path / name, "add", "file")
            git(tmp_path / name, "commit", "--quiet", "-m", str(number))
    git(tmp_path / "outer", "submodule", "--quiet", "add", str(tmp_path / "inner"), "below")
    git(tmp_path / "outer", "commit", "--quiet", "-m", "with a submodule")
    return tmp_path / "outer"


def git_artefact(repository):
    pin = LockedSource(git=(str(repository),), commit=git(repository, "rev-parse", "HEAD"), submodules=True)
    return artefact_of(pin)


def exported(own, pin, target):
    target.mkdir()
    export_commit(pin.commit, git_folder(own, pin), target)
    return {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*") if path.is_file()}


def test_commits_with_submodules_are_mirrored_as_bundles(tmp_path, server, repository):
    artefact, mirror = git_artefact(repository), tmp_path / "mirror"
    inner = git(tmp_path / "inner", "rev-parse", "HEAD")
    filled = fill_mirror(session(tmp_path), mirror, [artefact])
    assert (filled.added, filled.added_bytes > 100) == (1, True)
    assert set(tree(mirror)) == {f"git/{artefact.commit}.bundle", f"git/{inner}.bundle"}
    assert not (mirror / ".unfinished").exists()
    assert fill_mirror(session(tmp_path), mirror, [artefact]).present == 1
    fill_mirror(session(tmp_path), tmp_path / "second", [artefact])
    assert tree(tmp_path / "second") == tree(mirror)
    for path in (repository, tmp_path / "inner"):
        path.rename(path.with_name(f"{path.name}.gone"))
    # From a folder, and from a web server: offline, with an empty store.
    server.files |= {f"/m/{name}": content for name, (content, _, _) in tree(mirror).items()}
    for store, place in (("one", str(mirror)), ("two", server.url("/m"))):
        own = session(tmp_path, offline=True, mirror=[place], store=store)
        require_reachable(own, [artefact])
        files = exported(own, artefact.pin, tmp_path / f"{store}.files")
        assert (files["file"], files["below/file"]) == ("outer 2\n", "inner 2\n")
    assert len(server.asked) == 2
    # A mirror is filled from another one, too.
    fill_mirror(session(tmp_path, offline=True, mirror=[server.url("/m")], store="three"), tmp_path / "m3", [artefact])
    assert tree(tmp_path / "m3") == tree(mirror)


def test_a_bare_repository_serves_a_commit(tmp_path, repository):
    artefact, mirror = git_artefact(tmp_path / "inner"), tmp_path / "mirror"
    git(tmp_path, "clone", "--quiet", "--bare", str(tmp_path / "inner"), str(mirror / f"git/{artefact.commit}.git"))
    (tmp_path / "inner").rename(tmp_path / "gone")
    own = session(tmp_path, offline=True, mirror=[str(mirror)])
    require_reachable(own, [artefact])
    assert exported(own, artefact.pin, tmp_path / "files") == {"file": "inner 2\n"}


def flip_in_pack(repository, name):
    """One bit of a packed file of HEAD: git has unpacked the commit itself when it comes there."""
    [pack] = repository.glob("objects/pack/*.pack")
    wanted = git(repository, "rev-parse", f"HEAD:{name}")
    listed = (line.split() for line in git(repository, "verify-pack", "-v", str(pack)).splitlines())
    [(size, offset)] = [(int(row[3]), int(row[4])) for row in listed if row[0] == wanted]
    pack.chmod(0o644)
    content = bytearray(pack.read_bytes())
    content[offset + size - 1] ^= 1
    pack.write_bytes(content)


def test_a_damaged_repository_of_a_mirror_is_told_and_does_not_get_into_the_store(tmp_path, repository):
    artefact, mirror = git_artefact(tmp_path / "inner"), tmp_path / "mirror"
    bare = mirror / f"git/{artefact.commit}.git"
    git(tmp_path, "clone", "--quiet", "--bare", "--no-local", str(tmp_path / "inner"), str(bare))
    git(bare, "repack", "-a", "-d", "-q")
    flip_in_pack(bare, "file")
    with pytest.raises(NetworkError) as caught:
        git_folder(session(tmp_path, mirror=[str(mirror)], store="empty", offline=True), artefact.pin)
    assert str(bare) in str(caught.value)
    own = session(tmp_path, mirror=[str(mirror)])
    assert exported(own, artefact.pin, tmp_path / "files") == {"file": "inner 2\n"}
    assert any(f"{artefact.commit}.git cannot be used (" in note for note in own.listener.notes)


def test_a_damaged_commit_of_the_store_does_not_get_into_a_mirror(tmp_path, repository):
    artefact, own = git_artefact(tmp_path / "inner"), session(tmp_path)
    stored = git_folder(own, artefact.pin) / "repository.git"
    for path in stored.glob("objects/??/*"):
        path.chmod(0o644)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    fill_mirror(own, tmp_path / "mirror", [artefact])
    assert verify_mirror(own, tmp_path / "mirror").damaged == {}


@pytest.mark.parametrize("damage", ["cut", "other", "flipped"])
def test_a_damaged_bundle_is_told_and_the_repository_is_asked(tmp_path, repository, damage):
    artefact, mirror = git_artefact(tmp_path / "inner"), tmp_path / "mirror"
    fill_mirror(session(tmp_path), mirror, [artefact])
    path = mirror / f"git/{artefact.commit}.bundle"
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    other = LockedSource(git=artefact.pin.git, commit=git(tmp_path / "inner", "rev-parse", "HEAD~1"))
    fill_mirror(session(tmp_path), tmp_path / "m2", [artefact_of(other)])
    contents = {"cut": content[:-60], "flipped": content}
    path.write_bytes(contents.get(damage) or (tmp_path / f"m2/git/{other.commit}.bundle").read_bytes())
    found = verify_mirror(session(tmp_path), mirror)
    assert list(found.damaged) == [f"git/{artefact.commit}.bundle"]
    own = session(tmp_path, mirror=[str(mirror)], store="fresh")
    assert exported(own, artefact.pin, tmp_path / "files") == {"file": "inner 2\n"}
    assert any("cannot be used" in note for note in own.listener.notes)
    with pytest.raises(NetworkError) as caught:
        git_folder(session(tmp_path, mirror=[str(mirror)], store="empty", offline=True), artefact.pin)
    assert caught.value.diagnostics[0].rule == "offline"
    mended = fill_mirror(session(tmp_path), mirror, [artefact], verify=True)
    assert mended.replaced == (artefact.name,)
    assert verify_mirror(session(tmp_path), mirror).damaged == {}


def source_archive(**files):
    """A tar archive whose members are stored as they are: no sum of its own would tell of a flipped bit."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"thing-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_a_flipped_bit_in_a_stored_source_archive_is_never_compiled(tmp_path):
    content = source_archive(configure="exit 1")
    (tmp_path / "thing-1.0.tar").write_bytes(content)
    url = (tmp_path / "thing-1.0.tar").as_uri()
    source, pin = ComponentSource(archive=[url], sha256=sha(content)), LockedSource(archive=(url,), sha256=sha(content))
    locked = LockedComponent(name="thing", version="1.0", sources=(pin,))
    own = session(tmp_path)
    fetch_sources(own, [pin])
    stored = own.store.download_path(pin.sha256)

    def unpack(target):
        stored.write_bytes(content.replace(b"exit 1", b"exit 0"))
        (tmp_path / target).mkdir()
        unpack_sources(own, locked, [source], tmp_path / target)
        return (tmp_path / target / "configure").read_text()

    assert unpack("first") == "exit 1"
    assert any("is not what its name says, and was dropped" in note for note in own.listener.notes)
    (tmp_path / "thing-1.0.tar").unlink()
    with pytest.raises(NetworkError) as caught:
        unpack("second")
    assert "thing-1.0.tar" in str(caught.value)
    assert not list((tmp_path / "second").iterdir())
    assert not stored.exists()


def test_a_missing_commit_and_archive_are_named(tmp_path, repository):
    archive = artefact_of(LockedSource(archive=("http://127.0.0.1:1/libthing-1.tar.gz",), sha256=sha(b"x")))
    own = session(tmp_path, offline=True)
    with pytest.raises(NetworkError) as caught:
        require_reachable(own, [git_artefact(repository), archive])
    first, second, last = (finding.message for finding in caught.value.diagnostics)
    assert git(repository, "rev-parse", "HEAD") in first
    assert str(repository) in first
    assert second == f"libthing-1.tar.gz: sha256 {sha(b'x')}; it is had from http://127.0.0.1:1/libthing-1.tar.gz"
    assert "2 of the build's files" in last
    with pytest.raises(NetworkError) as caught:
        require_reachable(session(tmp_path), [git_artefact(repository), archive])
    assert [finding.message for finding in caught.value.diagnostics[:-1]] == [second]


def test_a_session_that_fetches_nothing_imports_no_http():
    code = "import sys, uenv_builder.app.session; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
