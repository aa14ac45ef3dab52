"""`uenv publish --to repo:PATH`: a repository as the site's uenv command reads it, by SQLite and by files alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from made_uenv import LABEL, META, make_uenv, write_report
from uenv_builder.app.destinations import publish
from uenv_builder.app.publishing import prepare_publication
from uenv_builder.app.session import Session
from uenv_builder.model.errors import BuildError, CheckError, InconclusiveError, LockError, UsageError


def add(build: Path, repository: Path, *, label=None, untested=None, move=False):
    publication = prepare_publication(build, label=label, untested=untested, move=move)
    [published] = publish(Session(), publication, [f"repo:{repository}"])
    return published.document


def rows(repository: Path, query="SELECT * FROM records ORDER BY tag"):
    with closing(sqlite3.connect(repository / "index.db")) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def build(tmp_path):
    return make_uenv(tmp_path / "build")


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def test_an_image_is_found_under_its_label(build, repository):
    document = add(build, repository)
    digest = json.loads((build / "manifest.json").read_text())["squashfs"]["sha256"]
    [(system, uarch, name, version, tag, date, size, sha256, short)] = rows(repository)
    assert (name, version, tag, system, uarch) == ("tools", "1.0", "v1", "daint", "gh200")
    assert (sha256, short, size) == (digest, digest[:16], (build / "image.squashfs").stat().st_size)
    assert date.startswith("20")
    assert len(date) == len("2026-11-24 00:00:00")
    place = repository / "images" / digest
    assert (place / "store.squashfs").read_bytes() == (build / "image.squashfs").read_bytes()
    assert json.loads((place / "meta/env.json").read_text()) == META
    assert (place / "meta/recipe/recipe.yaml").read_text() == "name: tools\n"
    assert (document["change"], document["stored"], document["repository-created"]) == ("added", "linked", True)


def test_again_changes_nothing(build, repository):
    add(build, repository)
    before = {path: path.stat().st_ino for path in repository.rglob("store.squashfs")}
    document = add(build, repository)
    assert (document["change"], document["stored"], document["repository-created"]) == ("there", "there", False)
    assert {path: path.stat().st_ino for path in repository.rglob("store.squashfs")} == before
    assert len(rows(repository)) == 1
    assert not list(repository.rglob(".tmp-*"))


def test_a_label_of_another_image_is_taken_unless_it_is_moved(build, repository, tmp_path):
    add(build, repository)
    other = make_uenv(tmp_path / "other", content=b"#!/bin/sh\nexit 1\n")
    with pytest.raises(UsageError, match=r"tools/1\.0:v1@daint%gh200 is the image [0-9a-f]{16} in this repository"):
        add(other, repository)
    assert len(rows(repository, "SELECT * FROM images")) == 1
    document = add(other, repository, move=True)
    assert (document["change"], document["orphaned"]) == ("moved", True)
    assert rows(repository, "SELECT sha256 FROM images") == [(document["sha256"],)]
    assert (repository / "images" / document["replaced"]).is_dir(), "a job may run in it"


def test_an_image_that_another_label_leads_to_stays_in_the_index(build, repository, tmp_path):
    add(build, repository)
    add(build, repository, label="tools/1.0:stable")
    document = add(make_uenv(tmp_path / "other", content=b"other"), repository, move=True)
    assert (document["change"], document["orphaned"]) == ("moved", False)
    assert {row[4]: row[7] for row in rows(repository)} == {"stable": document["replaced"], "v1": document["sha256"]}


def test_what_did_not_run_is_published_for_a_reason_only(tmp_path, repository):
    build = make_uenv(tmp_path / "build", outcomes=[("static", "passed", True), ("allreduce", "skipped", True)])
    with pytest.raises(InconclusiveError, match="allreduce is skipped: allreduce says why"):
        add(build, repository)
    assert not repository.exists()
    document = add(build, repository, untested="no GPU here")
    published = json.loads((Path(document["file"]).parent / "published.json").read_text())
    assert (published["untested"], published["open"]) == ("no GPU here", ["allreduce"])


def test_what_failed_is_never_published(tmp_path, repository):
    build = make_uenv(tmp_path / "build", outcomes=[("static", "failed", True)])
    with pytest.raises(CheckError, match="static: static says why"):
        add(build, repository, untested="I want it")


def test_a_check_that_is_not_required_does_not_decide(tmp_path, repository):
    build = make_uenv(tmp_path / "build", outcomes=[("static", "passed", True), ("torch", "skipped", False)])
    assert add(build, repository)["change"] == "added"


def test_a_report_on_another_image_proves_nothing(build, repository):
    write_report(build, "0" * 64, [("static", "passed", True)])
    with pytest.raises(InconclusiveError, match="no report on this image"):
        add(build, repository)


def test_an_image_that_was_changed_is_not_published(build, repository):
    with (build / "image.squashfs").open("ab") as file:
        file.write(b"x")
    with pytest.raises(LockError, match="is not the image of its"):
        add(build, repository)


def test_a_container_is_no_uenv(tmp_path, repository):
    with pytest.raises(UsageError, match=r"there is no meta/env\.json in it"):
        add(make_uenv(tmp_path / "build", meta=None), repository)
    with pytest.raises(BuildError, match=r"meta/env\.json: mount: is missing"):
        add(make_uenv(tmp_path / "other", meta={"name": "tools"}), repository)
    assert not repository.exists()


def test_a_label_without_a_part(tmp_path, repository):
    build = make_uenv(tmp_path / "build", label="tools/1.0@daint%gh200")
    with pytest.raises(UsageError, match="lacks tag"):
        add(build, repository)


def test_destinations_are_known(build):
    publication = prepare_publication(build, label=LABEL, untested=None, move=False)
    with pytest.raises(UsageError, match="is no destination") as raised:
        publish(Session(), publication, ["rpeo:/x"])
    assert 'did you mean "repo"' in str(raised.value)
