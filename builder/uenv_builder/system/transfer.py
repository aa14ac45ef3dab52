"""One reading of one URL: opened at an offset, judged by the answer, its bytes hashed on their way to the disk."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from uenv_builder.system.files import explained
from uenv_builder.system.urls import is_local

CHUNK = 1 << 16
"""Bytes that are read at once: as much is lost when a connection breaks, and waited for before a stop is noticed."""

REQUEST_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What asking a server, and reading its answer, raises."""
_HASHED_AT_ONCE = 1 << 20
_NO_CONNECTION = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
    requests.exceptions.ProxyError,
)
TRY_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
"""Answers below 500 that may be another one later."""


class TryAgainError(Exception):
    """A fault that may pass; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class UnreachableError(TryAgainError):
    """There was no connection: no such name, nobody listens, no way there."""


class GiveUpError(Exception):
    """This URL will not do."""


class WrongContentError(GiveUpError):
    """The server has another file under this name."""


@dataclass(frozen=True, slots=True)
class Body:
    """An open source: it begins at byte `begins` of the file; `length` more bytes are announced (None: not said).

    `read` returns at most so many bytes, none at the end, and raises TryAgainError or GiveUpError.
    """

    begins: int
    length: int | None
    read: Callable[[int], bytes]


class Received:
    """What has come of a file so far, and its hash; begins with what an earlier attempt left in `file` (mode a+b).

    Raises BuildError where the disk refuses.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self.count = 0
        self.digest = hashlib.sha256()
        with explained(path):
            file.seek(0)
            while chunk := file.read(_HASHED_AT_ONCE):
                self.digest.update(chunk)
                self.count += len(chunk)

    def start_over(self) -> None:
        """Forget everything."""
        with explained(self._path):
            self._file.truncate(0)
        self.count, self.digest = 0, hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """The next bytes."""
        with explained(self._path):
            self._file.write(chunk)
        self.digest.update(chunk)
        self.count += len(chunk)

    def finish(self) -> None:
        """Bring everything to the disk."""
        with explained(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())


def receive(body: Body, into: Received, size: int | None, sha256: str, advance: Callable[[int], None]) -> None:
    """Add what `body` gives until `into` is the file of `size` bytes with `sha256`; `advance` hears the count.

    Without a size, what the server announces counts; without that, the file ends where the answer does.
    `into` keeps what came when the connection ends early (TryAgainError), and nothing after WrongContentError.
    """
    if body.begins != into.count:
        into.start_over()
    announced = None if body.length is None else body.begins + body.length
    if size is not None and announced not in {None, size}:
        raise _wrong(into, f"has {announced:,} bytes, expected {size:,}")
    size = announced if size is None else size
    while chunk := body.read(CHUNK if size is None else min(CHUNK, size + 1 - into.count)):
        into.add(chunk)
        if size is not None and into.count > size:
            raise _wrong(into, f"is longer than the {size:,} bytes that were expected")
        advance(into.count)
    if size is not None and into.count < size:
        raise TryAgainError(f"ended after {into.count:,} of {size:,} bytes")
    check_hash(into, sha256)


def check_hash(into: Received, sha256: str) -> None:
    """Raise WrongContentError, and forget what came, unless it has this hash."""
    if (found := into.digest.hexdigest()) != sha256:
        raise _wrong(into, f"has sha256 {found}, expected {sha256}")


def _wrong(into: Received, message: str) -> WrongContentError:
    into.start_over()
    return WrongContentError(message)


@contextmanager
def open_body(session: requests.Session, url: str, offset: int, *, timeouts: tuple[float, float]) -> Iterator[Body]:
    """Open an http, https or file URL at byte `offset`; a server that cannot resume begins at 0 instead.

    `timeouts` are those for connecting and for each wait for bytes, in seconds. Proxies, netrc and certificates are
    those of the environment, as requests documents them. Raises TryAgainError or GiveUpError.
    """
    if is_local(url):
        with _open_file(url) as file:
            file.seek(offset)
            yield Body(offset, max(0, os.fstat(file.fileno()).st_size - offset), _reader(file.read))
        return
    with _get(session, url, offset, timeouts) as answer:
        _judge(answer)
        begins = _begin(answer, offset) if answer.status_code == HTTPStatus.PARTIAL_CONTENT else 0
        length = answer.headers.get("Content-Length", "")
        yield Body(
            begins,
            int(length) if re.fullmatch("[0-9]+", length) else None,
            _reader(lambda size: bytes(answer.raw.read(size, decode_content=False))),
        )


def _open_file(url: str) -> IO[bytes]:
    path = Path(unquote(urlsplit(url).path))
    try:
        return path.open("rb")
    except OSError as error:
        raise GiveUpError(error.strerror or str(error)) from error


def _get(session: requests.Session, url: str, offset: int, timeouts: tuple[float, float]) -> requests.Response:
    # The hash is that of the bytes as they are stored: nothing may be unpacked on the way.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with translated():
        return session.get(url, headers=headers, stream=True, timeout=timeouts)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what requests raises in the body, which asks a server, into TryAgainError or GiveUpError."""
    try:
        yield
    except requests.TooManyRedirects as error:
        raise GiveUpError(_reason(error)) from error
    except ValueError as error:  # no URL, in one of many ways; the messages quote it with its password
        raise GiveUpError(f"cannot be fetched from: no valid URL ({type(error).__name__})") from error
    except REQUEST_ERRORS as error:
        if isinstance(_root(error), ssl.SSLCertVerificationError):
            raise GiveUpError(f"{_reason(error)} (REQUESTS_CA_BUNDLE names other certificates)") from error
        kind = UnreachableError if is_unreachable(error) else TryAgainError
        raise kind(_reason(error)) from error


def _reader(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def read_some(size: int) -> bytes:
        try:
            return read(size)
        except REQUEST_ERRORS as error:
            raise TryAgainError(_reason(error)) from error

    return read_some


def _judge(answer: requests.Response) -> None:
    code = answer.status_code
    if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise WrongContentError("has fewer bytes than were expected (HTTP 416)")
    if code in TRY_AGAIN or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TryAgainError(f"HTTP {code} {answer.reason}", asked_wait(answer.headers.get("Retry-After")))
    if code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise GiveUpError(f"HTTP {code} {answer.reason}")


def _begin(answer: requests.Response, offset: int) -> int:
    """Where a partial answer begins: RFC 9110, section 14.4."""
    match = re.match(r"bytes ([0-9]+)-", answer.headers.get("Content-Range", ""))
    begins = int(match[1]) if match else offset
    if begins not in {0, offset}:
        raise GiveUpError(f"was asked for the bytes from {offset:,}, and sent those from {begins:,}")
    return begins


def asked_wait(text: str | None) -> float | None:
    """The seconds that a Retry-After header asks for (a number, or a date: RFC 9110, section 10.2.3), or None."""
    if text is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error of requests, or one of its causes, says that no connection came about."""
    while error is not None:
        if isinstance(error, _NO_CONNECTION):
            return True
        error = _cause(error)
    return False


def _root(error: BaseException) -> BaseException:
    while (inner := _cause(error)) is not None:
        error = inner
    return error


def _cause(error: BaseException) -> BaseException | None:
    # requests and urllib3 hand the first cause on as an argument, not always as a cause.
    inner = error.__cause__ or error.__context__
    return inner or next((item for item in error.args if isinstance(item, BaseException)), None)


def _reason(error: Exception) -> str:
    root = _root(error)
    return str(root) or type(root).__name__
