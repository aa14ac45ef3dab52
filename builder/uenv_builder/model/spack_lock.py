"""What Spack chose for a recipe: every package by its hash, and where its sources come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from uenv_builder.model.spack import SpackExternal

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class LockedSpackSource(_Frozen):
    """One source of a package: what Spack fetches, and the sha256 that it verifies."""

    url: str
    sha256: Sha256 | None = None
    commit: str | None = None
    """Of a git repository."""
    place: str
    """Where a source mirror of Spack has it, below its root."""
    unverified: str | None = None
    """Why nothing verifies it, where neither sha256 nor commit is known."""


class LockedSpackNode(_Frozen):
    """A package as Spack's solver chose it. `hash` is Spack's own, and names it in spack.lock."""

    name: str
    version: str
    hash: str
    external: str | None = None
    """Its prefix on the machine, if it is not built."""
    dependencies: tuple[str, ...] = ()
    """Hashes of what it depends on, in any way."""
    sources: tuple[LockedSpackSource, ...] = ()


class LockedSpackRepository(_Frozen):
    """Package files: a commit of a git repository, or a folder by the digest of its files."""

    name: str
    path: str
    """Where repo.yaml lies below the root, or `.`."""
    git: str | None = None
    commit: str | None = None
    folder: str | None = None
    digest: Sha256 | None = None


class LockedSpack(_Frozen):
    """All that decides what Spack installs. The text of spack.lock lies beside the lock, and has to have its hash."""

    version: str
    """As `spack --version` says it."""
    git: str | None = None
    """The URL that Spack itself comes from; None for the machine's own, SPACK_ROOT."""
    commit: str | None = None
    repositories: tuple[LockedSpackRepository, ...]
    gcc: SpackExternal
    """The machine's own compiler."""
    asked: Sha256
    """Digest of the rendered spack.yaml."""
    lockfile: Sha256
    """Of the file spack.lock."""
    nodes: tuple[LockedSpackNode, ...]

    @property
    def built(self) -> tuple[LockedSpackNode, ...]:
        """The packages that are not the machine's own."""
        return tuple(node for node in self.nodes if node.external is None)
