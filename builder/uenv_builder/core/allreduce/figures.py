"""What is known of bus bandwidth and of healthy nodes: knowledge/compat/busbw.yaml, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from uenv_builder.core.facts import Fact, FactFile, load_facts
from uenv_builder.core.logs.failures import load_failures

Operation = Literal["all_reduce_perf", "sendrecv_perf", "torch", "ring"]
"""Two programs of nccl-tests by their names, and torch.distributed's all-reduce."""
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]


class Figure(Fact):
    """Bus bandwidth at one message size (bytes) in one shape of job, GB/s."""

    operation: Operation
    gpu: str
    """Part of the GPU's name as programs print it."""
    systems: tuple[str, ...]
    nodes: _Count
    gpus_per_node: _Count
    bytes: _Count
    good: _Positive
    """What was measured, or published as the reference."""
    slow_below: _Positive | None = None
    fail_below: _Positive | None = None
    """Less than this fails a test; None: the size is not judged."""
    tcp: _Positive | None = None
    """What TCP reaches instead."""
    tcp_below: _Positive | None = None
    """Below this it is TCP."""

    @property
    def ranks(self) -> int:
        """One for each GPU."""
        return self.nodes * self.gpus_per_node

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        limits = [limit for limit in (self.tcp, self.tcp_below, self.fail_below, self.slow_below) if limit is not None]
        if [*limits, self.good] != sorted([*limits, self.good]):
            raise ValueError("must be tcp <= tcp_below <= fail_below <= slow_below <= good")
        return self


class NodeFigure(Fact):
    """What one node of these systems shows while it is healthy."""

    systems: tuple[str, ...]
    gpus: _Count
    nics: _Count
    """Slingshot's, hsn0 and so on."""


class FigureFile(FactFile):
    """The whole of busbw.yaml."""

    figures: tuple[Figure, ...]
    nodes: tuple[NodeFigure, ...]
    node_failures: tuple[str, ...]
    plugin_failures: tuple[str, ...]
    hang_failures: tuple[str, ...]
    plugin_networks: tuple[str, ...]

    @model_validator(mode="after")
    def _names_known_failures(self) -> Self:
        named = {*self.node_failures, *self.plugin_failures, *self.hang_failures}
        if unknown := named - set(load_failures().by_id):
            raise ValueError(f"failures.yaml has no {sorted(unknown)}")
        places = [
            (f.operation, system, f.nodes, f.gpus_per_node, f.bytes) for f in self.figures for system in f.systems
        ]
        if len(set(places)) != len(places):
            raise ValueError("two figures for the same program, system, shape and size")
        return self

    def node_of(self, system: str) -> NodeFigure | None:
        """What a node of `system` has; None where nothing is known."""
        return next((node for node in self.nodes if system in node.systems), None)


def load_figures() -> FigureFile:
    """The figures, from the package."""
    found: FigureFile = load_facts("busbw", FigureFile)
    return found


def figures_of_shape(
    figures: Iterable[Figure], operation: str, system: str, nodes: int, gpus_per_node: int
) -> tuple[Figure, ...]:
    """Those for one program in one shape of job, by size."""
    fitting = [
        figure for figure in figures
        if figure.operation == operation and system in figure.systems
        and (figure.nodes, figure.gpus_per_node) == (nodes, gpus_per_node)
    ]  # fmt: skip
    return tuple(sorted(fitting, key=lambda figure: figure.bytes))


def figure_at(figures: Iterable[Figure], size: int) -> Figure | None:
    """The figure that counts at `size` bytes: the one of the largest size up to it, and more than half of it."""
    fitting = [figure for figure in figures if figure.bytes <= size < 2 * figure.bytes]
    return max(fitting, key=lambda figure: figure.bytes, default=None)
