"""Trees put on top of each other, as an OCI image's layers are."""

from __future__ import annotations

from collections.abc import Sequence

from uenv_builder.images.squashfs.tree import FileData, Node

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


def merge_trees(roots: Sequence[Node], *, partial: bool = False) -> Node:
    """The tree that `roots`, lowest first and at least one, show together; they stay as they are.

    It shares nodes that are no directories with them. The rules are those of the OCI image specification (1.0,
    layer.md): a directory merges with the one below it and takes over its attributes, anything else replaces what lies
    at its path; `.wh.NAME` removes NAME, and `.wh..wh..opq` all that the trees below have in its directory. Hard links
    stay among those that are left.

    A `partial` result is to be put on top of other trees later: whiteouts stay in it, and a directory that replaces
    something else becomes opaque. Merging is then associative: it does not matter which neighbours are merged first.
    """
    top = _Folder(roots, opaque=False)
    ahead = [top]
    while ahead:
        ahead += ahead.pop().merge(partial=partial)
    return top.node


class _Folder:
    """A directory of the result, which `layers` have, lowest first; its attributes are the last one's.

    `opaque`: below the lowest of them is something else than a directory.
    """

    def __init__(self, layers: Sequence[Node], *, opaque: bool) -> None:
        top = layers[-1]
        self.node = Node("dir", top.mode, top.uid, top.gid, top.mtime, top.xattrs)
        self._layers = layers
        self._opaque = opaque
        self._found: dict[bytes, Node | list[Node]] = {}
        self._replacing: set[bytes] = set()

    def merge(self, *, partial: bool) -> list[_Folder]:
        """Fill the node; returns the directories in it, still empty."""
        for layer in self._layers:
            children = layer.children
            if any(name.startswith(_WHITEOUT) for name in children):
                whiteouts = {name: child for name, child in children.items() if name.startswith(_WHITEOUT)}
                self._remove(whiteouts)
                if partial:
                    self._found.update(whiteouts)
                children = {name: child for name, child in children.items() if name not in whiteouts}
            self._add(children)
        if partial and self._opaque:
            self._found[_OPAQUE] = Node("file", 0, content=FileData(0))
        return self._fill()

    def _remove(self, whiteouts: dict[bytes, Node]) -> None:
        if _OPAQUE in whiteouts:
            self._found.clear()
        for name in whiteouts:
            self._found.pop(name.removeprefix(_WHITEOUT), None)

    def _add(self, children: dict[bytes, Node]) -> None:
        found = self._found
        for name, child in children.items():
            if child.kind != "dir":
                found[name] = child
                continue
            below = found.get(name)
            if isinstance(below, list):
                below.append(child)
            else:
                found[name] = [child]
                if below is not None:
                    self._replacing.add(name)

    def _fill(self) -> list[_Folder]:
        children = self.node.children
        folders: list[_Folder] = []
        for name, found in self._found.items():
            if isinstance(found, list):
                folder = _Folder(found, opaque=name in self._replacing)
                folders.append(folder)
                children[name] = folder.node
            else:
                children[name] = found
        return folders
