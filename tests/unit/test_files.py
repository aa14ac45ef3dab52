"""Files and folders that are whole or not there, also on full, read-only and odd file systems."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

from uenv_builder.model.errors import BuildError
from uenv_builder.system import files
from uenv_builder.system.files import (
    TEMPORARY,
    explained,
    link_or_copy,
    lock_file,
    remove_tree,
    replace_folder,
    sha256_of,
    try_lock,
    write_beside,
    write_json,
    write_text,
)

SPAWN = multiprocessing.get_context("spawn")
OTHER_USER = 65534


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_as_other_user(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python `code` as somebody who is not root, so that permissions count."""
    drop = f"if os.getuid() == 0: os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})"
    program = "import os, sys\nfrom pathlib import Path\nfrom uenv_builder.system.files import *\n"
    program += "from uenv_builder.model.errors import UenvError\n" + drop + "\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")


@pytest.fixture
def open_folder():
    """A folder whose parents everybody can enter, and whose owner is somebody else than root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        place = Path(name, "of-other")
        place.mkdir()
        if os.getuid() == 0:
            os.chown(place, OTHER_USER, OTHER_USER)
        yield place


@pytest.fixture
def other_file_system(tmp_path):
    """A folder on another file system than tmp_path's."""
    if not os.access("/dev/shm", os.W_OK) or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_001])
def test_sha256_is_the_one_that_the_tool_prints(tmp_path, size):
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))
    printed = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout
    assert sha256_of(path) == printed.split()[0]


def test_write_beside_replaces_when_the_body_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "f"
    with write_beside(path) as file:
        file.write(b"first")
        assert not path.exists()
    with write_beside(path) as file:
        file.write(b"second")
        file.flush()
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["f"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_write_beside_leaves_nothing_on_error(tmp_path, error):
    path = tmp_path / "f"
    path.write_bytes(b"before")

    def write_half():
        with write_beside(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"before"
    with pytest.raises(error), write_beside(tmp_path / "g"):
        raise error
    assert names(tmp_path) == ["f"]


def test_permissions_do_not_depend_on_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "text", "x")
        with write_beside(tmp_path / "program", permissions=0o755) as file:
            file.write(b"x")
        with replace_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    found = {name: (tmp_path / name).stat().st_mode & 0o7777 for name in names(tmp_path)}
    assert found == {"text": 0o644, "program": 0o755, "folder": 0o755}


def test_text_and_json_are_the_same_bytes_everywhere(tmp_path):
    write_text(tmp_path / "text", "grün\n")
    assert (tmp_path / "text").read_bytes() == b"gr\xc3\xbcn\n"
    write_json(tmp_path / "json", {"b": [1], "a": "ü"})
    assert (tmp_path / "json").read_bytes() == b'{\n  "a": "\\u00fc",\n  "b": [\n    1\n  ]\n}\n'
    assert json.loads((tmp_path / "json").read_text()) == {"a": "ü", "b": [1]}


def test_a_full_disk_is_explained_and_leaves_the_old_file(tmp_path):
    """RLIMIT_FSIZE in a child stands for the full disk: the kernel refuses to write more."""
    (tmp_path / "f").write_bytes(b"before")
    child = SPAWN.Process(target=_write_too_much, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0, (tmp_path / "error").read_text()
    text = (tmp_path / "error").read_text()
    place = re.escape(str(tmp_path / "f"))
    reason = r"the file is larger than is allowed here \([0-9,]+ bytes free\)"
    assert re.match(rf"error\[no-space\]: {place}: {reason}", text)
    assert "make room, or set UENV_CACHE" in text
    assert (tmp_path / "f").read_bytes() == b"before"
    assert names(tmp_path) == ["error", "f"]


def _write_too_much(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    def write():
        with write_beside(folder / "f") as file:
            for _ in range(200):
                file.write(bytes(1000))

    with pytest.raises(BuildError) as caught:
        write()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (folder / "error").write_text(str(caught.value))


@pytest.mark.root
def test_a_full_file_system_keeps_what_was_there():
    """A real full file system: a small tmpfs in a mount namespace of its own."""
    code = """
        import os
        from pathlib import Path
        from uenv_builder.model.errors import BuildError
        from uenv_builder.system.files import link_or_copy, replace_folder, write_beside
        place = Path("/mnt/place")
        with replace_folder(place) as folder:
            (folder / "f").write_bytes(b"before")
        Path("/mnt/big").write_bytes(bytes(80_000))
        def overfill_file():
            with write_beside(place / "f") as file:
                file.write(bytes(200_000))
        def overfill_folder():
            with replace_folder(place) as folder:
                (folder / "f").write_bytes(bytes(200_000))
        def overfill_copy():
            os.chdir("/")
            link_or_copy(Path("/usr/bin/env").resolve(), Path("/mnt/place/f"))
        Path("/mnt/big").write_bytes(bytes(110_000))
        for overfill in (overfill_file, overfill_folder, overfill_copy):
            try:
                overfill()
            except BuildError as error:
                print(overfill.__name__, error.diagnostics[0].rule)
        print((place / "f").read_bytes(), sorted(os.listdir("/mnt")), os.listdir(place))
    """
    shell = 'mount -t tmpfs -o size=128k none /mnt; exec "$0" -c "$1"'
    command = ["unshare", "-m", "sh", "-ec", shell, sys.executable, textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip(done.stderr.strip())
    assert done.stdout.splitlines() == [
        "overfill_file no-space",
        "overfill_folder no-space",
        "overfill_copy no-space",
        "b'before' ['big', 'place'] ['f']",
    ], done.stderr


def test_no_permission_is_explained_and_nothing_is_left(open_folder):
    open_folder.chmod(0o555)
    done = run_as_other_user(f"""
        place = Path({str(open_folder)!r})
        def folder():
            with replace_folder(place / "folder"):
                pass
        def lock():
            with lock_file(place / "lock"):
                pass
        for work in (lambda: write_text(place / "f", "x"), folder, lock, lambda: write_text(place / "new" / "f", "x"),
                     lambda: link_or_copy(Path("/bin/sh"), place / "sh")):
            try:
                work()
            except UenvError as error:
                print(error.exit_code, str(error).splitlines()[0])
                print(str(error).splitlines()[1])
    """)
    lines = done.stdout.splitlines()
    for line, name in zip(lines[::2], ["f", "folder", "lock", "new", "sh"], strict=True):
        assert line.startswith(f"6 error[no-permission]: {open_folder / name}: Permission denied"), done.stderr
    assert all("UENV_CACHE" in line for line in lines[1::2])
    assert names(open_folder) == []


def test_another_files_error_names_that_file(tmp_path):
    with pytest.raises(BuildError, match=re.escape(f"{tmp_path / 'missing'}: No such file")), \
            write_beside(tmp_path / "f"):  # fmt: skip
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError("late")])
def test_errors_of_connections_are_not_the_files(tmp_path, error):
    with pytest.raises(type(error)), explained(tmp_path):
        raise error


def test_replace_folder_makes_and_replaces(tmp_path):
    path = tmp_path / "new" / "place"
    with replace_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
    with replace_folder(path) as folder:
        assert names(folder) == []
        (folder / "b").write_text("2")
        assert names(path) == ["a"]
    assert names(path) == ["b"]
    assert names(path.parent) == ["place"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_replace_folder_keeps_the_old_one_when_the_body_raises(tmp_path, error):
    path = tmp_path / "place"
    with pytest.raises(error), replace_folder(path):
        raise error
    assert names(tmp_path) == []
    with replace_folder(path) as folder:
        (folder / "old").write_text("1")

    def fill_half():
        with replace_folder(path) as folder:
            (folder / "new").write_text("2")
            raise error

    with pytest.raises(error):
        fill_half()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["place"]


def test_replace_folder_where_folders_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda _first, _second: False)
    test_replace_folder_makes_and_replaces(tmp_path)


def test_a_reader_always_sees_a_whole_folder(tmp_path):
    """While another process replaces it again and again."""
    path = tmp_path / "place"
    with replace_folder(path) as folder:
        _fill(folder, 0)
    child = SPAWN.Process(target=_replace_again_and_again, args=(path, 300))
    child.start()
    try:
        seen = set()
        while child.is_alive():
            assert path.is_dir()
            seen.add((path / "number").read_text())
        assert len(seen) > 1
    finally:
        child.join(60)
    assert child.exitcode == 0
    assert names(tmp_path) == ["place"]


def _fill(folder: Path, number: int) -> None:
    (folder / "number").write_text(str(number))


def _replace_again_and_again(path: Path, times: int) -> None:
    for number in range(1, times):
        with replace_folder(path) as folder:
            _fill(folder, number)


def test_a_killed_process_leaves_the_old_folder_and_file(tmp_path):
    with replace_folder(tmp_path / "place") as folder:
        (folder / "f").write_text("old")
    write_text(tmp_path / "file", "old")
    ready = SPAWN.Event()
    child = SPAWN.Process(target=_replace_half, args=(tmp_path, ready))
    child.start()
    assert ready.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert (tmp_path / "place" / "f").read_text() == "old"
    assert (tmp_path / "file").read_text() == "old"
    left = [name for name in names(tmp_path) if name not in {"place", "file"}]
    assert len(left) == 2
    assert all(name.startswith(TEMPORARY) for name in left)


def _replace_half(folder: Path, ready) -> None:
    with replace_folder(folder / "place") as new, write_beside(folder / "file") as file:
        (new / "f").write_text("new")
        file.write(b"new")
        ready.set()
        signal.pause()


def test_a_file_in_the_folders_place_is_kept(tmp_path):
    (tmp_path / "place").write_text("precious")
    with pytest.raises(BuildError, match="Not a directory"), replace_folder(tmp_path / "place"):
        pass
    assert (tmp_path / "place").read_text() == "precious"
    assert names(tmp_path) == ["place"]


def test_a_symbolic_link_to_a_folder_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replace_folder(tmp_path / "link") as folder:
        (folder / "f").write_text("x")
    assert (tmp_path / "link").readlink() == Path("real")
    assert names(tmp_path / "real") == ["f"]


def test_remove_tree_opens_what_is_closed(open_folder):
    """As packages have them: folders that even their owner may not write or enter."""
    done = run_as_other_user(f"""
        place = Path({str(open_folder)!r}, "tree")
        (place / "a" / "b" / "c").mkdir(parents=True)
        (place / "a" / "b" / "c" / "f").write_text("x")
        (place / "a" / "link").symlink_to("/etc")
        (place / "closed" / "inner").mkdir(parents=True)
        for name, mode in (("a/b/c", 0o555), ("a/b", 0o500), ("a", 0o111), ("closed", 0o000), (".", 0o500)):
            (place / name).chmod(mode)
        remove_tree(place)
    """)
    assert done.returncode == 0, done.stderr
    assert names(open_folder) == []


def test_remove_tree_of_nothing(tmp_path):
    remove_tree(tmp_path / "nothing")


def test_a_link_on_one_file_system(tmp_path):
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(b"content")
    link_or_copy(source, target)
    assert target.samefile(source)
    link_or_copy(source, target)
    assert target.samefile(source)
    assert names(target.parent) == ["target"]
    other = tmp_path / "other"
    other.write_bytes(b"other")
    link_or_copy(other, target)
    assert target.read_bytes() == b"other"
    assert source.read_bytes() == b"content"


def test_a_copy_across_file_systems(tmp_path, other_file_system):
    source, target = tmp_path / "source", other_file_system / "target"
    source.write_bytes(os.urandom(2_500_000))
    source.chmod(0o755)
    target.write_bytes(b"before")
    link_or_copy(source, target)
    assert target.stat().st_dev != source.stat().st_dev
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o755
    assert names(other_file_system) == ["target"]


def _stops_early(_source, _target, _count):
    return 0


def _refuses(_source, _target, _count):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _breaks_half_way():
    calls = []

    def copy(source, target, _count):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.write(target, os.read(source, 1000))

    return copy


@pytest.mark.parametrize("answer", [_stops_early, _refuses, _breaks_half_way()], ids=["early", "refused", "half"])
def test_a_copy_where_the_kernel_does_not_copy(tmp_path, monkeypatch, answer):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(1_500_000))
    monkeypatch.setattr(os, "copy_file_range", answer)
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: _refuses(0, 0, 0))
    link_or_copy(source, target)
    assert not target.samefile(source)
    assert target.read_bytes() == source.read_bytes()


def test_a_copy_without_space_leaves_what_was_there(tmp_path, other_file_system, monkeypatch):
    def full(_source, _target, _count):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "source").write_bytes(b"new")
    (other_file_system / "target").write_bytes(b"old")
    with pytest.raises(BuildError) as caught:
        link_or_copy(tmp_path / "source", other_file_system / "target")
    assert caught.value.diagnostics[0].rule == "no-space"
    assert (other_file_system / "target").read_bytes() == b"old"
    assert names(other_file_system) == ["target"]


def test_links_that_fail_leave_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(BuildError, match="Is a directory"):
        link_or_copy(tmp_path / "source", tmp_path / "folder")
    with pytest.raises(BuildError, match=re.escape(f"{tmp_path / 'missing'}: No such file")):
        link_or_copy(tmp_path / "missing", tmp_path / "target")
    assert names(tmp_path) == ["folder", "source"]


def test_a_link_to_a_symbolic_link_is_one_to_its_file(tmp_path):
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    link_or_copy(tmp_path / "link", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").samefile(tmp_path / "real")
    assert not (tmp_path / "deep" / "target").is_symlink()


def _hold(path: Path, shared: bool, pipe) -> None:
    with lock_file(path, shared=shared):
        pipe.send("ready")
        pipe.poll(60)


@contextmanager
def held_elsewhere(path: Path, *, shared: bool = False):
    """The lock, held by another process until something is sent to it."""
    pipe, its_end = SPAWN.Pipe()
    child = SPAWN.Process(target=_hold, args=(path, shared, its_end))
    child.start()
    its_end.close()
    try:
        assert pipe.poll(60)
        yield child, pipe
    finally:
        pipe.close()
        child.join(60)


def test_a_lock_is_waited_for_with_a_word(tmp_path):
    path = tmp_path / "locks" / "a"
    with held_elsewhere(path) as (_, holder):
        with try_lock(path) as ours:
            assert not ours
        said = []

        def waiting():
            said.append("waiting")
            holder.send("let go")

        with lock_file(path, waiting=waiting), try_lock(path) as ours:
            assert not ours
        assert said == ["waiting"]
    with lock_file(path, waiting=lambda: pytest.fail("nobody has it")):
        pass


def test_shared_locks_keep_only_exclusive_ones_out(tmp_path):
    path = tmp_path / "a"
    with held_elsewhere(path, shared=True):
        with lock_file(path, shared=True, waiting=lambda: pytest.fail("it can be shared")):
            pass
        with try_lock(path) as ours:
            assert not ours
    with try_lock(path) as ours:
        assert ours


def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path):
    with held_elsewhere(tmp_path / "a") as (child, _):
        with lock_file(tmp_path / "a", waiting=lambda: os.kill(child.pid, signal.SIGKILL)):
            pass
        child.join(60)
        assert child.exitcode == -signal.SIGKILL


def test_a_lock_whose_file_was_removed_is_taken_at_its_new_one(tmp_path, monkeypatch):
    """Who waits for a lock that its owner removes must not share the room with who comes later."""
    path = tmp_path / "a"
    flock = files.fcntl.flock
    with held_elsewhere(path) as (_, holder):

        def removed_while_waiting(handle, operation):
            if not operation & files.fcntl.LOCK_NB:
                path.unlink()
                holder.send("let go")
                monkeypatch.undo()
            flock(handle, operation)

        monkeypatch.setattr(files.fcntl, "flock", removed_while_waiting)
        with lock_file(path), try_lock(path) as ours:
            assert not ours


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_work_goes_on_and_clean_ups_do_not(tmp_path, monkeypatch, number):
    def refuse(_handle, _operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with lock_file(tmp_path / "a"), lock_file(tmp_path / "a", shared=True), try_lock(tmp_path / "a") as ours:
        assert not ours
