"""A file that is served by this process, over itself: every read of it is seen, and nothing of it is kept in memory.

It is a FUSE file system that has a file as its root (Linux, include/uapi/linux/fuse.h, version 7.31), mounted on the
file's own path in a mount namespace of this process. The kernel asks for exactly the bytes that are read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from uenv_builder.sandboxes.interface import Read

_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_READ_IN = struct.Struct("<QQI")
_ATTR = struct.Struct("<QII QQQQQQIIIIIIIIII")
_OPEN_OUT = struct.Struct("<QIi")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_STATFS_OUT = struct.Struct("<QQQQQIII28x")
_FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE, _FSYNC, _FLUSH, _INIT, _BATCH_FORGET = (
    *(2, 3, 14, 15, 17, 18, 20, 25, 26, 42),
)
_FOPEN_DIRECT_IO, _FOPEN_KEEP_CACHE = 1 << 0, 1 << 1
_ASYNC_READ, _MAX_PAGES = 1 << 0, 1 << 22
_LONGEST_READ = 256  # pages; what FUSE takes at most without further settings
_MS_NOSUID_NODEV_RDONLY = 2 | 4 | 1
_BUFFER = 1 << 16  # of requests: reads are short


class ServedFile:
    """Serves the file at `path` from now on, until the process ends; `reads` are those so far.

    `direct` lets each read through as it is; otherwise the kernel keeps pages and reads ahead, as it does on a disk.
    `before` is called with each read before it is answered. Raises OSError where FUSE is not there or may not be used.
    """

    def __init__(
        self, path: Path, *, direct: bool = True, threads: int = 4, before: Callable[[Read], None] | None = None
    ) -> None:
        self.reads: list[Read] = []
        self._flags = _FOPEN_DIRECT_IO if direct else _FOPEN_KEEP_CACHE
        self._before = before
        self._content = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._content).st_size
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        _mount(path, self._device)
        for _ in range(threads):
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, _BUFFER)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.ENOENT, errno.EAGAIN}:
                    continue
                return  # it is unmounted
            _, operation, unique, *_ = _IN_HEADER.unpack_from(request)
            if operation in {_FORGET, _BATCH_FORGET}:
                continue
            code, answer = self._answer(operation, request[_IN_HEADER.size :])
            head = _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), -code, unique)
            try:
                os.writev(self._device, [head, answer])
            except OSError as error:
                if error.errno != errno.ENOENT:  # whoever asked is gone
                    return

    def _answer(self, operation: int, body: bytes) -> tuple[int, bytes]:
        if operation == _READ:
            return self._read(body)
        if operation == _INIT:
            (_, _, ahead, flags) = struct.unpack_from("<IIII", body)
            flags &= _ASYNC_READ | _MAX_PAGES
            return 0, _INIT_OUT.pack(7, 31, ahead, flags, 64, 48, 4096, 1, _LONGEST_READ, 0, 0)
        if operation == _GETATTR:
            blocks = -(-self.size // 512)
            mode = stat.S_IFREG | 0o444
            return 0, _ATTR.pack(3600, 0, 0, 1, self.size, blocks, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)
        if operation == _OPEN:
            return 0, _OPEN_OUT.pack(0, self._flags, -1)
        if operation == _STATFS:
            return 0, _STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096)
        return (0, b"") if operation in {_RELEASE, _FLUSH, _FSYNC} else (errno.ENOSYS, b"")

    def _read(self, body: bytes) -> tuple[int, bytes]:
        _, start, length = _READ_IN.unpack_from(body)
        read = Read(time.monotonic(), start, length)
        self.reads.append(read)
        if self._before:
            self._before(read)
        try:
            return 0, os.pread(self._content, length, start)
        except OSError as error:
            return error.errno or errno.EIO, b""


def _mount(path: Path, device: int) -> None:
    options = f"fd={device},rootmode={stat.S_IFREG | 0o444:o},user_id={os.geteuid()},group_id={os.getegid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    words = [b"uenv", os.fsencode(path), b"fuse", ctypes.c_ulong(_MS_NOSUID_NODEV_RDONLY), options.encode()]
    if libc.mount(*words):
        raise OSError(ctypes.get_errno(), f"FUSE cannot be mounted: {os.strerror(ctypes.get_errno())}")
