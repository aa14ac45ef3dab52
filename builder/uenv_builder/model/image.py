"""Layers and images as the builder keeps and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from uenv_builder.model.entry import EntryKind
from uenv_builder.model.system import Architecture

INSTALLER = "uenv-builder"
"""What the file of that name says of wheels that the builder has installed (recording installed projects, PyPA)."""


class IndexEntry(NamedTuple):
    """What a layer's index says of one entry; fields as in `Entry`, `sha256` of the content of a file (else empty).

    A tuple, because images have tens of thousands of them.
    """

    path: str
    kind: EntryKind
    mode: int
    mtime: int
    uid: int
    gid: int
    size: int
    target: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer in the store: a zstd-compressed tar stream (`blob`), its digests, and the index of what it holds.

    `digest` and `size` are those of the compressed blob (the OCI descriptor), `diff_id` is the sha256 of the tar
    stream. Both digests are 64 hex digits without a prefix.
    """

    blob: Path
    digest: str
    size: int
    diff_id: str
    entries: tuple[IndexEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What a container engine reads beside the files; the single source of both images' environment.

    `created` is in seconds since the epoch, UTC. `history` has one line for each layer, in their order.
    """

    architecture: Architecture
    env: dict[str, str]
    workdir: str
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ("/bin/bash",)
    labels: dict[str, str] = field(default_factory=dict)
    created: int = 0
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SquashfsOptions:
    """How a squashfs is compressed: zstd level 1 to 22, block size in bytes (a power of two, 4 KiB to 1 MiB)."""

    level: int = 3
    block_size: int = 262144
