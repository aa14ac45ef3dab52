"""The compressors that squashfs images of ours may have; lzo, lz4 and lzma are refused by name."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Final

import zstandard

from uenv_builder.images.squashfs.layout import COMPRESSORS, MAX_BLOCK, METADATA_SIZE, Compressor
from uenv_builder.model.errors import BuildError

Unpack = Callable[[bytes, int], bytes]
Pack = Callable[[bytes], bytes]

_READABLE: Final[dict[str, Compressor]] = {"gzip": "gzip", "xz": "xz", "zstd": "zstd"}
_XZ_MEMORY = 8 << 20  # bytes: a dictionary is at most one block
UNPACK_ERRORS: Final = (zlib.error, lzma.LZMAError, zstandard.ZstdError)


class TooLongError(ValueError):
    """A block's content is longer than the place that it is for."""


def compressor_name(number: int) -> Compressor:
    """The compressor with that number in a superblock. Raises BuildError for one that cannot be read here."""
    name = COMPRESSORS.get(number, f"number {number}")
    if name in _READABLE:
        return _READABLE[name]
    raise BuildError(
        f"the compressor is {name}; only zstd, gzip and xz are read here",
        rule="squashfs-unsupported",
        hint="make the image with mksquashfs -comp zstd",
    )


def unpacker(compressor: Compressor) -> Unpack:
    """A function that decompresses one block to at most so many bytes.

    It raises one of UNPACK_ERRORS for a damaged block, TooLongError for a longer content; not for use by two threads.
    """
    if compressor == "zstd":
        return _zstd_unpacker()
    return _unpack_zlib if compressor == "gzip" else _unpack_xz


def packer(compressor: Compressor, level: int | None = None) -> Pack:
    """A function that compresses one metadata block so that the kernel reads it; `level` None is the usual one.

    Levels are those of the compressor: zstd 1 to 22, gzip 1 to 9, xz 0 to 9.
    """
    if compressor == "zstd":
        return zstandard.ZstdCompressor(level=level or 3, write_checksum=False, write_content_size=True).compress
    if compressor == "gzip":
        return lambda content: zlib.compress(content, level or 9)
    # The kernel's xz knows no check but CRC32 and, where an image says nothing else, dictionaries of up to one block.
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 6 if level is None else level, "dict_size": METADATA_SIZE}
    return lambda content: lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=[lzma2])


def _zstd_unpacker() -> Unpack:
    decompress = zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK).decompress
    told = zstandard.frame_content_size

    def unpack(content: bytes, limit: int) -> bytes:
        # A frame's own claim of its size would be allocated at once.
        if told(content) > limit:
            raise TooLongError
        return decompress(content, max_output_size=limit)

    return unpack


def _unpack_zlib(content: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(content, limit + 1)
    if len(found) > limit:
        raise TooLongError
    if not stream.eof:
        raise zlib.error("the stream ends early")
    return found


def _unpack_xz(content: bytes, limit: int) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)
    found = stream.decompress(content, limit + 1)
    if len(found) > limit:
        raise TooLongError
    if not stream.eof:
        raise lzma.LZMAError("the stream ends early")
    return found
