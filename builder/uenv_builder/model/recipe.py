"""A recipe as evaluated: `extends` merged, variables filled in, every field of its type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from uenv_builder.model.system import NetworkMode

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=120)]
"""What a label's parts may hold: the grammar of the site's uenv command."""
VersionText = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9A-Za-z]+)*([-+.][0-9A-Za-z.]+)?$", max_length=80)]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f]*$", max_length=4000)]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Target(_Section):
    """A system to build for, and the uarch of its nodes."""

    system: Name
    uarch: Name


class DebianBase(_Section):
    """The userland: packages of one Debian suite with its updates. No mirror: that is the machine's or the user's."""

    suite: Name
    pockets: list[Annotated[str, Field(pattern=r"^-[a-z-]+$")]] = ["-updates", "-security"]
    """Suffixes of the suite's name that are read beside it; the newest version of a package wins."""
    components: list[Name] = ["main"]
    essential: bool = True
    """Also every package that Debian marks as essential."""
    recommends: bool = False
    packages: list[PackageName] = []


class Base(_Section):
    """What the image stands on."""

    debian: DebianBase


class Pins(_Section):
    """The versions that decide whether an environment works; each is checked against what the lock resolves to."""

    python: Annotated[str, Field(pattern=r"^3\.[0-9]+$")] | None = None
    cuda: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$")] | None = None
    nccl: VersionText | None = None
    pytorch: VersionText | None = None


class PythonSection(_Section):
    """Python packages beside the pins, as PEP 508 requirements; constraints bound what others ask for."""

    requirements: list[str] = []
    constraints: list[str] = []
    byte_compile: bool = True


class View(_Section):
    """A named set of changes to the environment, as users of a uenv select it."""

    description: str = ""
    set: dict[str, str] = {}
    prepend: dict[str, list[str]] = {}
    append: dict[str, list[str]] = {}
    unset: list[str] = []


class EdfSection(_Section):
    """Fields of the environment definition files, as Container Engine documents them."""

    mounts: list[str] = []
    workdir: AbsolutePath | None = None
    writable: bool = True
    annotations: dict[str, str] = {}
    base_environment: list[str] = []
    env: dict[str, str] = {}


class AddedFile(_Section):
    """A file or folder of the recipe's own folder, and where it goes in the image."""

    source: Annotated[str, Field(min_length=1)]
    path: AbsolutePath
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0644"


class SquashfsOutput(_Section):
    """zstd level and block size in KiB; the defaults are the knee of the measured curve (docs/explanation)."""

    level: Annotated[int, Field(ge=1, le=22)] = 3
    block_size_kib: Literal[4, 8, 16, 32, 64, 128, 256, 512, 1024] = 256


class Outputs(_Section):
    """Which images a build writes."""

    squashfs: SquashfsOutput = SquashfsOutput()
    oci: bool = True


class Recipe(_Section):
    """One environment."""

    name: Name
    version: Name
    description: Annotated[str, Field(min_length=1)]
    maintainers: list[str] = []
    targets: Annotated[list[Target], Field(min_length=1)]
    base: Base
    pins: Pins = Pins()
    python: PythonSection = PythonSection()
    network: NetworkMode = "none"
    env: dict[str, str] = {}
    views: dict[Name, View] = {}
    workdir: AbsolutePath = "/"
    entrypoint: list[str] = []
    edf: EdfSection = EdfSection()
    files: list[AddedFile] = []
    checks: dict[str, dict[str, Any]] = {}
    """By the check's name, its parameters; `required: false` keeps a check from deciding the verdict."""
    outputs: Outputs = Outputs()
