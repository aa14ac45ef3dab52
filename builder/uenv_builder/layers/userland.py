"""A Debian system without installing it: packages as one stream of entries, and what their scripts would have made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from uenv_builder.layers.alternatives import alternative_entries, read_alternatives
from uenv_builder.layers.certificates import CERTIFICATES, certificate_entries
from uenv_builder.layers.deb import deb_control
from uenv_builder.layers.dpkg_database import database_entries
from uenv_builder.layers.system_files import TEMPLATES, system_entries
from uenv_builder.layers.unpacking import Package, UnpackedTree, unpacking_order
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError
from uenv_builder.model.system import Uarch

_KEPT = (CERTIFICATES, *TEMPLATES)


def userland_entries(debs: Sequence[Path], *, epoch: int, uarch: Uarch) -> Iterator[Entry]:
    """The files of `debs` (in that order, each package once) with merged /usr, then what follows from them.

    No maintainer script runs. What those of the base packages would do comes as entries: dpkg's database, accounts with
    locked passwords, the default files of base-files, /etc/shells, alternatives and the CA certificates with OpenSSL's
    hash links. Not done: PAM's common-* files, locales, users of services, caches of desktop libraries; and neither
    byte code nor /etc/ld.so.cache, for which see `module_bytecode_entries` and `write_loader_cache`.

    Each path comes once, a directory before what lies in it; contents stream. Times are at most `epoch` (seconds since
    1970), that of everything made here. Raises what `deb_entries` raises, and BuildError with the rules `file-conflict`
    (two packages, one file, no Replaces), `wrong-architecture` and `duplicate-package`.
    """
    packages = unpacking_order(_read_packages(debs, uarch))
    tree = UnpackedTree(epoch=epoch, wanted=lambda path: path.startswith(_KEPT))
    for package in packages:
        yield from tree.unpack(package)
    for entry in _made_entries(packages, tree, epoch):
        yield from tree.add(entry)


def _read_packages(debs: Sequence[Path], uarch: Uarch) -> list[Package]:
    packages: dict[str, Package] = {}
    for deb in debs:
        control = deb_control(deb)
        if control.architecture not in {"all", uarch.debian}:
            raise BuildError(f"{deb.name} is for {control.architecture}, but {uarch.name} is {uarch.debian}",
                             rule="wrong-architecture", hint="write the lock anew with `uenv lock`")  # fmt: skip
        if control.name in packages:
            raise BuildError(f"{deb.name} brings {control.name}, as {packages[control.name].deb.name} does",
                             rule="duplicate-package", hint="write the lock anew with `uenv lock`")  # fmt: skip
        packages[control.name] = Package(deb, control)
    return list(packages.values())


def _made_entries(packages: Sequence[Package], tree: UnpackedTree, epoch: int) -> Iterator[Entry]:
    def exists(path: str) -> bool:
        return tree.kind_of(path) is not None

    names = frozenset(package.control.name for package in packages)
    choices = [choice for package in packages for choice in read_alternatives(package.control.postinst)]
    yield from alternative_entries(choices, exists)
    yield from system_entries(tree.kept, exists, packages=names, epoch=epoch)
    yield from certificate_entries(tree.kept)
    yield from database_entries(packages)
