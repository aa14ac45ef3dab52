"""Blobs on their way into a registry: asked for first, taken over from other repositories, sent in pieces and resumed.

The ways are those of the OCI distribution specification 1.1, "Pushing blobs".
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urljoin

from uenv_builder.model.artifact import digest_of_bytes
from uenv_builder.model.errors import LockError, NetworkError
from uenv_builder.publishers.oci.client import Answer
from uenv_builder.publishers.oci.repository import Repository
from uenv_builder.system.files import explained
from uenv_builder.system.registry_login import RefusedError
from uenv_builder.system.transfer import TryAgainError

PIECE = 32 << 20
"""Bytes that are sent in one request: as much is sent again at most when a connection breaks."""
_SMALLEST_PIECE = 1 << 20
_AT_ONCE = 1 << 17  # bytes that are given to the connection at once
_HASHED_AT_ONCE = 1 << 20
_OCTETS = {"Content-Type": "application/octet-stream"}
_LOST = {400, 404, 416}
"""What is said of an upload that the registry has forgotten, or of which it has another part than was thought."""
_NO_PIECES = {405, 411, 501}
_TOO_LARGE = 413
_REFUSALS = 2

Way = Literal["present", "mounted", "sent"]


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob to push, by its digest (`sha256:...`) and size in bytes; the content is a file or bytes."""

    digest: str
    size: int
    content: Path | bytes

    @classmethod
    def of(cls, content: bytes) -> Blob:
        """The blob with this content."""
        return cls(digest_of_bytes(content), len(content), content)

    @contextmanager
    def open(self) -> Iterator[memoryview]:
        """The content; raises BuildError where the file cannot be read."""
        if isinstance(self.content, bytes) or self.size == 0:
            with memoryview(self.content if isinstance(self.content, bytes) else b"") as view:
                yield view
            return
        with explained(self.content), self.content.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with mapped, memoryview(mapped) as view:
            yield view


def push_blob(
    target: Repository, blob: Blob, *, mount_from: Sequence[str] = (), advance: Callable[[int], None] = lambda _: None,
    piece: int = PIECE,
) -> Way:  # fmt: skip
    """Bring `blob` into the repository, and say how it got there. `advance` hears of bytes that need not be sent again.

    `mount_from` are repositories of the same registry that may have it already. Raises NetworkError as
    `RegistryClient.ask`, and LockError, rule `hash-mismatch`, for a file that is not the blob.
    """
    way: Way = "present"
    if not target.has_blob(blob.digest):
        if any(_mount(target, blob, source) for source in mount_from if source != target.place.repository):
            way = "mounted"
        else:
            _send(target, blob, advance, piece)
            return "sent"
    advance(blob.size)
    return way


def _mount(target: Repository, blob: Blob, source: str) -> bool:
    """Whether the registry took the blob over from its repository `source`; who may not read that is not told so."""
    url = f"{_uploads(target)}?mount={quote(blob.digest)}&from={quote(source)}"
    try:
        answer = target.client.ask("POST", url, {201, 202}, what=target.named(blob.digest))
    except NetworkError as error:
        if error.diagnostics[0].rule in {"registry-unauthorised", "registry-refused"}:
            return False
        raise
    if answer.status == 202:  # an upload was begun instead, which nobody will go on with
        _cancel(target, _location(answer))
    return answer.status == 201


def _cancel(target: Repository, location: str) -> None:
    try:
        target.client.ask_once("DELETE", location, {200, 202, 204, 404, 405})
    except (TryAgainError, RefusedError):
        return  # registries forget such uploads by themselves


def _send(target: Repository, blob: Blob, advance: Callable[[int], None], piece: int) -> None:
    with blob.open() as content:
        _verify(blob, content)
        upload = _Upload(target, blob, content, advance, piece)
        upload.client.patiently(target.named(blob.digest), _uploads(target), upload.go_on, lambda: upload.furthest)


def _verify(blob: Blob, content: memoryview) -> None:
    found = hashlib.sha256()
    for begin in range(0, len(content), _HASHED_AT_ONCE):
        with content[begin : begin + _HASHED_AT_ONCE] as part:
            found.update(part)
    if f"sha256:{found.hexdigest()}" != blob.digest:
        place = blob.content if isinstance(blob.content, Path) else "the content"
        raise LockError(
            f"{place}: has sha256 {found.hexdigest()}, and should be {blob.digest}",
            rule="hash-mismatch", hint="build the image again",
        )  # fmt: skip


class _Piece:
    """A part of a blob as a request's body, given out in small parts, so that a slow line is no timeout."""

    def __init__(self, content: memoryview, begin: int, end: int, check: Callable[[], None]) -> None:
        self._content, self._begin, self._end, self._check = content, begin, end, check

    def __len__(self) -> int:
        return self._end - self._begin

    def __iter__(self) -> Iterator[bytes]:
        for begin in range(self._begin, self._end, _AT_ONCE):
            self._check()
            yield bytes(self._content[begin : min(self._end, begin + _AT_ONCE)])


class _Upload:
    """One blob's upload; `go_on` may be called again after whatever it raised."""

    def __init__(
        self, target: Repository, blob: Blob, content: memoryview, advance: Callable[[int], None], piece: int
    ) -> None:
        self.client = target.client
        self.furthest = 0
        """Bytes that the registry had at its best."""
        self._target, self._blob, self._content, self._advance = target, blob, content, advance
        self._piece = piece
        self._in_pieces = blob.size > piece
        self._location: str | None = None
        self._offset = 0
        self._interrupted = False
        self._refusals = 0

    def go_on(self) -> None:
        """Send what is missing. Raises TryAgainError and GiveUpError."""
        if self._interrupted and self._has_arrived():
            self._reach(self._blob.size)
            return
        if self._interrupted and self._location is not None:
            self._find_offset()
        self._interrupted = True
        if self._location is None:
            self._begin()
        while self._in_pieces and self._offset < self._blob.size:
            self._send_piece()
        self._finish()
        self._reach(self._blob.size)

    def _has_arrived(self) -> bool:
        """The answer to the last request may have been lost."""
        url = self._target.place.url("blobs", self._blob.digest)
        return self.client.ask_once("HEAD", url, {200, 404}).status == 200

    def _begin(self) -> None:
        answer = self.client.ask_once("POST", _uploads(self._target), {202}, body=b"")
        self._location, self._offset = _location(answer), 0
        smallest = answer.headers.get("OCI-Chunk-Min-Length", "")
        if smallest.isdecimal():
            self._piece = max(self._piece, int(smallest))

    def _find_offset(self) -> None:
        """Ask how far the upload has come; begin anew where the registry does not say."""
        location = self._known_location()
        answer = self.client.ask_once("GET", location, {200, 204, *_LOST, *_NO_PIECES})
        offset = _received(answer)
        if answer.status != 204 or not self._in_pieces or offset > self._blob.size:
            self._location = None
            return
        self._location, self._offset = _location(answer, location), offset
        self._reach(offset)

    def _send_piece(self) -> None:
        begin, end = self._offset, min(self._blob.size, self._offset + self._piece)
        headers = {**_OCTETS, "Content-Range": f"{begin}-{end - 1}"}
        body = _Piece(self._content, begin, end, self.client.check_stopped)
        location = self._known_location()
        expect = {202, *_LOST, *_NO_PIECES, _TOO_LARGE}
        answer = self.client.ask_once("PATCH", location, expect, headers=headers, body=body)
        if answer.status == 202:
            self._location = _location(answer, location)
            self._offset = min(_received(answer), end) if "Range" in answer.headers else end
            self._reach(self._offset)
        elif answer.status in _NO_PIECES:
            self._location, self._in_pieces = None, False
            self._begin()
        elif answer.status == _TOO_LARGE and self._piece > _SMALLEST_PIECE:
            self._piece = max(_SMALLEST_PIECE, self._piece // 2)
            self._location = None
            self._begin()
        else:
            # A registry that takes no pieces refuses the first one in its own way.
            self._refusals += begin == 0
            if self._refusals >= _REFUSALS:
                self._location, self._in_pieces = None, False
            raise TryAgainError(f"HTTP {answer.status} for the bytes {begin:,} to {end:,}{_said(answer)}")

    def _finish(self) -> None:
        location = self._known_location()
        url = f"{location}{'&' if '?' in location else '?'}digest={quote(self._blob.digest)}"
        begin = self._offset if self._in_pieces else 0
        body = (
            _Piece(self._content, begin, self._blob.size, self.client.check_stopped) if begin < self._blob.size else b""
        )
        answer = self.client.ask_once("PUT", url, {201, 204, *_LOST}, headers=_OCTETS, body=body)
        if answer.status in _LOST:
            self._location = None
            raise TryAgainError(f"HTTP {answer.status} at the end of the upload{_said(answer)}")

    def _known_location(self) -> str:
        if self._location is None:
            raise TryAgainError("the upload was lost")
        return self._location

    def _reach(self, offset: int) -> None:
        if offset > self.furthest:
            self._advance(offset - self.furthest)
            self.furthest = offset


def _uploads(target: Repository) -> str:
    return target.place.url("blobs", "uploads/")


def _location(answer: Answer, otherwise: str = "") -> str:
    """Where the upload goes on; raises RefusedError where the registry does not say."""
    location = answer.headers.get("Location", "")
    if not location and not otherwise:
        raise RefusedError(
            "the registry began an upload and does not say where", "registry-refused",
            "ask those who run the registry what it takes, with what it said",
        )  # fmt: skip
    return urljoin(answer.url, location) if location else otherwise


def _received(answer: Answer) -> int:
    """Bytes that the registry has of an upload: `Range: 0-LAST`; 0-0 stands for none, too."""
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", answer.headers.get("Range", "").strip())
    return int(match[1]) + 1 if match and match[1] != "0" else 0


def _said(answer: Answer) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in answer.content[:300].decode(errors="replace"))
    return f": {text.strip()}" if text.strip() else ""
