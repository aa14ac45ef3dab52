"""Squashfs images, read: the tree, the source of its data, and the content of files.

Nothing of an image is trusted. Whatever the kernel would refuse, and what no program writes (directories or inodes that
overlap, a directory in two places), ends in one BuildError with the rule `squashfs-damaged`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import ge
from pathlib import Path
from typing import BinaryIO

from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.compressors import compressor_name, unpacker
from uenv_builder.images.squashfs.content import ContentReader, damaged
from uenv_builder.images.squashfs.inodes import KINDS, DirectoryTable, InodeTable, Listing
from uenv_builder.images.squashfs.layout import Compressor, Superblock
from uenv_builder.images.squashfs.metadata import DamageError, MetadataArea
from uenv_builder.images.squashfs.tables import Tables, read_tables
from uenv_builder.images.squashfs.tree import FileData, Node, Piece, Source
from uenv_builder.system.files import explained

MAX_ENTRIES = 1 << 22
"""Directory entries of an image that are read: each takes about 500 bytes of memory."""
_MAX_METADATA = 256 << 20  # bytes of all tables, compressed
_FORMAT_ERRORS = (DamageError, struct.error, IndexError, KeyError)


@dataclass(frozen=True, slots=True)
class SquashfsImage:
    """An open image. `root` is its tree, `source` its data; both serve until the image is closed.

    `options` are the compressor's, as on disk, empty for its usual ones. `size` is that of the image without padding.
    """

    path: Path
    compressor: Compressor
    block_size: int
    options: bytes
    mkfs_time: int
    inodes: int
    size: int
    root: Node
    source: Source

    def content(self, content: FileData) -> Iterator[bytes]:
        """A file's content, block by block. Raises BuildError where it is damaged.

        For many files take one ContentReader, which remembers fragments.
        """
        return self.contents().blocks(content)

    def contents(self) -> ContentReader:
        """A reader of the contents of this image's files."""
        return ContentReader(self.compressor, self.block_size, str(self.path))


@contextmanager
def open_squashfs(path: Path) -> Iterator[SquashfsImage]:
    """Read all but the data of the image at `path`, which stays open in the body.

    Raises BuildError for a file that cannot be read, is damaged, has another compressor than zstd, gzip or xz, or is
    larger than what is read here: 4 million directory entries, tables of 256 MiB.
    """
    with explained(path):
        file = path.open("rb", buffering=0)
    with file:
        try:
            with explained(path):
                image = _read(path, file)
        except _FORMAT_ERRORS as error:
            why = (
                str(error) if isinstance(error, DamageError) else "a record ends early, or refers to what is not there"
            )
            raise damaged(str(path), why) from error
        yield image


def _read(path: Path, file: BinaryIO) -> SquashfsImage:
    fd = file.fileno()
    top = _superblock(fd)
    compressor = compressor_name(top.compression)
    options = _options(fd, top)
    data_start = layout.SUPERBLOCK.size + (layout.METADATA_HEADER.size + len(options) if options else 0)
    if not data_start <= top.inode_table_start < top.directory_table_start <= top.bytes_used:
        raise DamageError("its tables are not in their order, or not in the image")
    length = top.bytes_used - top.inode_table_start
    if length > _MAX_METADATA:
        raise DamageError(f"its tables have {length} bytes, and at most {_MAX_METADATA} are read")
    area = MetadataArea(os.pread(fd, length, top.inode_table_start), top.inode_table_start, unpacker(compressor))
    if area.end != top.bytes_used:
        raise DamageError(f"it ends at {area.end} instead of {top.bytes_used}")
    tables = read_tables(area, top, data_start)
    piece = Piece(file, data_start, top.inode_table_start - data_start)
    source = Source([piece], tables.fragments)
    root = _tree(area, top, tables, source, data_start)
    return SquashfsImage(
        path, compressor, top.block_size, options, top.mkfs_time, top.inodes, top.bytes_used, root, source
    )


def _superblock(fd: int) -> Superblock:
    first = os.pread(fd, layout.SUPERBLOCK.size, 0)
    if len(first) < layout.SUPERBLOCK.size:
        raise DamageError(f"it has {len(first)} bytes only")
    top = Superblock._make(layout.SUPERBLOCK.unpack(first))
    if top.magic != layout.MAGIC:
        raise DamageError("it is no squashfs")
    if (top.major, top.minor) != (4, 0):
        raise DamageError(f"its version is {top.major}.{top.minor} instead of 4.0")
    if not layout.MIN_BLOCK <= top.block_size <= layout.MAX_BLOCK or top.block_size != 1 << min(top.block_log, 32):
        raise DamageError(f"its block size is {top.block_size}, and the logarithm {top.block_log}")
    return top


def _options(fd: int, top: Superblock) -> bytes:
    if not top.flags & layout.FLAG_COMPRESSOR_OPTIONS:
        return b""
    (header,) = layout.METADATA_HEADER.unpack(os.pread(fd, layout.METADATA_HEADER.size, layout.SUPERBLOCK.size))
    size = header & ~layout.STORED_METADATA
    if not header & layout.STORED_METADATA or not 0 < size <= layout.METADATA_SIZE:
        raise DamageError(f"the compressor's options have the size {header:#x}")
    return os.pread(fd, size, layout.SUPERBLOCK.size + layout.METADATA_HEADER.size)


def _tree(area: MetadataArea, top: Superblock, tables: Tables, source: Source, data_start: int) -> Node:
    inode_table = area.table(top.inode_table_start, top.directory_table_start)
    directories = DirectoryTable(area.table(top.directory_table_start, tables.end), inode_table)
    inodes = InodeTable(inode_table, top, tables, source, data_start)
    at = inode_table.starts[top.root_inode >> 16] + (top.root_inode & 0xFFFF)
    root, listing = inodes.read(at)
    if listing is None:
        raise DamageError("its root is no directory")
    nodes = {at: root}
    ahead = [(root, listing)]
    count = 0
    while ahead:
        folder, listing = ahead.pop()
        entries = directories.entries(listing)
        count += len(entries)
        if count > MAX_ENTRIES:
            raise DamageError(f"it has more than {MAX_ENTRIES} directory entries")
        _fill(folder, entries, inodes, nodes, ahead)
    return root


def _fill(
    folder: Node,
    entries: list[tuple[bytes, int, int]],
    inodes: InodeTable,
    nodes: dict[int, Node],
    ahead: list[tuple[Node, Listing]],
) -> None:
    children = folder.children
    for name, kind, at in entries:
        node = nodes.get(at)
        if node is None:
            node, listing = inodes.read(at)
            nodes[at] = node
            if listing is not None:
                ahead.append((node, listing))
        elif node.kind == "dir":
            raise DamageError(f"the directory {os.fsdecode(name)!r} is in two places")
        if KINDS.get(kind) != node.kind:
            raise DamageError(f"{os.fsdecode(name)!r} is a {node.kind}, but is listed with type {kind}")
        children[name] = node
    names = list(children)
    if len(names) != len(entries) or any(map(ge, names, names[1:])):
        raise DamageError("a directory has two entries with one name, or is not sorted")
    joined = b"".join(names)
    if b"/" in joined or b"\0" in joined or b"." in children or b".." in children:
        raise DamageError("a directory has an entry with a name that cannot be")
