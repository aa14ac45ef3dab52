"""Layers put on top of each other: what the image holds in the end, and its stream of entries.

The rules are those of the OCI image specification (1.0, layer.md): a directory merges with the one below it and takes
over its attributes, anything else replaces what lies at its path, and whiteouts remove what lower layers brought.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import IndexEntry, Layer
from uenv_builder.system.layer_blob import layer_members

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


class MergedEntry(NamedTuple):
    """One object of the image: `entry` as the image shows it, and which layer (counted from 0) it comes from.

    `source` is the path, in that layer, of the file whose content it has; empty unless it is a file or a hard link.
    """

    entry: IndexEntry
    layer: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class MergedTree:
    """The image's content by path, parents before children, names in the order of their code points."""

    entries: dict[str, MergedEntry]

    @property
    def size(self) -> int:
        """The bytes of all files, each content counted once."""
        return sum(merged.entry.size for merged in self.entries.values())


@dataclass(slots=True)
class _Node:
    entry: IndexEntry
    layer: int
    children: dict[str, _Node] = field(default_factory=dict)


def merge_layers(layers: Sequence[Layer]) -> MergedTree:
    """The content of the image that `layers`, lowest first, make; their indices suffice.

    Hard links are joined within a layer. They outlive the file that they point at: when a higher layer replaces it, the
    first of the surviving links, in the layer's order, becomes the file. Directories that no layer names are added with
    mode 0755 and the time of the entry that needs them. Raises BuildError where a layer has an entry below a path that
    is no directory in the layers under it: container engines disagree about what that means.
    """
    root = _Node(IndexEntry("", "dir", 0o755, 0, 0, 0, 0, "", ""), 0)
    for number, layer in enumerate(layers):
        _apply_whiteouts(root, layer)
        visible = [entry for entry in layer.entries if not _name(entry.path).startswith(_WHITEOUT)]
        folders = sorted((entry for entry in visible if entry.kind == "dir"), key=lambda entry: entry.path)
        known = {"": root}
        for entry in [*folders, *(entry for entry in visible if entry.kind != "dir")]:
            _place(known, entry, number)
    found = {node.entry.path: node for node in _walk(root)}
    return MergedTree(_join_links(found, layers))


def merged_entries(layers: Sequence[Layer], tree: MergedTree | None = None) -> Generator[Entry, None, None]:
    """The image of `layers`, lowest first, as one stream: each blob is read once, overridden content is skipped.

    Every path comes once, a directory before what lies in it, a file before its hard links. `tree` saves merging again.
    Raises what `merge_layers` and `layer_members` raise; the latter verifies each blob at its end.
    """
    stream = _Stream(tree or merge_layers(layers))
    for number, layer in enumerate(layers):
        with closing(layer_members(layer)) as members:
            for entry, content in members:
                yield from stream.take(number, entry, content)
    yield from stream.rest()


class _Stream:
    """What is still to come of a tree; contents become available in the layers' order, not in that of the tree."""

    def __init__(self, tree: MergedTree) -> None:
        self._left = dict(tree.entries)
        self._files = {
            (merged.layer, merged.source): path for path, merged in tree.entries.items() if merged.entry.kind == "file"
        }

    def take(self, number: int, entry: IndexEntry, content: BinaryIO | None) -> Iterator[Entry]:
        """The entries that follow from having come to `entry` in the layer `number`."""
        if entry.kind == "file":
            path = self._files.get((number, entry.path))
            if path is not None:
                yield from self._with_parents(path, content)
            return
        merged = self._left.get(entry.path)
        if merged is not None and merged.entry.kind == entry.kind and (merged.layer == number or entry.kind == "dir"):
            yield from self._with_parents(entry.path, None)

    def rest(self) -> Iterator[Entry]:
        """Directories that no layer names, and that are empty in the end."""
        for path in list(self._left):
            yield from self._with_parents(path, None)

    def _with_parents(self, path: str, content: BinaryIO | None) -> Iterator[Entry]:
        parent = path.rpartition("/")[0]
        if parent in self._left:
            yield from self._with_parents(parent, None)
        entry = self._left.pop(path).entry
        yield Entry(
            path=path, kind=entry.kind, mode=entry.mode, mtime=entry.mtime, uid=entry.uid, gid=entry.gid,
            size=entry.size, target=entry.target, content=content,
        )  # fmt: skip


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _apply_whiteouts(root: _Node, layer: Layer) -> None:
    for entry in layer.entries:
        parent, _, name = entry.path.rpartition("/")
        if not name.startswith(_WHITEOUT):
            continue
        folder = _find(root, parent)
        if folder is None:
            continue
        if name == _OPAQUE:
            folder.children.clear()
        else:
            folder.children.pop(name.removeprefix(_WHITEOUT), None)


def _find(root: _Node, path: str) -> _Node | None:
    node: _Node | None = root
    for part in path.split("/") if path else ():
        node = node.children.get(part) if node else None
    return node


def _place(known: dict[str, _Node], entry: IndexEntry, number: int) -> None:
    """Put `entry` of the layer `number` in its place; `known` are directories by path, as they are now."""
    parent, _, name = entry.path.rpartition("/")
    folder = known.get(parent) or _folder(known, parent, entry, number)
    existing = folder.children.get(name)
    if existing is None or existing.entry.kind != "dir":
        folder.children[name] = _Node(entry, number)
        return
    folder.children[name] = _Node(entry, number, existing.children if entry.kind == "dir" else {})
    root = known[""]
    known.clear()  # it, and what lies below it, is no longer there
    known[""] = root


def _folder(known: dict[str, _Node], path: str, entry: IndexEntry, number: int) -> _Node:
    """The directory at `path`, where `entry` is to lie; made, with its parents, if it is not there."""
    folder, at = known[""], ""
    for part in path.split("/"):
        at = f"{at}/{part}" if at else part
        below = folder.children.get(part)
        if below is None:
            below = _Node(IndexEntry(at, "dir", 0o755, entry.mtime, 0, 0, 0, "", ""), number)
            folder.children[part] = below
        if below.entry.kind != "dir":
            raise _contradiction(entry, below.entry)
        known[at] = folder = below
    return folder


def _contradiction(entry: IndexEntry, above: IndexEntry) -> BuildError:
    return BuildError(
        f"a layer brings {entry.path!r}, but {above.path!r} is a {above.kind} in a layer below it",
        rule="layer-conflict",
        hint=f"install the file at the place that {above.path!r} leads to"
        if above.kind == "symlink"
        else f"leave out one of the two, or bring {above.path!r} as a directory in the upper layer",
    )


def _walk(root: _Node) -> Iterator[_Node]:
    ahead = [root]
    while ahead:
        folder = ahead.pop()
        if folder is not root:
            yield folder
        if folder.children:
            ahead += [node for _, node in sorted(folder.children.items(), reverse=True)]


def _join_links(found: dict[str, _Node], layers: Sequence[Layer]) -> dict[str, MergedEntry]:
    """`found` with its files and hard links as the image shows them: the first survivor of a content is the file."""
    firsts: dict[tuple[int, str], str] = {}
    joined: dict[str, MergedEntry] = {}
    for number, layer in enumerate(layers):
        linked = {entry.target for entry in layer.entries if entry.kind == "hardlink"}
        files = {entry.path: entry for entry in layer.entries if entry.path in linked}
        for entry in layer.entries:
            node = found.get(entry.path)
            if node is None or node.layer != number or entry.kind not in {"file", "hardlink"}:
                continue
            if entry.path not in linked and entry.kind == "file":
                joined[entry.path] = MergedEntry(entry, number, entry.path)
                continue
            source = entry.path if entry.kind == "file" else entry.target
            first = firsts.setdefault((number, source), entry.path)
            shown = files[source]._replace(path=entry.path)
            if first != entry.path:
                shown = shown._replace(kind="hardlink", size=0, target=first, sha256="")
            joined[entry.path] = MergedEntry(shown, number, source)
    return {path: joined.get(path) or MergedEntry(node.entry, node.layer) for path, node in found.items()}
