"""What a recipe means today: every artefact by exact version, size and sha256. A lock names no host."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from uenv_builder.model.spack_lock import LockedSpack
from uenv_builder.model.system import Architecture

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


class LockedBaseLayer(_Frozen):
    """One layer of a base image; `digest` and `size` (bytes) are the blob's, `diff_id` is that of the tar in it."""

    digest: Sha256
    size: ByteCount
    media_type: str
    diff_id: Sha256


class LockedInterpreter(_Frozen):
    """The Python that a base has in its PATH, and where that one looks for packages; folders are absolute."""

    version: str
    """Minor, as in 3.13."""
    executable: str
    prefix: str
    """What an installer puts programs below: PREFIX/bin."""
    packages: str


class LockedContents(_Frozen):
    """What the files of a base say of it, without those that the recipe removes."""

    glibc: str | None = None
    """Major and minor; None for another C library."""
    shell: str = "/bin/sh"
    python: LockedInterpreter | None = None
    packages: dict[str, str] = {}
    """The versions of its Debian packages by name, where dpkg's database is in it."""
    distributions: dict[str, str] = {}
    """The versions of the Python packages that its Python finds, by normalised name."""
    leaks: tuple[str, ...] = ()
    """Paths that are known to do harm in every job."""
    unused: tuple[str, ...] = ()
    """What the recipe removes, and the image does not have."""


class LockedBase(_Frozen):
    """An image of a registry for one architecture. Digests are 64 hex digits, layers are listed from the lowest up."""

    reference: str
    """As the recipe names it."""
    architecture: Architecture
    index_digest: Sha256 | None = None
    """Of the index of all architectures; None where the reference is that of one architecture's manifest."""
    manifest_digest: Sha256
    manifest_size: ByteCount
    config_digest: Sha256
    config_size: ByteCount
    layers: tuple[LockedBaseLayer, ...]
    env: dict[str, str]
    working_dir: str
    """Empty where the image names none."""
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    created: int
    """When the image was made, in seconds since 1970 (UTC); 0 where it does not say."""
    contents: LockedContents = LockedContents()

    @property
    def name(self) -> str:
        """The reference without a digest, for people."""
        return self.reference.partition("@")[0]

    def env_without(self, names: Collection[str]) -> dict[str, str]:
        """Its variables but those with these names."""
        return {name: value for name, value in self.env.items() if name not in names}


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


class LockedSource(_Frozen):
    """A source of a component: an archive by its sha256, from any of the URLs or a path below any Debian mirror; or a
    git commit, from any of the URLs.
    """

    archive: tuple[str, ...] | None = None
    debian: str | None = None
    git: tuple[str, ...] | None = None
    sha256: Sha256 | None = None
    size: ByteCount | None = None
    """Of an archive, where its component.yaml says so."""
    commit: str | None = None
    submodules: bool | None = None

    @property
    def file(self) -> str:
        """The last part of its first place, for people."""
        place = self.debian or (self.archive or self.git or ("",))[0]
        return place.rstrip("/").rpartition("/")[2]


class LockedComponent(_Frozen):
    """A component from source. Packages are named as in `LockedBuild.packages`, without those of the common sets."""

    name: str
    version: str
    sources: tuple[LockedSource, ...]
    native: tuple[str, ...] = ()
    """What it is compiled with on a machine of the target's kind, or under an emulator of one."""
    cross: dict[str, tuple[str, ...]] = {}
    """What runs on another machine that compiles it, by that machine's Debian architecture."""
    sysroot: tuple[str, ...] = ()
    """What that machine's cross compiler compiles it against, of the target's architecture."""
    wheels: tuple[str, ...] = ()
    """The image's wheels that it is compiled with."""
    build_wheels: dict[str, tuple[LockedWheel, ...]] = {}
    """Wheels of programs that compile it, by the Debian architecture of the machine that they run on."""


class LockedBuild(_Frozen):
    """The components from source, each after what it needs, and the Debian packages to compile them with."""

    components: tuple[LockedComponent, ...]
    native: tuple[str, ...]
    """The common set for each role, as in LockedComponent."""
    cross: dict[str, tuple[str, ...]] = {}
    sysroot: tuple[str, ...] = ()
    packages: tuple[LockedDeb, ...]
    """None of them reaches the image; a name has one version for each architecture."""


class Lock(_Frozen):
    """The whole lock: a userland of Debian packages, or a base image.

    `epoch` (seconds since 1970, UTC) is the newest Release date, or when the base was made: the time of all generated
    files.
    """

    format: Literal[1] = Field(default=1, alias="lock-format")
    recipe: LockedRecipe
    target: LockedTarget
    epoch: int
    userland: LockedUserland | None = None
    base: LockedBase | None = None
    python: LockedPython | None = None
    accelerator: LockedAccelerator | None = None
    build: LockedBuild | None = None
    """Where the recipe has components from source."""
    spack: LockedSpack | None = None
    """Of a uenv, which has neither userland nor base."""

    @model_validator(mode="after")
    def _one_base(self) -> Self:
        if self.userland is None and self.base is None and self.spack is not None:
            return self
        if (self.userland is None) == (self.base is None):
            raise PydanticCustomError("one_base", "it needs either a userland or a base")
        return self

    @property
    def debs(self) -> tuple[LockedDeb, ...]:
        """The Debian packages that the image is made from; none on a base image."""
        return self.userland.packages if self.userland else ()

    @property
    def compilers(self) -> dict[str, tuple[LockedDeb, ...]]:
        """As `LockedUserland.compilers`."""
        return self.userland.compilers if self.userland else {}

    @property
    def packages(self) -> dict[str, str]:
        """The versions of all Debian packages that the image has, by name: the lock's own, or those of the base."""
        return self.base.contents.packages if self.base else {deb.name: deb.version for deb in self.debs}
