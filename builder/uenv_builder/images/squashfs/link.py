"""The linker: several squashfs images become one, and no block of data is compressed again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from uenv_builder.images.squashfs.reader import SquashfsImage, open_squashfs
from uenv_builder.images.squashfs.stacking import merge_trees
from uenv_builder.images.squashfs.start_part import FirstRead
from uenv_builder.images.squashfs.tree import FileData, Node, find_node, walk
from uenv_builder.images.squashfs.writer import WrittenImage, write_image
from uenv_builder.model.errors import BuildError


def link_images(
    paths: Sequence[Path],
    out: Path,
    *,
    epoch: int | None = None,
    partial: bool = False,
    level: int | None = None,
    order: Sequence[bytes] = (),
) -> WrittenImage:
    """Put the images at `paths`, lowest first, on top of each other, and write what they show together at `out`.

    They have one compressor and one block size. `partial` is as for `merge_trees`; `epoch` is the new image's own time
    in seconds, by default the latest of theirs. `order` are paths in the result whose data comes first, that of a
    directory with all below it; those that are not there are passed over. Raises BuildError for images that are damaged
    or do not fit together; `out` is then as it was before. `out` may be one of `paths`.
    """
    with ExitStack() as opened:
        images = [opened.enter_context(open_squashfs(path)) for path in paths]
        _check_alike(images)
        root = merge_trees([image.root for image in images], partial=partial)
        return write_image(
            root,
            [image.source for image in images],
            out,
            block_size=images[0].block_size,
            epoch=max(image.mkfs_time for image in images) if epoch is None else epoch,
            compressor=images[0].compressor,
            level=level,
            options=images[0].options if len({image.options for image in images}) == 1 else b"",
            first=[FirstRead(content) for path in order for content in _contents(root, path)],
        )


def _contents(root: Node, path: bytes) -> list[FileData]:
    """The contents of the file at `path`, or of all files below the directory there."""
    node = find_node(root, path)
    return [found.content for _, found in walk(node) if found.content] if node else []


def _check_alike(images: Sequence[SquashfsImage]) -> None:
    first = images[0]
    for image in images:
        if (image.compressor, image.block_size) != (first.compressor, first.block_size):
            raise BuildError(
                f"{image.path} has blocks of {image.block_size} bytes and {image.compressor}, but {first.path} of "
                f"{first.block_size} and {first.compressor}: they cannot be linked",
                rule="squashfs-unsupported",
                hint="build the images anew with one compressor and one block size",
            )
