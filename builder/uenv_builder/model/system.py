"""Micro-architectures and the systems that environments are built for."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

NetworkMode = Literal["image", "hook-host", "hook-artifact", "none"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Uarch(_Frozen):
    """A node type as labels name it (`%gh200`), and its names in the worlds that the builder talks to."""

    name: str
    machine: Literal["aarch64", "x86_64"]
    """As `uname -m` prints it; also the ELF machine and the qemu-user suffix."""
    debian: Literal["arm64", "amd64"]
    oci: Literal["arm64", "amd64"]
    multiarch: str
    """Debian's multiarch tuple, the folder below /usr/lib."""
    cpu: str | None = None
    """The processor as Spack and archspec name it."""
    gpu: str | None = None
    """The GPU's compute capability, such as sm_90; none for a node without one."""
    qemu_cpu: str | None = None
    """The core that qemu-user shall emulate: one without software pointer authentication is much faster."""


class HookStack(_Frozen):
    """What the host's container hooks put into a container in one network mode: versions, and variables."""

    libfabric: str | None = None
    """Version of the libfabric that the hook brings."""
    aws_ofi_nccl: str | None = None
    """Version of the NCCL plugin that the hook brings."""
    glibc: str | None = None
    """The newest glibc symbol version that the hook's libraries ask of the image's C library, where it is known."""
    env: dict[str, str] = {}
    """Variables that the hook sets when a container starts."""
    source: str = ""
    """Where versions and variables were read."""


class LaunchOptions(_Frozen):
    """How jobs start on a system: what every sbatch script and srun line of it carries."""

    ranks_per_node: int
    cpus_per_rank: int
    gpus_per_node: int = 0
    srun: tuple[str, ...] = ()
    """Options of srun that every job needs, such as `--mpi=pmix`."""
    network_srun: dict[NetworkMode, tuple[str, ...]] = {}
    """Further options by network mode, such as `--network=disable_rdzv_get`."""


class System(_Frozen):
    """A machine: which uarch its nodes have, what its container hooks do and how jobs start there."""

    name: str
    description: str
    uarchs: tuple[str, ...]
    networks: tuple[NetworkMode, ...]
    """The network modes that the system can run."""
    launch: LaunchOptions
    contract: str = ""
    """Name and version of what `env`, `annotations` and `launch` promise; the version is raised when they change."""
    env: dict[NetworkMode, dict[str, str]] = {}
    """Variables that the image carries, by network mode."""
    annotations: dict[NetworkMode, dict[str, str]] = {}
    """EDF annotations of Container Engine, by network mode."""
    sarus_annotations: dict[NetworkMode, dict[str, str]] = {}
    """EDF annotations of Sarus Suite, by network mode."""
    sarus_devices: tuple[str, ...] = ()
    """The EDF's `devices` for Sarus Suite, which shows a container only the devices that are named."""
    driver_libraries: tuple[str, ...] = ()
    """Shared libraries that the host's GPU driver puts into the container (never part of an image), as the loader
    asks for them; `*` stands for any text."""
    hook_libraries: dict[NetworkMode, tuple[str, ...]] = {}
    """Shared libraries that the host's network hooks put into the container, by network mode; written as above."""
    driver: str | None = None
    """Version of the GPU driver on the nodes, such as 590.48.01."""
    slingshot: str | None = None
    """The host's Slingshot Host Software release, such as 13.1.0; None where the network is another one."""
    hooks: dict[NetworkMode, HookStack] = {}
    """What the host's hooks bring, by network mode."""
    sources: tuple[str, ...] = ()
    """Where these values were read."""
