"""Packages put into one tree by the rules of dpkg: who owns a path, who may take it over, what exists in the end."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from debian.deb822 import PkgRelation
from debian.debian_support import NativeVersion

from uenv_builder.layers.deb import DebControl, deb_members
from uenv_builder.layers.safe_paths import SymlinkGuard, is_merged_link, merge_usr, safe_path
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError

_MOVED = {"var/lock": "run/lock", "var/run": "run"}
"""Directories that base-files ships, and then replaces by links to these."""
_FIRST = "base-files"  # brings the directories at the root with their modes
_MAX_LINKS = 40  # as the kernel follows
_RELATIONS: dict[str, Callable[[int], bool]] = {
    "<<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    "=": lambda order: order == 0,
    ">=": lambda order: order >= 0,
    ">>": lambda order: order > 0,
}


@dataclass(slots=True)
class Package:
    """One package: `listed` has its paths as dpkg lists them, `conffiles` the md5 sums of its configuration files.

    Both are filled by unpacking; paths are absolute, and those that another package has taken over are left out.
    """

    deb: Path
    control: DebControl
    listed: list[str] = field(default_factory=lambda: ["/."])
    conffiles: dict[str, str] = field(default_factory=dict)

    def replaces(self, other: Package) -> bool:
        """Whether this package's Replaces allows it to take over files of `other`."""
        alternatives = PkgRelation.parse_relations(self.control.fields.get("Replaces", ""))
        return any(_fits(relation, other.control) for choice in alternatives for relation in choice)


def _fits(relation: PkgRelation.ParsedRelation, control: DebControl) -> bool:
    if relation["name"] != control.name:
        return False
    if not relation["version"]:
        return True
    operator, version = relation["version"]
    left, right = NativeVersion(control.version), NativeVersion(version)
    return _RELATIONS[operator]((left > right) - (left < right))


def unpacking_order(packages: Sequence[Package]) -> list[Package]:
    """`packages` in their order, but base-files first, and each before those whose files it takes over.

    So the first package that brings a file is the one to keep it, and nothing has to be read twice. Of packages that
    replace each other, the first given keeps the files.
    """
    ordered: list[Package] = []
    begun: set[str] = set()
    replacing = [package for package in packages if package.control.fields.get("Replaces", "").strip()]

    def visit(package: Package) -> None:
        if package.control.name in begun:
            return
        begun.add(package.control.name)
        for other in replacing:
            if other is not package and other.replaces(package):
                visit(other)
        ordered.append(package)

    for package in sorted(packages, key=lambda package: package.control.name != _FIRST):
        visit(package)
    return ordered


class UnpackedTree:
    """What a stream of packages has put where. `wanted` says of which files the contents are kept, in `kept`."""

    def __init__(self, *, epoch: int, wanted: Callable[[str], bool]) -> None:
        self.kept: dict[str, bytes] = {}
        self._epoch = epoch
        self._wanted = wanted
        self._guard = SymlinkGuard("the userland")
        self._owners: dict[str, Package] = {}
        self._links: dict[str, str] = {}

    def unpack(self, package: Package) -> Iterator[Entry]:
        """The entries of `package` that are new, parents first.

        A directory that exists stays as it is, also where the package brings a link. Raises BuildError, rule
        `file-conflict`, where two packages bring one file and neither may replace the other's.
        """
        conffiles = frozenset(package.control.conffiles)
        for shipped, original in deb_members(package.deb, package.control, newest=self._epoch):
            entry = _locate(original)
            if not self._is_new(package, entry):
                if self._guard.kind(entry.path) == "dir" or entry.kind == "dir":
                    package.listed.append(f"/{shipped}")
                continue
            if entry.kind == "hardlink" and self._owners.get(entry.target) is not package:
                raise _conflict(entry.target, self._owners.get(entry.target), package)
            package.listed.append(f"/{shipped}")
            if entry.content is not None and (f"/{shipped}" in conffiles or self._wanted(entry.path)):
                entry = self._keep(package, f"/{shipped}", entry, entry.content)
            self._owners[entry.path] = package
            yield from self._place(entry)

    def _is_new(self, package: Package, entry: Entry) -> bool:
        there = self._guard.kind(entry.path)
        if there is None:
            return True
        if there == "dir" and entry.kind in {"dir", "symlink"}:
            return False
        if entry.kind == "dir" and there == "symlink" and self.kind_of(entry.path) == "dir":
            return False
        owner = self._owners.get(entry.path)
        if owner is not None and owner is not package and owner.replaces(package):
            return False
        raise _conflict(entry.path, owner, package)

    def _keep(self, package: Package, shipped: str, entry: Entry, content: BinaryIO) -> Entry:
        text = content.read()
        if shipped in package.control.conffiles:
            package.conffiles[shipped] = hashlib.md5(text, usedforsecurity=False).hexdigest()
        if self._wanted(entry.path):
            self.kept[entry.path] = text
        return replace(entry, content=BytesIO(text))

    def add(self, entry: Entry) -> Iterator[Entry]:
        """`entry` with the time of the stream, parents first, unless something is at its path already.

        The path may come from a package's scripts: it is held to the same rules as those of files.
        """
        entry = _locate(replace(entry, path=safe_path(entry.path, artefact="the userland")))
        if self._guard.kind(entry.path) is None:
            yield from self._place(replace(entry, mtime=self._epoch))

    def _place(self, entry: Entry) -> Iterator[Entry]:
        parent = entry.path.rpartition("/")[0]
        if parent and self._guard.kind(parent) is None:
            yield from self._place(Entry(path=parent, kind="dir", mode=0o755, mtime=self._epoch))
        self._guard.admit(entry.path, entry.kind)
        if entry.kind == "symlink":
            self._links[entry.path] = entry.target
        yield entry

    def kind_of(self, path: str) -> str | None:
        """What is at `path` (absolute or not) once all links are followed: dir, file, hardlink; None for nothing."""
        pending, found = [part for part in merge_usr(path.strip("/")).split("/") if part], ""
        links = 0
        while pending:
            part = pending.pop(0)
            found = posixpath.normpath(posixpath.join("/", found, part)).strip("/")
            if found in self._links:
                links += 1
                if links > _MAX_LINKS:
                    return None
                target = self._links[found]
                found = "" if target.startswith("/") else found.rpartition("/")[0]
                pending = [*(part for part in target.split("/") if part), *pending]
        return self._guard.kind(found) if found else "dir"


def _locate(entry: Entry) -> Entry:
    """`entry` where it lies behind the links that every system has: /bin, /lib and the like, /var/run, /var/lock."""
    if entry.kind == "symlink" and (entry.path in _MOVED or is_merged_link(entry.path, entry.target)):
        return entry
    target = _move(entry.target) if entry.kind == "hardlink" else entry.target
    return replace(entry, path=_move(merge_usr(entry.path)), target=target)


def _move(path: str) -> str:
    for old, new in _MOVED.items():
        if path == old or path.startswith(f"{old}/"):
            return new + path[len(old) :]
    return path


def _conflict(path: str, owner: Package | None, package: Package) -> BuildError:
    owners = f"{owner.control.name} {owner.control.version}" if owner else "something else"
    return BuildError(
        f"{package.control.name} {package.control.version} brings {path!r}, which is already there from {owners}",
        rule="file-conflict", hint="leave one of the two packages out, or choose versions that go together",
    )  # fmt: skip
