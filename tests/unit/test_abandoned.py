"""What killed processes leave is removed, and nothing of a living one."""

import multiprocessing
import os
import signal
import tempfile
import time

import pytest

from uenv_builder.system.abandoned import remove_abandoned, scratch_folder
from uenv_builder.system.files import replace_folder, write_beside
from uenv_builder.system.store_process import process_mark, runs_by_mark

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary folder, for this process and those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    monkeypatch.setattr(tempfile, "tempdir", None)


def begin(folder, ready):
    with (
        replace_folder(folder / "a-place") as new,
        write_beside(folder / "file") as file,
        scratch_folder("uenv-try-") as scratch,
    ):
        (new / "f").write_text("new")
        (scratch / "f").write_text("new")
        file.write(b"new")
        ready.set()
        signal.pause()


def begun(temporary):
    ready = SPAWN.Event()
    child = SPAWN.Process(target=begin, args=(temporary, ready))
    child.start()
    assert ready.wait(60)
    return child


def test_what_a_killed_process_left_is_removed_and_nothing_of_a_living_one(temporary):
    (temporary / ".tmp-mine").mkdir()
    (temporary / "uenv-try-mine").mkdir()
    living, killed = begun(temporary), begun(temporary)
    try:
        os.kill(killed.pid, signal.SIGKILL)
        killed.join(60)
        assert len(list(temporary.iterdir())) == 2 + 3 + 3
        remove_abandoned(temporary)
        assert len(list(temporary.iterdir())) == 2 + 3 + 1
        with scratch_folder("uenv-try-") as scratch:
            assert scratch.is_dir()
            left = sorted(path.name for path in temporary.iterdir() if path != scratch)
        assert len(left) == 2 + 3
        assert not scratch.exists()
        assert [name for name in left if f".{living.pid}." not in name] == [".tmp-mine", "uenv-try-mine"]
    finally:
        living.kill()
        living.join(60)


@pytest.mark.parametrize(("days", "stays"), [(0.9, True), (1.1, False)])
def test_what_another_host_left_goes_after_a_day(tmp_path, days, stays):
    path = tmp_path / ".tmp-name-0123456789ab.4026531836.17.99-abcd_123"
    path.mkdir()
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    remove_abandoned(tmp_path)
    assert path.exists() == stays


def test_marks():
    mark = process_mark()
    boot, namespace, pid, began = mark.split(".")
    assert runs_by_mark(mark)
    assert runs_by_mark(f"{boot}.{namespace}.{pid}.{int(began) + 1}") is False
    assert runs_by_mark(f"{boot[::-1]}.{namespace}.{pid}.{began}") is None


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    remove_abandoned(tmp_path / "nowhere")


def test_what_a_link_leads_to_stays(tmp_path):
    (tmp_path / "precious").mkdir()
    mark = ".".join([*process_mark().split(".")[:3], "1"])
    link = tmp_path / f".tmp-{mark}-abcd"
    link.symlink_to("precious")
    remove_abandoned(tmp_path)
    assert not link.is_symlink()
    assert (tmp_path / "precious").is_dir()
