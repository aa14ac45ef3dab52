"""Registries that speak the OCI distribution specification 1.1: where an image is served, logins, manifests, blobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import requests

from uenv_builder.core.image_reference import ImageReference, Place, RegistryAccess
from uenv_builder.model.errors import LockError, NetworkError, UenvError
from uenv_builder.system.download import Downloader, Shelf
from uenv_builder.system.events import Listener
from uenv_builder.system.registry_login import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Json,
    RateLimitError,
    RefusedError,
    RegistryAuth,
    rate_limit,
)

_TIMEOUTS = (15.0, 60.0)  # seconds to connect, and between two bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index as it came: its sha256 (64 hex digits), size in bytes, media type, and what it says."""

    digest: str
    size: int
    media_type: str
    document: Json


class Registries(Downloader):
    """A Downloader that logs in to registries as `access` says; the other arguments are those of Downloader."""

    def __init__(
        self,
        access: RegistryAccess,
        shelf: Shelf,
        listener: Listener,
        *,
        offline: bool = False,
        attempts: int = 5,
        jobs: int = 4,
        delay: float = 1.0,
        timeouts: tuple[float, float] = _TIMEOUTS,
        mirrors: Sequence[str] = (),
    ) -> None:
        super().__init__(
            shelf, listener, offline=offline, attempts=attempts, jobs=jobs, delay=delay, timeouts=timeouts,
            mirrors=mirrors,
        )  # fmt: skip
        self.access = access
        self._auth = RegistryAuth(access)

    def read_manifest(self, image: ImageReference, reference: str) -> Manifest:
        """The manifest or index `reference` (a tag, or sha256:...) of the repository of `image`, its digest verified.

        Raises NetworkError, by its rule `image-not-found`, `registry-unauthorised`, `registry-rate-limit`, `offline` or
        `registry-unreachable`, and LockError, rule `hash-mismatch`, where the registry has another content.
        """
        content = self._read(image, "manifests", reference)
        document: Json = json.loads(content)
        return Manifest(hashlib.sha256(content).hexdigest(), len(content), _media_type(document), document)

    def read_config(self, image: ImageReference, digest: str) -> Json:
        """The config of an image, by its sha256 (64 hex digits), which is verified. Raises as `read_manifest`."""
        config: Json = json.loads(self._read(image, "blobs", f"sha256:{digest}"))
        return config

    def _read(self, image: ImageReference, kind: str, reference: str) -> bytes:
        """A JSON object, from the first place that serves it."""
        refusals: list[tuple[Place, RefusedError]] = []
        for place in self.access.places(image):
            try:
                content = self.get_bytes(place.url(kind, reference))
                _check_document(content, reference)
            except RefusedError as refusal:
                refusals.append((place, refusal))
            except NetworkError as error:
                if error.diagnostics[0].rule == "offline":
                    raise
                refusals.append((place, _as_refusal(error, place)))
            else:
                return content
        raise _refused(str(image), refusals)

    def _session(self) -> requests.Session:
        session = super()._session()
        session.auth = self._auth
        return session


def _refused(what: str, refusals: Sequence[tuple[Place, RefusedError]]) -> UenvError:
    """The error for an image that no place serves; what the registry itself says comes last and names the remedy."""
    last = refusals[-1][1]
    reasons = "".join(f"\n    {place}: {refusal}" for place, refusal in refusals)
    kind = LockError if last.rule == "hash-mismatch" else NetworkError
    return kind(f"{what} cannot be read:{reasons}", rule=last.rule, hint=last.hint)


def _check_document(content: bytes, reference: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if reference.startswith("sha256:") and reference != f"sha256:{found}":
        raise RefusedError(
            f"has sha256 {found}, expected {reference.removeprefix('sha256:')}", "hash-mismatch",
            "the registry, a mirror or a proxy changes what it serves: ask another one",
        )  # fmt: skip
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RefusedError(
            "is not the JSON of an image", "registry-unreachable",
            "something between here and the registry answers in its place: check proxies, and the registry's name",
        )  # fmt: skip


def _as_refusal(error: NetworkError, place: Place) -> RefusedError:
    """The registry's own reason, which `Downloader` wraps in an error about files and mirrors."""
    cause = error.__cause__
    if isinstance(cause, RefusedError):
        return cause
    if cause is not None and isinstance(cause.__cause__, RateLimitError):
        return rate_limit(str(cause), place.host)
    return RefusedError(
        str(cause or error), "registry-unreachable",
        f"check the network, the proxies (https_proxy) and the name of the registry {place.host}, or set a mirror",
    )  # fmt: skip


def _media_type(document: Json) -> str:
    """The media type that a manifest names, else (it may leave that out) the one that its content shows."""
    if isinstance(named := document.get("mediaType"), str):
        return named
    if isinstance(document.get("manifests"), list):
        return INDEX_TYPES[0]
    if document.get("schemaVersion") == 1:
        return "application/vnd.docker.distribution.manifest.v1+json"
    return MANIFEST_TYPES[0]
