"""A large file, written from its first byte to its last, past the kernel's page cache while that is the faster way.

Through the cache, each new page has to be found and filled, and is written to the disk later. In a virtual machine
whose free memory goes back to its host, finding it takes longer than writing to the disk at once (O_DIRECT, open(2));
on a machine with memory to spare and a slow disk it is the other way round. Nobody can know beforehand: both are tried,
again and again, and the faster one is used.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time

_BUFFER = 4 << 20  # bytes of one write; O_DIRECT needs whole blocks at addresses that are multiples of a block
_TRIAL = 4  # writes of either way before the faster one is chosen
_PERIOD = 128  # writes until both are tried again: the disk's own cache fills up, and so does the memory
_ADVANTAGE = 1.25  # how much faster the direct way has to be: what is in the cache is read fast afterwards


class LargeFile:
    """Writes to the open file `descriptor`, from its beginning; what was added last is written by `finish`.

    All methods raise OSError.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
        self._buffer = mmap.mmap(-1, _BUFFER)
        self._filled = 0
        self._writes = 0
        self._direct = False
        self._possible = True
        self._seconds = {False: 0.0, True: 0.0}

    def write(self, data: bytes) -> None:
        """Add `data` at the end."""
        view = memoryview(data)
        while view:
            taken = view[: _BUFFER - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            view = view[len(taken) :]
            if self._filled == _BUFFER:
                self._write_buffer()

    def finish(self) -> None:
        """Hand over to the kernel what is left, which may be less than a block."""
        self._switch(direct=False)
        self._write_out(self._filled)

    def _write_buffer(self) -> None:
        turn = self._writes % _PERIOD
        if turn == 0:
            self._seconds = {False: 0.0, True: 0.0}
        trying = turn < 2 * _TRIAL
        faster = self._seconds[True] * _ADVANTAGE < self._seconds[False]
        self._switch(direct=turn >= _TRIAL if trying else faster)
        begun = time.monotonic()
        self._write_out(_BUFFER)
        if trying:
            self._seconds[self._direct] += time.monotonic() - begun
        self._writes += 1

    def _switch(self, *, direct: bool) -> None:
        wanted = direct and self._possible
        if wanted == self._direct:
            return
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, self._flags | (os.O_DIRECT if wanted else 0))
        except OSError:
            self._possible = False  # the file system has no such way
            return
        self._direct = wanted

    def _write_out(self, size: int) -> None:
        done = 0
        with memoryview(self._buffer) as buffer:
            while done < size:
                try:
                    count = os.write(self.descriptor, buffer[done:size])
                except OSError as error:
                    if not self._direct or error.errno != errno.EINVAL:
                        raise
                    self._possible, count = False, 0  # some file systems say only now that they cannot
                done += count
                if done < size:  # a part of a block may be left, which only the cache can take
                    self._switch(direct=False)
        self._filled = 0
