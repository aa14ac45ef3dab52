"""A repository of the site's uenv command: `index.db`, and `images/SHA256` with store.squashfs and meta.

The image is there before the index leads to it, and each file is written beside its place: who reads the repository
meanwhile, and who finds it after a process was killed, sees the image whole or not at all. Layout: eth-cscs/uenv
5af9df7, src/uenv/repository.cpp; the lock of an image is the one that `uenv image pull` takes: src/cli/pull.cpp.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from uenv_builder.core.digest import Document
from uenv_builder.core.label import Label
from uenv_builder.model.errors import LockError, UsageError
from uenv_builder.publishers import uenv_index
from uenv_builder.publishers.uenv_index import IndexedImage, Labelled
from uenv_builder.system.abandoned import remove_abandoned
from uenv_builder.system.events import Listener
from uenv_builder.system.files import (
    TEMPORARY,
    copy_file,
    explained,
    link_or_copy,
    lock_file,
    replace_folder,
    sha256_of,
    write_beside,
    write_json,
)

INDEX = "index.db"
IMAGES = "images"
SQUASHFS = "store.squashfs"
META = "meta"
PUBLISHED = "published.json"
"""Beside the squashfs: what is known of the image's checks."""
_PATH = re.compile(r"/[A-Za-z0-9_./-]*\Z")
_MOUNT_LIST = 1023
"""Bytes of UENV_MOUNT_LIST that the Slurm plugin has room for (src/slurm/plugin.cpp)."""
_YEARS = range(2022, 2051)  # of an image's date, as the uenv command accepts them (src/uenv/uenv.cpp)
_READABLE = 0o444

Stored: TypeAlias = Literal["linked", "copied", "there"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryImage:
    """An image to add: its file, whose `sha256` was just verified, what lies below its `meta`, where it is mounted, and
    what is kept beside it for whoever asks how it was tested.
    """

    file: Path
    sha256: str
    mount: str
    meta: Mapping[str, bytes]
    published: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """How an image got into a repository; `file` is where it is there."""

    file: Path
    created: bool
    """Whether the repository was made for it."""
    stored: Stored
    label: Labelled


def add_to_repository(
    repository: Path,
    image: RepositoryImage,
    label: Label,
    *,
    move: bool,
    listener: Listener,
    wait: float = uenv_index.WAIT,
) -> Added:
    """Have the whole `label` lead to `image` in the repository, which is made where nothing is; again changes nothing.

    Raises UsageError for a folder that is something else, a path that the uenv command cannot take, and a label that
    another image has unless it shall be moved; BuildError where the index is damaged, unknown or busy; LockError where
    what was stored is not the image.
    """
    label.require("name", "version", "tag", "system", "uarch")
    place = repository / IMAGES / image.sha256
    _refuse_paths(place.absolute() / SQUASHFS, image.mount)
    created = _open_or_create(repository)
    index = repository / INDEX
    with uenv_index.open_index(index, wait) as connection:
        if not move:
            uenv_index.refuse_taken(label, uenv_index.labelled_image(connection, label), image.sha256)

    def waiting() -> None:
        listener.note(f"another process adds {image.sha256[:16]} to {repository}: waiting for it")

    with lock_file(place.with_name(f"{place.name}.lock"), waiting=waiting):
        remove_abandoned(place.parent)
        with listener.task(f"adding the image to {repository}"):
            stored = _store(place, image)
        with uenv_index.open_index(index, wait) as connection:
            labelled = uenv_index.record_image(connection, label, _indexed(place / SQUASHFS, image), move=move)
    return Added(file=place / SQUASHFS, created=created, stored=stored, label=labelled)


def _refuse_paths(file: Path, mount: str) -> None:
    if not _PATH.match(str(file)):
        raise UsageError(
            f"{file}: paths of a uenv repository are made of letters, digits and _ . / -", rule="repository-path",
            hint="choose another folder: the uenv command and its Slurm plugin cannot read this path",
        )  # fmt: skip
    length = len(f"{file}:{mount}")
    if length > _MOUNT_LIST:
        raise UsageError(
            f"{file}: the path has {length} bytes with the mount point, and the Slurm plugin takes {_MOUNT_LIST}",
            rule="repository-path", hint="choose a folder with a shorter path",
        )  # fmt: skip


def _open_or_create(repository: Path) -> bool:
    """Make the folder a repository unless it is one; whether that was done."""
    remove_abandoned(repository)
    if (repository / INDEX).exists():
        return False
    with explained(repository):
        if repository.exists() and not repository.is_dir():
            raise UsageError(f"{repository}: is not a folder", rule="repository-folder", hint="name a folder")
        repository.mkdir(parents=True, exist_ok=True)
        foreign = sorted(path.name for path in repository.iterdir() if not path.name.startswith(TEMPORARY))
        if foreign and INDEX not in foreign:
            raise UsageError(
                f"{repository}: has no {INDEX} and is not empty: there is {foreign[0]}", rule="repository-folder",
                hint="name a uenv repository, or a folder that is empty or not there: a repository is made of it",
            )  # fmt: skip
    return uenv_index.create_index(repository / INDEX)


def _store(place: Path, image: RepositoryImage) -> Stored:
    """Have the image's folder at `place`, with a squashfs that is the image's to the byte."""
    file = place / SQUASHFS
    for folder in (place, *place.glob(f"{META}/**/")):
        remove_abandoned(folder)
    if not place.is_dir():
        with replace_folder(place) as new:
            way = _place_image(new / SQUASHFS, image)
            _place_meta(new, image)
        return way
    stored: Stored = "there"
    if not (file.is_file() and (_is_same(file, image.file) or sha256_of(file) == image.sha256)):
        # Left by a pull that was killed, or damaged since.
        stored = _place_image(file, image)
    _place_meta(place, image)
    return stored


def _place_image(target: Path, image: RepositoryImage) -> Literal["linked", "copied"]:
    """Link the image where the file system allows it and others may read it, else copy it; verified either way."""
    if image.file.stat().st_mode & _READABLE == _READABLE:
        link_or_copy(image.file, target)
        if _is_same(target, image.file):
            return "linked"
    else:
        copy_file(image.file, target)
        target.chmod(0o644)
    if sha256_of(target) != image.sha256:
        target.unlink()
        raise LockError(
            f"{image.file}: changed while it was copied to {target.parent}", rule="hash-mismatch", hint="publish again"
        )
    with target.open("rb") as file:  # the index must not outlive its image in a power failure
        os.fsync(file.fileno())
    return "copied"


def _place_meta(folder: Path, image: RepositoryImage) -> None:
    for name, content in sorted(image.meta.items()):
        path = folder / META / name
        if not path.is_file() or path.read_bytes() != content:
            with write_beside(path) as file:
                file.write(content)
    write_json(folder / PUBLISHED, image.published)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _indexed(file: Path, image: RepositoryImage) -> IndexedImage:
    status = file.stat()
    date = datetime.fromtimestamp(status.st_mtime, tz=UTC)
    if date.year not in _YEARS:
        date = datetime.now(tz=UTC)
    return IndexedImage(sha256=image.sha256, date=date.strftime("%Y-%m-%d %H:%M:%S"), size=status.st_size)
