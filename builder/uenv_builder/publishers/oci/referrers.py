"""What refers to an image in its registry: reports, build documents, SBOMs, signatures, each an artifact of its own.

OCI distribution specification 1.1: "Pushing Manifests with Subject", "Listing Referrers", and "Referrers Tag Schema"
(registries without the referrers API keep the list under the tag `sha256-DIGEST`).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from uenv_builder.model.artifact import (
    CREATED,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    TITLE,
    ArtifactFile,
    Descriptor,
    Referrer,
    digest_of_bytes,
)
from uenv_builder.model.errors import NetworkError
from uenv_builder.publishers.oci.repository import Repository, next_page, read_json
from uenv_builder.publishers.oci.upload import Blob, push_blob
from uenv_builder.system.registry_login import Json

_EMPTY = b"{}"
_ROUNDS = 8
"""How often the list under the fallback tag is written again that others have written at the same time."""
_PAUSE = 0.05  # seconds at least between two of these
_MOST_PAGES = 1000
_NO_API = {400, 404, 405, 501}


def attach(
    repository: Repository, digest: str, artifact_type: str, files: Sequence[ArtifactFile], *,
    annotations: Mapping[str, str] | None = None, created: str = "",
) -> Referrer:  # fmt: skip
    """Push `files` as an artifact that refers to the image with this digest (`sha256:...`), which has to be there.

    `created` is a time in RFC 3339. The same arguments make the same artifact: attaching again adds nothing.
    Raises NetworkError, also with the rule `image-not-found`.
    """
    subject = repository.find_manifest(digest)
    if subject is None:
        raise _absent(repository, digest)
    noted = {**(annotations or {}), **({CREATED: created} if created else {})}
    blobs = [Blob.of(file.content) for file in files]
    for blob in {blob.digest: blob for blob in [Blob.of(_EMPTY), *blobs]}.values():
        push_blob(repository, blob)
    content = _encode(_manifest(subject, artifact_type, files, blobs, noted))
    descriptor = Descriptor(MANIFEST_TYPE, digest_of_bytes(content), len(content))
    answer = repository.put_manifest(descriptor.digest, content, MANIFEST_TYPE)
    referrer = Referrer(descriptor, artifact_type, noted)
    if answer.headers.get("OCI-Subject") != digest:
        _add_to_list(repository, digest, referrer)
    return referrer


def find_referrers(repository: Repository, digest: str, artifact_type: str = "") -> tuple[Referrer, ...]:
    """What refers to the image with this digest, of one type or all; none for an image that is not there.

    Registries with the referrers API are asked that, others for the list under the fallback tag. A list of both is
    taken where a registry has the API, but also a list from the time before.
    """
    listed = _ask_api(repository, digest, artifact_type)
    listed = [*(listed or ()), *_read_list(repository, digest)]
    found = {str(item.get("digest")): _referrer(item) for item in listed}
    return tuple(item for item in found.values() if item and artifact_type in {"", item.artifact_type})


def read_artifact(repository: Repository, referrer: Referrer, subject: str) -> tuple[ArtifactFile, ...]:
    """The files of an artifact, each digest verified, and that it refers to `subject`.

    Raises LockError, rule `hash-mismatch`, and NetworkError, rule `artifact-damaged`.
    """
    found = repository.read_manifest(referrer.manifest.digest)
    if found is None:
        raise _absent(repository, referrer.manifest.digest)
    try:
        document = found[1]
        if document["subject"]["digest"] != subject:
            raise ValueError(f"it refers to {document['subject']['digest']}")
        named = [
            (str(layer["annotations"][TITLE]), str(layer["mediaType"]), str(layer["digest"]))
            for layer in document["layers"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NetworkError(
            f"{repository.named(referrer.manifest.digest)}: is no artifact of {subject}: {error}",
            rule="artifact-damaged", hint="publish the image again, which attaches what belongs to it",
        ) from error  # fmt: skip
    return tuple(ArtifactFile(name, media_type, repository.read_blob(digest)) for name, media_type, digest in named)


def _manifest(
    subject: Descriptor, artifact_type: str, files: Sequence[ArtifactFile], blobs: Sequence[Blob],
    annotations: Mapping[str, str],
) -> Json:  # fmt: skip
    empty = Blob.of(_EMPTY)
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": _document(Descriptor(EMPTY_TYPE, empty.digest, empty.size)),
        "layers": [
            _document(Descriptor(file.media_type, blob.digest, blob.size))
            | {"annotations": {**file.annotations, TITLE: file.name}}
            for file, blob in zip(files, blobs, strict=True)
        ],
        "subject": _document(subject),
        **({"annotations": dict(annotations)} if annotations else {}),
    }


def _ask_api(repository: Repository, digest: str, artifact_type: str) -> list[Json] | None:
    """What the referrers API lists; None where there is none."""
    url = repository.place.url("referrers", digest)
    if artifact_type:
        url += f"?artifactType={quote(artifact_type, safe='')}"
    listed: list[Json] = []
    what = f"{repository}: what refers to {digest}"
    for _ in range(_MOST_PAGES):
        answer = repository.client.ask("GET", url, {200, *_NO_API}, what=what, headers={"Accept": INDEX_TYPE})
        if answer.status in _NO_API:
            return listed or None
        listed += _entries(read_json(answer.content, what))
        if (following := next_page(answer)) is None:
            break
        url = following
    return listed


def _read_list(repository: Repository, digest: str) -> list[Json]:
    found = repository.read_manifest(_fallback_tag(digest))
    return _entries(found[1]) if found else []


def _add_to_list(repository: Repository, digest: str, referrer: Referrer) -> None:
    """Add it to the list under the fallback tag; who writes at the same time may drop it, so that it is read again."""
    entry = _document(referrer.manifest) | {"artifactType": referrer.artifact_type}
    entry |= {"annotations": dict(referrer.annotations)} if referrer.annotations else {}
    for attempt in range(_ROUNDS):
        listed = _read_list(repository, digest)
        if any(item.get("digest") == referrer.manifest.digest for item in listed):
            if attempt != 1:  # once more after the first writing, which others may just now be writing over
                return
        else:
            index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": _sorted([*listed, entry])}
            repository.put_manifest(_fallback_tag(digest), _encode(index), INDEX_TYPE)
        time.sleep(_PAUSE * (1 + random.random()))  # noqa: S311  (no secret)
    raise NetworkError(
        f"{repository}: others kept changing what refers to {digest}; {referrer.manifest.digest} is not in its list",
        rule="registry-refused", hint="run the command again",
    )  # fmt: skip


def _sorted(entries: Iterable[Json]) -> list[Json]:
    return sorted(entries, key=lambda entry: str(entry.get("digest")))


def _fallback_tag(digest: str) -> str:
    return digest.replace(":", "-")


def _entries(index: Json) -> list[Json]:
    listed = index.get("manifests")
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _referrer(entry: Json) -> Referrer | None:
    try:
        descriptor = Descriptor(str(entry["mediaType"]), str(entry["digest"]), int(entry["size"]))
        annotations = {str(key): str(value) for key, value in (entry.get("annotations") or {}).items()}
        return Referrer(descriptor, str(entry.get("artifactType") or ""), annotations)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _document(descriptor: Descriptor) -> Json:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _encode(document: Json) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _absent(repository: Repository, digest: str) -> NetworkError:
    return NetworkError(
        f"{repository.named(digest)}: not found", rule="image-not-found",
        hint="check the name, the tag and the digest; publish the image first",
    )  # fmt: skip
