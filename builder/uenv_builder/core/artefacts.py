"""All that a lock names and a build takes from outside, whatever kind it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from uenv_builder.model.lock import Lock, LockedDeb, LockedSource, LockedWheel

Pin = LockedDeb | LockedWheel | LockedSource


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
    """A package, wheel or source of a lock as an artefact."""
    if isinstance(pin, LockedDeb):
        name, origin = f"{pin.name} {pin.version}", f"Debian {pin.suite}, {pin.path}"
    elif isinstance(pin, LockedWheel):
        name, origin = pin.file, f"the Python package index, project {pin.name}"
    else:
        return _artefact_of_source(pin)
    return Artefact(name=name, origin=origin, size=pin.size, sha256=pin.sha256, pin=pin)


def _artefact_of_source(pin: LockedSource) -> Artefact:
    if pin.commit:
        origin = " or ".join(pin.git or ())
        return Artefact(name=f"commit {pin.commit} of {pin.file}", origin=origin, size=None, commit=pin.commit, pin=pin)
    origin = f"Debian, {pin.debian}" if pin.debian else " or ".join(pin.archive or ())
    return Artefact(name=pin.file, origin=origin, size=pin.size, sha256=pin.sha256 or "", pin=pin)


def _all_of(lock: Lock) -> Iterator[Artefact]:
    yield from map(artefact_of, lock.userland.packages)
    for debs in lock.userland.compilers.values():
        yield from map(artefact_of, debs)
    if lock.python:
        yield from map(artefact_of, lock.python.wheels)
    if lock.build:
        yield from map(artefact_of, lock.build.packages)
        for component in lock.build.components:
            yield from map(artefact_of, component.sources)
            for wheels in component.build_wheels.values():
                yield from map(artefact_of, wheels)
