"""The order in which the inodes of a tree are written, and their numbers."""

from __future__ import annotations

import os
from typing import NamedTuple

from uenv_builder.images.squashfs.layout import MAX_NAME, block_count
from uenv_builder.images.squashfs.tree import FileData, Node
from uenv_builder.model.errors import BuildError


class Folder(NamedTuple):
    """A directory: its entries in the order of their names' bytes, and how many of them are directories."""

    node: Node
    entries: list[tuple[bytes, Node]]
    folders: int


class Outline:
    """All directories of a tree, each before those in it, and a number for every inode: the root's is 1.

    Entries of a directory have numbers in a row, so that its listing needs few headers. `links` are the entries of
    nodes with more than one, `parents` the numbers of the directories that directories are in, `contents` those of all
    files. Raises BuildError for a name or a target that squashfs cannot hold, ValueError for a tree that is none.
    """

    def __init__(self, root: Node, block_size: int) -> None:
        self.folders: list[Folder] = []
        self.numbers: dict[Node, int] = {root: 1}
        self.links: dict[Node, int] = {}
        self.parents: dict[Node, int] = {}
        self.contents: list[FileData] = []
        self._block_size = block_size
        if root.kind != "dir":
            raise ValueError(f"the root is a {root.kind}")
        ahead = [root]
        while ahead:
            ahead += reversed(self._add_folder(ahead.pop()))
        self.parents[root] = self.count + 1  # as mksquashfs does: no inode has this number

    @property
    def count(self) -> int:
        """How many inodes there are."""
        return len(self.numbers)

    def _add_folder(self, node: Node) -> list[Node]:
        """Number what is in a directory; returns the directories among it."""
        _check_names(node.children)
        entries = sorted(node.children.items())
        numbers = self.numbers
        below: list[Node] = []
        for name, child in entries:
            if child in numbers:
                self._add_link(name, child)
                continue
            numbers[child] = len(numbers) + 1
            if child.kind == "dir":
                below.append(child)
                self.parents[child] = numbers[node]
            elif child.kind == "file":
                self.contents.append(self._checked(child.content))
        self.folders.append(Folder(node, entries, len(below)))
        return below

    def _add_link(self, name: bytes, node: Node) -> None:
        if node.kind == "dir":
            raise ValueError(f"the directory {os.fsdecode(name)!r} is in two places")
        self.links[node] = self.links.get(node, 1) + 1

    def _checked(self, content: FileData | None) -> FileData:
        if content is None:
            raise ValueError("a file has no content")
        size, _, _, words, fragment, _, _ = content
        split = fragment is not None
        if len(words) != block_count(size, self._block_size, fragment=split) or (split and not size % self._block_size):
            raise ValueError(f"a file of {size} bytes has {len(words)} words, and fragment: {fragment}")
        return content


def _check_names(children: dict[bytes, Node]) -> None:
    joined = b"".join(children)
    if b"/" in joined or b"\0" in joined or not children.keys().isdisjoint((b"", b".", b"..")):
        raise ValueError("a directory has a name that cannot be")
    if len(joined) > MAX_NAME and (longest := max(children, key=len)) and len(longest) > MAX_NAME:
        raise BuildError(
            f"the name {os.fsdecode(longest)!r} has {len(longest)} bytes, and squashfs holds at most {MAX_NAME}",
            rule="squashfs-unsupported",
            hint="give the file a shorter name",
        )
