"""An image's file, written from its first byte to its last, and hashed meanwhile."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from uenv_builder.system.large_file import LargeFile

_AHEAD = 8  # chunks that are read, but not yet written


class ImageFile:
    """Writes what is appended to the open file `target`, and hashes it, in a thread each: whoever reads the next chunk
    waits for neither.

    Use it as a context manager: leaving it ends the threads.
    """

    def __init__(self, target: int) -> None:
        self._file = LargeFile(target)
        self._sha256 = hashlib.sha256()
        self._broken = False  # once a chunk was not written, nothing behind it is
        self._waiting: deque[tuple[Future[None], Future[None]]] = deque()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="image")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="digest")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pool in (self._writer, self._hasher):
            pool.shutdown(cancel_futures=True)

    def append(self, chunk: bytes) -> None:
        """Add `chunk` at the end. Raises the OSError of a chunk before it."""
        if len(self._waiting) == _AHEAD:
            self._await_oldest()
        self._waiting.append((self._writer.submit(self._write, chunk), self._hasher.submit(self._sha256.update, chunk)))

    def finish(self) -> str:
        """Wait until all is written; returns the sha256 of it. Raises OSError."""
        while self._waiting:
            self._await_oldest()
        self._file.finish()
        return self._sha256.hexdigest()

    def _await_oldest(self) -> None:
        for done in self._waiting.popleft():
            done.result()

    def _write(self, chunk: bytes) -> None:
        if self._broken:
            return
        self._broken = True
        self._file.write(chunk)
        self._broken = False
