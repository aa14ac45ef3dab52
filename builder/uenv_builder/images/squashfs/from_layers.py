"""The squashfs of an image: its layers' blobs, linked.

Each layer was compressed once, when it was written, into frames that are blocks and fragments of a squashfs too
(model/segment.py). They are copied as they are; only inodes, directories and the small tables are made here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from uenv_builder.images.merge import MergedEntry, MergedTree, merge_layers
from uenv_builder.images.squashfs.layer_source import LayerSource
from uenv_builder.images.squashfs.start_part import FirstRead
from uenv_builder.images.squashfs.tree import FileData, Node, find_node
from uenv_builder.images.squashfs.writer import WrittenImage, write_image
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import IndexEntry, Layer, SquashfsOptions
from uenv_builder.model.start import StartFile
from uenv_builder.system.events import Listener


def write_squashfs(
    layers: Sequence[Layer], out: Path, options: SquashfsOptions, *, epoch: int, listener: Listener,
    start: Sequence[StartFile] = (),
) -> WrittenImage:  # fmt: skip
    """Write the image of `layers`, lowest first, as a squashfs at `out`.

    Everything in it belongs to root, entries keep their mode and time; the root directory has mode 0755 and the time
    `epoch`, in seconds, as the file system itself. Files with the same content share it, across layers too. All layers
    have blocks of `options.block_size` bytes, and every byte of their blobs is verified meanwhile. The data of the
    files `start` comes first, in their order; those that are not there are named in a note. Raises BuildError, and
    LockError (`hash-mismatch`) for a damaged layer; `out` is then as it was before.
    """
    tree = merge_layers(layers)
    with ExitStack() as opened, listener.task(f"linking {out.name}", sum(layer.size for layer in layers)) as task:
        sources = [LayerSource(layer, opened.enter_context(layer.blob.open("rb"))) for layer in layers]
        _check_blocks(sources, options.block_size)
        partial = out.with_name(f".{out.name}.partial")
        opened.callback(partial.unlink, missing_ok=True)
        root = _nodes(tree, sources, epoch)
        written = write_image(
            root, sources, partial, block_size=options.block_size, epoch=epoch, level=options.level,
            options=struct.pack("<i", options.level), first=_first_reads(root, start, listener), advance=task.advance,
        )  # fmt: skip
        for source in sources:
            source.verify_rest()
        partial.replace(out)
    return written


def _first_reads(root: Node, start: Sequence[StartFile], listener: Listener) -> list[FirstRead]:
    found: list[FirstRead] = []
    unknown: list[str] = []
    for file in start:
        node = find_node(root, os.fsencode(file.path))
        if node is not None and node.content is not None:
            found.append(FirstRead(node.content, file.parts))
        else:
            unknown.append(file.path)
    if unknown:
        shown = ", ".join(unknown[:3]) + (" ..." if len(unknown) > 3 else "")
        listener.note(f"{len(unknown)} of {len(start)} files of the recorded start are not in the image: {shown}")
    return found


def _check_blocks(sources: Sequence[LayerSource], block_size: int) -> None:
    for one in sources:
        if one.segment.block_size != block_size:
            raise BuildError(
                f"{one.layer.blob} has blocks of {one.segment.block_size} bytes, and the image is to have {block_size}",
                rule="squashfs-unsupported", hint="build the layers anew with the image's block size",
            )  # fmt: skip


def _nodes(tree: MergedTree, sources: Sequence[LayerSource], epoch: int) -> Node:
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
        node = _node(merged, sources, contents)
        if entry.kind == "dir":
            folders[path] = node
        elif entry.kind == "file":
            files[path] = node
        _attach(folders, path, node)
    for path, entry in links:
        _attach(folders, path, files[entry.target])
    return root


def _node(merged: MergedEntry, sources: Sequence[LayerSource], contents: dict[str, FileData]) -> Node:
    entry = merged.entry
    if entry.kind == "file":
        if entry.sha256 not in contents:
            contents[entry.sha256] = sources[merged.layer].content(merged.source, entry.size)
        return Node("file", entry.mode, mtime=entry.mtime, content=contents[entry.sha256])
    if entry.kind == "symlink":
        return Node("symlink", 0o777, mtime=entry.mtime, target=os.fsencode(entry.target))
    return Node("dir", entry.mode, mtime=entry.mtime)


def _attach(folders: Mapping[str, Node], path: str, node: Node) -> None:
    parent, _, name = path.rpartition("/")
    folders[parent].children[os.fsencode(name)] = node
