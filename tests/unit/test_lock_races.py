"""What others may do to a lock's file between two calls of ours, and to the files that a store has recorded."""

import fcntl

from uenv_builder.system import files
from uenv_builder.system.files import lock_file, try_lock
from uenv_builder.system.store_entries import step_damage, write_sums


def test_whoever_opened_a_lock_that_is_then_removed_takes_the_one_in_its_place(tmp_path, monkeypatch):
    """A lock on the removed file would keep nobody out."""
    path, real, removals = tmp_path / "lock", fcntl.flock, []

    def flock(handle, operation):
        if not removals:
            removals.append(path.unlink())
        real(handle, operation)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with lock_file(path), try_lock(path) as ours:
        assert removals
        assert not ours
    with try_lock(path) as ours:
        assert ours


def test_a_link_in_a_files_place_is_damage(tmp_path):
    (tmp_path / "f").write_text("content")
    write_sums(tmp_path)
    assert step_damage(tmp_path) is None
    (tmp_path / "f").rename(tmp_path / "g")
    (tmp_path / "f").symlink_to("g")
    assert step_damage(tmp_path) == "f is missing"
