"""Repositories of uenvs that others write to, that are damaged or unknown, and publishing that is killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from made_uenv import make_uenv
from uenv_builder.app.destinations import publish
from uenv_builder.app.publishing import prepare_publication
from uenv_builder.app.session import Session
from uenv_builder.app.uenv_image import read_uenv
from uenv_builder.core.label import Label
from uenv_builder.model.errors import BuildError, LockError, UsageError
from uenv_builder.publishers import uenv_repository
from uenv_builder.publishers.uenv_repository import RepositoryImage, add_to_repository
from uenv_builder.system.events import Silent
from uenv_builder.system.files import sha256_of

ADDING = Path(__file__).parent / "repository_adding.py"
LABEL = Label.parse("tools/1.0:v1@daint%gh200")


@pytest.fixture
def image(tmp_path):
    file = make_uenv(tmp_path / "build") / "image.squashfs"
    return RepositoryImage(
        file=file, sha256=sha256_of(file), mount="/user-environment", meta=read_uenv(file).files,
        published={"outcome": "passed"},
    )  # fmt: skip


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def add(repository, image, label=LABEL, *, move=False, wait=0.2):
    return add_to_repository(repository, image, label, move=move, listener=Silent(), wait=wait)


def sql(repository, *statements):
    with closing(sqlite3.connect(repository / "index.db", isolation_level=None)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def test_the_index_is_the_one_that_the_uenv_command_makes(repository, image):
    add(repository, image)
    tables = {
        "images": [("sha256", "TEXT", 0, 1), ("id", "TEXT", 0, 0), ("date", "TEXT", 1, 0), ("size", "INTEGER", 1, 0)],
        "uenv": [
            ("version_id", "INTEGER", 0, 1),
            ("system", "TEXT", 1, 0),
            ("uarch", "TEXT", 1, 0),
            ("name", "TEXT", 1, 0),
            ("version", "TEXT", 1, 0),
        ],
        "tags": [("version_id", "INTEGER", 0, 1), ("tag", "TEXT", 1, 2), ("sha256", "TEXT", 1, 0)],
    }
    for table, columns in tables.items():
        found = [
            (name, kind, required, key)
            for _, name, kind, required, _, key in sql(repository, f"PRAGMA table_info({table})")
        ]
        assert found == columns
    keys = {(row[2], row[3], row[4], row[5], row[6]) for row in sql(repository, "PRAGMA foreign_key_list(tags)")}
    assert keys == {
        ("images", "sha256", "sha256", "CASCADE", "CASCADE"), ("uenv", "version_id", "version_id", "CASCADE", "CASCADE")
    }  # fmt: skip
    for broken in (
        "INSERT INTO images VALUES ('short', '0123456789abcdef', 'd', 1)",
        f"INSERT INTO images VALUES ('{'0' * 64}', 'short', 'd', 1)",
        "INSERT INTO uenv SELECT 9, system, uarch, name, version FROM uenv",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            sql(repository, broken)


def test_removing_the_last_label_removes_image_and_name_as_the_uenv_command_relies_on(repository, image):
    add(repository, image)
    add(repository, image, Label.parse("tools/1.0:v2@daint%gh200"))
    sql(repository, "DELETE FROM tags WHERE tag = 'v1'")
    assert sql(repository, "SELECT COUNT(*) FROM images") == [(1,)]
    sql(repository, "DELETE FROM tags WHERE tag = 'v2'")
    assert sql(repository, "SELECT COUNT(*) FROM images") == [(0,)]
    assert sql(repository, "SELECT COUNT(*) FROM uenv") == [(0,)]


def test_a_repository_that_another_process_writes_to(repository, image):
    add(repository, image)
    with closing(sqlite3.connect(repository / "index.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BuildError, match="another process writes to it") as raised:
            add(repository, image, Label.parse("tools/1.0:v2@daint%gh200"))
    assert raised.value.diagnostics[0].rule == "repository-busy"
    assert sql(repository, "SELECT tag FROM tags") == [("v1",)]


def test_somebody_else_who_adds_the_image_is_waited_for(repository, image):
    add(repository, image)
    lock = repository / "images" / f"{image.sha256}.lock"
    done = threading.Event()

    def add_another() -> None:
        add(repository, image, Label.parse("tools/1.0:v2@daint%gh200"))
        done.set()

    with uenv_repository.lock_file(lock):
        thread = threading.Thread(target=add_another)
        thread.start()
        assert not done.wait(0.3)
    thread.join(30)
    assert sql(repository, "SELECT tag FROM tags ORDER BY tag") == [("v1",), ("v2",)]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("PRAGMA user_version = 3", "it has schema version 3"),
        ("ALTER TABLE images ADD COLUMN signature TEXT", r"TEXT column images\.signature, which is unknown"),
        ("CREATE TABLE news (text TEXT)", "TEXT column news.text, which is unknown"),
        ("DROP TRIGGER delete_orphan_image", "no trigger delete_orphan_image"),
        ("DROP VIEW records", "no TEXT column records.date"),
    ],
)
def test_an_index_of_another_schema_is_left_alone(repository, image, statement, reason):
    add(repository, image)
    sql(repository, statement)
    before = (repository / "index.db").read_bytes()
    with pytest.raises(BuildError, match=reason) as raised:
        add(repository, image, Label.parse("tools/1.0:v2@daint%gh200"))
    assert raised.value.diagnostics[0].rule == "repository-schema"
    assert (repository / "index.db").read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "cut", "page"])
def test_a_damaged_index_is_left_alone(repository, image, damage):
    add(repository, image)
    index = repository / "index.db"
    content = index.read_bytes()
    damaged = {
        "text": b"not a database" * 99,
        "cut": content[:5000],
        "page": content[:4096] + bytes(4096) + content[8192:],
    }
    index.write_bytes(damaged[damage])
    with pytest.raises(BuildError, match="the index is damaged") as raised:
        add(repository, image, Label.parse("tools/1.0:v2@daint%gh200"))
    assert raised.value.diagnostics[0].rule == "repository-damaged"
    assert index.read_bytes() == damaged[damage]


def test_a_folder_of_somebody_else(tmp_path, image):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").touch()
    with pytest.raises(UsageError, match=r"is not empty: there is thesis\.tex"):
        add(tmp_path / "home", image)
    with pytest.raises(UsageError, match="is not a folder"):
        add(tmp_path / "home/thesis.tex", image)


def test_a_path_that_the_uenv_command_cannot_read(tmp_path, image):
    with pytest.raises(UsageError, match="are made of letters"):
        add(tmp_path / "a+b", image)
    with pytest.raises(UsageError, match="and the Slurm plugin takes 1023"):
        add(tmp_path.joinpath(*["x" * 200] * 5), image)
    assert not (tmp_path / "a+b").exists()


def test_a_pull_that_was_killed_is_completed_and_a_damaged_image_replaced(repository, image):
    place = repository / "images" / image.sha256
    add(repository, image)
    original = image.file.read_bytes()
    for half in (None, b"hsqs", original[:-1] + b"?"):
        (place / "store.squashfs").unlink()
        if half is not None:
            (place / "store.squashfs").write_bytes(half)
        assert add(repository, image).stored == "linked"
        assert (place / "store.squashfs").read_bytes() == original
    assert image.file.read_bytes() == original


def test_an_image_that_others_may_not_read_is_copied_so_that_they_may(repository, image):
    image.file.chmod(0o600)
    added = add(repository, image)
    assert added.stored == "copied"
    assert added.file.stat().st_mode & 0o777 == 0o644
    assert image.file.stat().st_mode & 0o777 == 0o600


def test_an_image_that_changes_while_it_is_copied(repository, image, monkeypatch):
    image.file.chmod(0o600)
    copy = uenv_repository.copy_file

    def change(source, target):
        copy(source, target)
        target.chmod(0o644)
        target.write_bytes(b"other")

    monkeypatch.setattr(uenv_repository, "copy_file", change)
    with pytest.raises(LockError, match="changed while it was copied"):
        add(repository, image)
    assert sql(repository, "SELECT * FROM images") == []
    assert not list(repository.rglob("store.squashfs"))


def consistent(repository):
    """Every image that the index leads to is there, whole; returns the tags and their images."""
    if not (repository / "index.db").exists():
        return {}
    for sha256, size in sql(repository, "SELECT sha256, size FROM images"):
        file = repository / "images" / sha256 / "store.squashfs"
        assert (sha256_of(file), file.stat().st_size) == (sha256, size)
        assert (file.parent / "meta/env.json").is_file()
    return dict(sql(repository, "SELECT tag, sha256 FROM records"))


def test_publishing_survives_being_killed_anywhere(tmp_path):
    build = make_uenv(tmp_path / "build")
    command = [sys.executable, ADDING, build, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    killed = int(done.stdout)
    assert killed > 20
    expected = consistent(tmp_path / str(killed + 1))
    assert set(expected) == {"v1"}
    publication = prepare_publication(build, label=None, untested=None, move=False)
    for step in range(1, killed + 1):
        repository = tmp_path / str(step)
        assert consistent(repository) in ({}, expected)
        publish(Session(), publication, [f"repo:{repository}"])
        assert consistent(repository) == expected
        assert not list(repository.rglob(".tmp-*")), f"left by a process that was killed at step {step}"
