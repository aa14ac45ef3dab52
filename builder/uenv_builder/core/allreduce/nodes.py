"""What the nodes of a test say of themselves, and which of it is a fault: GPUs, their clocks and memory, NICs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from uenv_builder.core.allreduce.figures import NodeFigure

Part = Literal["gpu", "memory", "nic"]
"""What of a node is at fault: a GPU or its clocks, a GPU's memory, the network."""
SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Why a GPU's clocks are down, by bit, where it is no choice of a user or of idleness (NVIDIA's nvml.h)."""
_LINE = re.compile(
    r"(?:\s{0,8}[0-9]{1,6}: ?)?uenv-node (?P<node>\S{1,200}) (?P<what>[a-z]{2,10})(?: (?P<rest>.{0,300}))?"
)
_END = "end"


@dataclass(slots=True)
class Gpu:
    """One GPU: None is what the driver does not tell."""

    name: str
    driver: str
    temperature: float | None = None
    """Degrees Celsius."""
    margin: float | None = None
    """Degrees Celsius that are left before it slows down."""
    clock: float | None = None
    most: float | None = None
    """Of the clock, MHz."""
    uncorrected: float | None = None
    """Errors of its memory since the driver was loaded that ECC could not correct."""
    events: int | None = None
    """Why the clock is what it is: nvml.h's bits."""


@dataclass(slots=True)
class NodeState:
    """What one node said; `complete` where it said all."""

    gpus: dict[int, Gpu] = field(default_factory=dict)
    nics: dict[str, str] = field(default_factory=dict)
    """Of Slingshot: their state in sysfs, `up` where they work."""
    trouble: str = ""
    """Why nothing is known of GPUs."""
    complete: bool = False


@dataclass(frozen=True, slots=True, order=True)
class NodeFault:
    """Something wrong with a node that no image can be blamed for."""

    node: str
    part: Part
    text: str

    def __str__(self) -> str:
        return f"{self.node}: {self.text}"


def read_states(lines: Iterable[str]) -> dict[str, NodeState]:
    """The states by node from the lines of `probe_node.sh`, of one node or of many in any order."""
    states: dict[str, NodeState] = {}
    for line in lines:
        match = _LINE.fullmatch(line.rstrip())
        if match:
            _add(states.setdefault(match["node"], NodeState()), match["what"], match["rest"] or "")
    return states


def find_faults(
    states: Mapping[str, NodeState], usual: NodeFigure | None, asked: Sequence[str] = ()
) -> tuple[NodeFault, ...]:
    """All faults; `asked` are nodes that should have answered. Without `usual`, numbers of parts are not judged."""
    faults = [NodeFault(node, "gpu", "did not answer") for node in asked if node not in states]
    clocks = {gpu.most for state in states.values() for gpu in state.gpus.values() if gpu.most}
    for node, state in states.items():
        for number, gpu in state.gpus.items():
            faults += [NodeFault(node, part, f"GPU {number}: {text}") for part, text in _judge_gpu(gpu, clocks)]
        faults += [
            NodeFault(node, "nic", f"{nic} is {up}") for nic, up in state.nics.items() if up not in {"up", "unknown"}
        ]
        faults += _count(node, state, usual) if usual else []
    return tuple(sorted(faults))


def _count(node: str, state: NodeState, usual: NodeFigure) -> list[NodeFault]:
    faults = []
    if state.complete and state.gpus and len(state.gpus) < usual.gpus:
        faults.append(NodeFault(node, "gpu", f"has {len(state.gpus)} GPUs, {usual.gpus} are usual"))
    if state.complete and len(state.nics) < usual.nics:
        faults.append(NodeFault(node, "nic", f"has {len(state.nics)} NICs of Slingshot, {usual.nics} are usual"))
    return faults


def _judge_gpu(gpu: Gpu, clocks: set[float]) -> list[tuple[Part, str]]:
    found: list[tuple[Part, str]] = []
    if gpu.uncorrected:
        found.append(("memory", f"{gpu.uncorrected:.0f} memory errors that ECC could not correct"))
    reasons = [text for bit, text in SLOWDOWNS.items() if (gpu.events or 0) & bit]
    if reasons:
        clock = f" (now {gpu.clock:.0f} of {gpu.most:.0f} MHz)" if gpu.clock and gpu.most else ""
        found.append(("gpu", f"clocks are down, {', '.join(reasons)}{clock}"))
    if gpu.margin is not None and gpu.margin <= 0:
        found.append(("gpu", f"too hot, {-gpu.margin:.0f} degrees above where it slows down"))
    if gpu.most and gpu.most < max(clocks):
        found.append(("gpu", f"may run at {gpu.most:.0f} MHz at most, others at {max(clocks):.0f}"))
    return found


def _add(state: NodeState, what: str, rest: str) -> None:
    cells = [cell.strip() for cell in rest.split(",")]
    if what == _END:
        state.complete = True
    elif what == "trouble":
        state.trouble = rest
    elif what == "nic":
        name, _, up = rest.partition(" ")
        state.nics[name] = up or "unknown"
    elif cells[0].isdecimal():
        _add_gpu(state, what, int(cells[0]), cells[1:])


def _add_gpu(state: NodeState, what: str, number: int, cells: Sequence[str]) -> None:
    if what == "gpu" and len(cells) == 6:
        temperature, clock, most, uncorrected = map(_number, cells[2:])
        state.gpus[number] = Gpu(cells[0], cells[1], temperature, None, clock, most, uncorrected)
    elif number in state.gpus and what == "events":
        state.gpus[number].events = _bits(cells[0])
    elif number in state.gpus and what == "margin":
        state.gpus[number].margin = _number(cells[0])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _bits(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
