"""The writer of a layer's blob: a tar stream cut into zstd frames that can also be blocks and fragments of a squashfs.

Each frame is compressed by itself, so that the bytes do not depend on how many threads do it. Frames name their content
size, need no window beyond it, and have no checksum: the form that Linux reads with the least memory.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import zstandard
from xxhash import xxh3_128_digest

from uenv_builder.model.segment import RAW_BLOCK, Unit

BLOCK_SIZE = 256 << 10
"""Bytes of the tar stream that a frame holds at most, unless the caller says otherwise."""

_MIN_BLOCK, _MAX_BLOCK = 4 << 10, 1 << 20  # what squashfs allows
_AHEAD = 4  # units that wait or are compressed at a time, for each thread
_MAGIC = b"\x28\xb5\x2f\xfd"
_SINGLE_SEGMENT = 0b10100000  # frame header descriptor: content size in 4 bytes, single segment, no checksum
_LAST = 1  # of a block's header; a raw block's type is 0, its size begins at the third bit

Data = bytes | bytearray


class Sink(Protocol):
    """Where frames are written to."""

    def write(self, data: bytes, /) -> int: ...  # noqa: D102


class _Frame(NamedTuple):
    content: bytes
    raw: bool
    check: bytes


class _Job(NamedTuple):
    data: Data
    zero: bool
    frame: Future[_Frame]


def check_block_size(block_size: int) -> int:
    """`block_size`, if squashfs allows it: a power of two from 4 KiB to 1 MiB; else raises ValueError."""
    if not _MIN_BLOCK <= block_size <= _MAX_BLOCK or block_size & (block_size - 1):
        raise ValueError(f"{block_size} is no power of two from {_MIN_BLOCK} to {_MAX_BLOCK}")
    return block_size


def raw_frame(data: Data) -> bytes:
    """`data`, up to 4 GiB and not empty, as a zstd frame of blocks that are not compressed."""
    parts: list[bytes | memoryview] = [_MAGIC, struct.pack("<BI", _SINGLE_SEGMENT, len(data))]
    view = memoryview(data)
    for start in range(0, len(data), RAW_BLOCK):
        block = view[start : start + RAW_BLOCK]
        last = _LAST if start + RAW_BLOCK >= len(data) else 0
        parts += [(len(block) << 3 | last).to_bytes(3, "little"), block]
    return b"".join(parts)


class FrameWriter:
    """Writes a tar stream, given in pieces, to `out`, compressed by `threads` threads (0: one for each processor).

    Use it as a context manager: leaving it stops the threads, and `close` completes the stream. At most a few blocks
    for each thread are in memory. `level` is zstd's, that of units that several files share is one higher:
    what is small compresses worse, and there is little of it. The digests, `size` and `units` are complete after
    `close`.
    """

    def __init__(self, out: Sink, *, level: int, block_size: int = BLOCK_SIZE, threads: int = 0) -> None:
        self.block_size = check_block_size(block_size)
        self.tar_sha256 = hashlib.sha256()
        self.blob_sha256 = hashlib.sha256()
        self.size = 0
        self.units: list[Unit] = []
        self._out = out
        self._level = level
        self._shared = bytearray()
        self._begun = 0
        self._waiting: deque[_Job] = deque()
        threads = threads if threads > 0 else len(os.sched_getaffinity(0))
        self._most = _AHEAD * threads
        self._zeros = bytes(block_size)
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, data: bytes) -> None:
        """Add what is no file's content: headers and padding, which share units with the tails of files."""
        for start in range(0, len(data), self.block_size):
            self._share(data[start : start + self.block_size])

    def add_tail(self, data: bytes) -> tuple[int, int]:
        """Add the end of a file, less than a block; returns the number of its unit, and its offset in that."""
        offset = self._share(data)
        return self._begun, offset

    def add_block(self, data: bytes) -> int:
        """Add a full block of a file; returns the number of its unit, which is the one after that of the last call."""
        self._flush()
        self._begin(data, self._level, zero=data == self._zeros)
        return self._begun - 1

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        while self._waiting:
            self._write_oldest()

    def _share(self, data: bytes) -> int:
        if len(self._shared) + len(data) > self.block_size:
            self._flush()
        offset = len(self._shared)
        self._shared += data
        return offset

    def _flush(self) -> None:
        if self._shared:
            data, self._shared = self._shared, bytearray()
            self._begin(data, min(self._level + 1, zstandard.MAX_COMPRESSION_LEVEL))

    def _begin(self, data: Data, level: int, *, zero: bool = False) -> None:
        while self._waiting and (len(self._waiting) >= self._most or self._waiting[0].frame.done()):
            self._write_oldest()
        self._begun += 1
        self._waiting.append(_Job(data, zero, self._pool.submit(self._compress, data, level)))
        self.tar_sha256.update(data)

    def _write_oldest(self) -> None:
        data, zero, waiting = self._waiting.popleft()
        frame = waiting.result()
        self._out.write(frame.content)
        self.blob_sha256.update(frame.content)
        self.units.append(Unit(self.size, len(frame.content), len(data), frame.raw, zero, frame.check))
        self.size += len(frame.content)

    def _compress(self, data: Data, level: int) -> _Frame:
        if (compressors := getattr(self._own, "compressors", None)) is None:
            compressors = self._own.compressors = {}
        if level not in compressors:
            compressors[level] = self._compressor(level)
        frame: bytes = compressors[level].compress(data)
        raw = len(frame) >= len(data)
        if raw:
            frame = raw_frame(data)
        return _Frame(frame, raw, xxh3_128_digest(frame))

    def _compressor(self, level: int) -> zstandard.ZstdCompressor:
        # Low levels have windows below 1 MiB; one as large as the block makes a single segment of it at any level.
        window = self.block_size.bit_length() - 1
        return zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(
                compression_level=level, window_log=window, write_content_size=True, write_checksum=False
            )
        )
