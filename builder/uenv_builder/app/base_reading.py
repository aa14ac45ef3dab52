"""Reading the files of a locked base image, for what the lock says of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from uenv_builder.app.session import Session
from uenv_builder.core.base_contents import BaseFiles, is_telling, read_contents
from uenv_builder.images.merge import merge_layers
from uenv_builder.layers.oci_layer import Removal, oci_layer_entries
from uenv_builder.model.image import IndexEntry, Layer
from uenv_builder.model.lock import LockedBase, LockedBaseLayer, LockedContents

_LARGEST = 64 << 20
"""Bytes of a file that is read; dpkg's database has about one million, libc.so.6 two."""

_Content = dict[tuple[int, str], bytes]


def read_base(
    session: Session, base: LockedBase, *, remove: Sequence[str], unset: Sequence[str], python: str | None
) -> LockedContents:
    """What the files of `base` say, which are fetched where the store does not have them; what is fetched stays there
    for the build. `python` is the version to prefer if there are several. Raises what fetching and reading layers do.
    """
    with session.listener.task(f"fetching {base.name}"):
        blobs = session.fetch_base(base)
    layers: list[Layer] = []
    contents: _Content = {}
    for number, (blob, locked) in enumerate(zip(blobs, base.layers, strict=True)):
        with session.listener.task(f"reading layer {number + 1} of {len(blobs)}"):
            layers.append(_read_layer(number, blob, locked, contents))
    files, unused = _files(layers, contents, Removal(remove), remove)
    return read_contents(files, base.env_without(unset), python=python, unused=unused)


def _read_layer(number: int, blob: Path, locked: LockedBaseLayer, contents: _Content) -> Layer:
    """The index of a layer; what its files tell goes to `contents`, by the layer's number and their paths."""
    entries = []
    for entry in oci_layer_entries(blob, media_type=locked.media_type, diff_id=locked.diff_id):
        seen = (entry.path, entry.kind, entry.mode, entry.mtime, entry.uid, entry.gid, entry.size, entry.target)
        entries.append(IndexEntry(*seen, ""))
        if entry.content is not None and entry.size <= _LARGEST and is_telling(entry.path):
            contents[number, entry.path] = entry.content.read()
    return Layer(
        blob=blob, digest=locked.digest, size=locked.size, diff_id=locked.diff_id, entries=tuple(entries)
    )  # fmt: skip


def _files(
    layers: Sequence[Layer], contents: _Content, removal: Removal, patterns: Sequence[str]
) -> tuple[BaseFiles, tuple[str, ...]]:
    """The files that the recipe leaves, and those of its patterns that match none."""
    tree = merge_layers(layers).entries
    unused = set(removal.unused(tree))
    kept = {path: merged for path, merged in tree.items() if not removal.takes(path)}
    telling = {}
    for path, merged in kept.items():
        with suppress(KeyError):
            telling[path] = contents[merged.layer, merged.source]
    links = {path: merged.entry.target for path, merged in kept.items() if merged.entry.kind == "symlink"}
    files = BaseFiles(paths=kept.keys(), links=links, contents=telling)
    return files, tuple(pattern for pattern in patterns if pattern in unused)
