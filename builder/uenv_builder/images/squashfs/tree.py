"""What a squashfs holds: a tree of nodes, and sources, where the compressed blocks of its files are."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import BinaryIO, Literal, NamedTuple

from uenv_builder.images.squashfs.layout import SIZE_MASK
from uenv_builder.model.errors import BuildError

NodeKind = Literal["dir", "file", "symlink", "block", "char", "fifo", "socket"]
_CHUNK = 1 << 20
Xattrs = tuple[tuple[bytes, bytes], ...]


class Piece(NamedTuple):
    """`length` bytes from `offset` on of an open file (or its descriptor, which somebody else closes)."""

    file: int | BinaryIO
    offset: int
    length: int


class Source:
    """Where data comes from: pieces that make one data area, and the fragment table that belongs to it.

    An image is a source of one piece. So is a file that somebody wrote blocks to, and a compressed OCI layer whose
    frames are the blocks is one of as many pieces as are left when everything between the blocks is cut out.
    `fragments` holds (offset in the data area, word) of each fragment. Sources are equal only to themselves.
    """

    __slots__ = ("_starts", "fragments", "pieces", "size")

    def __init__(self, pieces: Sequence[Piece], fragments: Sequence[tuple[int, int]] = ()) -> None:
        self.pieces = tuple(pieces)
        self.fragments = fragments
        self._starts = list(accumulate((piece.length for piece in self.pieces), initial=0))
        self.size = self._starts.pop()

    def parts(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Where the `length` bytes from `start` on of the data area are: (file descriptor, offset, length), in order.

        Raises ValueError where the data area is shorter.
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise ValueError(f"{length} bytes at {start} are not in a data area of {self.size}")
        index = bisect_right(self._starts, start) - 1
        while length:
            file, offset, size = self.pieces[index]
            skipped = start - self._starts[index]
            taken = min(length, size - skipped)
            if taken:
                yield file if isinstance(file, int) else file.fileno(), offset + skipped, taken
            start, length, index = start + taken, length - taken, index + 1

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """Those bytes in parts of at most 1 MiB, to be copied. Raises BuildError where a file has become shorter."""
        for file, offset, size in self.parts(start, length):
            for place in range(offset, offset + size, _CHUNK):
                wanted = min(_CHUNK, offset + size - place)
                chunk = os.pread(file, wanted, place)
                if len(chunk) < wanted:
                    raise BuildError(
                        f"a file that is copied ends {wanted - len(chunk)} bytes too early",
                        hint="let nothing write to the store while a build runs",
                    )
                yield chunk

    def read(self, start: int, length: int) -> bytes:
        """Those bytes; fewer when a file has become shorter since."""
        return b"".join(os.pread(file, size, offset) for file, offset, size in self.parts(start, length))


NOWHERE = Source(())
"""The source of files that have no data: empty ones, and those with nothing but holes."""


class FileData(NamedTuple):
    """The content of a file: `size` bytes in blocks, one word each, and perhaps a tail end within a fragment.

    `start` is where the first block is in the data area of `source`; the others follow it. A word is the size of its
    block there, with STORED_BLOCK where it is not compressed; 0 is a block of zeros that takes no place. `fragment` is
    an index of the source's fragments, or None; then the last block may be a short one. `offset` is the tail end's
    place in the uncompressed fragment, and `sparse` the bytes that holes stand for.
    """

    size: int
    source: Source = NOWHERE
    start: int = 0
    words: tuple[int, ...] = ()
    fragment: int | None = None
    offset: int = 0
    sparse: int = 0

    @property
    def stored(self) -> int:
        """The bytes that its blocks take in the data area."""
        return stored_size(self.words)


def stored_size(words: Sequence[int]) -> int:
    """The bytes that blocks with these words take on disk."""
    return sum([word & SIZE_MASK for word in words])


@dataclass(slots=True, eq=False)
class Node:
    """A file system object. A node that several directory entries lead to is a hard link; a directory has one only.

    `mode` is the permission bits (0o000 to 0o7777), `mtime` seconds since the epoch (0 to 2**32 - 1). Names, targets
    and extended attributes are bytes, attributes with their prefixes (`user.`, `trusted.`, `security.`). `children` is
    for directories, `content` for files, `target` for symbolic links, `device` (the kernel's 32-bit encoding) for
    device nodes. Trees may share nodes: functions that change a tree make new directories.
    """

    kind: NodeKind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: Xattrs = ()
    children: dict[bytes, Node] = field(default_factory=dict)
    content: FileData | None = None
    target: bytes = b""
    device: int = 0


def find_node(root: Node, path: bytes) -> Node | None:
    """What is at `path`, relative to `root` (empty: `root` itself), links not followed; None where nothing is."""
    node: Node | None = root
    for name in path.split(b"/") if path else ():
        node = node.children.get(name) if node else None
    return node


def walk(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Every entry with its path, the root's is empty; directories first, names in order of their bytes."""
    stack = [(b"", root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        if node.kind == "dir":
            prefix = path + b"/" if path else b""
            stack += [(prefix + name, child) for name, child in sorted(node.children.items(), reverse=True)]
