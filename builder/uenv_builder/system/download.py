"""Downloads by hash: resumed, retried, from the first of several places that has the right bytes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import requests

from uenv_builder.model.errors import LockError, NetworkError, UenvError
from uenv_builder.system.download_progress import Progress, SharedTask
from uenv_builder.system.events import Listener, Task
from uenv_builder.system.files import explained, sha256_of
from uenv_builder.system.servers import Servers
from uenv_builder.system.threads import run_in_threads
from uenv_builder.system.transfer import (
    CHUNK,
    Body,
    GiveUpError,
    Received,
    TryAgainError,
    WrongContentError,
    check_hash,
    open_body,
    receive,
)
from uenv_builder.system.urls import is_local, public

Result = TypeVar("Result")

FILL_A_MIRROR = (
    "where there is internet, `uenv mirror RECIPE DIR` fetches all that a recipe needs; here, name DIR with --mirror "
    "or as `mirrors` in the settings"
)
"""The remedy for what cannot be fetched here."""

_LONGEST_WAIT = 60.0
_DOCUMENT_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file to fetch: its name for people, sha256, size in bytes (None: not known), and http, https or file URLs of
    places that may have it.

    `urls` may be a function, which is asked only when neither the store nor a mirror has the file: finding a URL can
    cost a query. It is not asked offline, where only file URLs that are listed are used. `near` are file URLs that are
    asked before any mirror.
    """

    name: str
    sha256: str
    size: int | None
    urls: Sequence[str] | Callable[[], Sequence[str]]
    near: Sequence[str] = ()


class Shelf(Protocol):
    """Where downloads go: the store, or a mirror that is filled."""

    def has_download(self, sha256: str, size: int | None) -> bool:
        """Whether the file is there, by its size in bytes where that is known."""

    def download_path(self, sha256: str) -> Path:
        """Where it lies, or would lie."""

    def part_path(self, sha256: str) -> Path:
        """Where that lies which has come of it so far."""

    def writing_download(self, sha256: str, waiting: Callable[[], None]) -> AbstractContextManager[bool]:
        """Be the one who writes it, after `waiting` for others; yields whether the file system has locks."""

    def place_download(self, part: Path, sha256: str) -> None:
        """Put a whole file in its place. Raises OSError."""


class Downloader:
    """Fetches files into `store`, up to `jobs` at once; asks `mirrors` (their roots) before any other place.

    `attempts` is how often one URL is tried without a byte more than before; waits between them begin at `delay`
    seconds and double. `timeouts` are those for connecting and for each wait for bytes, in seconds. A server that
    cannot be reached is asked nothing more.
    """

    def __init__(
        self,
        store: Shelf,
        listener: Listener,
        *,
        offline: bool = False,
        attempts: int = 5,
        jobs: int = 4,
        delay: float = 1.0,
        timeouts: tuple[float, float] = (15.0, 60.0),
        mirrors: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._listener = listener
        self._offline = offline
        self._attempts = attempts
        self._jobs = jobs
        self._delay = delay
        self._servers = Servers(mirrors, listener, timeouts)
        self._stopped = threading.Event()
        self._local = threading.local()

    def stop(self) -> None:
        """End all that this downloader does in any thread with KeyboardInterrupt, at its next bytes; for good."""
        self._stopped.set()

    def fetch_all(self, downloads: Sequence[Download]) -> dict[str, Path]:
        """Fetch several at once; the paths by sha256. Raises one error with all that failed, in the order asked for.

        Where they failed for different reasons, the first one's class counts. An interruption stops the others, and
        what has come of them stays for the next time.
        """
        wanted = {download.sha256: download for download in downloads}
        missing = [item for item in wanted.values() if not self._store.has_download(item.sha256, item.size)]
        if failed := self._fetch_missing(missing):
            raise type(failed[0]).collect(finding for error in failed for finding in error.diagnostics)
        return {sha256: self._store.download_path(sha256) for sha256 in wanted}

    def fetch(self, download: Download) -> Path:
        """The file's path in the store, fetched if it is not there. The hash is computed as the bytes come.

        Raises NetworkError when no place has it, LockError (hash-mismatch) when places have another file instead, and
        BuildError when it cannot be written.
        """
        return self._fetch(download)

    def get_bytes(self, url: str) -> bytes:
        """A small document (up to 64 MiB), with the same patience; raises NetworkError."""
        if self._offline and not is_local(url):
            raise NetworkError(
                f"{public(url)} is needed, and --offline forbids to fetch it",
                rule="offline", hint="run without --offline",
            )  # fmt: skip

        def read() -> bytes:
            with self._open(url, 0) as body:
                return _read_document(body)

        try:
            return self._try(url, public(url), read, lambda: 0)
        except GiveUpError as error:
            raise _unreachable(public(url), [(url, error)]) from error

    def get_mirrored(self, place: str, folder: Path) -> Iterator[Path]:
        """What mirrors on servers have at `place`, each copied into a file in `folder`; nothing else is asked.

        It is for what has no sha256: whoever takes a file has to know by other means that it is the right one.
        """
        for number, root in enumerate(self._servers.living_mirrors()):
            url, path = f"{root}/{place}", folder / f"{number}"
            if is_local(url):
                continue
            try:
                self._try(url, place, partial(self._copy, url, path), lambda: 0)
            except GiveUpError:
                continue
            yield path

    def _copy(self, url: str, path: Path) -> None:
        with explained(path):
            file = path.open("wb")
        with file, self._open(url, 0) as body:
            count = 0
            while chunk := body.read(CHUNK):
                with explained(path):
                    file.write(chunk)
                count += len(chunk)
            if body.length not in {None, count}:
                raise TryAgainError(f"ended after {count:,} of {body.length:,} bytes")

    def get_text(self, url: str) -> str:
        """As `get_bytes`, for a document in UTF-8."""
        try:
            return self.get_bytes(url).decode()
        except UnicodeDecodeError as error:
            raise NetworkError(f"{public(url)} is not text in UTF-8: {error}", rule="download") from error

    def _fetch_missing(self, missing: Sequence[Download]) -> list[UenvError]:
        if len(missing) < 2:
            return self._in_threads(missing, ())
        with self._listener.task(f"downloading {len(missing)} files", _total(missing)) as task:
            return self._in_threads(missing, (SharedTask(task),))

    def _in_threads(self, missing: Sequence[Download], totals: tuple[Task, ...]) -> list[UenvError]:
        return run_in_threads([partial(self._fetch, item, totals) for item in missing], jobs=self._jobs, stop=self.stop)

    def _fetch(self, download: Download, totals: tuple[Task, ...] = ()) -> Path:
        store, sha256 = self._store, download.sha256
        progress = Progress(totals)

        def waiting() -> None:
            self._listener.note(f"waiting for another download of {download.name}")

        if not store.has_download(sha256, download.size):
            with store.writing_download(sha256, waiting) as locked:
                if not store.has_download(sha256, download.size):
                    with self._listener.task(download.name, download.size) as task:
                        progress.tasks = (task, *totals)
                        self._fetch_any(download, progress, locked=locked)
        progress.reach(download.size or 0)
        return store.download_path(sha256)

    def _places(self, download: Download) -> Iterator[str]:
        """All URLs to ask, the mirrors' first; where else it may be had is only looked up after these."""
        yield from download.near
        yield from self._servers.mirror_urls(download.sha256)
        if not self._offline:
            yield from download.urls() if callable(download.urls) else download.urls
        elif not callable(download.urls):
            yield from filter(is_local, download.urls)

    def _fetch_any(self, download: Download, progress: Progress, *, locked: bool) -> None:
        part = self._store.part_path(download.sha256)
        with explained(part):
            part.parent.mkdir(parents=True, exist_ok=True)
        refusals: list[tuple[str, GiveUpError]] = []
        for url in self._places(download):
            try:
                self._fetch_from(url, download, part, progress)
                self._place(download, part, locked=locked)
            except GiveUpError as error:
                self._servers.refuse(download.name, url, error)
                refusals.append((url, error))
                continue
            return
        with explained(part):
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
        raise self._refused(download, refusals)

    def _place(self, download: Download, part: Path, *, locked: bool) -> None:
        """Put the file in its place. Where nothing keeps two processes from writing it at once, it is read again."""
        with explained(part):
            try:
                size = part.stat().st_size
                if size != (download.size or size) or not (locked or sha256_of(part) == download.sha256):
                    part.unlink()
                    raise GiveUpError("another process wrote into the same file: run the command again")
                self._store.place_download(part, download.sha256)
            except FileNotFoundError:
                if not self._store.has_download(download.sha256, download.size):
                    raise

    def _refused(self, download: Download, refusals: Sequence[tuple[str, GiveUpError]]) -> UenvError:
        if self._offline and not any(isinstance(error, WrongContentError) for _, error in refusals):
            return NetworkError(
                f"{download.name}{_in_bytes(download.size)} is neither in the store nor in a mirror, and --offline "
                "forbids to fetch it",
                rule="offline", hint=FILL_A_MIRROR,
            )  # fmt: skip
        return _refused(download, refusals)

    def _fetch_from(self, url: str, download: Download, part: Path, progress: Progress) -> None:
        def read() -> None:
            # Errors of the network are none of the file's, hence nothing wider than the opening is explained.
            with explained(part):
                file = part.open("a+b")
            try:
                received = Received(file, part)
                self._complete(url, download, received, progress)
                received.finish()
            finally:
                with explained(part):
                    file.close()

        self._try(url, download.name, read, lambda: progress.reached)

    def _complete(self, url: str, download: Download, received: Received, progress: Progress) -> None:
        resumed = received.count > 0
        try:
            self._receive(url, download, received, progress)
        except WrongContentError:
            if not resumed:
                raise
            # The beginning may have come from another server, or from an older file: read this one's as a whole.
            received.start_over()
            self._receive(url, download, received, progress)

    def _receive(self, url: str, download: Download, received: Received, progress: Progress) -> None:
        progress.reach(received.count if download.size is None else min(received.count, download.size))
        if download.size is not None and received.count >= download.size:
            check_hash(received, download.sha256)
            return
        with self._open(url, received.count) as body:
            receive(body, received, download.size, download.sha256, progress.reach)

    @contextmanager
    def _open(self, url: str, offset: int) -> Iterator[Body]:
        with open_body(self._session(), url, offset, timeouts=self._servers.timeouts(url)) as body:
            self._servers.answer(url)

            def read(size: int) -> bytes:
                if self._stopped.is_set():
                    raise KeyboardInterrupt
                return body.read(size)

            yield Body(body.begins, body.length, read)

    def _try(self, url: str, name: str, work: Callable[[], Result], reached: Callable[[], int]) -> Result:
        """The result of `work`, tried again as long as it may help; `reached` says how far it has come."""
        fruitless = 0
        while True:
            self._servers.require(url)
            before = reached()
            try:
                return work()
            except TryAgainError as error:
                fruitless = 1 if reached() > before else fruitless + 1
                if fruitless >= self._servers.attempts(url, error, self._attempts):
                    reason = f"{error} ({fruitless} attempt{'s' if fruitless > 1 else ''})"
                    self._servers.give_up(url, error, reason)
                    raise GiveUpError(reason) from error
                wait = backoff(fruitless, error.wait, self._delay)
                self._listener.note(f"{name}: {error}; trying {public(url)} again in {wait:.1f} s")
            if self._stopped.wait(wait):
                raise KeyboardInterrupt

    def _session(self) -> requests.Session:
        # A session is not for several threads at once.
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


def backoff(failures: int, asked: float | None, delay: float) -> float:
    """Seconds to wait after so many `failures`: what the server `asked` for, else `delay` doubled; 60 at most.

    Up to a quarter more is added by chance, so that the machines of a site do not come back all at once.
    """
    wait = delay * 2 ** (failures - 1) if asked is None else asked
    return min(_LONGEST_WAIT, wait * (1 + random.random() / 4))  # noqa: S311  (no secret)


def _read_document(body: Body) -> bytes:
    content = bytearray()
    while chunk := body.read(CHUNK):
        content += chunk
        if len(content) > _DOCUMENT_LIMIT:
            raise GiveUpError(f"is longer than {_DOCUMENT_LIMIT:,} bytes")
    if body.length is not None and len(content) != body.length:
        raise TryAgainError(f"ended after {len(content):,} of {body.length:,} bytes")
    return bytes(content)


def _total(downloads: Sequence[Download]) -> int | None:
    sizes = [download.size for download in downloads]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _in_bytes(size: int | None) -> str:
    return "" if size is None else f" ({size:,} bytes)"


def _refused(download: Download, refusals: Sequence[tuple[str, GiveUpError]]) -> UenvError:
    if not any(isinstance(error, WrongContentError) for _, error in refusals):
        return _unreachable(download.name, refusals)
    return LockError(
        f"{download.name}: what was found is not what the lock says:{_listed(refusals)}", rule="hash-mismatch",
        hint="a mirror may be in the middle of an update: try again, or renew the lock with `uenv lock --upgrade NAME`",
    )  # fmt: skip


def _unreachable(name: str, refusals: Sequence[tuple[str, GiveUpError]]) -> NetworkError:
    return NetworkError(
        f"{name} could not be fetched:{_listed(refusals) or ' no place is known to have it'}", rule="download",
        hint="check the network and the mirrors; where the version is gone, `uenv lock RECIPE --upgrade NAME` moves on",
    )  # fmt: skip


def _listed(refusals: Sequence[tuple[str, GiveUpError]]) -> str:
    return "".join(f"\n    {public(url)}: {error}" for url, error in refusals)
