"""What the kernel keeps of a file in memory: how much that is, letting it go, and reading ahead.

It does not depend on anything but Linux and Python, and on no privileges.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value
_STEP = 1 << 20
_READERS = 4
"""Reads at once: a parallel file system answers several of them in the time of one."""


def cached_pages(fd: int, size: int) -> bytes:
    """For each page of the open file, which has `size` bytes, 1 if it is in memory and 0 if not.

    The kernel tells the truth to the file's owner, to root, and to whoever may write to it; to others it says 1 (Linux,
    mm/mincore.c). Raises OSError.
    """
    if not size:
        return b""
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap: " + os.strerror(ctypes.get_errno()))
    try:
        pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        if _LIBC.mincore(address, size, pages):
            raise OSError(ctypes.get_errno(), "mincore: " + os.strerror(ctypes.get_errno()))
        return pages.raw.translate(_FIRST_BIT)
    finally:
        _LIBC.munmap(address, size)


_FIRST_BIT = bytes(value & 1 for value in range(256))  # the other bits have no meaning


def cached_bytes(path: Path) -> int:
    """How many bytes of the file at `path` are in memory, whole pages each. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return sum(cached_pages(file.fileno(), os.fstat(file.fileno()).st_size)) * mmap.PAGESIZE


def drop_cached(path: Path) -> int:
    """Have the kernel forget what it can of the file at `path`; returns the bytes that stay in memory all the same.

    Those are pages that somebody has mapped, and all of a file that lies in memory (tmpfs). Raises OSError.
    """
    with path.open("rb", buffering=0) as file:
        with contextlib.suppress(OSError):  # what is not yet written stays; some file systems cannot be asked
            os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_bytes(path)


class ReadingAhead:
    """Reads the `extents`, (first byte, length) each, of the file at `path` in their order, in threads of its own.

    What was read is in memory then, as far as there is room. The threads do not keep the process from ending. Raises
    OSError where the file cannot be opened; one that cannot be read on is left, since its reader will meet the error.
    """

    def __init__(self, path: Path, extents: Sequence[tuple[int, int]]) -> None:
        self.read = 0
        """Bytes so far."""
        self._file = path.open("rb", buffering=0)
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # what lies between is not wanted
        self._steps = ((at, min(_STEP, start + length - at)) for start, length in extents
                       for at in range(start, start + length, _STEP))  # fmt: skip
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=[self._file], daemon=True) for _ in range(_READERS)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> int:
        """Wait for the end; returns the bytes that were read."""
        for thread in self._threads:
            thread.join()
        self._file.close()
        return self.read

    def _work(self, file: BinaryIO) -> None:
        buffer = bytearray(_STEP)
        while True:
            with self._lock:
                at, length = next(self._steps, (0, 0))
            if not length:
                return
            try:
                count = os.preadv(file.fileno(), [memoryview(buffer)[:length]], at)
            except OSError:
                return
            with self._lock:
                self.read += count
