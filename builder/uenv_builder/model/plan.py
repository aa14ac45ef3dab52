"""The graph of steps that turns a lock into images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

StepKind = Literal[
    "userland", "base-layer", "bytecode", "wheel", "build-packages", "component", "debug-symbols", "files", "loader",
    "finish", "spack", "uenv-meta", "squashfs", "oci",
]  # fmt: skip
_NO_LAYERS = {"build-packages", "squashfs", "oci"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One unit of work. `id` (64 hex digits) is a hash over kind, options, inputs and tools: equal ids, equal results.

    `options` is canonical JSON; `inputs` are ids of earlier steps; `tools` names the programs and libraries whose
    version decides the bytes of the result.
    """

    id: str
    kind: StepKind
    name: str
    options: str
    inputs: tuple[str, ...] = ()
    tools: tuple[tuple[str, str], ...] = ()
    download_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps in an order in which each comes after its inputs; `id` names the whole."""

    id: str
    steps: tuple[Step, ...]

    def lasting(self) -> tuple[Step, ...]:
        """All but those whose results nobody needs any more when the others are there."""
        return tuple(step for step in self.steps if step.kind != "build-packages")

    def needed(self, missing: Collection[str]) -> tuple[Step, ...]:
        """All steps, but packages to compile with only where a step is made with them whose id is in `missing`: those
        of which there is no result.
        """
        inputs = {identity for step in self.lasting() if step.id in missing for identity in step.inputs}
        return tuple(step for step in self.steps if step.kind != "build-packages" or step.id in inputs)

    def layers(self) -> tuple[Step, ...]:
        """The steps whose results are layers of the image, lowest layer first."""
        return tuple(step for step in self.steps if step.kind not in _NO_LAYERS)
