"""Squashfs images, written: data is copied as it is compressed in its sources, all tables are made anew.

The bytes follow from the tree, the sources and the options alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.compressors import packer
from uenv_builder.images.squashfs.image_file import ImageFile
from uenv_builder.images.squashfs.inode_writer import InodeWriter
from uenv_builder.images.squashfs.layout import Compressor, Superblock
from uenv_builder.images.squashfs.metadata import write_lookup_table
from uenv_builder.images.squashfs.outline import Outline
from uenv_builder.images.squashfs.placement import Placement
from uenv_builder.images.squashfs.start_part import FirstRead, dump_extents, start_extents
from uenv_builder.images.squashfs.tree import Node, Source
from uenv_builder.system.files import write_beside


class WrittenImage(NamedTuple):
    """An image that was written: its inodes, its size in bytes without padding, and the sha256 of its file."""

    inodes: int
    size: int
    sha256: str


def write_image(
    root: Node,
    sources: Sequence[Source],
    out: Path,
    *,
    block_size: int,
    epoch: int,
    compressor: Compressor = "zstd",
    level: int | None = None,
    options: bytes = b"",
    first: Sequence[FirstRead] = (),
    advance: Callable[[int], None] | None = None,
) -> WrittenImage:
    """Write the tree below `root` as an image at `out`, whole or not at all; what is there is replaced.

    Data comes in the order of `sources`, after that of the files `first`, as far as the tree refers to it; where there
    are such files, a list behind the tables says where their data and the tables are (start_part.py). All data has to
    be compressed by `compressor` in blocks of `block_size` bytes. `level` is that of the tables' compression; `options`
    is what the image says of the data's, as on disk. `epoch` is the image's own time, in seconds. `advance` is told how
    many bytes of data were copied, again and again. Raises BuildError for a tree that squashfs cannot hold and where
    `out` cannot be written; ValueError for one that contradicts itself.
    """
    outline = Outline(root, block_size)
    head = layout.METADATA_HEADER.pack(len(options) | layout.STORED_METADATA) + options if options else b""
    ahead = [read.content for read in first]
    placement = Placement(outline.contents, sources, layout.SUPERBLOCK.size + len(head), ahead)
    pack = packer(compressor, level)
    inodes = InodeWriter(outline, placement, pack)
    inodes.write_all()
    tables = bytearray()
    starts: dict[str, int] = {}

    def append(name: str, blocks: bytes | bytearray, start: int | None = None) -> None:
        starts[name] = placement.end + len(tables) if start is None else start
        tables.extend(blocks)

    append("inode_table_start", inodes.inodes.finish())
    append("directory_table_start", inodes.directories.finish())
    records = [layout.FRAGMENT.pack(place, word, 0) for place, word in placement.fragments]
    append("fragment_table_start", *write_lookup_table(b"".join(records), placement.end + len(tables), pack))
    append("lookup_table_start", *write_lookup_table(inodes.exports(), placement.end + len(tables), pack))
    append("id_table_start", *write_lookup_table(inodes.id_records(), placement.end + len(tables), pack))
    append("xattr_id_table_start", *inodes.xattrs.finish(placement.end + len(tables)))
    flags = layout.FLAG_DEDUPLICATED | layout.FLAG_EXPORTABLE
    flags |= layout.FLAG_COMPRESSOR_OPTIONS if options else 0
    flags |= layout.FLAG_NO_XATTRS if starts["xattr_id_table_start"] == layout.NO_TABLE else 0
    size = placement.end + len(tables)
    top = Superblock(
        magic=layout.MAGIC,
        inodes=outline.count,
        mkfs_time=epoch,
        block_size=block_size,
        fragments=len(placement.fragments),
        compression=next(number for number, name in layout.COMPRESSORS.items() if name == compressor),
        block_log=block_size.bit_length() - 1,
        flags=flags,
        no_ids=len(inodes.ids),
        major=4,
        minor=0,
        root_inode=inodes.root,
        bytes_used=size,
        **starts,
    )
    with write_beside(out) as file, ImageFile(file.fileno()) as image:
        image.append(layout.SUPERBLOCK.pack(*top) + head)
        for chunk in placement.chunks():
            image.append(chunk)
            if advance:
                advance(len(chunk))
        tail = _start_list(first, placement, block_size, size)
        image.append(bytes(tables) + tail + bytes(-(size + len(tail)) % layout.PADDING))
        sha256 = image.finish()
    return WrittenImage(outline.count, size, sha256)


def _start_list(first: Sequence[FirstRead], placement: Placement, block_size: int, size: int) -> bytes:
    """The list of what a start reads: the tables, which mounting needs, then the data of `first`."""
    if not first:
        return b""
    tables = (placement.end, size - placement.end)
    return dump_extents([tables, *start_extents(first, placement, block_size)])
