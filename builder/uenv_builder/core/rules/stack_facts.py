"""The facts that rules about the software stack read: drivers, wheels of torch and NCCL, bases, bad combinations."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field

from uenv_builder.core.facts import Fact, FactFile, load_facts
from uenv_builder.model.errors import Severity
from uenv_builder.model.system import Machine


def read_version(text: str | None) -> Version | None:
    """`text` as a version that can be compared; None for one that cannot, of which nothing is known."""
    try:
        return Version(text or "")
    except InvalidVersion:
        return None


def _checked_version(text: str) -> str:
    if read_version(text) is None:
        raise ValueError(f"not a version: {text}")
    return text


def _checked_specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(str(error)) from error
    return text


def _checked_pattern(text: str) -> str:
    re.compile(text)
    return text


VersionNumber = Annotated[str, AfterValidator(_checked_version)]
Specifier = Annotated[str, Field(min_length=2), AfterValidator(_checked_specifier)]
Pattern = Annotated[str, Field(min_length=2), AfterValidator(_checked_pattern)]


class CudaDriver(Fact):
    """A driver by the version of CUDA: its first number for a family, its first two for a toolkit."""

    cuda: VersionNumber
    driver: VersionNumber


class CudaFile(FactFile):
    """knowledge/compat/cuda.yaml."""

    families: tuple[CudaDriver, ...]
    """The oldest driver that a family runs on."""
    toolkits: tuple[CudaDriver, ...]
    """The driver that the first release of a toolkit brings."""


class TorchRelease(Fact):
    """One release of torch on the Python package index."""

    version: VersionNumber
    requires_python: Specifier
    newest_python: VersionNumber
    """The newest Python with an aarch64 wheel, of those that were looked for."""
    glibc: VersionNumber
    """The oldest glibc that the aarch64 wheel is made for."""
    cuda: dict[Machine, VersionNumber]
    """What the wheel is built for, by machine; a machine that is not there gets a build for the CPU alone."""
    nccl: VersionNumber
    """The one NCCL that a CUDA build requires."""
    cudnn: VersionNumber
    """The one cuDNN that a CUDA build requires."""
    gpus: tuple[str, ...] = ()
    """The compute capabilities that the aarch64 wheel has machine code for; empty where nobody looked."""


class TorchFile(FactFile):
    """knowledge/compat/torch.yaml."""

    looked_for_python: VersionNumber
    """The newest Python that wheels were looked for; of newer ones nothing is known."""
    releases: tuple[TorchRelease, ...]


class NcclWheel(Fact):
    """One release of NCCL as a wheel for one family of CUDA."""

    cuda: Literal["12", "13"]
    version: VersionNumber
    aarch64: bool = True
    """Whether there is a wheel for aarch64."""
    glibc: VersionNumber | None = None
    """The oldest glibc that it is made for."""


class NcclFile(FactFile):
    """knowledge/compat/nccl_wheels.yaml."""

    wheels: tuple[NcclWheel, ...]


class BaseRelease(Fact):
    """One release of a distribution: its C library and its own Python."""

    name: str
    suite: str | None = None
    """The code name, as `base: debian: suite:` has it."""
    images: Pattern
    """Which images, by registry, name and tag, stand on it."""
    libc: Literal["glibc", "musl"] = "glibc"
    glibc: VersionNumber | None = None
    python: VersionNumber | None = None


class BaseLeak(Fact):
    """Something that an image of a registry leaves in every job: a folder, a file or a variable."""

    images: Pattern
    """Which images have it; the group `release`, if there is one, is what `since` and `until` are compared with."""
    since: VersionNumber | None = None
    """The first release that is known to have it; an image without a release then has nothing to say."""
    until: VersionNumber | None = None
    """The last one that is."""
    path: Annotated[str, Field(pattern=r"^/")] | None = None
    """`{multiarch}` in it is the folder of the machine's libraries, `*` any text within a name."""
    variable: str | None = None
    where: Literal["anywhere", "slingshot", "torch"] = "anywhere"
    """Where it does harm: where jobs talk over Slingshot, or beside a torch from wheels."""
    severity: Severity
    harm: Annotated[str, Field(min_length=10)]


class BaseFile(FactFile):
    """knowledge/compat/base_images.yaml."""

    releases: tuple[BaseRelease, ...]
    leaks: tuple[BaseLeak, ...]


class Condition(Fact):
    """A component and its bad versions: any of the specifiers."""

    component: Annotated[str, Field(min_length=2)]
    """A pin's name with `_`, `slingshot` for the host's release, or a wheel's name."""
    versions: Annotated[tuple[Specifier, ...], Field(min_length=1)]

    def covers(self, version: Version) -> bool:
        """Whether `version` is one of the bad ones."""
        return any(SpecifierSet(text).contains(version, prereleases=True) for text in self.versions)


class KnownBad(Fact):
    """Versions that do not work together, and where they do not."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")]
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1)]
    machines: tuple[Machine, ...] = ("aarch64", "x86_64")
    severity: Severity
    message: Annotated[str, Field(min_length=20)]
    remedy: Annotated[str, Field(min_length=10)]


class KnownBadFile(FactFile):
    """knowledge/compat/known_bad.yaml."""

    entries: tuple[KnownBad, ...]


def cuda_facts() -> CudaFile:
    """Which drivers CUDA runs on."""
    found: CudaFile = load_facts("cuda", CudaFile)
    return found


def torch_facts() -> TorchFile:
    """What torch's wheels are."""
    found: TorchFile = load_facts("torch", TorchFile)
    return found


def nccl_facts() -> NcclFile:
    """Which wheels of NCCL there are."""
    found: NcclFile = load_facts("nccl_wheels", NcclFile)
    return found


def base_facts() -> BaseFile:
    """What images stand on, and what they leak."""
    found: BaseFile = load_facts("base_images", BaseFile)
    return found


def known_bad_facts() -> KnownBadFile:
    """The combinations that are known not to work."""
    found: KnownBadFile = load_facts("known_bad", KnownBadFile)
    return found


def find_release(version: Version) -> TorchRelease | None:
    """The release of torch of that version; None for one that the facts do not have, or a build from another index."""
    return next((release for release in torch_facts().releases if Version(release.version) == version), None)


def find_nccl_wheel(family: int, version: Version) -> NcclWheel | None:
    """The wheel of NCCL of that version for a family of CUDA (12, 13); None for one that the facts do not have."""
    wheels = nccl_facts().wheels
    return next((one for one in wheels if one.cuda == str(family) and Version(one.version) == version), None)


def find_base(*, suite: str | None = None, image: str | None = None) -> BaseRelease | None:
    """The release of that code name, or that `image` (registry, name, tag) stands on; None for an unknown one."""
    for release in base_facts().releases:
        if suite is not None and release.suite == suite:
            return release
        if image is not None and re.search(release.images, image.lower()):
            return release
    return None
