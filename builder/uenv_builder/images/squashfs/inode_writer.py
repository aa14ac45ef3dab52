"""Inodes and directory listings, as they are written: basic inodes where they can hold what is to be said."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.compressors import Pack
from uenv_builder.images.squashfs.inodes import KINDS
from uenv_builder.images.squashfs.metadata import MetadataWriter
from uenv_builder.images.squashfs.outline import Folder, Outline
from uenv_builder.images.squashfs.placement import Placement
from uenv_builder.images.squashfs.tables import XattrWriter
from uenv_builder.images.squashfs.tree import Node
from uenv_builder.model.errors import BuildError

_TYPES = {kind: number for number, kind in KINDS.items()}
_MAX_MODE = 0o7777
_MAX_ID = 0xFFFFFFFF
_MAX_BASIC = 0xFFFFFFFF  # of a basic file's size and place
_MAX_BASIC_LISTING = 0xFFFF
_MAX_INDEX = 0xFFFF
_NO_HEADER = bytes(layout.DIRECTORY_HEADER.size)

Entry = tuple[bytes, int, int, int]
"""Of a listing: name, type, reference of the inode, number of the inode."""


class _Written(NamedTuple):
    """A directory whose listing is written: what its inode says of it. `dir_index` has `entries` entries."""

    start_block: int
    offset: int
    size: int
    links: int
    dir_index: bytes
    entries: int


class InodeWriter:
    """The inode and the directory table of an image under way.

    Deepest directories come first. The inodes of what is in a directory are written together, directories among them,
    then its listing: entries then share headers, and what `ls -l` reads lies together.
    """

    def __init__(self, outline: Outline, placement: Placement, compress: Pack) -> None:
        self.inodes = MetadataWriter(compress)
        self.directories = MetadataWriter(compress)
        self.xattrs = XattrWriter(compress)
        self.ids: dict[int, int] = {}
        self.root = 0
        self._outline = outline
        self._placement = placement
        self._references = [-1] * (outline.count + 1)
        self._written: dict[Node, _Written] = {}

    def write_all(self) -> None:
        """Write all inodes. Raises BuildError for values that squashfs cannot hold."""
        for folder in reversed(self._outline.folders):
            self._write_folder(folder)
        root = self._outline.folders[0].node
        self.root = self._write(b"", root, 1)
        if len(self.ids) > layout.MAX_IDS or min(self.ids) < 0 or max(self.ids) > _MAX_ID:
            raise _unfit_owners(self.ids)

    def exports(self) -> bytes:
        """The export table's records: the reference of each inode, by number."""
        return struct.pack(f"<{self._outline.count}Q", *self._references[1:])

    def id_records(self) -> bytes:
        """The id table's records."""
        return struct.pack(f"<{len(self.ids)}I", *self.ids)

    def _write_folder(self, folder: Folder) -> None:
        numbers, references = self._outline.numbers, self._references
        entries: list[Entry] = []
        for name, node in folder.entries:
            number = numbers[node]
            reference = references[number]
            if reference < 0:
                reference = self._write(name, node, number)
            entries.append((name, _TYPES[node.kind], reference, number))
        listing, marks = build_listing(entries)
        begin = self.directories.size
        reference = self.directories.add(listing)
        index = [
            layout.DIR_INDEX.pack(at, self.directories.block_start(begin + at), len(name) - 1) + name
            for at, name in marks
        ]
        size = len(listing) + layout.DOTS
        self._written[folder.node] = _Written(
            reference >> 16, reference & 0xFFFF, size, 2 + folder.folders, b"".join(index), len(index)
        )

    def _write(self, name: bytes, node: Node, number: int) -> int:
        if node.mode > _MAX_MODE:
            raise _unfit(name, node)
        try:
            if node.kind == "file":
                record = self._file(node, number)
            elif node.kind == "dir":
                record = self._dir(node, number)
            else:
                record = self._other(node, number)
        except struct.error:
            raise (_unfit(name, node) if len(self.ids) <= layout.MAX_IDS else _unfit_owners(self.ids)) from None
        reference = self._references[number] = self.inodes.add(record)
        return reference

    def _owner(self, node: Node) -> tuple[int, int]:
        ids = self.ids
        return ids.setdefault(node.uid, len(ids)), ids.setdefault(node.gid, len(ids))

    def _file(self, node: Node, number: int) -> bytes:
        content = node.content
        assert content is not None  # the outline has looked
        size, _, _, words, _, offset, sparse = content
        sparse = max(0, min(sparse, size - 1))  # the kernel tells the rest as the space that a file takes: never none
        place, fragment = self._placement.place(content)
        links = self._outline.links.get(node, 1)
        uid, gid = self._owner(node)
        if not (sparse or node.xattrs or links > 1 or place > _MAX_BASIC or size > _MAX_BASIC):
            head = layout.FILE_INODE.pack(
                layout.FILE, node.mode, uid, gid, node.mtime, number, place, fragment, offset, size
            )
        else:
            xattr = self.xattrs.index(node.xattrs)
            head = layout.LONG_FILE_INODE.pack(
                layout.FILE + layout.EXTENDED, node.mode, uid, gid, node.mtime, number,
                place, size, sparse, links, fragment, offset, xattr,
            )  # fmt: skip
        return head + struct.pack(f"<{len(words)}I", *words) if words else head

    def _dir(self, node: Node, number: int) -> bytes:
        block, offset, size, links, index, count = self._written.pop(node)
        parent = self._outline.parents[node]
        uid, gid = self._owner(node)
        if not (node.xattrs or count or size > _MAX_BASIC_LISTING):
            return layout.DIR_INODE.pack(
                layout.DIR, node.mode, uid, gid, node.mtime, number, block, links, size, offset, parent
            )
        head = layout.LONG_DIR_INODE.pack(
            layout.DIR + layout.EXTENDED, node.mode, uid, gid, node.mtime, number,
            links, size, block, parent, count, offset, self.xattrs.index(node.xattrs),
        )  # fmt: skip
        return head + index

    def _other(self, node: Node, number: int) -> bytes:
        links = self._outline.links.get(node, 1)
        kind = _TYPES[node.kind] + (layout.EXTENDED if node.xattrs else 0)
        fields = [kind, node.mode, *self._owner(node), node.mtime, number, links]
        tail = layout.XATTR_INDEX.pack(self.xattrs.index(node.xattrs)) if node.xattrs else b""
        if node.kind == "symlink":
            if len(node.target) > layout.MAX_TARGET:
                raise struct.error
            return layout.SYMLINK_INODE.pack(*fields, len(node.target)) + node.target + tail
        if node.kind in {"block", "char"}:
            return layout.DEVICE_INODE.pack(*fields, node.device) + tail
        return layout.IPC_INODE.pack(*fields) + tail


def build_listing(entries: list[Entry]) -> tuple[bytes, list[tuple[int, bytes]]]:
    """A directory's listing, and the places in it, with the name there, that its index names: one every 8 KiB.

    A header is for entries whose inodes are in one block and have near numbers, and the index leads to headers only.
    """
    listing = bytearray()
    marks: list[tuple[int, bytes]] = []
    pack = layout.DIRECTORY_ENTRY.pack
    header = count = base = 0
    block = -1
    stride = layout.METADATA_SIZE - layout.DIRECTORY_ENTRY.size
    full = stride  # where the next entry of the index is due
    for name, kind, reference, number in entries:
        size = len(name)
        far = len(listing) + size > full
        near = number - base
        if far or block != reference >> 16 or count == layout.DIRECTORY_RUN or not -0x8000 <= near < 0x8000:
            if count:
                layout.DIRECTORY_HEADER.pack_into(listing, header, count - 1, block, base)
            header, count, near, block, base = len(listing), 0, 0, reference >> 16, number
            if far and len(marks) < _MAX_INDEX:
                full = header + stride
                marks.append((header, name))
            listing += _NO_HEADER
        listing += pack(reference & 0xFFFF, near, kind, size - 1)
        listing += name
        count += 1
    if count:
        layout.DIRECTORY_HEADER.pack_into(listing, header, count - 1, block, base)
    return bytes(listing), marks


def _unfit(name: bytes, node: Node) -> BuildError:
    """The error for a node of which a value has no place in an inode."""
    return BuildError(
        f"squashfs cannot hold {os.fsdecode(name)!r}: mode {node.mode:#o}, time {node.mtime}, device {node.device}, "
        f"target of {len(node.target)} bytes; modes have 12 bits, times and devices 32, targets at most "
        f"{layout.MAX_TARGET} bytes",
        rule="squashfs-unsupported",
        hint="give the file a time from 1970 to 2105, permission bits only, and a shorter target",
    )


def _unfit_owners(ids: dict[int, int]) -> BuildError:
    """The error for too many different owners and groups, or one of more than 32 bits."""
    wrong = next((number for number in ids if not 0 <= number <= _MAX_ID), None)
    what = f"more than {layout.MAX_IDS} different owners and groups" if wrong is None else f"the owner or group {wrong}"
    return BuildError(
        f"the tree has {what}, which squashfs cannot hold",
        rule="squashfs-unsupported",
        hint="give all files to root, or to few users with numbers of 32 bits",
    )
