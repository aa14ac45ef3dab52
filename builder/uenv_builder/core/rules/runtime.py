"""What rules about variables look at, wherever these are set: in a recipe, an EDF file or a batch script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.version import Version

from uenv_builder.model.system import NetworkMode


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The variables of a job and what is known of where it runs; None and empty where it is not known."""

    env: Mapping[str, str]
    """All variables: the system's, the image's, the job's own."""
    own: frozenset[str] = frozenset()
    """The names of those that the checked file itself sets: only these are its fault, and have a place in it."""
    gpu: str | None = None
    """Compute capability of the nodes' GPU, such as sm_90."""
    grace_hopper: bool = False
    """Whether the nodes are GH200: NIC and GPU then meet over NVLink-C2C."""
    slingshot: bool = False
    """Whether jobs talk over Slingshot's NIC."""
    network: NetworkMode | None = None
    srun_options: tuple[str, ...] | None = None
    """Options of the launch line; None where nobody knows it."""
    multi_node: bool = True
    uses_nccl: bool = True
    versions: Mapping[str, Version] = field(default_factory=dict)
    """By component (nccl, aws_ofi_nccl, libfabric): the version that the job will load."""
