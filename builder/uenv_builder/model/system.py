"""Micro-architectures and the systems that environments are built for."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from uenv_builder.model.spack import Settings, SpackExternal

Machine = Literal["aarch64", "x86_64"]
"""As `uname -m` prints it."""
Architecture = Literal["arm64", "amd64"]
"""As Debian and OCI images call it."""
MACHINES: dict[str, Machine] = {"amd64": "x86_64", "arm64": "aarch64"}
"""Those that there are, by their architecture."""
ARCHITECTURES: dict[str, str] = {machine: architecture for architecture, machine in MACHINES.items()}
"""By what `uname -m` prints; of other machines there is none."""
NetworkMode = Literal["image", "hook-host", "hook-artifact", "none"]
NETWORK_MODES: tuple[NetworkMode, ...] = get_args(NetworkMode)
Text = Annotated[str, Field(min_length=3)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
LEFT_OUT = "unset"
"""What `ContractVariable.others` calls the choice to leave a variable out."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Uarch(_Frozen):
    """A node type as labels name it (`%gh200`), and its names in the worlds that the builder talks to."""

    name: str
    machine: Machine
    """As `uname -m` prints it; also the ELF machine and the qemu-user suffix."""
    debian: Architecture
    oci: Architecture
    multiarch: str
    """Debian's multiarch tuple, the folder below /usr/lib."""
    cpu: str | None = None
    """The processor as Spack and archspec name it."""
    gpu: str | None = None
    """The GPU's compute capability, such as sm_90; none for a node without one."""
    qemu_cpu: str | None = None
    """The core that qemu-user shall emulate: one without software pointer authentication is much faster."""


class Reason(_Frozen):
    """Why something is as it is, and where that was read."""

    reason: Text
    source: Text


class ContractVariable(Reason):
    """One variable of a system's contract with its story. A mode that has no value leaves the variable alone."""

    values: dict[NetworkMode, str] = {}
    """What images carry, by network mode."""
    unset: tuple[NetworkMode, ...] = ()
    """Modes in which it must not be set at all: images leave it out, views of a uenv take it away."""
    others: dict[str, Text] = {}
    """Values that others choose, and who does; `unset` for those who leave the variable out."""

    @model_validator(mode="after")
    def _not_contradictory(self) -> Self:
        both = sorted(set(self.values) & set(self.unset))
        if both:
            raise PydanticCustomError("value_and_unset", "has a value and is unset in {mode}", {"mode": both[0]})
        same = sorted(set(self.values.values()) & set(self.others))
        if same:
            raise PydanticCustomError("other_value", 'others have "{value}", as values have', {"value": same[0]})
        return self


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
    reasons: dict[str, Reason] = {}
    """Why, by option as it is written above; `ranks_per_node`, `cpus_per_rank` and `gpus_per_node` for these."""


class SlurmDefaults(_Frozen):
    """How jobs of the builder itself are submitted on a system, where a user says nothing else."""

    account: str | None = None
    partition: str | None = None
    constraint: str | None = None
    time: str | None = None
    """The limit of a whole job in a form that sbatch takes; None: what the job needs."""
    options: tuple[str, ...] = ()
    """Further options of sbatch, such as `--reservation=tests`."""


class SystemSpack(_Frozen):
    """What Spack has to know of a machine: what lies there already, and how its network is used."""

    externals: dict[str, list[SpackExternal]] = {}
    """Packages of the machine by name, which are not built."""
    packages: dict[str, Settings] = {}
    """Settings of packages, as Spack's packages.yaml has them."""
    mpi: dict[str, list[str]] = {}
    """By the name of an MPI, the specs that go with it."""
    source: str = ""
    """Where these values were read."""


class System(_Frozen):
    """A machine: which uarch its nodes have, what its container hooks do and how jobs start there."""

    name: str
    description: str
    uarchs: tuple[str, ...]
    networks: tuple[NetworkMode, ...]
    """The network modes that the system can run."""
    launch: LaunchOptions
    slurm: SlurmDefaults = Field(default_factory=SlurmDefaults)
    """For `uenv test` and `uenv build` with `--launcher slurm`."""
    contract: str = ""
    """Name and version of what `variables`, `annotations`, `hooks` and `launch` promise; the version is raised when
    they change."""
    variables: dict[VariableName, ContractVariable] = {}
    """The variables of the contract by name."""
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
    spack: SystemSpack = SystemSpack()
    """What Spack takes from the machine when it installs a uenv for it."""
    sources: tuple[str, ...] = ()
    """Where these values were read."""
    reasons: dict[str, Reason] = {}
    """Why another field (such as `driver`) is as it is, by its name."""

    @property
    def env(self) -> dict[NetworkMode, dict[str, str]]:
        """The variables that images carry, by network mode; a mode without any is left out."""
        found: dict[NetworkMode, dict[str, str]] = {}
        for name, variable in self.variables.items():
            for mode, value in variable.values.items():
                found.setdefault(mode, {})[name] = value
        return found
