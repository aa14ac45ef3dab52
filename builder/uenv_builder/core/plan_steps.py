"""One step of a plan: its id is a hash over all that decides its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from uenv_builder.core.digest import Json, canonical_json, digest_of
from uenv_builder.model.plan import Step, StepKind

Tools: TypeAlias = "Mapping[StepKind, Mapping[str, str]]"
"""The versions of the programs and libraries whose output is kept, by kind of step."""

# Raised by one whenever the code of that kind writes other bytes for the same input (a test holds the bytes of each).
_REVISIONS: dict[StepKind, int] = {
    "userland": 1,
    "base-layer": 1,
    "bytecode": 1,
    "wheel": 1,
    "build-packages": 1,
    "component": 1,
    "debug-symbols": 1,
    "files": 1,
    "loader": 1,
    "finish": 2,
    "spack": 1,
    "uenv-meta": 1,
    "squashfs": 1,
    "oci": 1,
}


def make_step(
    all_tools: Tools, kind: StepKind, name: str, options: Json, after: Sequence[Step] = (), *, download: int = 0
) -> Step:
    """The step of that kind with these options, after other steps; `download` is what it fetches, in bytes."""
    tools = tuple(sorted(all_tools.get(kind, {}).items()))
    before = tuple(step.id for step in after)
    identity = digest_of([kind, _REVISIONS[kind], options, before, tools])
    return Step(
        id=identity, kind=kind, name=name, options=canonical_json(options), inputs=before, tools=tools,
        download_bytes=download,
    )  # fmt: skip
