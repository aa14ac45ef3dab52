"""The squashfs of an image: its layers' blobs, linked.

Each layer was compressed once, when it was written, into frames that are blocks and fragments of a squashfs too
(model/segment.py). They are copied as they are; only inodes, directories and the small tables are made here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from uenv_builder.images.merge import MergedEntry, MergedTree, merge_layers
from uenv_builder.images.squashfs.layout import STORED_BLOCK
from uenv_builder.images.squashfs.tree import FileData, Node, Piece, Source
from uenv_builder.images.squashfs.writer import WrittenImage, write_image
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import IndexEntry, Layer, SquashfsOptions
from uenv_builder.model.segment import Segment
from uenv_builder.system.events import Listener
from uenv_builder.system.files import sha256_of
from uenv_builder.system.layer_index import damaged, read_segment


def write_squashfs(
    layers: Sequence[Layer], out: Path, options: SquashfsOptions, *, epoch: int, listener: Listener
) -> WrittenImage:
    """Write the image of `layers`, lowest first, as a squashfs at `out`.

    Everything in it belongs to root, entries keep their mode and time; the root directory has mode 0755 and the time
    `epoch`, in seconds, as the file system itself. Files with the same content share it, across layers too. All layers
    have blocks of `options.block_size` bytes, and each blob is held to its digest meanwhile. Raises BuildError, and
    LockError (`hash-mismatch`) for a damaged layer; `out` is then as it was before.
    """
    tree = merge_layers(layers)
    with ExitStack() as opened, listener.task(f"linking {out.name}", sum(layer.size for layer in layers)) as task:
        linked = [_LinkedLayer(layer, opened.enter_context(layer.blob.open("rb"))) for layer in layers]
        _check_blocks(linked, options.block_size)
        checks = opened.enter_context(ThreadPoolExecutor(thread_name_prefix="digest"))
        digests = [checks.submit(sha256_of, layer.blob) for layer in layers]
        partial = out.with_name(f".{out.name}.partial")
        opened.callback(partial.unlink, missing_ok=True)
        written = write_image(
            _nodes(tree, linked, epoch), [one.source for one in linked], partial,
            block_size=options.block_size, epoch=epoch, level=options.level, options=struct.pack("<i", options.level),
        )  # fmt: skip
        for layer, digest in zip(layers, digests, strict=True):
            if digest.result() != layer.digest:
                raise damaged(layer.blob, f"sha256 is {digest.result()} instead of {layer.digest}")
            task.advance(layer.size)
        partial.replace(out)
    return written


class _LinkedLayer:
    """A layer's blob as a source of blocks."""

    def __init__(self, layer: Layer, blob: BinaryIO) -> None:
        self.layer = layer
        self.segment: Segment = read_segment(layer)
        units = self.segment.units
        self._words = [0 if unit.zero else unit.size | STORED_BLOCK if unit.raw else unit.length for unit in units]
        stored = [0 if unit.zero else unit.size if unit.raw else unit.length for unit in units]
        self._starts = list(accumulate(stored, initial=0))
        fragments = list(zip(self._starts, self._words, strict=False))
        self.source = Source(_pieces(self.segment, blob), fragments)

    def content(self, path: str, size: int) -> FileData:
        """The content of the file at `path` in this layer."""
        place = self.segment.places[path]
        words = tuple(self._words[place.first : place.first + place.blocks])
        return FileData(
            size=size,
            source=self.source,
            start=self._starts[place.first],
            words=words,
            fragment=place.fragment if place.fragment >= 0 else None,
            offset=place.offset,
            sparse=words.count(0) * self.segment.block_size,
        )


def _pieces(segment: Segment, blob: BinaryIO) -> list[Piece]:
    """What squashfs stores of the blob's units, pieces that touch made one."""
    joined: list[Piece] = []
    for unit in segment.units:
        for offset, length in unit.pieces():
            if joined and joined[-1].offset + joined[-1].length == offset:
                joined[-1] = joined[-1]._replace(length=joined[-1].length + length)
            else:
                joined.append(Piece(blob, offset, length))
    return joined


def _check_blocks(linked: Sequence[_LinkedLayer], block_size: int) -> None:
    for one in linked:
        if one.segment.block_size != block_size:
            raise BuildError(
                f"{one.layer.blob} has blocks of {one.segment.block_size} bytes, and the image is to have {block_size}",
                rule="squashfs-unsupported", hint="build the layers anew with the image's block size",
            )  # fmt: skip


def _nodes(tree: MergedTree, linked: Sequence[_LinkedLayer], epoch: int) -> Node:
    root = Node("dir", 0o755, mtime=epoch)
    folders: dict[str, Node] = {"": root}
    files: dict[str, Node] = {}
    contents: dict[str, FileData] = {}
    links: list[tuple[str, IndexEntry]] = []
    for path, merged in tree.entries.items():
        entry = merged.entry
        if entry.kind == "hardlink":
            links.append((path, entry))
            continue
        node = _node(merged, linked, contents)
        if entry.kind == "dir":
            folders[path] = node
        elif entry.kind == "file":
            files[path] = node
        _attach(folders, path, node)
    for path, entry in links:
        _attach(folders, path, files[entry.target])
    return root


def _node(merged: MergedEntry, linked: Sequence[_LinkedLayer], contents: dict[str, FileData]) -> Node:
    entry = merged.entry
    if entry.kind == "file":
        if entry.sha256 not in contents:
            contents[entry.sha256] = linked[merged.layer].content(merged.source, entry.size)
        return Node("file", entry.mode, mtime=entry.mtime, content=contents[entry.sha256])
    if entry.kind == "symlink":
        return Node("symlink", 0o777, mtime=entry.mtime, target=os.fsencode(entry.target))
    return Node("dir", entry.mode, mtime=entry.mtime)


def _attach(folders: Mapping[str, Node], path: str, node: Node) -> None:
    parent, _, name = path.rpartition("/")
    folders[parent].children[os.fsencode(name)] = node
