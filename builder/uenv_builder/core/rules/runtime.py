"""What rules about variables look at, wherever these are set: in a recipe, an EDF file or a batch script."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from packaging.version import Version

from uenv_builder.model.system import NetworkMode

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})
"""The words of libfabric and most others, in lower case."""
_FILLED_IN = re.compile(r"[$`]")


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

    @property
    def nccl_on_slingshot(self) -> bool:
        """Whether NCCL talks over Slingshot here."""
        return self.slingshot and self.uses_nccl

    def value(self, name: str) -> str | None:
        """The value of a variable, without blanks around it; None where it is empty or not known, since a shell or an
        engine fills something in.
        """
        text = self.env.get(name, "").strip()
        return None if not text or _FILLED_IN.search(text) else text

    def own_value(self, name: str) -> str | None:
        """The same, where the checked file itself sets it."""
        return self.value(name) if name in self.own else None

    def says(self, name: str, words: Collection[str]) -> bool:
        """Whether the checked file sets the variable to one of `words`, which are in lower case."""
        return (self.own_value(name) or "").lower() in words
