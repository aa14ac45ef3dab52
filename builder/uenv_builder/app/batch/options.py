"""What a job of ours asks of Slurm: command line, settings, environment, system's file, the strongest first."""

from __future__ import annotations

from uenv_builder.launchers.slurm_batch import BatchOptions, system_options
from uenv_builder.model.system import System
from uenv_builder.system.settings import Settings

__all__ = ["BatchOptions", "options_for"]


def options_for(settings: Settings, system: System, given: BatchOptions) -> BatchOptions:
    """All that is said about a job on `system`, the strongest word of each option."""
    own = BatchOptions(
        account=settings.slurm_account, partition=settings.slurm_partition, constraint=settings.slurm_constraint,
        time=settings.slurm_time, further=settings.slurm_options,
    )  # fmt: skip
    return given.over(own).over(system_options(system.slurm))
