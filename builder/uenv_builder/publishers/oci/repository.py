"""One repository of a registry: its manifests, its tags, and small blobs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import urljoin

from uenv_builder.core.image_reference import Place
from uenv_builder.model.artifact import MANIFEST_TYPE, Descriptor, digest_of_bytes
from uenv_builder.model.errors import LockError, NetworkError
from uenv_builder.publishers.oci.client import Answer, RegistryClient
from uenv_builder.system.registry_login import Json

_DIGEST = "Docker-Content-Digest"
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_MOST_PAGES = 1000
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository, read and written through `client`. All methods raise NetworkError as `RegistryClient.ask`."""

    client: RegistryClient
    place: Place

    def __str__(self) -> str:
        return str(self.place)

    def find_manifest(self, reference: str) -> Descriptor | None:
        """The manifest that a tag leads to, or that has the digest `reference`; None where there is none.

        By what the registry says, without reading it.
        """
        url = self.place.url("manifests", reference)
        answer = self.client.ask("HEAD", url, {200, 404}, what=self.named(reference))
        if answer.status == 404:
            return None
        digest, size = answer.headers.get(_DIGEST, ""), answer.headers.get("Content-Length", "")
        if re.fullmatch("sha256:[0-9a-f]{64}", digest) and size.isdecimal():
            return Descriptor(_media_type(answer), digest, int(size))
        found = self.read_manifest(reference)
        return found[0] if found else None

    def read_manifest(self, reference: str) -> tuple[Descriptor, Json] | None:
        """As `find_manifest`, with what it says; the digest is that of the bytes that came.

        Raises LockError, rule `hash-mismatch`, where the registry has another content under a digest.
        """
        what = self.named(reference)
        answer = self.client.ask("GET", self.place.url("manifests", reference), {200, 404}, what=what)
        if answer.status == 404:
            return None
        found = digest_of_bytes(answer.content)
        if reference.startswith("sha256:") and found != reference:
            raise _other_content(what, found)
        document = read_json(answer.content, what)
        media_type = document.get("mediaType")
        named = media_type if isinstance(media_type, str) else _media_type(answer)
        return Descriptor(named, found, len(answer.content)), document

    def put_manifest(self, reference: str, content: bytes, media_type: str) -> Answer:
        """Put a manifest under a tag or its digest: it is there as a whole then, or not at all."""
        url = self.place.url("manifests", reference)
        headers = {"Content-Type": media_type}
        what = self.named(reference)
        answer = self.client.ask("PUT", url, {200, 201, 202}, what=what, headers=headers, body=content)
        told = answer.headers.get(_DIGEST)
        if told and told != digest_of_bytes(content):
            raise _other_content(what, told)
        return answer

    def has_blob(self, digest: str) -> bool:
        """Whether the blob with this digest is there."""
        answer = self.client.ask("HEAD", self.place.url("blobs", digest), {200, 404}, what=self.named(digest))
        return answer.status == 200

    def read_blob(self, digest: str) -> bytes:
        """A small blob (up to 64 MiB), its digest verified. Raises LockError, rule `hash-mismatch`, for another one."""
        what = self.named(digest)
        content = self.client.ask("GET", self.place.url("blobs", digest), {200}, what=what).content
        if (found := digest_of_bytes(content)) != digest:
            raise _other_content(what, found)
        return content

    def tags(self) -> tuple[str, ...]:
        """All tags, in the registry's order; none where there is no such repository yet."""
        url = f"{self.place.url('tags', 'list')}?n={_PAGE}"
        found: dict[str, None] = {}
        for _ in range(_MOST_PAGES):
            answer = self.client.ask("GET", url, {200, 404}, what=f"{self}: its tags")
            if answer.status == 404:
                break
            listed = read_json(answer.content, f"{self}: its tags").get("tags") or []
            found |= dict.fromkeys(tag for tag in listed if isinstance(tag, str))
            if (following := next_page(answer)) is None:
                break
            url = following
        return tuple(found)

    def named(self, reference: str) -> str:
        """A manifest or blob of this repository, for messages."""
        return f"{self}{'@' if reference.startswith('sha256:') else ':'}{reference}"


def next_page(answer: Answer) -> str | None:
    """The URL of what follows this part of a list (RFC 8288), or None."""
    match = _NEXT.search(answer.headers.get("Link", ""))
    return urljoin(answer.url, match[1]) if match else None


def read_json(content: bytes, what: str) -> Json:
    """The JSON object of an answer; NetworkError, rule `registry-unreachable`, where it is none."""
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NetworkError(
            f"{what}: the answer is no JSON object", rule="registry-unreachable",
            hint="something between here and the registry answers in its place: check proxies and the registry's name",
        )  # fmt: skip
    return document


def _media_type(answer: Answer) -> str:
    return answer.headers.get("Content-Type", MANIFEST_TYPE).partition(";")[0].strip()


def _other_content(what: str, found: str) -> LockError:
    return LockError(
        f"{what}: the registry has {found}", rule="hash-mismatch",
        hint="the registry or a proxy changes what it stores: ask those who run it",
    )  # fmt: skip
