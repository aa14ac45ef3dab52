"""The two engines that read environment definition files (EDF), and where they read the same file differently."""

from __future__ import annotations

from typing import Literal, TypeAlias

from uenv_builder.core.rules.finding import Finding

Dialect = Literal["ce", "sarus"]
"""Container Engine (enroot and pyxis), or Sarus Suite (podman)."""
Reader: TypeAlias = Dialect | None
"""Whose rules are held: one engine's, or, where None, what means the same in both."""
Verdict: TypeAlias = tuple[str, Finding]
"""The id of a rule, and what it found; `Finding.at` is a path such as ("env", NAME) or ("mounts", 0)."""

ENGINES: dict[Dialect, str] = {"ce": "Container Engine", "sarus": "Sarus Suite"}
OPTIONS: dict[Dialect, str] = {"ce": "--environment", "sarus": "--edf"}
FLAG_SEPARATORS: dict[Dialect, str] = {"ce": "+", "sarus": ","}
FOREIGN_ANNOTATIONS: dict[Dialect, tuple[str, ...]] = {
    "ce": ("com.sarus.",),
    "sarus": ("com.hooks.netstack.", "com.hooks.aws_ofi_nccl.variant", "com.hooks.ssh.", "com.pyxis."),
}
"""Annotations that the engine does not read (cscs-docs, sarus-suite/user-guide.md, "Hooks and annotations")."""

EDF_SOURCE = "eth-cscs/cscs-docs docs/software/container-engine/edf.md"
HOOKS_SOURCE = "eth-cscs/cscs-docs docs/software/container-engine/resource-hook.md"
RASTER_SOURCE = "sarus-suite/raster src/common.rs and src/mount.rs"
