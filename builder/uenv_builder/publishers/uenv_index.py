"""The index of a uenv repository: a SQLite database with images, environments and the tags that lead to images.

The schema, and that a tag may come to name another image, are those of eth-cscs/uenv 5af9df7 (version 9.2), which reads
columns by name and declared type: src/uenv/repository.cpp. The database has no version number of its own, so that it is
known by its tables, columns, views and triggers alone.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from uenv_builder.core.label import Label
from uenv_builder.model.errors import BuildError, UsageError
from uenv_builder.system.files import TEMPORARY, explained
from uenv_builder.system.store_process import process_mark

WAIT = 30.0
"""How long another process may write to the index, in seconds, before it is given up."""
_ID_LENGTH = 16
_SCHEMA = (
    """CREATE TABLE images (
    sha256 TEXT PRIMARY KEY CHECK(length(sha256)==64),
    id TEXT UNIQUE CHECK(length(id)==16),
    date TEXT NOT NULL,
    size INTEGER NOT NULL)""",
    """CREATE TABLE uenv (
    version_id INTEGER PRIMARY KEY,
    system TEXT NOT NULL,
    uarch TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    UNIQUE (system, uarch, name, version))""",
    """CREATE TABLE tags (
    version_id INTEGER,
    tag TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (version_id, tag),
    FOREIGN KEY (version_id) REFERENCES uenv (version_id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (sha256) REFERENCES images (sha256) ON DELETE CASCADE ON UPDATE CASCADE)""",
    """CREATE VIEW records AS SELECT
    uenv.system AS system, uenv.uarch AS uarch, uenv.name AS name, uenv.version AS version, tags.tag AS tag,
    images.date AS date, images.size AS size, tags.sha256 AS sha256, images.id AS id
    FROM tags
    INNER JOIN uenv ON uenv.version_id = tags.version_id
    INNER JOIN images ON images.sha256 = tags.sha256""",
    """CREATE TRIGGER delete_orphan_uenv AFTER DELETE ON tags FOR EACH ROW BEGIN
    DELETE FROM uenv WHERE version_id NOT IN (SELECT DISTINCT version_id FROM tags); END""",
    """CREATE TRIGGER delete_orphan_image AFTER DELETE ON tags FOR EACH ROW BEGIN
    DELETE FROM images WHERE sha256 NOT IN (SELECT DISTINCT sha256 FROM tags); END""",
)
_NO_INDEX = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}

Shape = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedImage:
    """What the index says of an image: sha256 of its file, its date in UTC (`YYYY-MM-DD HH:MM:SS`), size in bytes."""

    sha256: str
    date: str
    size: int

    @property
    def id(self) -> str:
        """Its short name."""
        return self.sha256[:_ID_LENGTH]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What became of a label: it was added, moved from another image (`replaced` is that one's sha256), or was there.

    `orphaned` says that no label leads to the replaced image any more.
    """

    change: Literal["added", "moved", "there"]
    replaced: str | None = None
    orphaned: bool = False


def create_index(path: Path) -> bool:
    """Write an index without images to `path` unless there is one; whether it was made here."""
    with explained(path):
        handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{process_mark()}-", dir=path.parent)
        os.close(handle)
        unfinished = Path(name)
        try:
            with _explained_index(path), closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=MEMORY")  # no second file that a killed process would leave
                _make_tables(connection)
            unfinished.chmod(0o644)
            return _move_unless_there(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def _move_unless_there(unfinished: Path, path: Path) -> bool:
    try:
        path.hardlink_to(unfinished)  # unlike a rename, never over the one that somebody else has just made
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        unfinished.replace(path)
    return True


@contextmanager
def open_index(path: Path, wait: float = WAIT) -> Iterator[sqlite3.Connection]:
    """The index at `path`, looked at and found to be one that is known; closed afterwards.

    Raises BuildError where it is damaged, of another schema, or written to by others for longer than `wait` seconds.
    """
    with explained(path):
        path.open("rb").close()  # SQLite says of every file alike that it is "unable to open" it
    with _explained_index(path):
        uri = f"file:{quote(str(path.absolute()))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys=ON")
            _refuse_unknown(path, connection)
            yield connection


def labelled_image(connection: sqlite3.Connection, label: Label) -> str | None:
    """The sha256 of the image that a whole `label` leads to."""
    row = connection.execute(
        "SELECT sha256 FROM records WHERE system = ? AND uarch = ? AND name = ? AND version = ? AND tag = ?",
        (label.system, label.uarch, label.name, label.version, label.tag),
    ).fetchone()
    return None if row is None else str(row[0])


def refuse_taken(label: Label, there: str | None, sha256: str) -> None:
    """Raise UsageError where the label leads to another image than the one with `sha256`."""
    if there is not None and there != sha256:
        raise UsageError(
            f"{label} is the image {there[:_ID_LENGTH]} in this repository, and this one is {sha256[:_ID_LENGTH]}",
            rule="label-taken", hint="publish it under another tag, or add --move to have the label name this image",
        )  # fmt: skip


def record_image(connection: sqlite3.Connection, label: Label, image: IndexedImage, *, move: bool) -> Labelled:
    """Have `label` lead to `image`, in one transaction; raises UsageError for a label that is another image's.

    With `move` such a label is moved, and the image that it led to is forgotten where no other label leads to it.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _write_rows(connection, label, image, move=move)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return found


def _write_rows(connection: sqlite3.Connection, label: Label, image: IndexedImage, *, move: bool) -> Labelled:
    there = labelled_image(connection, label)
    if not move:
        refuse_taken(label, there, image.sha256)
    connection.execute(
        "INSERT OR IGNORE INTO images (sha256, id, date, size) VALUES (?, ?, ?, ?)",
        (image.sha256, image.id, image.date, image.size),
    )
    if connection.execute("SELECT 1 FROM images WHERE sha256 = ?", (image.sha256,)).fetchone() is None:
        raise BuildError(
            f"the index has another image with the id {image.id}", rule="repository-id",
            hint="change anything in the recipe and build again: ids are the first 16 digits of the image's sha256",
        )  # fmt: skip
    version = (label.system, label.uarch, label.name, label.version)
    connection.execute("INSERT OR IGNORE INTO uenv (system, uarch, name, version) VALUES (?, ?, ?, ?)", version)
    connection.execute(
        "INSERT INTO tags (version_id, tag, sha256) SELECT version_id, ?, ? FROM uenv "
        "WHERE system = ? AND uarch = ? AND name = ? AND version = ? "
        "ON CONFLICT (version_id, tag) DO UPDATE SET sha256 = excluded.sha256",
        (label.tag, image.sha256, *version),
    )
    if there is None:
        return Labelled(change="added")
    if there == image.sha256:
        return Labelled(change="there")
    gone = connection.execute(
        "DELETE FROM images WHERE sha256 = ? AND NOT EXISTS (SELECT 1 FROM tags WHERE tags.sha256 = images.sha256)",
        (there,),
    )
    return Labelled(change="moved", replaced=there, orphaned=gone.rowcount > 0)


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")


def _shape(connection: sqlite3.Connection) -> Shape:
    """Tables, views and triggers by kind and name, and the columns of tables and views with their types."""
    things = connection.execute(
        "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view', 'trigger') AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    columns = [
        (kind, name, str(column), str(declared))
        for kind, name in things
        if kind != "trigger"
        for _, column, declared, *_ in connection.execute(f'PRAGMA table_info("{name}")')
    ]
    return frozenset([*things, *columns])


def _refuse_unknown(path: Path, connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        _make_tables(model)
        expected = _shape(model)
    found = _shape(connection)
    differences = [f"no {_named(part)}" for part in sorted(expected - found)]
    differences += [f"{_named(part)}, which is unknown" for part in sorted(found - expected)]
    if version:
        differences.insert(0, f"schema version {version}")
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise BuildError(
            f"{path}: is not an index of uenv 9.2's schema: it has {', '.join(differences[:3])}{more}",
            rule="repository-schema",
            hint="nothing was changed; let the site's own command add it: uenv image add LABEL ./image.squashfs",
        )
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise _damaged(path, str(problem))


def _named(part: tuple[str, ...]) -> str:
    return f"{part[0]} {part[1]}" if len(part) == 2 else f"{part[3] or 'untyped'} column {part[1]}.{part[2]}"


@contextmanager
def _explained_index(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ones with a remedy."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _NO_INDEX:
            raise _damaged(path, str(error)) from error
        if code in _BUSY:
            raise BuildError(
                f"{path}: another process writes to it: {error}", rule="repository-busy",
                hint="wait for it and publish again: the image is not in the index yet",
            ) from error  # fmt: skip
        raise BuildError(
            f"{path}: the index cannot be written: {error}", rule="repository-index",
            hint="look at the permissions of the repository's folder, and at the room on its disk",
        ) from error  # fmt: skip


def _damaged(path: Path, why: str) -> BuildError:
    return BuildError(
        f"{path}: the index is damaged: {why}", rule="repository-damaged",
        hint="nothing was changed; restore the file from a copy, or publish to a new repository",
    )  # fmt: skip
