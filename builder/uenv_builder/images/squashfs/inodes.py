"""Inodes and directory listings, as they are read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.layout import Superblock, block_count
from uenv_builder.images.squashfs.metadata import DamageError, Table
from uenv_builder.images.squashfs.tables import Tables
from uenv_builder.images.squashfs.tree import FileData, Node, NodeKind, Source, Xattrs

KINDS: dict[int, NodeKind] = {
    layout.DIR: "dir",
    layout.FILE: "file",
    layout.SYMLINK: "symlink",
    layout.BLOCK: "block",
    layout.CHAR: "char",
    layout.FIFO: "fifo",
    layout.SOCKET: "socket",
}
"""By the type that a directory entry names, which is the inode's basic type."""
_PERMISSIONS = 0o7777
_read_file = layout.FILE_INODE.unpack_from
_FILE_SIZE = layout.FILE_INODE.size


class Listing(NamedTuple):
    """Where the entries of a directory are: a block of the directory table, an offset in it, their bytes."""

    start_block: int
    offset: int
    size: int


class InodeTable:
    """The inodes of an image by their place in the table's content.

    Each is to be read once; when all together are longer than the table they overlap, which is damage.
    """

    def __init__(self, table: Table, top: Superblock, tables: Tables, source: Source, data_start: int) -> None:
        self._bytes = table.content
        self._left = len(table.content)
        self._inodes = top.inodes
        self._ids = tables.ids
        self._xattrs = tables.xattrs
        self._source = source
        self._fragments = len(tables.fragments)
        self._block_size = top.block_size
        self._data_start = data_start
        basic: dict[int, Callable[[int], tuple[Node, Listing | None]]] = {
            layout.DIR: self._dir,
            layout.FILE: self._file,
            layout.SYMLINK: self._symlink,
            **dict.fromkeys((layout.BLOCK, layout.CHAR, layout.FIFO, layout.SOCKET), self._other),
        }
        extended = {kind + layout.EXTENDED: reader for kind, reader in basic.items()}
        special = {layout.DIR + layout.EXTENDED: self._long_dir, layout.FILE + layout.EXTENDED: self._long_file}
        self._readers = {**basic, **extended, **special}

    def read(self, at: int) -> tuple[Node, Listing | None]:
        """The node, and where the entries are if it is a directory. Raises DamageError, struct.error and IndexError."""
        kind = self._bytes[at] | self._bytes[at + 1] << 8
        reader = self._readers.get(kind)
        if reader is None:
            raise DamageError(f"an inode is of the unknown type {kind}")
        return reader(at)

    def _dir(self, at: int) -> tuple[Node, Listing]:
        _, mode, uid, gid, mtime, number, block, _, size, offset, _ = layout.DIR_INODE.unpack_from(self._bytes, at)
        self._take(number, layout.DIR_INODE.size)
        node = Node("dir", mode & _PERMISSIONS, self._ids[uid], self._ids[gid], mtime)
        return node, Listing(block, offset, size - layout.DOTS)

    def _long_dir(self, at: int) -> tuple[Node, Listing]:
        fields = layout.LONG_DIR_INODE.unpack_from(self._bytes, at)
        _, mode, uid, gid, mtime, number, _, size, block, _, _, offset, xattr = fields
        self._take(number, layout.LONG_DIR_INODE.size)
        node = Node("dir", mode & _PERMISSIONS, self._ids[uid], self._ids[gid], mtime, self._attributes(xattr))
        return node, Listing(block, offset, size - layout.DOTS)

    def _file(self, at: int) -> tuple[Node, None]:
        _, mode, uid, gid, mtime, number, start, fragment, offset, size = _read_file(self._bytes, at)
        content = self._content(at + _FILE_SIZE, start, (size, 0), (fragment, offset))
        self._take(number, _FILE_SIZE + 4 * len(content.words))
        return Node("file", mode & _PERMISSIONS, self._ids[uid], self._ids[gid], mtime, (), {}, content), None

    def _long_file(self, at: int) -> tuple[Node, None]:
        fields = layout.LONG_FILE_INODE.unpack_from(self._bytes, at)
        _, mode, uid, gid, mtime, number, start, size, sparse, _, fragment, offset, xattr = fields
        content = self._content(at + layout.LONG_FILE_INODE.size, start, (size, sparse), (fragment, offset))
        self._take(number, layout.LONG_FILE_INODE.size + 4 * len(content.words))
        node = Node("file", mode & _PERMISSIONS, self._ids[uid], self._ids[gid], mtime, self._attributes(xattr))
        node.content = content
        return node, None

    def _symlink(self, at: int) -> tuple[Node, None]:
        kind, mode, uid, gid, mtime, number, _, size = layout.SYMLINK_INODE.unpack_from(self._bytes, at)
        at += layout.SYMLINK_INODE.size
        target = self._bytes[at : at + size]
        if not len(target) == size <= layout.MAX_TARGET or b"\0" in target:
            raise DamageError(f"a symbolic link's text of {size} bytes ends early, is too long or has a zero byte")
        self._take(number, layout.SYMLINK_INODE.size + size)
        node = Node(
            "symlink", mode & _PERMISSIONS, self._ids[uid], self._ids[gid], mtime, self._behind(kind, at + size)
        )
        node.target = target
        return node, None

    def _other(self, at: int) -> tuple[Node, None]:
        kind, mode, uid, gid, mtime, number, _ = layout.IPC_INODE.unpack_from(self._bytes, at)
        basic = kind - layout.EXTENDED if kind > layout.EXTENDED else kind
        fields = layout.DEVICE_INODE if basic in {layout.BLOCK, layout.CHAR} else layout.IPC_INODE
        self._take(number, fields.size)
        node = Node(KINDS[basic], mode & _PERMISSIONS, self._ids[uid], self._ids[gid], mtime)
        node.xattrs = self._behind(kind, at + fields.size)
        if fields is layout.DEVICE_INODE:
            node.device = fields.unpack_from(self._bytes, at)[-1]
        return node, None

    def _take(self, number: int, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DamageError("inodes overlap")
        if not 0 < number <= self._inodes:
            raise DamageError(f"an inode has the number {number}, and there are {self._inodes}")

    def _attributes(self, index: int) -> Xattrs:
        if index == layout.NO_XATTR or not self._xattrs:  # the kernel ignores indices where there is no table
            return ()
        return self._xattrs[index]

    def _behind(self, kind: int, at: int) -> Xattrs:
        return self._attributes(layout.XATTR_INDEX.unpack_from(self._bytes, at)[0]) if kind > layout.EXTENDED else ()

    def _content(self, at: int, start: int, sizes: tuple[int, int], tail_end: tuple[int, int]) -> FileData:
        size, sparse = sizes
        fragment, offset = tail_end
        block_size = self._block_size
        whole = fragment == layout.NO_FRAGMENT
        count = block_count(size, block_size, fragment=not whole)
        words: tuple[int, ...] = ()
        if count:
            if at + 4 * count > len(self._bytes):
                raise DamageError(f"a file of {size} bytes has fewer than {count} words")
            words = struct.unpack_from(f"<{count}I", self._bytes, at)
            start = self._data_place(start, words)
        else:
            start = 0
        if whole:
            return FileData(size, self._source, start, words, None, 0, sparse)
        tail = size % block_size
        if fragment >= self._fragments or not tail or offset + tail > block_size:
            raise DamageError(f"{tail} bytes at {offset} of fragment {fragment} cannot be a tail end")
        return FileData(size, self._source, start, words, fragment, offset, sparse)

    def _data_place(self, start: int, words: tuple[int, ...]) -> int:
        """The place in the data area of blocks with these words, that begin at the byte `start` of the image."""
        sizes = [word & layout.SIZE_MASK for word in words]
        stored = sum(sizes)
        if not stored:
            return 0
        # A stored block of no bytes is neither a block nor a hole.
        if max(words) >= layout.STORED_BLOCK << 1 or max(sizes) > self._block_size or layout.STORED_BLOCK in words:
            raise DamageError(f"a block's size is {max(words):#x}")
        place = start - self._data_start
        if place < 0 or place + stored > self._source.size:
            raise DamageError(f"{stored} bytes at {start} are not in the data area")
        return place


class DirectoryTable:
    """The listings of an image's directories. All together are no longer than the table; what is, overlaps."""

    def __init__(self, table: Table, inodes: Table) -> None:
        self._bytes = table.content
        self._starts = table.starts
        self._left = len(table.content)
        self._inodes = inodes.starts

    def entries(self, listing: Listing) -> list[tuple[bytes, int, int]]:
        """Name, type and place of the inode of each entry. Raises DamageError, struct.error and KeyError."""
        if listing.size <= 0:
            return []  # what is said of the place of an empty listing may be beyond the table
        at = self._starts[listing.start_block] + listing.offset
        end = at + listing.size
        self._left -= listing.size
        if end > len(self._bytes) or self._left < 0:
            raise DamageError("a directory ends early, or directories overlap")
        found: list[tuple[bytes, int, int]] = []
        while at < end:
            count, block, _ = layout.DIRECTORY_HEADER.unpack_from(self._bytes, at)
            if count >= layout.DIRECTORY_RUN:
                raise DamageError(f"a directory header has {count + 1} entries")
            at = self._run(at + layout.DIRECTORY_HEADER.size, count + 1, self._inodes[block], found)
        if at != end:
            raise DamageError("a directory ends within an entry")
        return found

    def _run(self, at: int, count: int, base: int, found: list[tuple[bytes, int, int]]) -> int:
        content = self._bytes
        unpack = layout.DIRECTORY_ENTRY.unpack_from
        for _ in range(count):
            offset, _, kind, length = unpack(content, at)
            if length >= layout.MAX_NAME or offset >= layout.METADATA_SIZE:
                raise DamageError(f"a directory entry has a name of {length + 1} bytes, and an inode at {offset}")
            at += 9 + length
            found.append((content[at - length - 1 : at], kind, base + offset))
        return at
