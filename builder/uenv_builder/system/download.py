"""Downloads by hash: resumed, retried, from the first of several places that has the right bytes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import requests

from uenv_builder.model.errors import LockError, NetworkError, UenvError
from uenv_builder.system.events import Listener, Task
from uenv_builder.system.files import explained, lock_file
from uenv_builder.system.store import Store
from uenv_builder.system.store_entries import PART, download_lock
from uenv_builder.system.threads import run_in_threads
from uenv_builder.system.transfer import (
    CHUNK,
    Body,
    GiveUpError,
    Received,
    TryAgainError,
    WrongContentError,
    check_hash,
    is_local,
    open_body,
    public,
    receive,
)

Result = TypeVar("Result")

_LONGEST_WAIT = 60.0
_DOCUMENT_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file to fetch: its name for people, sha256, size in bytes (None: not known), and http, https or file URLs of
    places that may have it.

    `urls` may be a function, which is asked only when the store does not have the file: finding a URL can cost a query.
    It is not asked offline, where only file URLs that are listed are used.
    """

    name: str
    sha256: str
    size: int | None
    urls: Sequence[str] | Callable[[], Sequence[str]]


@dataclass
class _Progress:
    """The furthest byte that has come, told to the tasks that show it; what comes again is not told again."""

    tasks: tuple[Task, ...] = ()
    reached: int = 0

    def reach(self, count: int) -> None:
        """So many bytes of the file are there."""
        if (more := count - self.reached) > 0:
            self.reached = count
            for task in self.tasks:
                task.advance(more)


@dataclass
class _SharedTask:
    """A task that several threads advance."""

    task: Task
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, amount: int) -> None:
        """One thread after the other."""
        with self.lock:
            self.task.advance(amount)


class Downloader:
    """Fetches files into `store`, up to `jobs` at once.

    `attempts` is how often one URL is tried without a byte more than before; waits between them begin at `delay`
    seconds and double. `timeouts` are those for connecting and for each wait for bytes, in seconds.
    """

    def __init__(
        self,
        store: Store,
        listener: Listener,
        *,
        offline: bool = False,
        attempts: int = 5,
        jobs: int = 4,
        delay: float = 1.0,
        timeouts: tuple[float, float] = (15.0, 60.0),
    ) -> None:
        self._store = store
        self._listener = listener
        self._offline = offline
        self._attempts = attempts
        self._jobs = jobs
        self._delay = delay
        self._timeouts = timeouts
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
            return self._in_threads(missing, (_SharedTask(task),))

    def _in_threads(self, missing: Sequence[Download], totals: tuple[Task, ...]) -> list[UenvError]:
        return run_in_threads([partial(self._fetch, item, totals) for item in missing], jobs=self._jobs, stop=self.stop)

    def _fetch(self, download: Download, totals: tuple[Task, ...] = ()) -> Path:
        path = self._store.download_path(download.sha256)
        progress = _Progress(totals)

        def waiting() -> None:
            self._listener.note(f"waiting for another download of {download.name}")

        if not self._store.has_download(download.sha256, download.size):
            lock = download_lock(self._store.root, download.sha256)
            with self._store.in_use(), lock_file(lock, waiting=waiting):
                if not self._store.has_download(download.sha256, download.size):
                    urls = self._urls(download)
                    with self._listener.task(download.name, download.size) as task:
                        progress.tasks = (task, *totals)
                        self._fetch_any(download, urls, path, progress)
        progress.reach(download.size or 0)
        return path

    def _urls(self, download: Download) -> Sequence[str]:
        if not self._offline:
            return download.urls() if callable(download.urls) else download.urls
        local = [] if callable(download.urls) else [url for url in download.urls if is_local(url)]
        if not local:
            raise NetworkError(
                f"{download.name}{_in_bytes(download.size)} is not in the store, and --offline forbids to fetch it",
                rule="offline",
                hint="run once without --offline, or name a folder that has it in the settings' mirror-folders",
            )
        return local

    def _fetch_any(self, download: Download, urls: Sequence[str], path: Path, progress: _Progress) -> None:
        part = path.with_name(f"{path.name}{PART}")
        with explained(part):
            part.parent.mkdir(parents=True, exist_ok=True)
        refusals: list[tuple[str, GiveUpError]] = []
        for url in urls:
            try:
                self._fetch_from(url, download, part, progress)
            except GiveUpError as error:
                refusals.append((url, error))
                continue
            with explained(path):
                part.rename(path)
            return
        with explained(part):
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
        raise _refused(download, refusals)

    def _fetch_from(self, url: str, download: Download, part: Path, progress: _Progress) -> None:
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

    def _complete(self, url: str, download: Download, received: Received, progress: _Progress) -> None:
        resumed = received.count > 0
        try:
            self._receive(url, download, received, progress)
        except WrongContentError:
            if not resumed:
                raise
            # The beginning may have come from another server, or from an older file: read this one's as a whole.
            received.start_over()
            self._receive(url, download, received, progress)

    def _receive(self, url: str, download: Download, received: Received, progress: _Progress) -> None:
        progress.reach(received.count if download.size is None else min(received.count, download.size))
        if download.size is not None and received.count >= download.size:
            check_hash(received, download.sha256)
            return
        with self._open(url, received.count) as body:
            receive(body, received, download.size, download.sha256, progress.reach)

    @contextmanager
    def _open(self, url: str, offset: int) -> Iterator[Body]:
        with open_body(self._session(), url, offset, timeouts=self._timeouts) as body:

            def read(size: int) -> bytes:
                if self._stopped.is_set():
                    raise KeyboardInterrupt
                return body.read(size)

            yield Body(body.begins, body.length, read)

    def _try(self, url: str, name: str, work: Callable[[], Result], reached: Callable[[], int]) -> Result:
        """The result of `work`, tried again as long as it may help; `reached` says how far it has come."""
        fruitless = 0
        while True:
            before = reached()
            try:
                return work()
            except TryAgainError as error:
                fruitless = 1 if reached() > before else fruitless + 1
                if fruitless >= self._attempts:
                    raise GiveUpError(f"{error} ({fruitless} attempts)") from error
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
