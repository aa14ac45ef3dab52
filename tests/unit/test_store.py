"""The store under damage, clean-ups, kills and several processes at once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.system import store_entries, store_index
from uenv_builder.system.events import Silent
from uenv_builder.system.files import TEMPORARY, lock_file, sha256_of
from uenv_builder.system.store import Damage, Limits, References, Store
from uenv_builder.system.store_entries import step_lock

SPAWN = multiprocessing.get_context("spawn")
OTHER_USER = 65534
HOUR = 3600.0
STEP = "5a" * 32


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def put(store: Store, content: bytes, *, age: float = 0.0, part: bool = False) -> str:
    """A stored download, last used `age` seconds ago; its sha256."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = store.download_path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_name(f"{sha256}.part") if part else path
    path.write_bytes(content)
    make_older(path, age)
    return sha256


def make_older(path: Path, seconds: float) -> None:
    used = path.stat().st_mtime - seconds
    os.utime(path, (used, used))


def fill(folder: Path) -> None:
    (folder / "layer").write_bytes(random.Random(1).randbytes(100_000))
    (folder / "deep").mkdir()
    (folder / "deep" / "sums.json").write_text("{}")
    (folder / "link").symlink_to("layer")
    os.link(folder / "layer", folder / "same")


FILLED_BYTES = 200_002


def everything(store: Store) -> list[str]:
    found = (path for path in store.root.rglob("*") if path.is_file() and path.parent.name != "locks")
    return sorted(str(path.relative_to(store.root)) for path in found if path != store.root / "index.json")


def collect(store: Store, *, downloads=(), steps=(), **limits) -> tuple[int, int]:
    """How many entries a clean-up removed that was not held up, and how many bytes."""
    collected = store.collect(Limits(**limits), keep=References.of(steps, downloads))
    assert not collected.blocked
    return collected.removed, collected.freed_bytes


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_where_the_default_store_is(monkeypatch, tmp_path):
    monkeypatch.setenv("UENV_CACHE", str(tmp_path / "here"))
    assert Store.default().root == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UENV_CACHE", "~/there")
    assert Store.default().root == tmp_path / "there"
    monkeypatch.delenv("UENV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Store.default().root == tmp_path / "xdg" / "uenv-builder"


def test_looking_makes_nothing(store):
    assert not store.has_download("0" * 64, 1)
    assert store.step_folder(STEP) is None
    info = store.info()
    assert (info.downloads, info.partial_downloads, info.steps, info.download_bytes, info.step_bytes) == (0,) * 5
    assert not store.root.exists()


def test_a_download_is_known_by_its_size_and_verified_by_its_hash(store):
    sha256 = put(store, b"content")
    assert store.has_download(sha256, 7)
    assert not store.has_download(sha256, 8)
    assert store.verified_download(sha256, 7).read_bytes() == b"content"
    flip_bit(store.download_path(sha256))
    assert store.has_download(sha256, 7)
    with pytest.raises(LockError, match=r"\[hash-mismatch\].* was dropped"):
        store.verified_download(sha256, 7)
    assert everything(store) == []
    with pytest.raises(LockError, match=r"\[not-in-store\]"):
        store.verified_download(sha256, 7)


def test_a_step_is_built_once(store):
    path = store.step(STEP, fill)
    assert path == store.root / "steps" / "5a" / STEP
    assert store.step(STEP, lambda _: pytest.fail("built again")) == path
    assert store.step_folder(STEP) == path
    assert sorted(entry.name for entry in path.iterdir()) == ["deep", "layer", "link", "same", "sums.json"]


@pytest.mark.parametrize("error", [BuildError("no"), ValueError("no"), KeyboardInterrupt()])
def test_a_step_that_fails_leaves_nothing_and_can_be_built_again(store, error):
    def build(folder):
        fill(folder)
        raise error

    with pytest.raises(type(error)):
        store.step(STEP, build)
    assert store.step_folder(STEP) is None
    assert everything(store) == []
    assert store.step(STEP, fill) == store.step_folder(STEP)


def test_counts_and_bytes(store):
    put(store, b"12345")
    put(store, b"678")
    put(store, b"half", part=True)
    store.step(STEP, fill)
    info = store.info()
    assert (info.downloads, info.download_bytes) == (2, 8)
    assert (info.partial_downloads, info.partial_bytes) == (1, 4)
    assert (info.steps, info.step_bytes) == (1, FILLED_BYTES)
    assert info.root == str(store.root)


@pytest.mark.parametrize("name", ["layer", "deep/sums.json", "sums.json"])
@pytest.mark.parametrize("damage", ["flip", "empty", "remove"])
def test_verify_drops_what_is_damaged_and_nothing_else(store, name, damage):
    good, bad = put(store, b"good"), put(store, b"wrong")
    flip_bit(store.download_path(bad))
    put(store, b"half", part=True)
    store.step("ab" * 32, fill)
    step = store.step(STEP, fill)
    victim = step / name
    victim.unlink() if damage == "remove" else victim.write_bytes(b"") if damage == "empty" else flip_bit(victim)
    damages = store.verify(Silent())
    assert [found.entry for found in damages] == [f"download {bad}", f"step {STEP}"]
    assert damages[0] == Damage(f"download {bad}", "its content has another sha256")
    assert name in damages[1].reason or name == "sums.json"
    assert store.has_download(good, 4)
    assert not store.has_download(bad, 5)
    assert store.step_folder(STEP) is None
    assert store.step_folder("ab" * 32) is not None
    assert store.verify(Silent()) == []
    assert store.step(STEP, fill).is_dir()
    assert store.info().partial_downloads == 1


def test_verify_tells_how_far_it_is(store):
    class Recorder(Silent):
        def __init__(self):
            self.tasks = {}

        @contextmanager
        def task(self, title, total=None):
            recorder = self
            recorder.tasks[title] = [total, 0]

            class Task:
                def advance(self, amount):
                    recorder.tasks[title][1] += amount

            yield Task()

    put(store, b"1234567")
    store.step(STEP, fill)
    recorder = Recorder()
    store.verify(recorder)
    assert recorder.tasks == {
        "verifying downloads": [7, 7],
        "verifying layers and images": [FILLED_BYTES, FILLED_BYTES],
    }


def test_collect_by_age(store):
    old, kept, new = (
        put(store, b"old", age=9 * HOUR),
        put(store, b"kept!", age=9 * HOUR),
        put(store, b"newer", age=HOUR),
    )
    store.step("ab" * 32, fill)
    make_older(store.step(STEP, fill), 9 * HOUR)
    assert collect(store) == (0, 0)
    assert collect(store, downloads=[kept], older_than=2 * HOUR) == (2, 3 + FILLED_BYTES)
    assert not store.has_download(old, 3)
    assert store.has_download(kept, 5)
    assert store.has_download(new, 5)
    assert store.step_folder(STEP) is None
    assert store.step_folder("ab" * 32) is not None


def write_logs(store, **ages):
    for name, age in ages.items():
        path = store.log_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("make: *** no rule\n")
        make_older(path, age)


def logs_left(store):
    return {path.stem for path in store.log_path("x").parent.glob("*.log")}


def test_logs_of_components_go_after_a_month_or_sooner_where_that_is_asked_for(store):
    write_logs(store, ancient=31 * 24 * HOUR, older=29 * 24 * HOUR, fresh=0.0)
    (found,) = store.collect(dry_run=True).removals
    assert (found.kind, found.key, found.size, found.reason) == ("log", "ancient", 18, "an old log")
    assert (store.info().logs, store.info().log_bytes) == (3, 54)
    assert collect(store) == (1, 18)
    assert logs_left(store) == {"older", "fresh"}
    assert collect(store, older_than=2 * 24 * HOUR) == (1, 18)
    assert logs_left(store) == {"fresh"}
    assert collect(store, older_than=365 * 24 * HOUR) == (0, 0)
    assert (store.info().logs, store.info().unfinished) == (1, 0)


def test_collect_by_size_takes_downloads_first_and_of_these_the_least_recently_used(store):
    sums = [put(store, bytes([number]) * 1000, age=(9 - number) * HOUR) for number in range(5)]
    make_older(store.step(STEP, fill), 9.5 * HOUR)
    assert store.has_download(sums[1], 1000)  # now the most recently used
    assert collect(store, max_bytes=FILLED_BYTES + 2500) == (3, 3000)
    assert [store.has_download(sha256, 1000) for sha256 in sums] == [False, True, False, False, True]
    assert store.step_folder(STEP) is not None
    assert collect(store, max_bytes=FILLED_BYTES + 2000) == (0, 0)
    assert collect(store, downloads=sums, max_bytes=0) == (1, FILLED_BYTES)
    assert collect(store, max_bytes=0) == (2, 2000)
    assert everything(store) == []


def test_a_dry_run_says_what_a_clean_up_does_and_does_nothing(store):
    put(store, b"old", age=9 * HOUR)
    put(store, b"given up", part=True, age=25 * HOUR)
    make_older(store.step(STEP, fill), 9 * HOUR)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    limits = Limits(max_bytes=0)
    planned = store.collect(limits, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    done = store.collect(limits)
    assert (done.removals, done.freed_bytes) == (planned.removals, planned.freed_bytes)
    assert done.removed == 3
    assert [found.reason for found in done.removals] == ["leftover", "makes room", "makes room"]


def result(store: Store, number: int, label: str = "", *, age: float = 0.0) -> str:
    """A stored result of 1000 bytes and its label, last used `age` seconds ago; its id."""
    step_id = f"{number:02x}" * 32
    path = store.step(step_id, lambda folder: (folder / "data").write_bytes(bytes(1000)) and None, label=label)
    make_older(path, age)
    return step_id


def test_the_last_of_each_label_stay(store):
    numpy = [result(store, number, "wheel numpy", age=number * HOUR) for number in range(1, 5)]
    torch = [result(store, number, "wheel torch", age=number * HOUR) for number in range(5, 7)]
    download = put(store, b"old", age=99 * HOUR)
    done = store.collect(Limits(keep_last=2))
    assert sorted(found.key for found in done.removals) == numpy[2:]
    assert {found.reason for found in done.removals} == {"not among the last"}
    assert all(store.step_folder(step) for step in [*numpy[:2], *torch])
    assert store.has_download(download, 3)


def test_the_last_stay_also_where_they_are_old_or_too_much(store):
    steps = [result(store, number, "wheel numpy", age=number * HOUR) for number in range(1, 4)]
    assert collect(store, keep_last=1, max_bytes=0, older_than=1.0)[0] == 2
    assert [store.step_folder(step) is not None for step in steps] == [True, False, False]
    assert collect(store, keep_last=0)[0] == 1


def test_results_without_a_label_count_by_what_they_hold(store):
    for number, name in enumerate(["image.squashfs", "layer.tar.zst", "layer.tar.zst", "tree", "oci"]):
        make_older(store.step(f"{number:02x}" * 32, lambda folder, name=name: (folder / name).touch()), number * HOUR)
    [removal] = store.collect(Limits(keep_last=1)).removals
    assert removal.key == "02" * 32


def large_content(folder: Path) -> None:
    (folder / "blob").write_bytes(random.Random(2).randbytes(1 << 20))


def test_what_two_results_hold_as_one_file_counts_once_and_goes_with_the_last(store):
    first = store.step("01" * 32, large_content)
    second = store.step("02" * 32, lambda folder: os.link(first / "blob", folder / "again"))
    size = 1 << 20
    assert store.info().step_bytes == size
    assert store.collect(Limits(max_bytes=size)).removed == 0
    make_older(first, HOUR)
    assert collect(store, older_than=60.0) == (1, 0)
    assert (second / "again").stat().st_size == size
    assert collect(store, max_bytes=0) == (1, size)


def test_using_a_step_makes_it_recent(store):
    for use in (store.step_folder, lambda step_id: store.step(step_id, fill)):
        make_older(store.step(STEP, fill), 9 * HOUR)
        use(STEP)
        assert collect(store, older_than=HOUR) == (0, 0)


def _use(root: Path, pipe) -> None:
    with Store(root).in_use():
        pipe.send("ready")
        pipe.poll(60)


@contextmanager
def in_process(work, *args):
    """A process that does `work(*args, pipe)`, and our end of the pipe; it is waited for, and let go by closing that.

    A pipe and no event: the kernel closes the end of a process that is killed.
    """
    pipe, its_end = SPAWN.Pipe()
    child = SPAWN.Process(target=work, args=(*args, its_end))
    child.start()
    its_end.close()
    try:
        yield child, pipe
    finally:
        pipe.close()
        child.join(60)


def test_nothing_is_collected_while_another_process_uses_the_store(store):
    sha256 = put(store, b"old", age=9 * HOUR)
    put(store, b"given up", age=25 * HOUR, part=True)
    make_older(store.step(STEP, fill), 9 * HOUR)
    with in_process(_use, store.root) as (child, pipe):
        assert pipe.poll(60)
        collected = store.collect(Limits(older_than=HOUR, max_bytes=0))
        assert (collected.removed, collected.freed_bytes) == (1, 8)
        assert f"process {child.pid}" in collected.blocked
        assert store.has_download(sha256, 3)
        assert store.step_folder(STEP) is not None
        with store.in_use():  # any number use it at once
            assert store.collect(Limits(max_bytes=0)).blocked
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        assert collect(store, max_bytes=0) == (2, 3 + FILLED_BYTES)


def test_a_build_in_this_process_counts_as_use(store):
    sha256 = put(store, b"old", age=9 * HOUR)

    def build(folder):
        assert store.collect(Limits(max_bytes=0)).blocked
        fill(folder)

    store.step(STEP, build)
    assert store.has_download(sha256, 3)


def _hold_for_clean_up(root: Path, pipe) -> None:
    with lock_file(root / "locks" / "in-use"):
        pipe.send("ready")
        pipe.poll(60)


def test_in_use_waits_for_a_clean_up(store):
    """Both builds that waited go on together, however long each of them takes."""
    with in_process(_hold_for_clean_up, store.root) as (_, clean_up):
        assert clean_up.poll(60)
        with in_process(_use, store.root) as (_, first), in_process(_use, store.root) as (_, second):
            assert not first.poll(0.5)
            assert not second.poll(0)
            clean_up.send("done")
            assert first.poll(60)
            assert second.poll(60)


def test_leftovers_are_removed_and_work_under_way_is_not(store):
    young = put(store, b"half", part=True)
    held = put(store, b"held", part=True, age=25 * HOUR)
    put(store, b"given up", part=True, age=25 * HOUR)
    left = store.root / "steps" / STEP[:2] / f"{TEMPORARY}{STEP}-b-host-1-abc-xyz"
    left.mkdir(parents=True)
    (left / "layer").write_bytes(b"123")
    with lock_file(store.root / "locks" / f"download-{held}"):
        assert collect(store) == (1, 8)
    assert left.is_dir()  # nobody knows whose it is: it may just have begun
    make_older(left, 25 * HOUR)
    assert collect(store) == (2, 7)
    assert not left.exists()
    assert store.info().partial_bytes == 4
    assert everything(store) == [f"downloads/{young[:2]}/{young}.part"]


def test_a_leftover_of_a_clean_up_is_in_nobodys_way(store):
    """Killed while it removed a step, which was then built again, damaged and collected again."""
    store.step(STEP, fill)
    away = store.root / "steps" / STEP[:2] / f"{TEMPORARY}{STEP}-gone-abcd"
    away.mkdir()
    (away / "layer").write_bytes(b"123")
    assert collect(store, max_bytes=0) == (2, 3 + FILLED_BYTES)
    assert everything(store) == []


def test_what_vanishes_while_it_is_listed_is_no_error(store, monkeypatch):
    put(store, b"one")
    gone = store.download_path(put(store, b"two"))
    real = store_index._measure

    def measure(path):
        if path == gone:
            path.unlink()
        return real(path)

    monkeypatch.setattr(store_index, "_measure", measure)
    assert store.info().downloads == 1


def test_clean_ups_remove_the_locks_that_nobody_holds(store):
    store.step(STEP, fill)
    assert step_lock(store.root, STEP).exists()
    store.collect()
    assert sorted(path.name for path in (store.root / "locks").iterdir()) == ["in-use", "readers"]
    assert store.step_folder(STEP) is not None


def _count_builds(root: Path, log: Path, pipe) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        pipe.send("ready")
        pipe.poll(60)
        fill(folder)

    Store(root).step(STEP, build)


class Waiting(Silent):
    """Does something when it hears that a lock is waited for."""

    def __init__(self, act):
        self.act, self.notes = act, []

    def note(self, text):
        self.notes.append(text)
        self.act()


def test_two_processes_build_a_step_once(store, tmp_path):
    with in_process(_count_builds, store.root, tmp_path / "log") as (child, pipe):
        assert pipe.poll(60)
        listener = Waiting(lambda: pipe.send("go on"))
        path = store.step(STEP, lambda _: pytest.fail("built twice"), listener=listener)
    assert child.exitcode == 0
    assert len(listener.notes) == 1
    assert "waiting" in listener.notes[0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert (path / "layer").is_file()
    assert store.verify(Silent()) == []


def _build_half(root: Path, pipe) -> None:
    def build(folder: Path) -> None:
        (folder / "layer").write_bytes(b"half")
        pipe.send("ready")
        pipe.poll(60)

    Store(root).step(STEP, build)


@pytest.mark.parametrize("waits", [False, True], ids=["afterwards", "waiting"])
def test_a_killed_build_is_done_again(store, waits):
    with in_process(_build_half, store.root) as (child, pipe):
        assert pipe.poll(60)
        assert store.step_folder(STEP) is None
        if not waits:
            child.kill()
            child.join(60)
        listener = Waiting(child.kill)
        path = store.step(STEP, fill, listener=listener)
    assert child.exitcode == -signal.SIGKILL
    assert len(listener.notes) == waits
    assert (path / "layer").stat().st_size == 100_000
    assert store.verify(Silent()) == []
    assert [entry.name for entry in path.parent.iterdir()] == [STEP]
    assert list((store.root / "users").iterdir()) == []


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    program = "import os, resource\nfrom pathlib import Path\nfrom uenv_builder.system.store import Store\n"
    program += "from uenv_builder.model.errors import UenvError\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")


def test_a_step_without_space_is_not_there(store):
    done = run_python(f"""
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            fill = lambda folder: (folder / "f").write_bytes(bytes(200_000)) and None
            Store(Path({str(store.root)!r})).step({STEP!r}, fill)
        except UenvError as error:
            print(error.exit_code, error)
    """)
    assert re.match(
        r"6 error\[no-space\]: \S+: the file is larger than is allowed here \([0-9,]+ bytes free\)\n  hint: make room",
        done.stdout,
    )
    assert store.step_folder(STEP) is None
    assert everything(store) == []
    assert (store.step(STEP, fill) / "layer").is_file()


def test_a_store_of_somebody_else():
    """What is there can be used without permission to write; what is not there says so."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        store = Store(Path(name, "store"))
        sha256 = put(store, b"content")
        step = store.step(STEP, fill)
        for path in [store.root, *store.root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() else 0o444)
        done = run_python(f"""
            if os.getuid() == 0: os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})
            store = Store(Path({str(store.root)!r}))
            assert store.has_download({sha256!r}, 7)
            assert store.verified_download({sha256!r}, 7).is_file()
            assert store.step({STEP!r}, None) == store.step_folder({STEP!r}) == Path({str(step)!r})
            assert store.info().downloads == 1
            try:
                store.step("ab" * 32, lambda folder: None)
            except UenvError as error:
                print(error.exit_code, error)
        """)
        for path in [store.root, *(path for path in store.root.rglob("*") if path.is_dir())]:
            path.chmod(0o755)
    assert re.match(r"6 error\[no-permission\]: \S+: Permission denied .*\n  hint: set UENV_CACHE", done.stdout), (
        done.stderr
    )


def test_files_whose_writer_knows_their_hash_are_not_read_again(store, monkeypatch):
    read = []
    monkeypatch.setattr(store_entries, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))

    def build(folder):
        (folder / "known").write_bytes(b"known")
        (folder / "other").write_bytes(b"other")
        return {"known": hashlib.sha256(b"known").hexdigest()}

    folder = store.step("a" * 64, build)
    assert read == ["other"]
    assert store_entries.step_damage(folder, sha256_of) is None
