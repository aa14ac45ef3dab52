"""Downloads by hash: resumed, retried, from the first of several places that has the right bytes."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, TypeAlias
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import urllib3

from uenv_builder.model.errors import Diagnostic, LockError, NetworkError, UenvError
from uenv_builder.system.events import Listener, Task
from uenv_builder.system.files import explained, lock_file
from uenv_builder.system.store import Store

Read: TypeAlias = Callable[[int], bytes]

_CHUNK = 1 << 20
_TIMEOUT = (15.0, 60.0)
_LONGEST_WAIT = 60.0
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_PARTIAL = 206
_RANGE_REFUSED = 416


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file to fetch: its name for people, sha256, size in bytes, and where it may be had (http, https or file URLs).

    `urls` may be a function, which is asked only when the store does not have the file: finding a URL can cost a query.
    """

    name: str
    sha256: str
    size: int
    urls: Sequence[str] | Callable[[], Sequence[str]]


class _TryAgainError(Exception):
    """A fault that may pass; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _GiveUpError(Exception):
    """This URL will not do."""


class _WrongContentError(_GiveUpError):
    """The server has another file under this name."""


class Downloader:
    """Fetches files into `store`. `attempts` is for one URL; waits between them begin at `delay` seconds and double."""

    def __init__(
        self,
        store: Store,
        listener: Listener,
        *,
        offline: bool = False,
        attempts: int = 5,
        jobs: int = 4,
        delay: float = 1.0,
    ) -> None:
        self._store = store
        self._listener = listener
        self._offline = offline
        self._attempts = attempts
        self._jobs = jobs
        self._delay = delay
        self._stopped = threading.Event()
        self._local = threading.local()

    def fetch_all(self, downloads: Sequence[Download]) -> dict[str, Path]:
        """Fetch several at once; the paths by sha256. Raises one error with all that failed."""
        missing = [download for download in downloads if not self._store.has_download(download.sha256, download.size)]
        if self._offline and missing:
            raise NetworkError.collect([_offline_finding(download) for download in missing])
        failed: list[UenvError] = []
        pool = ThreadPoolExecutor(max_workers=self._jobs, thread_name_prefix="download")
        try:
            running = [pool.submit(self.fetch, download) for download in missing]
            failed = [error for done in as_completed(running) if isinstance(error := done.exception(), UenvError)]
            for done in running:
                if (error := done.exception()) is not None and not isinstance(error, UenvError):
                    raise error
        except BaseException:
            self._stopped.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        if failed:
            raise type(failed[0]).collect(finding for error in failed for finding in error.diagnostics)
        return {download.sha256: self._store.download_path(download.sha256) for download in downloads}

    def fetch(self, download: Download) -> Path:
        """The file's path in the store, fetched if it is not there. The hash is computed as the bytes come.

        Raises NetworkError when no place has it, LockError (hash-mismatch) when places have another file instead.
        """
        path = self._store.download_path(download.sha256)
        if self._store.has_download(download.sha256, download.size):
            return path
        if self._offline:
            raise NetworkError.collect([_offline_finding(download)])
        lock = self._store.root / "locks" / f"download-{download.sha256}"
        with lock_file(lock, waiting=lambda: self._listener.note(f"waiting for another download of {download.name}")):
            if not self._store.has_download(download.sha256, download.size):
                self._fetch_any(download, path)
        return path

    def _fetch_any(self, download: Download, path: Path) -> None:
        urls = download.urls() if callable(download.urls) else download.urls
        reasons: list[str] = []
        wrong = False
        for url in urls:
            try:
                with self._listener.task(download.name, download.size) as task:
                    self._fetch_from(url, download, path, task)
            except _GiveUpError as error:
                wrong = wrong or isinstance(error, _WrongContentError)
                reasons.append(f"{_public(url)}: {error}")
            else:
                return
        tried = "".join(f"\n    {reason}" for reason in reasons) or " no place is known to have it"
        if wrong:
            raise LockError(
                f"{download.name}: what was found is not what the lock says:{tried}", rule="hash-mismatch",
                hint="a mirror may be in the middle of an update: try again, or renew the lock with `uenv lock --upgrade NAME`",
            )  # fmt: skip
        raise NetworkError(
            f"{download.name} could not be fetched:{tried}", rule="download",
            hint="check the network and the mirrors; where the version is gone, `uenv lock RECIPE --upgrade NAME` moves on",
        )  # fmt: skip

    def _fetch_from(self, url: str, download: Download, path: Path, task: Task) -> None:
        part = path.with_name(f"{path.name}.part")
        with explained(part):
            part.parent.mkdir(parents=True, exist_ok=True)
        shown = 0

        def advance(position: int) -> None:
            nonlocal shown
            if position > shown:
                task.advance(position - shown)
                shown = position

        for attempt in range(1, self._attempts + 1):
            try:
                self._fetch_once(url, download, part, advance)
                break
            except _TryAgainError as error:
                if attempt == self._attempts:
                    raise _GiveUpError(f"{error} ({self._attempts} attempts)") from error
                self._wait(attempt, error.wait)
        with explained(path):
            part.rename(path)

    def _wait(self, attempt: int, asked: float | None) -> None:
        wait = min(_LONGEST_WAIT, asked if asked is not None else self._delay * 2 ** (attempt - 1))
        if self._stopped.wait(wait * (1 + random.random() / 4)):  # noqa: S311  (jitter)
            raise KeyboardInterrupt

    def _fetch_once(self, url: str, download: Download, part: Path, advance: Callable[[int], None]) -> None:
        with explained(part), part.open("a+b") as file:
            received = _Received(file)
            received.take_up(download.size)
            advance(received.count)
            if received.count < download.size:
                with self._open(url, received.count) as (begins, source):
                    if begins != received.count:
                        received.start_over()
                    while chunk := self._read(source):
                        received.add(chunk)
                        if received.count > download.size:
                            received.start_over()
                            raise _WrongContentError(f"is longer than the {download.size:,} bytes that were expected")
                        advance(received.count)
            if received.count != download.size:
                raise _TryAgainError(f"ended after {received.count:,} of {download.size:,} bytes")
            if (found := received.digest.hexdigest()) != download.sha256:
                received.start_over()
                raise _WrongContentError(f"has sha256 {found}, expected {download.sha256}")

    @contextmanager
    def _open(self, url: str, offset: int) -> Iterator[tuple[int, Read]]:
        """The place in the file at which the source begins (`offset`, or 0 where it cannot resume), and how to read it."""
        parts = urlsplit(url)
        if parts.scheme == "file":
            try:
                with Path(unquote(parts.path)).open("rb") as file:
                    file.seek(offset)
                    yield offset, file.read
            except FileNotFoundError as error:
                raise _GiveUpError("no such file") from error
            return
        # The hash is that of the bytes as they are stored: nothing may be unpacked on the way.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with self._session().get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
                _judge(answer)
                begins = offset if answer.status_code == _PARTIAL else 0
                yield begins, lambda size: bytes(answer.raw.read(size, decode_content=False))
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _TryAgainError(_reason(error)) from error

    def _read(self, source: Read) -> bytes:
        if self._stopped.is_set():
            raise KeyboardInterrupt
        return source(_CHUNK)

    def _session(self) -> requests.Session:
        # A session is not for several threads at once.
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


class _Received:
    """What has come of a file so far, and its hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.count = 0
        self.digest = hashlib.sha256()

    def take_up(self, size: int) -> None:
        """Read what an earlier attempt left; more than the whole file can only be wrong."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            self.digest.update(chunk)
            self.count += len(chunk)
        if self.count > size:
            self.start_over()

    def start_over(self) -> None:
        """Forget everything."""
        self._file.truncate(0)
        self.count, self.digest = 0, hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """The next bytes."""
        self._file.write(chunk)
        self.digest.update(chunk)
        self.count += len(chunk)


def _judge(answer: requests.Response) -> None:
    code = answer.status_code
    if code == _RANGE_REFUSED:
        raise _WrongContentError("has fewer bytes than were expected (the server refuses to resume)")
    if code in _TRY_AGAIN:
        raise _TryAgainError(f"HTTP {code} {answer.reason}", _asked_wait(answer.headers.get("Retry-After")))
    if not answer.ok:
        raise _GiveUpError(f"HTTP {code} {answer.reason}")


def _asked_wait(text: str | None) -> float | None:
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause) or type(cause).__name__


def _public(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _offline_finding(download: Download) -> Diagnostic:
    return Diagnostic(
        rule="offline", message=f"{download.name} ({download.size:,} bytes) is not in the store, and --offline forbids to fetch it",
        hint="run once without --offline, or name a folder that has it in the settings' mirror-folders",
    )  # fmt: skip
