"""A recipe as evaluated: `extends` merged, variables filled in, every field of its type."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from uenv_builder.model.section import AbsolutePath, Name, View
from uenv_builder.model.spack import SpackSection
from uenv_builder.model.system import NetworkMode

VersionText = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9A-Za-z]+)*([-+.][0-9A-Za-z.]+)?$", max_length=80)]
Kind = Literal["container", "uenv", "both"]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Target(_Section):
    """A system to build for, and the uarch of its nodes."""

    system: Name
    """Name of a system, as docs/reference/systems.md lists them."""
    uarch: Name
    """Node type of that system, as labels name it after `%`."""


class DebianBase(_Section):
    """The userland: packages of one Debian suite with its updates. No mirror: that is the machine's or the user's."""

    suite: Name
    """Code name of the release, such as trixie."""
    pockets: list[Annotated[str, Field(pattern=r"^-[a-z-]+$")]] = ["-updates", "-security"]
    """Suffixes of the suite's name that are read beside it; the newest version of a package wins."""
    components: list[Name] = ["main"]
    """Parts of the archive: main, contrib, non-free, non-free-firmware."""
    essential: bool = True
    """Also every package that Debian marks as essential."""
    recommends: bool = False
    """Also what the packages recommend."""
    packages: list[PackageName] = []
    """Package names, or `NAME=VERSION`; what these depend on comes with them."""


class OciBase(_Section):
    """An image of a registry as the userland, with its variables, workdir and entrypoint; what it leaks into every
    job can be taken out of it.
    """

    image: Annotated[str, Field(pattern=r"^[^\s@]+(@sha256:[0-9a-f]{64})?$", max_length=400)]
    """Registry, name and tag, with the digest that pins it: registry.example/name:tag@sha256:..."""
    remove: list[AbsolutePath] = []
    """Files and folders of it that the image shall not have; `*` stands for any text within a name."""
    unset: list[str] = []
    """Variables of it that the image shall not have."""


class Base(_Section):
    """What the image stands on: exactly one of these; none of them in a uenv."""

    debian: DebianBase | None = None
    """The userland, from packages of Debian."""
    oci: OciBase | None = None
    """The userland, from an image of a registry."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.debian is not None and self.oci is not None:
            raise PydanticCustomError("one_base", "name exactly one base: debian or oci")
        return self

    @property
    def empty(self) -> bool:
        """Whether it names none, as a recipe that has no base."""
        return self.debian is None and self.oci is None


class Pins(_Section):
    """The versions that decide whether an environment works; each is checked against what the lock resolves to."""

    python: Annotated[str, Field(pattern=r"^3\.[0-9]+$")] | None = None
    """Minor version, such as 3.13; the suite decides which one there is. Needed for `requirements`."""
    cuda: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$")] | None = None
    """Version of CUDA that the torch wheel is built for."""
    nccl: VersionText | None = None
    """Version of the NCCL wheel that torch loads."""
    pytorch: VersionText | None = None
    """Version of torch; it is then required, too."""
    aws_ofi_nccl: VersionText | None = None
    """Version of the NCCL plugin for libfabric that the image brings; for network mode `image`."""
    libfabric: VersionText | None = None
    """Version of libfabric that the image brings; for network mode `image`."""
    libcxi: VersionText | None = None
    """Slingshot Host Software release that libcxi and the headers of the NIC come from; for network mode `image`."""
    gdrcopy: VersionText | None = None
    """Version of gdrcopy that libfabric is built with."""
    openmpi: VersionText | None = None
    """Version of Open MPI that the image brings."""


class PythonSection(_Section):
    """Python packages beside the pins, as PEP 508 requirements; constraints bound what others ask for."""

    requirements: list[str] = []
    """What to install, such as `numpy>=2,<3`."""
    constraints: list[str] = []
    """Bounds for packages that come only if something requires them."""
    byte_compile: bool = True
    """Whether the image holds the byte code of its modules; without, every process compiles them anew."""


class EdfSection(_Section):
    """Fields of the environment definition files, as Container Engine documents them."""

    mounts: list[str] = []
    """`/source`, `/source:/target` or `/source:/target:ro` of the host."""
    workdir: AbsolutePath | None = None
    """The folder that jobs start in; without it, what the engine does by default."""
    writable: bool = True
    """Whether jobs may write into the container; what they write is lost when it ends."""
    annotations: dict[str, str] = {}
    """Options of the engine's hooks, such as `com.hooks.ssh.enabled: "true"`."""
    base_environment: list[str] = []
    """Other EDFs that this one builds on."""
    env: dict[str, str] = {}
    """Variables; `${NAME}` in a value means the host's variable."""


class ComponentChoice(_Section):
    """A component that is built from source into the image: docs/how-to/components.md."""

    version: VersionText | None = None
    """One of those that its component.yaml has; by default the one that `pins` names, else the first there."""
    options: dict[Name, str] = {}
    """Values of its options; the others keep their defaults."""
    debug: bool = False
    """Whether the image gets its debug symbols, too, as a layer of their own below /usr/lib/debug."""


class AddedFile(_Section):
    """A file or folder of the recipe's own folder, and where it goes in the image."""

    source: Annotated[str, Field(min_length=1)]
    """Below the recipe's folder, or that of a recipe that it extends."""
    path: AbsolutePath
    """Where it goes; for a folder, with `/` at the end."""
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0644"
    """Of each file, octal and in quotes."""


class SquashfsOutput(_Section):
    """zstd level and block size in KiB; beyond the defaults, a smaller image costs much more time."""

    level: Annotated[int, Field(ge=1, le=22)] = 3
    """Of zstd, 1 to 22; more takes longer and makes the image a little smaller."""
    block_size_kib: Literal[4, 8, 16, 32, 64, 128, 256, 512, 1024] = 256
    """Larger blocks make a smaller image and slower random reads."""


class Outputs(_Section):
    """Which images a build writes."""

    squashfs: SquashfsOutput = SquashfsOutput()
    """How the squashfs is compressed."""
    oci: bool = True
    """Whether an OCI image layout is written beside it."""


class Recipe(_Section):
    """One environment."""

    name: Name
    """The first part of the label, and of the build folder's name."""
    version: Name
    """Version of the environment; its own, not that of a package in it."""
    description: Annotated[str, Field(min_length=1)]
    """One line for lists of environments."""
    maintainers: list[str] = []
    """Who answers for it; goes into the OCI image's labels."""
    targets: Annotated[list[Target], Field(min_length=1)]
    """Where it runs; the first is the default."""
    kind: Kind = "container"
    """What a build makes: a container image, a uenv (a folder that the site's uenv command mounts), or both."""
    base: Base = Base()
    """What a container image stands on; a uenv has none."""
    pins: Pins = Pins()
    """Versions that the lock must agree with."""
    python: PythonSection = PythonSection()
    """Python packages from wheels."""
    spack: SpackSection | None = None
    """What Spack installs below `mount`; a uenv needs it."""
    mount: AbsolutePath = "/user-environment"
    """Where a uenv is mounted; a folder that the nodes have, and the only one at which it works."""
    default_view: Name | None = None
    """The view of a uenv that is taken where none is named."""
    components: dict[Name, ComponentChoice] = {}
    """Software built from source into the image, by the name of its folder; what it needs comes with it."""
    network: NetworkMode = "none"
    """Who brings the network stack: the image, hooks that take the host's or an artifact's, or nobody."""
    env: dict[str, str] = {}
    """Variables of the image; they win over those of the system's network mode."""
    views: dict[Name, View] = {}
    """Named changes to the environment; manifest.json lists them for whoever applies them."""
    workdir: AbsolutePath = "/"
    """The folder that commands start in; without it, that of the base image, if there is one."""
    entrypoint: list[str] = []
    """Words that go before every command in the image; without it, those of the base image; `[]` drops them."""
    edf: EdfSection = EdfSection()
    """What the EDF files say beside the image."""
    files: list[AddedFile] = []
    """Files of the recipe's folder to add."""
    accept: dict[str, Annotated[str, Field(min_length=3)]] = {}
    """Warnings that are known and wanted: the rule's id, and the reason. Errors cannot be accepted."""
    checks: dict[str, dict[str, Any]] = {}
    """By the check's name, its parameters; `required: false` keeps a check from deciding the verdict."""
    outputs: Outputs = Outputs()
    """Which images a build writes, and how."""
