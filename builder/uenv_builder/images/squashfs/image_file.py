"""An image's file, written from its first byte to its last, and hashed meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

_AHEAD = 8  # chunks that are read, but not yet written


class ImageFile:
    """Writes what is appended to the open file `target`, in a thread of its own: whoever reads the next chunk does
    not wait for the disk, nor for the hash.

    Use it as a context manager: leaving it ends the thread. What is appended must not change afterwards.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._sha256 = hashlib.sha256()
        self._broken = False  # once a chunk was not written, nothing behind it is
        self._waiting: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="image")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def append(self, chunk: bytes | memoryview) -> None:
        """Add `chunk` at the end. Raises the OSError of a chunk before it."""
        if len(self._waiting) == _AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, chunk))

    def finish(self) -> str:
        """Wait until all is written; returns the sha256 of it. Raises OSError."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha256.hexdigest()

    def _write(self, chunk: bytes | memoryview) -> None:
        if self._broken:
            return
        self._broken = True
        left = memoryview(chunk)
        self._sha256.update(left)
        while left:
            left = left[os.write(self._target, left) :]
        self._broken = False
