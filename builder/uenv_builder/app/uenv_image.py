"""What an image says of itself as a uenv: the files below its meta, read without mounting it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.core.uenv_meta import PLACE, UenvMeta, read_env_json
from uenv_builder.images.squashfs.content import ContentReader
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import Node, find_node, walk
from uenv_builder.model.errors import BuildError

_FOLDER, _NAME = posixpath.split(PLACE)
_MAX_BYTES = 64 << 20
"""Of all files below meta: a copy of the recipe is there, too."""


@dataclass(frozen=True, slots=True)
class UenvFiles:
    """The files below an image's `meta`, by their paths from there, and its env.json as the uenv command reads it."""

    files: Mapping[str, bytes]
    meta: UenvMeta


def read_uenv(image: Path) -> UenvFiles | None:
    """What the squashfs `image` has below `meta`; None where it has no env.json, and is no uenv.

    Links are left out. Raises BuildError where the image is damaged, or its env.json not what the uenv command takes.
    """
    with open_squashfs(image) as opened:
        folder = find_node(opened.root, _FOLDER.encode())
        if folder is None or folder.kind != "dir":
            return None
        files = _read_files(folder, opened.contents(), image)
    text = files.get(_NAME)
    if text is None:
        return None
    return UenvFiles(files, read_env_json(text.decode("utf-8", "replace"), f"{image}: {PLACE}"))


def _read_files(folder: Node, reader: ContentReader, image: Path) -> dict[str, bytes]:
    files, left = {}, _MAX_BYTES
    for path, node in walk(folder):
        if node.kind != "file" or node.content is None:
            continue
        left -= node.content.size
        if left < 0:
            raise BuildError(
                f"{image}: has more than {_MAX_BYTES >> 20} MiB below {_FOLDER}", rule="uenv-meta",
                hint="keep large files elsewhere: what is there is copied beside the image",
            )  # fmt: skip
        files[os.fsdecode(path)] = reader.read(node.content)
    return files
