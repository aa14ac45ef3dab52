"""Metadata blocks: up to 8 KiB each, compressed one by one, that inodes, directories and tables are kept in.

A record is named by the place of its block in the table, as compressed, and its offset in the block's content; it may
go on in the next block.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from uenv_builder.images.squashfs.compressors import UNPACK_ERRORS, Pack, TooLongError, Unpack
from uenv_builder.images.squashfs.layout import METADATA_HEADER, METADATA_SIZE, REFERENCE, STORED_METADATA

MAX_TABLE = 256 << 20
"""Bytes of one table after decompression that are read; two million files have tables of about 80 MiB."""


class DamageError(ValueError):
    """What is wrong with an image, in words; the reader adds the image's path."""


class Table(NamedTuple):
    """A table's content, and by the place of each of its blocks (counted from the table's start), where it begins."""

    content: bytes
    starts: dict[int, int]


class MetadataArea:
    """The part of an image behind its data: `content`, from the byte `start` on. Places are the image's."""

    __slots__ = ("_content", "_unpack", "end", "start")

    def __init__(self, content: bytes, start: int, unpack: Unpack) -> None:
        self._content = content
        self._unpack = unpack
        self.start = start
        self.end = start + len(content)

    def bytes_at(self, start: int, length: int) -> bytes:
        """Bytes as they are on disk. Raises DamageError where there are none."""
        if start < self.start or start + length > self.end:
            raise DamageError(f"{length} bytes at {start} are not between {self.start} and {self.end}")
        return self._content[start - self.start : start - self.start + length]

    def block(self, start: int) -> tuple[bytes, int]:
        """The content of the block at `start`, and where the next one begins."""
        (header,) = METADATA_HEADER.unpack(self.bytes_at(start, METADATA_HEADER.size))
        size = header & ~STORED_METADATA
        stored = self.bytes_at(start + METADATA_HEADER.size, size)
        end = start + METADATA_HEADER.size + size
        if not 0 < size <= METADATA_SIZE:
            raise DamageError(f"the metadata block at {start} has a size of {size}")
        if header & STORED_METADATA:
            return stored, end
        try:
            return self._unpack(stored, METADATA_SIZE), end
        except UNPACK_ERRORS as error:
            raise DamageError(f"the metadata block at {start} cannot be decompressed: {error}") from error
        except TooLongError as error:
            raise DamageError(f"the metadata block at {start} has more than {METADATA_SIZE} bytes") from error

    def table(self, start: int, end: int) -> Table:
        """The blocks from `start` to `end`, where the last one has to end."""
        contents: list[bytes] = []
        starts: dict[int, int] = {}
        at = start
        size = 0
        while at < end:
            starts[at - start] = size
            content, at = self.block(at)
            contents.append(content)
            size += len(content)
            if size > MAX_TABLE:
                raise DamageError(f"the table at {start} has more than {MAX_TABLE} bytes")
        if at != end:
            raise DamageError(f"the table from {start} to {end} ends at {at}")
        return Table(b"".join(contents), starts)

    def lookup_table(self, start: int, end: int, count: int, record: Struct, *, head: int = 0) -> tuple[bytes, int]:
        """`count` records whose blocks the places from `start` to `end` name, and where their first block begins.

        The last block ends `head` bytes before `start`. What the kernel checks when it mounts an image is checked:
        places ascend, and a block is no longer than it can be.
        """
        size = count * record.size
        blocks = -(-size // METADATA_SIZE)
        if count == 0 or start + blocks * REFERENCE.size != end:
            raise DamageError(f"a table of {count} records cannot lie from {start} to {end}")
        places = [place for (place,) in REFERENCE.iter_unpack(self.bytes_at(start, end - start))]
        for place, following in zip(places, [*places[1:], start - head], strict=True):
            if not 0 < following - place <= METADATA_SIZE + METADATA_HEADER.size:
                raise DamageError(f"a block of the table at {start} lies from {place} to {following}")
        content = b"".join([self.block(place)[0] for place in places])
        if len(content) != size:
            raise DamageError(f"the table at {start} has {len(content)} bytes instead of {size}")
        return content, places[0]


class MetadataWriter:
    """A table under way. `out` is what is written of it."""

    __slots__ = ("_block", "_compress", "_place", "_starts", "out")

    def __init__(self, compress: Pack) -> None:
        self.out = bytearray()
        self._block = bytearray()
        self._compress = compress
        self._starts = [0]
        self._place = 0

    def add(self, record: bytes) -> int:
        """Add a record; returns its reference: the place of its block times 65536, plus its offset there."""
        block = self._block
        reference = self._place | len(block)
        block += record
        while len(block) >= METADATA_SIZE:
            self._write(METADATA_SIZE)
        return reference

    def block_start(self, position: int) -> int:
        """The place of the block with the byte `position` of the table's content, of which that byte is written."""
        return self._starts[position // METADATA_SIZE]

    @property
    def size(self) -> int:
        """The bytes of the content so far."""
        return (len(self._starts) - 1) * METADATA_SIZE + len(self._block)

    def finish(self) -> bytearray:
        """The whole table."""
        if self._block:
            self._write(len(self._block))
        return self.out

    def _write(self, size: int) -> None:
        content = bytes(self._block[:size])
        del self._block[:size]
        packed = self._compress(content)
        if len(packed) < size:
            self.out += METADATA_HEADER.pack(len(packed)) + packed
        else:
            self.out += METADATA_HEADER.pack(size | STORED_METADATA) + content
        self._starts.append(len(self.out))
        self._place = len(self.out) << 16


def write_lookup_table(records: bytes, start: int, compress: Pack, head: bytes = b"") -> tuple[bytes, int]:
    """A table to be written at `start`, and where its `head` begins: blocks with `records`, head, places of the blocks.

    The size of a record divides that of a block.
    """
    writer = MetadataWriter(compress)
    writer.add(records)
    blocks = bytes(writer.finish())
    count = -(-len(records) // METADATA_SIZE)
    places = b"".join([REFERENCE.pack(start + writer.block_start(index * METADATA_SIZE)) for index in range(count)])
    return blocks + head + places, start + len(blocks)
