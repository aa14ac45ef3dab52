"""uenvs in a registry as the site's uenv command pulls them: the squashfs as an artifact, its `meta` as another one
that refers to it (eth-cscs/uenv 5af9df7: src/uenv/oras.cpp and src/cli/pull.cpp).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from uenv_builder.core.label import Label
from uenv_builder.model.artifact import (
    CREATED,
    EMPTY_TYPE,
    MANIFEST_TYPE,
    TITLE,
    ArtifactFile,
    Descriptor,
    digest_of_bytes,
)
from uenv_builder.model.errors import UsageError
from uenv_builder.publishers.oci.referrers import attach, find_referrers
from uenv_builder.publishers.oci.repository import Repository
from uenv_builder.publishers.oci.upload import Blob, Way, push_blob

IMAGE_TYPE = "application/x-squashfs"
META_TYPE = "uenv/meta"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SQUASHFS = "store.squashfs"
"""The name that the uenv command looks for where it has pulled an image to."""
_META = "meta"
_UNPACK = {"io.deis.oras.content.unpack": "true"}
"""What tells oras that a blob is a folder, packed as tar.gz."""
_CONTENT_DIGEST = "io.deis.oras.content.digest"
_EMPTY = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UenvArtifact:
    """An image to push: its file, whose `sha256` was just verified, the files below its `meta`, when it was made
    (seconds since the epoch), and further files that go along with it, attached as `application/...` of their own.
    """

    file: Path
    sha256: str
    meta: Mapping[str, bytes]
    created: int
    report_type: str = ""
    report: tuple[ArtifactFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedUenv:
    """Where an image is in a registry: the digest of its manifest, how its blob got there, what became of the tag."""

    manifest: str
    way: Way
    change: Literal["added", "moved", "there"]
    replaced: str | None = None


def repository_name(place: str, label: Label) -> str:
    """`PLACE/NAMESPACE/SYSTEM/UARCH/NAME/VERSION:TAG`, as the uenv command looks for a whole label.

    Raises UsageError where the label lacks a part.
    """
    label.require("namespace", "name", "version", "tag", "system", "uarch")
    return f"{place}/{label.namespace}/{label.system}/{label.uarch}/{label.name}/{label.version}:{label.tag}"


def push_uenv(repository: Repository, image: UenvArtifact, tag: str, *, move: bool) -> PushedUenv:
    """Bring the image and what belongs to it into the repository; the tag comes last, so that it leads to all of it.

    Doing it again changes nothing. Raises UsageError for a tag that leads to another image unless it shall be moved,
    and errors as `push_blob` and `attach`.
    """
    content = _manifest(image)
    digest = digest_of_bytes(content)
    there = repository.find_manifest(tag)
    if there is not None and there.digest != digest and not move:
        raise UsageError(
            f"{repository.named(tag)} is {there.digest}, and this image is {digest}", rule="label-taken",
            hint="publish it under another tag, or add --move to have the label name this image",
        )  # fmt: skip
    size = image.file.stat().st_size
    with repository.client.task(f"pushing to {repository}", size) as task:
        push_blob(repository, Blob.of(_EMPTY))
        blob = Blob(f"sha256:{image.sha256}", size, image.file)
        way = push_blob(repository, blob, advance=task.advance)
    repository.put_manifest(digest, content, MANIFEST_TYPE)
    _attach_all(repository, digest, image)
    if there is None or there.digest != digest:
        repository.put_manifest(tag, content, MANIFEST_TYPE)
    if there is None:
        return PushedUenv(manifest=digest, way=way, change="added")
    if there.digest == digest:
        return PushedUenv(manifest=digest, way=way, change="there")
    return PushedUenv(manifest=digest, way=way, change="moved", replaced=there.digest)


def _attach_all(repository: Repository, digest: str, image: UenvArtifact) -> None:
    # The uenv command takes the first `meta` that it finds: there shall be one.
    if not find_referrers(repository, digest, META_TYPE):
        attach(repository, digest, META_TYPE, [_packed_meta(image.meta)], created=_time(image.created))
    if image.report:
        attach(repository, digest, image.report_type, list(image.report))


def _manifest(image: UenvArtifact) -> bytes:
    empty = Blob.of(_EMPTY)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": IMAGE_TYPE,
        "config": _described(Descriptor(EMPTY_TYPE, empty.digest, empty.size)),
        "layers": [
            _described(Descriptor(_LAYER, f"sha256:{image.sha256}", image.file.stat().st_size))
            | {"annotations": {TITLE: _SQUASHFS}}
        ],
        "annotations": {CREATED: _time(image.created)},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _described(descriptor: Descriptor) -> dict[str, str | int]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _packed_meta(files: Mapping[str, bytes]) -> ArtifactFile:
    """The folder as oras packs one: a tar.gz that says so, the same bytes for the same files."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folders = {str(parent) for name in files for parent in PurePosixPath(_META, name).parents if str(parent) != "."}
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"{_META}/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha256(tar.getvalue()).hexdigest()
    return ArtifactFile(
        _META, f"{_LAYER}+gzip", gzip.compress(tar.getvalue(), mtime=0),
        annotations={**_UNPACK, _CONTENT_DIGEST: f"sha256:{digest}"},
    )  # fmt: skip
