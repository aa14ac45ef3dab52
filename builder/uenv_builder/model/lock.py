"""What a recipe means today: every artefact by exact version, size and sha256. A lock names no host."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ByteCount = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class LockedRelease(_Frozen):
    """One Debian suite as it was read: the signed Release file whose signature was verified."""

    suite: str
    date: str
    """The Release file's Date, ISO 8601 in UTC."""
    sha256: Sha256
    """Of the InRelease file."""


class LockedDeb(_Frozen):
    """One Debian package; `path` is relative to the root of any mirror of its archive (pool/...)."""

    name: str
    version: str
    architecture: str
    suite: str
    path: str
    size: ByteCount
    sha256: Sha256


class LockedUserland(_Frozen):
    """The Debian packages of the image, and those of the Python that compiles its sources on the build machine."""

    releases: tuple[LockedRelease, ...]
    packages: tuple[LockedDeb, ...]
    compilers: dict[str, tuple[LockedDeb, ...]] = {}
    """By the build machine's Debian architecture: the packages that hold the image's Python for that machine."""


class LockedWheel(_Frozen):
    """One wheel; `file` is its name on any index that follows the simple repository API, under the project's page."""

    name: str
    """Normalised as PEP 503 says."""
    version: str
    file: str
    size: ByteCount
    sha256: Sha256


class LockedPython(_Frozen):
    """The interpreter's version (minor, as in 3.13), the platform that wheels were resolved for, and the wheels."""

    version: str
    platform: str
    wheels: tuple[LockedWheel, ...]


class LockedAccelerator(_Frozen):
    """What the torch wheel was built for, read from the wheels that it pins; None where it does not apply."""

    torch: str
    variant: Literal["cuda", "cpu"]
    cuda: str | None = None
    nccl: str | None = None
    cudnn: str | None = None


class LockedTarget(_Frozen):
    """What the lock was made for."""

    uarch: str
    debian: str


class LockedRecipe(_Frozen):
    """The recipe that the lock belongs to; `digest` covers all that a resolver was asked for, and nothing else."""

    name: str
    version: str
    digest: Sha256


class Lock(_Frozen):
    """The whole lock. `epoch` (seconds since 1970, UTC) is the newest Release date: the time of all generated files."""

    format: Literal[1] = Field(default=1, alias="lock-format")
    recipe: LockedRecipe
    target: LockedTarget
    epoch: int
    userland: LockedUserland
    python: LockedPython | None = None
    accelerator: LockedAccelerator | None = None
