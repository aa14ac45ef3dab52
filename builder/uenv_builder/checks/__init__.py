"""What is proved of an image before it is published. A new check is one entry in the dict of its family."""

from __future__ import annotations

from uenv_builder.checks.components import COMPONENT_CHECKS
from uenv_builder.checks.interface import CheckContext, CheckKind, ImageAccess, WantedCheck
from uenv_builder.checks.mpi import MPI_CHECKS
from uenv_builder.checks.network import NETWORK_CHECKS
from uenv_builder.checks.python import PYTHON_CHECKS
from uenv_builder.checks.static import STATIC_CHECKS
from uenv_builder.checks.torch import TORCH_CHECKS
from uenv_builder.checks.uenv import UENV_CHECKS

CHECKS: dict[str, CheckKind] = {
    **STATIC_CHECKS, **UENV_CHECKS, **COMPONENT_CHECKS, **PYTHON_CHECKS, **TORCH_CHECKS, **MPI_CHECKS,
    **NETWORK_CHECKS,
}  # fmt: skip
"""All checks that a recipe can name."""

__all__ = ["CHECKS", "CheckContext", "CheckKind", "ImageAccess", "WantedCheck"]
