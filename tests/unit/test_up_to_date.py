"""The record of a build that had nothing to do: when it is made, and when it no longer holds."""

from __future__ import annotations

import os

import pytest

from uenv_builder.system import up_to_date
from uenv_builder.system.up_to_date import Answer, find_answer, keep_answer

WORDS = ["build", "x"]
ANSWER = Answer("done\n", ("a remark",))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one source and one result, which nobody has changed for a while."""
    monkeypatch.setenv("UENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("sources", "results", "listed/one"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("sources/file", "results/file"):
        (tmp_path / name).write_text("text")
    grow_old(tmp_path)
    return tmp_path


def grow_old(folder, seconds=100):
    for file in [*folder.rglob("*")]:
        os.utime(file, (up_to_date._BEGAN / 1e9 - seconds,) * 2)  # the tests may have begun long ago


def keep(place, *more):
    keep_answer(
        WORDS, ANSWER, sources=[place / "sources", place / "absent", *more], results=[place / "results"],
        listed=[place / "listed", place / "nowhere"],
    )  # fmt: skip


def test_the_same_is_said_again(place, capsys):
    keep(place)
    assert find_answer(WORDS) == ANSWER
    ANSWER.tell()
    told = capsys.readouterr()
    assert told.out == "done\n"
    assert told.err.endswith("] a remark\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "sources/file").write_text("texts"),
        lambda place: os.utime(place / "sources/file", (1, 1)),
        lambda place: (place / "sources/another").touch(),
        lambda place: (place / "sources/file").unlink(),
        lambda place: (place / "sources/file").rename(place / "sources/renamed"),
        lambda place: (place / "sources").rename(place / "elsewhere"),
        lambda place: (place / "results/file").unlink(),
        lambda place: (place / "absent").touch(),
        lambda place: (place / "listed/two").mkdir(),
        lambda place: (place / "listed/one").rmdir(),
        lambda place: (place / "nowhere").mkdir(),
        lambda place: os.environ.__setitem__("UENV_RECIPE_PATH", "/other"),
        lambda place: os.chdir(place / "listed"),
    ],
)
def test_after_any_change_nothing_is_known(place, change, monkeypatch):
    monkeypatch.setenv("UENV_RECIPE_PATH", "/one")
    keep(place)
    assert find_answer(WORDS) == ANSWER
    change(place)
    assert find_answer(WORDS) is None


def test_a_file_that_was_put_in_the_place_of_another_of_its_size_and_time_is_seen(place):
    keep(place)
    file = place / "sources/file"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    (place / "new").write_text("TEXT")
    os.utime(place / "new", ns=times)
    (place / "new").replace(file)
    assert find_answer(WORDS) is None


def test_files_in_listed_folders_do_not_matter(place):
    keep(place)
    (place / "listed/file").touch()
    assert find_answer(WORDS) == ANSWER


def test_nothing_is_recorded_of_what_changed_meanwhile(place):
    (place / "sources/file").write_text("new")
    keep(place)
    assert find_answer(WORDS) is None


def test_results_may_be_as_young_as_the_process_but_no_younger(place):
    began = up_to_date._BEGAN
    for file in (place / "results", place / "results/file"):
        os.utime(file, ns=(began - 1, began - 1))
    keep(place)
    assert find_answer(WORDS) == ANSWER
    os.utime(place / "results/file", ns=(began, began))
    assert find_answer(WORDS) is None
    keep(place)
    assert find_answer(WORDS) is None


def test_other_arguments_are_another_question(place):
    keep(place)
    assert find_answer([*WORDS, "--quiet"]) is None


def test_a_record_that_cannot_be_read_is_none(place):
    keep(place)
    [record] = (place / "cache/up-to-date").iterdir()
    for text in ("", "[]", "{}", '{"watched": 1}', '{"watched": {}, "listed": {}}'):
        record.write_text(text)
        assert find_answer(WORDS) is None


def test_where_nothing_can_be_written_nothing_is_kept(place):
    (place / "cache").write_text("a file")
    keep(place)
    assert find_answer(WORDS) is None


def test_few_records_are_kept(place, monkeypatch):
    monkeypatch.setattr(up_to_date, "_RECORDS", 3)
    for number in range(6):
        keep_answer(["build", str(number)], ANSWER, sources=[], results=[], listed=[])
    assert len(list((place / "cache/up-to-date").iterdir())) == 3
    assert find_answer(["build", "5"]) == ANSWER
    assert find_answer(["build", "0"]) is None
