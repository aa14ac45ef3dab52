"""The small tables of an image: fragments, owners, extended attributes; read, and the last one written."""

from __future__ import annotations

import os
from typing import NamedTuple

from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.compressors import Pack
from uenv_builder.images.squashfs.layout import Superblock
from uenv_builder.images.squashfs.metadata import DamageError, MetadataArea, MetadataWriter, Table, write_lookup_table
from uenv_builder.images.squashfs.tree import Xattrs
from uenv_builder.model.errors import BuildError


class Tables(NamedTuple):
    """What the inodes refer to: owners by index, lists of attributes by index, fragments as in a Source.

    `end` is where the directory table ends: at the first of the other tables.
    """

    ids: list[int]
    xattrs: list[Xattrs]
    fragments: list[tuple[int, int]]
    end: int


def read_tables(area: MetadataArea, top: Superblock, data_start: int) -> Tables:
    """The tables behind the directories, from the last to the first, each ending where the next begins.

    The order and the checks are those of the kernel (fs/squashfs/super.c). Raises DamageError.
    """
    end = top.bytes_used
    xattrs: list[Xattrs] = []
    if top.xattr_id_table_start != layout.NO_TABLE:
        xattrs, end = _read_xattrs(area, top)
    content, end = area.lookup_table(top.id_table_start, end, top.no_ids, layout.ID)
    ids = [number for (number,) in layout.ID.iter_unpack(content)]
    if top.lookup_table_start != layout.NO_TABLE:
        _, end = area.lookup_table(top.lookup_table_start, end, top.inodes, layout.REFERENCE)
    fragments: list[tuple[int, int]] = []
    if top.fragments:
        content, end = area.lookup_table(top.fragment_table_start, end, top.fragments, layout.FRAGMENT)
        fragments = [(start - data_start, word) for start, word, _ in layout.FRAGMENT.iter_unpack(content)]
    for start, word in fragments:
        size = word & layout.SIZE_MASK
        if start < 0 or start + data_start + size > top.inode_table_start or not 0 < size <= top.block_size:
            raise DamageError(f"a fragment of {size} bytes at {start + data_start} is not in the data area")
        if word >= layout.STORED_BLOCK << 1:
            raise DamageError(f"a fragment's size is {word:#x}")
    return Tables(ids, xattrs, fragments, end)


def _read_xattrs(area: MetadataArea, top: Superblock) -> tuple[list[Xattrs], int]:
    head = top.xattr_id_table_start
    start, count, _ = layout.XATTR_HEAD.unpack(area.bytes_at(head, layout.XATTR_HEAD.size))
    if not count:
        raise DamageError("the table of extended attributes is empty")
    content, first = area.lookup_table(
        head + layout.XATTR_HEAD.size, top.bytes_used, count, layout.XATTR_ID, head=layout.XATTR_HEAD.size
    )
    if start >= first:
        raise DamageError(f"the table of extended attributes from {start} to {first} is empty")
    lists = _XattrLists(area.table(start, first))
    return [lists.read(reference, number) for reference, number, _ in layout.XATTR_ID.iter_unpack(content)], start


class _XattrLists:
    """Lists of attributes by reference. All that is read together is at most twice the table: nothing overlaps."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._left = 2 * len(table.content)
        self._lists: dict[tuple[int, int], Xattrs] = {}
        self._values: dict[int, bytes] = {}

    def read(self, reference: int, count: int) -> Xattrs:
        found = self._lists.get((reference, count))
        if found is None:
            found = self._lists[reference, count] = tuple(sorted(self._entries(reference, count)))
        return found

    def _entries(self, reference: int, count: int) -> list[tuple[bytes, bytes]]:
        at = self._place(reference)
        found: list[tuple[bytes, bytes]] = []
        for _ in range(count):
            kind, size = layout.XATTR_NAME.unpack_from(self._table.content, at)
            name = self._take(at + layout.XATTR_NAME.size, size)
            prefix = kind & ~layout.XATTR_ELSEWHERE
            if prefix >= len(layout.XATTR_PREFIXES):
                raise DamageError(f"an extended attribute is of the unknown kind {prefix}")
            at += layout.XATTR_NAME.size + size
            value, at = self._value(at)
            found.append(
                (
                    layout.XATTR_PREFIXES[prefix] + name,
                    self._elsewhere(value) if kind & layout.XATTR_ELSEWHERE else value,
                )
            )
        return found

    def _elsewhere(self, value: bytes) -> bytes:
        (reference,) = layout.REFERENCE.unpack(value)
        if reference not in self._values:
            self._values[reference], _ = self._value(self._place(reference))
        return self._values[reference]

    def _value(self, at: int) -> tuple[bytes, int]:
        (size,) = layout.XATTR_VALUE.unpack_from(self._table.content, at)
        at += layout.XATTR_VALUE.size
        return self._take(at, size), at + size

    def _take(self, at: int, size: int) -> bytes:
        self._left -= size + 1
        if at + size > len(self._table.content) or self._left < 0:
            raise DamageError("extended attributes overlap or end early")
        return self._table.content[at : at + size]

    def _place(self, reference: int) -> int:
        try:
            return self._table.starts[reference >> 16] + (reference & 0xFFFF)
        except KeyError:
            raise DamageError(f"no block of extended attributes is at {reference >> 16}") from None


class XattrWriter:
    """The lists of attributes of an image, each stored once, and so is each value that is longer than a reference."""

    def __init__(self, compress: Pack) -> None:
        self._compress = compress
        self._table = MetadataWriter(compress)
        self._lists: dict[Xattrs, int] = {}
        self._values: dict[bytes, int] = {}
        self._ids = bytearray()

    def index(self, xattrs: Xattrs) -> int:
        """The index that an inode names the list by. Raises BuildError for a name that squashfs cannot hold."""
        if not xattrs:
            return layout.NO_XATTR
        ordered = tuple(sorted(xattrs))
        if ordered not in self._lists:
            self._lists[ordered] = len(self._lists)
            references = [self._add(name, value) for name, value in ordered]
            size = sum([len(name) + 1 + len(value) for name, value in ordered])
            self._ids += layout.XATTR_ID.pack(references[0], len(ordered), size)
        return self._lists[ordered]

    def finish(self, start: int) -> tuple[bytes, int]:
        """The tables, to be written at `start`, and where the id table begins: NO_TABLE if there are no attributes."""
        if not self._lists:
            return b"", layout.NO_TABLE
        table = bytes(self._table.finish())
        head = layout.XATTR_HEAD.pack(start, len(self._lists), 0)
        ids, id_table = write_lookup_table(bytes(self._ids), start + len(table), self._compress, head)
        return table + ids, id_table

    def _add(self, name: bytes, value: bytes) -> int:
        prefix = next((prefix for prefix in layout.XATTR_PREFIXES if name.startswith(prefix)), b"")
        short = name.removeprefix(prefix)
        if not prefix or not 0 < len(short) <= layout.MAX_XATTR_NAME:
            raise BuildError(
                f"squashfs cannot hold the extended attribute {os.fsdecode(name)!r}: names begin with user., "
                f"trusted. or security. and go on for 1 to {layout.MAX_XATTR_NAME} bytes",
                rule="squashfs-unsupported",
                hint="leave the attribute out",
            )
        kind = layout.XATTR_PREFIXES.index(prefix)
        if value in self._values and len(value) > layout.REFERENCE.size:
            there = layout.XATTR_VALUE.pack(layout.REFERENCE.size) + layout.REFERENCE.pack(self._values[value])
            return self._table.add(layout.XATTR_NAME.pack(kind | layout.XATTR_ELSEWHERE, len(short)) + short + there)
        reference = self._table.add(layout.XATTR_NAME.pack(kind, len(short)) + short)
        self._values.setdefault(value, self._table.add(layout.XATTR_VALUE.pack(len(value)) + value))
        return reference
