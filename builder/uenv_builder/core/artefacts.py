"""All that a lock names and a build takes from outside, whatever kind it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from uenv_builder.model.lock import Lock, LockedBase, LockedDeb, LockedSource, LockedWheel
from uenv_builder.model.spack_lock import LockedSpack


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePart:
    """One file of a base image, as a registry serves it: a manifest, or a blob (a layer, or the config).

    `reference` is the image's, `sha256` has 64 hex digits, `size` is in bytes (None: the lock does not say).
    """

    reference: str
    kind: Literal["manifests", "blobs"]
    what: str
    """For people: `layer 3 of 20`."""
    sha256: str
    size: int | None


Pin = LockedDeb | LockedWheel | LockedSource | BasePart


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file, known by its sha256, or one git commit: exactly one of `sha256` and `commit` is set.

    `name` and `origin` (where it is had where there is no mirror) are for people, `size` is in bytes (None: the lock
    does not say), and `pin` is the lock's own entry.
    """

    name: str
    origin: str
    size: int | None
    pin: Pin
    sha256: str = ""
    commit: str = ""

    @property
    def key(self) -> str:
        """What a mirror keeps it by."""
        return self.sha256 or self.commit


def artefacts_of(lock: Lock) -> tuple[Artefact, ...]:
    """Everything that building by `lock` may fetch on any machine, each once, in the lock's order."""
    return tuple({artefact.key: artefact for artefact in _all_of(lock)}.values())


def artefact_of(pin: Pin) -> Artefact:
    """A package, wheel, source or part of a base image as an artefact."""
    if isinstance(pin, BasePart):
        name, origin = f"{pin.what} of {pin.reference.partition('@')[0]}", f"the registry, {pin.reference}"
    elif isinstance(pin, LockedDeb):
        name, origin = f"{pin.name} {pin.version}", f"Debian {pin.suite}, {pin.path}"
    elif isinstance(pin, LockedWheel):
        name, origin = pin.file, f"the Python package index, project {pin.name}"
    else:
        return _artefact_of_source(pin)
    return Artefact(name=name, origin=origin, size=pin.size, sha256=pin.sha256, pin=pin)


def base_layers(base: LockedBase) -> tuple[BasePart, ...]:
    """The layers of a base image, from the lowest up: all that a build takes from the registry."""
    count = len(base.layers)
    return tuple(
        BasePart(
            reference=base.reference, kind="blobs", what=f"layer {number} of {count}", sha256=layer.digest,
            size=layer.size,
        )
        for number, layer in enumerate(base.layers, 1)
    )  # fmt: skip


def base_parts(base: LockedBase) -> tuple[BasePart, ...]:
    """The whole image for one architecture: index, manifest, config and layers."""
    documents: list[tuple[Literal["manifests", "blobs"], str, str | None, int | None]] = [
        ("manifests", "index", base.index_digest, None),
        ("manifests", "manifest", base.manifest_digest, base.manifest_size),
        ("blobs", "config", base.config_digest, base.config_size),
    ]
    named = (
        BasePart(reference=base.reference, kind=kind, what=what, sha256=sha256, size=size)
        for kind, what, sha256, size in documents
        if sha256
    )
    return (*named, *base_layers(base))


def _artefact_of_source(pin: LockedSource) -> Artefact:
    if pin.commit:
        origin = " or ".join(pin.git or ())
        return Artefact(name=f"commit {pin.commit} of {pin.file}", origin=origin, size=None, commit=pin.commit, pin=pin)
    origin = f"Debian, {pin.debian}" if pin.debian else " or ".join(pin.archive or ())
    return Artefact(name=pin.file, origin=origin, size=pin.size, sha256=pin.sha256 or "", pin=pin)


def _all_of(lock: Lock) -> Iterator[Artefact]:
    if lock.base:
        yield from map(artefact_of, base_parts(lock.base))
    yield from map(artefact_of, lock.debs)
    for debs in lock.compilers.values():
        yield from map(artefact_of, debs)
    if lock.python:
        yield from map(artefact_of, lock.python.wheels)
    if lock.build:
        yield from map(artefact_of, lock.build.packages)
        for component in lock.build.components:
            yield from map(artefact_of, component.sources)
            for wheels in component.build_wheels.values():
                yield from map(artefact_of, wheels)
    if lock.spack:
        yield from map(artefact_of, spack_sources(lock.spack))


def spack_sources(locked: LockedSpack) -> Iterator[LockedSource]:
    """What a build with Spack fetches by a hash: files of packages, then the commits of Spack and of package files."""
    for node in locked.built:
        for source in node.sources:
            if source.sha256:
                yield LockedSource(archive=(source.url,), sha256=source.sha256)
    yield from spack_commits(locked)


def spack_commits(locked: LockedSpack) -> Iterator[LockedSource]:
    """The commits of Spack and of its package repositories."""
    places = [(locked.git, locked.commit), *((one.git, one.commit) for one in locked.repositories)]
    for git, commit in places:
        if git and commit:
            yield LockedSource(git=(git,), commit=commit, submodules=False)
