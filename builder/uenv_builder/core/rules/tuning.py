"""Rules about variables that tune NCCL, libfabric, MPI and NVSHMEM, and do harm or nothing on GH200 over Slingshot.

As in settings.py, what the checked file does not set itself is not its fault. Empty values count as unset, and values
that a shell or an engine fills in are not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uenv_builder.core.rules import cxi_settings, mpi_settings, nccl_settings
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.runtime import Runtime

RULES: dict[str, Callable[[Runtime], Iterator[Finding]]] = {
    **cxi_settings.RULES,
    **nccl_settings.RULES,
    **mpi_settings.RULES,
}
"""The rules by id; each has its story in knowledge/rules/tuning.yaml."""
