"""The store with ten thousand entries, with several processes on file systems that lock badly, and with kills.

What another host does is done here by processes whose locks nobody else sees, and by files as it would write them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from uenv_builder.model.errors import BuildError
from uenv_builder.system import store_collect, store_index, store_presence, store_verify
from uenv_builder.system.events import Silent
from uenv_builder.system.files import TEMPORARY, lock_file
from uenv_builder.system.store import Damage, Limits, References, Store
from uenv_builder.system.store_process import SILENCE, SILENCE_AFTER_BOOT, SILENCE_OF_CLEAN_UP, Process, this_process
from uenv_builder.system.store_roots import make_root, write_root
from uenv_builder.system.store_users import list_users

OTHER_USER = 65534
GB = 10**9
HOUR = 3600.0

LOCKS = {
    "locks": "",
    "no locks": "fcntl.flock = refuse_lock",  # Lustre without flock
    "own locks only": "fcntl.flock = lambda handle, operation: None",  # Lustre with localflock, NFS with local_lock
}
PREAMBLE = """
    import errno, fcntl, os, random, sys, time
    from pathlib import Path
    from uenv_builder.model.errors import UenvError
    from uenv_builder.system import store_presence
    from uenv_builder.system.events import Silent
    from uenv_builder.system.store import Limits, References, Store

    def refuse_lock(handle, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def content(step_id):
        return bytes.fromhex(step_id) * 2000

    def fill(step_id, pause=0.0):
        def build(folder):
            for number in range(4):
                (folder / f"part{number}").write_bytes(content(step_id))
                time.sleep(pause)
        return build

    def step_ids(first, last):
        return [f"{number:02x}" * 32 for number in range(first, last)]

    store = Store(Path(sys.argv[1]))
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def start(store, code, *, locks="locks", **options):
    """A process that runs `code` behind the preamble, and whose locks are as `locks` says."""
    program = "\n".join([textwrap.dedent(PREAMBLE), LOCKS[locks], textwrap.dedent(code)])
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program, str(store.root)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options
    )


@contextmanager
def running(store, code, **options):
    """A process that has printed a line and goes on until this context ends, which waits for it."""
    process = start(store, code, **options)
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    try:
        yield process
    finally:
        _, errors = process.communicate(timeout=60)
        assert process.returncode in {0, -signal.SIGKILL}, errors


def finish(process):
    """What it printed; it ended well."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def step(store, number, *, age=0.0):
    """A result of 100 bytes, last used `age` seconds ago; its id."""
    step_id = f"{number:02x}" * 32
    path = store.step(step_id, lambda folder: (folder / "data").write_bytes(bytes(100)) and None)
    make_older(path, age)
    return step_id


def download(store, content, *, age=0.0):
    sha256 = hashlib.sha256(content).hexdigest()
    path = store.download_path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    make_older(path, age)
    return sha256


def make_older(path, seconds):
    used = path.stat().st_mtime - seconds
    os.utime(path, (used, used))


def there(store, *step_ids):
    """Which of the results are there, without using them."""
    return [(store.root / "steps" / step_id[:2] / step_id / "sums.json").is_file() for step_id in step_ids]


def unfinished(store):
    return [path for path in store.root.rglob(f"{TEMPORARY}*") if path.is_dir()]


# Ten thousand entries, ten terabytes on paper.


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """5,000 downloads and 5,000 results of 1 GB each; sparse, and last changed an hour ago."""
    store = Store(tmp_path_factory.mktemp("large") / "store")
    then = time.time() - HOUR
    for number in range(5000):
        name = hashlib.sha256(f"download {number}".encode()).hexdigest()
        sparse(store.download_path(name), GB)
        name = hashlib.sha256(f"step {number}".encode()).hexdigest()
        folder = store.root / "steps" / name[:2] / name
        sparse(folder / "layer.tar.zst", GB)
        sums = {"layer.tar.zst": {"size": GB, "sha256": name}, "index.json": {"size": 10, "sha256": "0" * 64}}
        (folder / "sums.json").write_text(json.dumps(sums))
        (folder / "index.json").write_text("0123456789")
    for family in ("downloads", "steps"):
        for folder in (store.root / family).iterdir():
            os.utime(folder, (then, then))
    yield store
    shutil.rmtree(store.root)


def sparse(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def looked_into(monkeypatch):
    """The entries whose size was asked of the file system."""
    real, found = store_index._measure, []

    def measure(path):
        found.append(path)
        return real(path)

    monkeypatch.setattr(store_index, "_measure", measure)
    return found


@pytest.fixture
def listed(monkeypatch):
    """The folders of the store that were listed."""
    real, found = store_index._list_folder, []

    def list_folder(folder, changed, known):
        found.append(folder)
        return real(folder, changed, known)

    monkeypatch.setattr(store_index, "_list_folder", list_folder)
    return found


def timed(work):
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def test_ten_thousand_entries_are_counted_from_the_index(large_store, looked_into, listed, uenv):
    info, cold = timed(large_store.info)
    assert (info.downloads, info.download_bytes) == (5000, 5000 * GB)
    assert (info.steps, info.step_bytes) == (5000, 5000 * (GB + 10))
    assert (len(looked_into), len(listed)) == (10_000, 512)
    looked_into.clear()
    listed.clear()
    again, warm = timed(large_store.info)
    assert again == info
    assert looked_into == listed == []
    outcome, whole = timed(lambda: uenv.ok("cache", "info", "--json", UENV_CACHE=str(large_store.root)))
    assert outcome.document["step_bytes"] == info.step_bytes
    print(f"\n10,000 entries: without index {cold:.2f} s, with it {warm:.3f} s; `uenv cache info` {whole:.2f} s")


def test_of_a_large_store_only_what_is_new_is_looked_into(large_store, looked_into):
    large_store.info()
    looked_into.clear()
    new = large_store.step("ab" * 32, lambda folder: (folder / "data").write_bytes(bytes(5)) and None)
    info = large_store.info()
    assert (info.steps, info.step_bytes) == (5001, 5000 * (GB + 10) + 5)
    assert looked_into == [new]
    shutil.rmtree(new)
    assert large_store.info().steps == 5000


def test_a_clean_up_of_a_large_store_looks_into_nothing_twice(large_store, looked_into):
    large_store.info()
    looked_into.clear()
    planned, seconds = timed(lambda: large_store.collect(Limits(max_bytes=4000 * GB), dry_run=True))
    assert planned.removed > 6000
    assert sum(removal.kind == "download" for removal in planned.removals) == 5000
    assert looked_into == []
    print(f"\n10,000 entries: `uenv cache gc --dry-run` {seconds:.2f} s")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', '{"format": 1, "folders": {"steps/01": [1]}}'])
def test_an_index_that_is_none_is_made_anew(store, damage):
    step(store, 1)
    expected = store.info()
    (store.root / "index.json").write_text(damage)
    assert store.info() == expected
    assert json.loads((store.root / "index.json").read_text())["format"] == 1


def test_an_index_is_not_believed_where_a_folder_has_changed_within_the_same_tick(store):
    step(store, 1)
    folder = store.root / "steps" / "01"
    frozen = folder.stat().st_mtime_ns
    assert store.info().steps == 1
    store.step("01" * 31 + "02", lambda folder: (folder / "data").touch())
    os.utime(folder, ns=(frozen, frozen))
    assert store.info().steps == 2


# Who refers to what.


def build_folder(folder, plan):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "plan": plan}))
    return folder


@pytest.fixture
def kept(store, tmp_path):
    """A store with a build's result, a lock's download, and one of each that nobody refers to; and all of them old."""
    keys = {
        "built": step(store, 1, age=9 * HOUR),
        "other": step(store, 2, age=9 * HOUR),
        "locked": download(store, b"locked", age=9 * HOUR),
        "fetched": download(store, b"fetched", age=9 * HOUR),
    }
    build = build_folder(tmp_path / "build/name", "plan-1")
    lock = tmp_path / "gh200.lock.yaml"
    lock.write_text(f"sha256: {keys['locked']}\n")
    store.add_root("build", build, References.of([keys["built"]]), plan="plan-1")
    store.add_root("lock", lock, References.of(downloads=[keys["locked"]]))
    return build, lock, keys


def removed(collected):
    return sorted(removal.key for removal in collected.removals)


EVERYTHING = Limits(keep_last=0, older_than=0.0, max_bytes=0)


def test_what_builds_and_locks_refer_to_stays_whatever_the_limits(store, kept):
    _, _, keys = kept
    collected = store.collect(EVERYTHING)
    assert removed(collected) == sorted([keys["other"], keys["fetched"]])
    assert (collected.protected, collected.protected_bytes, collected.over_bytes) == (2, 106, 106)
    assert (collected.dropped_roots, collected.unseen_roots) == ((), ())
    assert store.info().roots == 2


def test_a_build_that_is_gone_refers_to_nothing(store, kept):
    build, lock, keys = kept
    shutil.rmtree(build)
    lock.unlink()
    planned = store.collect(EVERYTHING, dry_run=True)
    assert store.info().roots == 2
    collected = store.collect(EVERYTHING)
    assert removed(collected) == removed(planned) == sorted(keys.values())
    assert set(collected.dropped_roots) == {str(build), str(lock)}
    assert store.info().roots == 0


def test_another_build_in_the_folder_has_references_of_its_own(store, kept):
    build, _, keys = kept
    store.add_root("build", build, References.of([keys["other"]]), plan="plan-2")
    assert removed(store.collect(EVERYTHING, dry_run=True)) == sorted([keys["other"], keys["fetched"]])
    build_folder(build, "plan-2")
    collected = store.collect(EVERYTHING)
    assert removed(collected) == sorted([keys["built"], keys["fetched"]])
    assert collected.dropped_roots == (str(build),)
    assert store.info().roots == 2


def test_a_root_is_written_once_and_again_where_its_build_comes_back(store, kept):
    build, _, keys = kept
    [file] = [path for path in (store.root / "roots").iterdir() if "plan-1" in path.read_text()]

    def keep():
        before = file.stat().st_ino
        store.add_root("build", build, References.of([keys["built"]]), plan="plan-1")
        return file.stat().st_ino == before

    assert keep()
    shutil.rmtree(build)
    assert not keep()  # while the build is on its way, the root has to name who makes it
    build_folder(build, "plan-1")
    assert keep()
    file.write_text("{")
    assert not keep()


def test_while_its_build_is_at_work_a_root_is_live_without_its_folder(store, kept, tmp_path):
    _, _, keys = kept
    path = tmp_path / "build/new"
    code = f"""
        with store.in_use(References.of()):
            store.add_root("build", Path({str(path)!r}), References.of([{keys["other"]!r}]), plan="plan-3")
            print("ready", flush=True)
            sys.stdin.readline()
    """
    with running(store, code):
        collected = store.collect(EVERYTHING)
        assert removed(collected) == [keys["fetched"]]
        assert collected.dropped_roots == ()
        build_folder(path, "plan-3")
    assert removed(store.collect(EVERYTHING)) == []
    shutil.rmtree(path)
    assert removed(store.collect(EVERYTHING)) == [keys["other"]]


def test_a_lock_keeps_what_it_names_today(store, kept):
    _, lock, keys = kept
    lock.write_text(f"sha256: {keys['fetched']}\nother: {'0' * 63}\n")
    assert removed(store.collect(EVERYTHING)) == sorted([keys["other"], keys["locked"]])


def foreign_root(store, path, references, **other):
    write_root(store.root, replace(make_root("build", path, references, plan="plan-9", user=""), **other))


def test_what_cannot_be_seen_from_here_counts_as_there(store, tmp_path):
    of_host, of_disk, gone = step(store, 1), step(store, 2), step(store, 3)
    foreign_root(store, tmp_path / "on-nid001", References.of([of_host]), host="nid001")
    foreign_root(store, tmp_path / "on-disk", References.of([of_disk]), mount=str(tmp_path))
    foreign_root(store, tmp_path / "gone", References.of([gone]))
    collected = store.collect(EVERYTHING)
    assert removed(collected) == [gone]
    assert [text.partition(": ")[2] for text in sorted(collected.unseen_roots)] == [
        f"{tmp_path} is not mounted",
        "it is not there on this host; it was on nid001",
    ]
    collected = store.collect(EVERYTHING, forget_hosts=["nid*"])
    assert removed(collected) == [of_host]
    assert there(store, of_disk) == [True]


def test_a_build_of_another_host_that_is_seen_here_is_judged_here(store, tmp_path):
    build = build_folder(tmp_path / "build", "plan-9")
    foreign_root(store, build, References.of([step(store, 1)]), host="nid001")
    assert removed(store.collect(EVERYTHING, forget_hosts=["*"])) == []
    build_folder(build, "plan-10")
    assert removed(store.collect(EVERYTHING)) == ["01" * 32]


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1]"])
def test_a_root_that_cannot_be_read_stops_the_clean_up(store, kept, text):
    file = next((store.root / "roots").glob("*.json"))
    file.write_text(text)
    with pytest.raises(BuildError, match=re.escape(f"{file}: cannot be read")):
        store.collect(EVERYTHING)
    assert there(store, kept[2]["other"]) == [True]


def test_a_build_that_can_neither_be_read_nor_missed_is_kept(store, kept):
    build, _, keys = kept
    (build / "manifest.json").write_text("{")
    collected = store.collect(EVERYTHING)
    assert keys["built"] not in removed(collected)
    [text] = collected.unseen_roots
    assert text.startswith(f"{build}: its manifest cannot be read")


def test_the_command_line(store, kept, uenv):
    build, _, keys = kept

    def run(*words, code=0):
        outcome = uenv.run("cache", *words, UENV_CACHE=str(store.root))
        assert outcome.code == code, outcome.stderr
        return outcome

    text = run("gc", "--max-size", "0", "--dry-run").stdout
    assert re.search(rf"^step +{keys['other'][:16]} +100 B +makes room$", text, re.MULTILINE)
    assert "would have removed 2 entries, 107 B\n" in text
    assert "this is 106 B more than --max-size" in text
    assert run("gc", "--keep-last", "1", "--json").document["removed"] == 0
    assert run("gc", "--keep-last", "0", "--json").document["removed"] == 1
    document = run("gc", "--older-than", "0.1", "--json").document
    assert [entry["key"] for entry in document["entries"]] == [keys["fetched"]]
    assert (document["busy"], document["over_bytes"], document["protected"]) == (False, 0, 2)
    shutil.rmtree(build)
    assert f"forgotten {build}" in run("gc").stdout
    with running(store, 'with store.in_use():\n    print("ready", flush=True)\n    sys.stdin.readline()') as process:
        assert f"process {process.pid}" in run("gc", "--max-size", "0").stdout
    (store.download_path(keys["locked"])).write_bytes(b"damage")
    [damage] = run("verify", "--json", "--jobs", "3", code=5).document["damaged"]
    assert damage == {
        "entry": f"download {keys['locked']}",
        "reason": "its content has another sha256",
        "dropped": True,
    }
    assert run("verify").stdout == "everything in the store is sound\n"


# Builds and clean-ups at the same time.


@pytest.mark.parametrize("locks", LOCKS)
def test_a_running_build_keeps_what_it_names_and_what_it_looks_for(store, locks):
    named, looked_for, other = step(store, 1), step(store, 2), step(store, 3)
    code = f"""
        with store.in_use(References.of([{named!r}])):
            assert store.step_folder({looked_for!r})
            print("ready", flush=True)
            sys.stdin.readline()
    """
    with running(store, code, locks=locks):
        collected = store.collect(EVERYTHING)
        assert removed(collected) == [other]
        assert collected.protected == 2
    assert removed(store.collect(EVERYTHING)) == [named, looked_for]


BUILDER = """
    chance = random.Random(int(sys.stdin.readline()))
    deadline = time.monotonic() + 8
    made = used = 0
    while time.monotonic() < deadline:
        wanted = chance.sample(step_ids(0, 12), 4)
        with store.in_use(References.of(wanted)):
            before = made
            folders = []
            for step_id in wanted:
                def build(folder, step_id=step_id):
                    global made
                    made += 1
                    fill(step_id)(folder)
                folders.append(store.step(step_id, build))
            time.sleep(0.02)
            for step_id, folder in zip(wanted, folders):
                for number in range(4):
                    assert (folder / f"part{number}").read_bytes() == content(step_id), folder
            used += 1
    print(made, used)
"""
CLEANER = """
    deadline = time.monotonic() + 8
    removed = 0
    while time.monotonic() < deadline:
        collected = store.collect(Limits(max_bytes=0))
        removed += collected.removed
    print(removed)
"""


@pytest.mark.parametrize("locks", LOCKS)
def test_clean_ups_never_remove_what_builds_are_using(store, locks):
    """Three builds use what they have made, while a clean-up removes all that it may, as often as it can."""
    cleaner = start(store, CLEANER, locks=locks)
    builders = [start(store, BUILDER, locks=locks) for _ in range(3)]
    for number, builder in enumerate(builders):
        builder.stdin.write(f"{number}\n")
        builder.stdin.flush()
    made, used = zip(*(map(int, finish(builder).split()) for builder in builders), strict=True)
    assert int(finish(cleaner)) > 0
    assert sum(made) > 12  # something was removed, and made again
    assert min(used) > 3
    assert store.verify(Silent()) == []
    assert unfinished(store) == []
    assert list((store.root / "users").iterdir()) == []


@pytest.mark.parametrize("locks", LOCKS)
def test_processes_that_build_the_same_steps_do_not_disturb_each_other(store, locks):
    code = """
        print("ready", flush=True)
        sys.stdin.readline()
        for step_id in step_ids(0, 20):
            folder = store.step(step_id, fill(step_id, 0.001))
            assert (folder / "part3").read_bytes() == content(step_id)
    """
    processes = [start(store, code, locks=locks) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)
    assert store.info().steps == 20
    assert store.verify(Silent()) == []
    assert unfinished(store) == []


def test_a_result_that_lost_its_sums_is_made_again(store):
    step(store, 1)
    folder = store.root / "steps/01" / ("01" * 32)
    (folder / "sums.json").unlink()
    assert store.step("01" * 32, lambda new: (new / "data").write_bytes(b"again") and None) == folder
    assert (folder / "data").read_bytes() == b"again"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# Killed at any moment.

BUILD_FOR_EVER = """
    print("ready", flush=True)
    chance = random.Random()
    while True:
        with store.in_use():
            for step_id in chance.sample(step_ids(0, 12), 3):
                store.step(step_id, fill(step_id, 0.002))
        store.collect(Limits(max_bytes=100_000))
"""


def test_killed_at_any_moment(store):
    """Two builds that clean up in between are killed again and again; what is in its place is whole every time."""
    chance = random.Random(7)
    for _ in range(12):
        processes = [start(store, BUILD_FOR_EVER) for _ in range(2)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.02, 0.5))
        for process in processes:
            process.kill()
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL, errors
        assert store.verify(Silent()) == []
        living, dead = list_users(store.root)
        assert (living, dead) == ([], [])
    store.collect()
    assert unfinished(store) == []
    assert store.info().unfinished == 0
    for step_id in [f"{number:02x}" * 32 for number in range(12)]:
        store.step(step_id, lambda folder: (folder / "data").write_bytes(b"x") and None)
    assert removed(store.collect(EVERYTHING)) == [f"{number:02x}" * 32 for number in range(12)]


def test_the_next_run_removes_what_a_killed_one_left(store):
    code = """
        def build(folder):
            (folder / "half").write_bytes(bytes(1000))
            print("ready", flush=True)
            sys.stdin.readline()
        store.step(step_ids(1, 2)[0], build)
    """
    with running(store, code) as process:
        [left] = unfinished(store)
        step(store, 2)
        assert left.is_dir()
        process.kill()
        process.wait()
        step(store, 3)
        assert not left.exists()
        assert list_users(store.root) == ([], [])


# What other hosts leave.


def announce(store, process, *, seconds_ago, references=None, role="build"):
    """The file by which a process announced itself so many seconds ago."""
    path = store.root / "users" / f"b-{process.host}-{process.pid}-0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"role": role, "process": asdict(process), "references": references}))
    make_older(path, seconds_ago)
    return path


HERE = this_process()
ELSEWHERE = Process(host="nid001", boot="another", namespace=HERE.namespace, pid=os.getpid(), began=HERE.began)


@pytest.mark.parametrize(
    ("process", "seconds_ago", "lives"),
    [
        (ELSEWHERE, SILENCE - 60, True),
        (ELSEWHERE, SILENCE + 60, False),
        (replace(HERE, boot="before"), SILENCE_AFTER_BOOT - 60, True),
        (replace(HERE, boot="before"), SILENCE_AFTER_BOOT + 60, False),
        (replace(HERE, namespace="pid:[1]"), SILENCE - 60, True),
        (replace(HERE, namespace="pid:[1]"), SILENCE + 60, False),
        (HERE, 1e6, True),
        (replace(HERE, began=HERE.began - 1), 0, False),
        (replace(HERE, boot=""), SILENCE - 60, True),
        (replace(HERE, boot=""), SILENCE + 60, False),
        (replace(HERE, pid=1, began=0), 0, False),
    ],
)
def test_whether_a_process_lives(store, process, seconds_ago, lives):
    step_id = step(store, 1)
    left = store.root / "steps/02" / f"{TEMPORARY}{'02' * 32}-b-{process.host}-{process.pid}-0-xyz"
    left.mkdir(parents=True)
    file = announce(store, process, seconds_ago=seconds_ago)
    collected = store.collect(EVERYTHING)
    assert bool(collected.blocked) == left.exists() == file.exists() == lives
    assert there(store, step_id) == [lives]


def test_a_killed_child_that_nobody_has_waited_for_is_dead(store):
    code = 'with store.in_use():\n    print("ready", flush=True)\n    sys.stdin.readline()'
    with running(store, code) as process:
        assert len(list_users(store.root)[0]) == 1
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while list_users(store.root)[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(list_users(store.root)[1]) == 1
        assert process.returncode is None


@pytest.mark.parametrize("text", ["", "{", '{"role": "build"}'])
def test_a_user_who_cannot_be_read_may_use_anything(store, text):
    step(store, 1)
    file = announce(store, HERE, seconds_ago=0)
    file.write_text(text)
    assert store.collect(EVERYTHING).blocked
    make_older(file, SILENCE + 60)
    assert not store.collect(EVERYTHING).blocked
    assert not file.exists()


def test_a_build_gives_signs_of_life(store):
    """And where it was taken for dead nevertheless, it announces itself again."""
    code = """
        store_presence.BEAT = 0.05
        with store.in_use():
            print("ready", flush=True)
            sys.stdin.readline()
    """
    with running(store, code):
        [file] = (store.root / "users").iterdir()
        for act in (lambda: make_older(file, HOUR), file.unlink):
            act()
            assert wait_until(lambda: file.exists() and time.time() - file.stat().st_mtime < 30)
    assert list((store.root / "users").iterdir()) == []


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_build_that_was_taken_for_dead_says_so_and_leaves_nothing(store):
    code = """
        def build(folder):
            (folder / "half").write_bytes(bytes(1000))
            print("ready", flush=True)
            sys.stdin.readline()
        try:
            store.step(step_ids(1, 2)[0], build)
        except UenvError as error:
            print(error)
    """
    process = start(store, code)
    assert process.stdout.readline() == "ready\n"
    [file] = (store.root / "users").iterdir()
    document = json.loads(file.read_text())
    document["process"]["boot"] = "of another host"
    document["process"]["host"] = "nid001"
    file.write_text(json.dumps(document))
    make_older(file, SILENCE + 60)
    assert store.collect().removed == 1
    output = finish(process)
    assert "no sign of life of it for an hour" in output
    assert "hint: run the build again" in output
    assert there(store, "01" * 32) == [False]
    assert unfinished(store) == []


def test_a_build_waits_for_a_clean_up_whose_locks_it_does_not_see(store):
    step(store, 1)
    file = announce(store, ELSEWHERE, seconds_ago=0, role="clean-up")
    process = start(store, 'with store.in_use():\n    print("ready", flush=True)')
    assert wait_until(lambda: len(list_users(store.root)[0]) == 2)
    time.sleep(0.5)
    assert process.poll() is None
    assert store.collect(EVERYTHING).blocked
    file.unlink()
    assert finish(process) == "ready\n"


def test_a_build_says_what_it_waits_for_and_does_not_wait_for_the_dead(store):
    class Recorder(Silent):
        def note(self, text):
            notes.append(text)
            make_older(file, SILENCE_OF_CLEAN_UP)

    notes = []
    file = announce(store, ELSEWHERE, seconds_ago=0, role="clean-up")
    with store.in_use(listener=Recorder()):
        assert notes == [f"waiting for a clean-up of {store.root} by nid001, process {os.getpid()}"]
    assert not file.exists()


def test_a_clean_up_that_stood_still_goes_no_further(store, monkeypatch):
    """Builds may have arrived that it does not know of."""
    for number in range(5):
        step(store, number, age=(9 - number) * HOUR)
    real = store_collect.take_away

    def stand_still(folder):
        monkeypatch.setattr("uenv_builder.system.store_users.SILENCE_OF_CLEAN_UP", 0.0)
        return real(folder)

    monkeypatch.setattr(store_collect, "take_away", stand_still)
    collected = store.collect(Limits(max_bytes=0))
    assert removed(collected) == ["00" * 32]
    assert "stood still" in collected.blocked
    assert there(store, *(f"{number:02x}" * 32 for number in range(5))) == [False, True, True, True, True]


def test_two_clean_ups_at_once_do_not_both_remove(store, monkeypatch):
    monkeypatch.setattr("uenv_builder.system.store_users._PATIENCE", 0.2)
    step(store, 1)
    with lock_file(store.root / "locks/in-use"):
        assert "another clean-up" in store.collect(EVERYTHING).blocked
    assert there(store, "01" * 32) == [True]


# Disks that are full, and stores that may only be read.


@pytest.mark.root
def test_a_full_disk_is_explained_and_can_be_cleaned_up(tmp_path):
    code = """
        for number, step_id in enumerate(step_ids(0, 200)):
            try:
                store.step(step_id, fill(step_id))
            except UenvError as error:
                print(error)
                break
        try:
            with open(store.root.parent / "rest", "wb") as rest:
                while True: rest.write(bytes(512)); rest.flush()
        except OSError:
            pass
        try:
            store.step("fe" * 32, fill("fe" * 32))
        except UenvError as error:
            print(error)
        for lock in (store.root / "locks").iterdir():
            lock.unlink()
        try:
            for extra in range(100_000):
                (store.root.parent / str(extra)).touch()
        except OSError:
            pass
        collected = store.collect(Limits(max_bytes=0))
        print(collected.removed, number, collected.blocked)
        assert store.step("fe" * 32, fill("fe" * 32)).is_dir()
        print(store.verify(Silent()))
    """
    program = "\n".join([textwrap.dedent(PREAMBLE), textwrap.dedent(code)])
    (tmp_path / "disk").mkdir()
    mounting = f'mount -t tmpfs -o size=3m,nr_inodes=2000 none {tmp_path}/disk; exec "$0" -c "$1" {tmp_path}/disk/store'
    command = ["unshare", "-m", "sh", "-ec", mounting, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert (
        len(re.findall(r"^error\[no-space\]: \S+: no space left \([0-9,]+ bytes free\)$", done.stdout, re.MULTILINE))
        == 2
    )
    assert done.stdout.count("hint: make room, or set UENV_CACHE") == 2
    removals, number, *_ = done.stdout.splitlines()[-2].split()
    assert int(removals) == int(number) > 5
    assert done.stdout.splitlines()[-1] == "[]"


def test_where_there_is_no_room_for_another_name_a_result_is_removed_in_its_place(store, monkeypatch):
    step_id = step(store, 1)
    real = Path.rename

    def rename(path, target):
        if f"{TEMPORARY}{step_id}-gone" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert removed(store.collect(EVERYTHING)) == [step_id]
    assert not (store.root / "steps/01" / step_id).exists()


@pytest.fixture
def readable_store(tmp_path_factory):
    """A store of ours that another user may read and not write; somewhere that the other user gets to."""
    folder = Path("/var/tmp" if os.getuid() == 0 else tmp_path_factory.mktemp("store")) / f"store-{os.getpid()}"
    store = Store(folder)
    yield store
    shutil.rmtree(folder, ignore_errors=True)


def close_off(store):
    for path in [store.root, *store.root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


AS_OTHER_USER = f"os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})"


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="takes another user's place")
def test_a_store_that_may_only_be_read(readable_store):
    """Builds that find everything go on, the rest says why not, and its owner does not clean up under their hands."""
    store = readable_store
    good, bad = step(store, 1), step(store, 2)
    sha256 = download(store, b"damaged")
    (store.root / "steps/02" / bad / "data").write_bytes(b"damage")
    store.download_path(sha256).write_bytes(b"Damaged")
    close_off(store)
    code = f"""
        {AS_OTHER_USER}
        def attempt(work):
            try:
                print(work())
            except UenvError as error:
                print(error.exit_code, str(error).splitlines()[0])
        with store.in_use(References.of([{good!r}])):
            print("ready", flush=True)
            sys.stdin.readline()
            attempt(lambda: store.step({good!r}, None).name)
            attempt(lambda: store.step("ab" * 32, fill("ab" * 32)))
            attempt(lambda: store.info().steps)
            attempt(lambda: store.add_root("lock", Path("/etc/passwd"), References.of([{good!r}])))
        attempt(lambda: [(damage.entry[:6], damage.dropped) for damage in store.verify(Silent())])
        attempt(lambda: store.collect(Limits(max_bytes=0)))
        attempt(lambda: store.collect(Limits(max_bytes=0), dry_run=True).removed)
        attempt(lambda: store.verified_download({sha256!r}, 7))
    """
    process = start(store, code)
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    assert "may only read" in store.collect(EVERYTHING).blocked
    process.stdin.write("go on\n")
    process.stdin.flush()
    lines = finish(process).splitlines()
    refusal = re.compile(r"6 error\[no-permission\]: \S+: Permission denied \([0-9,]+ bytes free\)")
    assert (lines[0], lines[2], lines[3], lines[4], lines[6]) == (
        good, "2", "None", "[('downlo', False), ('step 0', False)]", "3",
    )  # fmt: skip
    for number in (1, 5, 7):
        assert refusal.fullmatch(lines[number]), lines[number]
    assert there(store, good, bad) == [True, True]
    assert store.collect(EVERYTHING).removed == 3


# Reading all of it.


class Counting(Silent):
    """How much of each task was done."""

    def __init__(self):
        self.tasks = {}

    @contextmanager
    def task(self, title, total=None):
        done = self.tasks[title] = [total, 0, 0]

        class Task:
            def advance(self, amount):
                done[1] += amount
                done[2] += 1

        yield Task()


def test_verify_finds_a_flipped_bit_with_several_threads(store):
    size = 3 << 20
    first = store.step(
        "01" * 32, lambda folder: (folder / "layer").write_bytes(random.Random(1).randbytes(size)) and None
    )
    store.step("02" * 32, lambda folder: os.link(first / "layer", folder / "blob"))
    bad = store.step(
        "03" * 32, lambda folder: (folder / "layer").write_bytes(random.Random(3).randbytes(size)) and None
    )
    for number in range(4, 40):
        step(store, number)
    with (bad / "layer").open("r+b") as file:
        file.seek(size // 2)
        byte = file.read(1)[0]
        file.seek(size // 2)
        file.write(bytes([byte ^ 4]))
    listener = Counting()
    assert store.verify(listener, jobs=4) == [Damage(f"step {'03' * 32}", "layer is not what was written")]
    total, done, told = listener.tasks["verifying layers and images"]
    assert done == total == 3 * size + 36 * 100
    assert told > 6  # also within one large file
    assert there(store, "01" * 32, "02" * 32, "03" * 32) == [True, True, False]


def test_verify_reads_a_file_with_several_names_once(store, monkeypatch):
    size = 3 << 20
    first = store.step("01" * 32, lambda folder: (folder / "layer").write_bytes(bytes(size)) and None)
    store.step("02" * 32, lambda folder: os.link(first / "layer", folder / "blob"))
    read = []

    class Digest:
        def __init__(self):
            self.real = hashlib.sha256()
            self.hexdigest = self.real.hexdigest

        def update(self, content):
            read.append(len(content))
            self.real.update(content)

    monkeypatch.setattr(store_verify, "hashlib", SimpleNamespace(sha256=Digest))
    assert store.verify(Silent()) == []
    assert sum(read) == size


def test_what_a_clean_up_takes_from_under_verify_is_no_damage(store):
    for number in range(20):
        step(store, number)

    class Removing(Silent):
        @contextmanager
        def task(self, title, total=None):
            if "layers" in title:
                code = "assert store.collect(Limits(max_bytes=0)).removed == 20"
                finish(start(store, code))
            with super().task(title, total) as task:
                yield task

    assert store.verify(Removing(), jobs=3) == []
    assert store.info().steps == 0


def test_a_presence_is_one_for_all_threads(store):
    presence = store_presence.presence_in(store.root)
    with store.in_use(References.of(["01" * 32])), store.in_use(), store.in_use(References.of(["02" * 32])):
        [user] = list_users(store.root)[0]
        assert user.name == presence.name
        assert user.references == References.of(["01" * 32, "02" * 32])
    assert list_users(store.root) == ([], [])
    with store.in_use(), store.in_use(References.of(["02" * 32])):
        assert list_users(store.root)[0][0].references is None
