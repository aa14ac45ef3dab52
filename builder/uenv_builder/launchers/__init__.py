"""How many tasks run on which nodes: here, or over Slurm. A new way is one file, and one entry in LAUNCHERS."""

from __future__ import annotations

from uenv_builder.launchers.interface import Ended, Job, Launcher
from uenv_builder.launchers.local import LocalLauncher
from uenv_builder.launchers.slurm import SlurmLauncher, is_elsewhere

LAUNCHERS: dict[str, type[LocalLauncher | SlurmLauncher]] = {
    LocalLauncher.name: LocalLauncher,
    SlurmLauncher.name: SlurmLauncher,
}
"""By name."""

__all__ = ["LAUNCHERS", "Ended", "Job", "Launcher", "LocalLauncher", "SlurmLauncher", "is_elsewhere"]
