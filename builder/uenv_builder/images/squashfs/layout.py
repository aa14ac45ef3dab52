"""The records of squashfs 4.0 on disk, little-endian, and its constants (Linux, fs/squashfs/squashfs_fs.h).

Each `struct.Struct` lists its fields in the order of the disk; docs/explanation/squashfs.md shows them together.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Literal, NamedTuple

MAGIC: Final = 0x73717368
METADATA_SIZE: Final = 8192
"""Inodes, directories and tables are kept in blocks of this size before compression; the last of a table is shorter."""
STORED_METADATA: Final = 0x8000
"""Bit of a metadata block's 16-bit header: the block is not compressed. The other bits are its size on disk."""
STORED_BLOCK: Final = 1 << 24
"""Bit of a data block's or fragment's word: it is not compressed."""
SIZE_MASK: Final = STORED_BLOCK - 1
"""Bits of such a word that are the size on disk; a word of 0 is a hole of one block."""
NO_FRAGMENT: Final = 0xFFFFFFFF
NO_XATTR: Final = 0xFFFFFFFF
NO_TABLE: Final = 0xFFFFFFFFFFFFFFFF
"""In place of a table's start: there is none."""
PADDING: Final = 4096
MIN_BLOCK: Final = 4096
MAX_BLOCK: Final = 1 << 20
MAX_NAME: Final = 256
MAX_TARGET: Final = 4096
"""Bytes of a symbolic link's text; the kernel refuses longer ones (one page)."""
MAX_IDS: Final = 0xFFFF
"""Different owners and groups: the superblock counts them in 16 bits, and inodes name them by 16 bits."""
DIRECTORY_RUN: Final = 256
"""Entries below one directory header."""
DOTS: Final = 3
"""What a directory's `file_size` counts for `.` and `..`, which are not stored."""

FLAG_DEDUPLICATED: Final = 0x0040
FLAG_EXPORTABLE: Final = 0x0080
FLAG_NO_XATTRS: Final = 0x0200
FLAG_COMPRESSOR_OPTIONS: Final = 0x0400

Compressor = Literal["gzip", "xz", "zstd"]

COMPRESSORS: Final[dict[int, str]] = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
"""Names of the compressors by their number in the superblock."""

SUPERBLOCK: Final = Struct("<IIIIIHHHHHHQQQQQQQQ")


class Superblock(NamedTuple):
    """The first 96 bytes of an image; starts of tables are counted from the image's first byte.

    `root_inode` is a reference: the start of a metadata block in the inode table times 65536, plus an offset in what is
    in that block. Tables follow each other in the order inodes, directories, fragments, exports, ids, xattrs.
    """

    magic: int
    inodes: int
    mkfs_time: int
    block_size: int
    fragments: int
    compression: int
    block_log: int
    flags: int
    no_ids: int
    major: int
    minor: int
    root_inode: int
    bytes_used: int
    id_table_start: int
    xattr_id_table_start: int
    inode_table_start: int
    directory_table_start: int
    fragment_table_start: int
    lookup_table_start: int


METADATA_HEADER: Final = Struct("<H")

DIR: Final = 1
FILE: Final = 2
SYMLINK: Final = 3
BLOCK: Final = 4
CHAR: Final = 5
FIFO: Final = 6
SOCKET: Final = 7
EXTENDED: Final = 7
"""What is added to a basic inode type to make the extended one, 8 to 14; directory entries name basic types only."""

INODE: Final = Struct("<HHHHII")
"""How every inode begins: inode_type, mode (permission bits), uid, guid (both indices of ids), mtime, inode_number."""
DIR_INODE: Final = Struct("<HHHHII IIHHI")
"""Type 1 from its beginning: ... start_block, nlink, file_size, offset, parent_inode."""
LONG_DIR_INODE: Final = Struct("<HHHHII IIIIHHI")
"""Type 8: ... nlink, file_size, start_block, parent_inode, i_count (entries of its index), offset, xattr; the index."""
DIR_INDEX: Final = Struct("<III")
"""An entry of the index: index (offset in the listing), start_block (of that place), size (of the name, less 1); the
name."""
FILE_INODE: Final = Struct("<HHHHII IIII")
"""Type 2: ... start_block, fragment, offset (in the fragment), file_size; a word for each block."""
LONG_FILE_INODE: Final = Struct("<HHHHII QQQIIII")
"""Type 9: ... start_block, file_size, sparse (bytes in holes), nlink, fragment, offset, xattr; words."""
SYMLINK_INODE: Final = Struct("<HHHHII II")
"""Types 3 and 10: ... nlink, symlink_size; the text. Type 10 has xattr, 32 bits, after the text."""
DEVICE_INODE: Final = Struct("<HHHHII II")
"""Types 4, 5, 11 and 12: ... nlink, rdev. The types 11 and 12 have xattr after it."""
IPC_INODE: Final = Struct("<HHHHII I")
"""Types 6, 7, 13 and 14: ... nlink. The types 13 and 14 have xattr after it."""
XATTR_INDEX: Final = Struct("<I")

DIRECTORY_HEADER: Final = Struct("<III")
"""Before up to 256 entries: count (less 1), start_block (of the metadata block with their inodes), inode_number."""
DIRECTORY_ENTRY: Final = Struct("<HhHH")
"""offset (of the inode in its block), inode_number (less the header's), type, size (of the name, less 1); the name."""

FRAGMENT: Final = Struct("<QII")
"""start_block (counted from the image's first byte), size (a word as for data blocks), unused."""
REFERENCE: Final = Struct("<Q")
"""A record of the export table: the reference of the inode with number 1, 2, ...; and a block's place in any table."""
ID: Final = Struct("<I")

XATTR_HEAD: Final = Struct("<QII")
"""The start of the xattr id table: xattr_table_start, xattr_ids (how many), unused; then the places of its blocks."""
XATTR_ID: Final = Struct("<QII")
"""xattr (a reference into the xattr table, to a list), count (of names), size (of names with prefixes, and values)."""
XATTR_NAME: Final = Struct("<HH")
"""type (its prefix, and whether the value is elsewhere), size; the name without its prefix."""
XATTR_VALUE: Final = Struct("<I")
"""vsize; the value, or the reference (64 bits) to a vsize and a value elsewhere in the xattr table."""
XATTR_PREFIXES: Final = (b"user.", b"trusted.", b"security.")
XATTR_ELSEWHERE: Final = 0x100
MAX_XATTR_NAME: Final = 255

ZSTD_OPTIONS: Final = Struct("<I")
"""What follows the superblock of a zstd image that was not made with level 15: compression_level."""


def block_count(size: int, block_size: int, *, fragment: bool) -> int:
    """How many words a file of `size` bytes has; its tail end is a block of its own unless it lies in a fragment."""
    return size // block_size if fragment else -(-size // block_size)
