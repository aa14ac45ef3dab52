"""The figures that are compared, and what they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .results import Results, median_of, ratio_of, runs_of

Kind = Literal["at least", "at most", "under"]
Unit = Literal["times", "s", "MB", "share"]


@dataclass(frozen=True)
class Goal:
    """What a figure should be."""

    kind: Kind
    value: float

    def holds(self, found: float) -> bool:
        """Whether the figure reaches it."""
        if self.kind == "at least":
            return found >= self.value
        return found <= self.value if self.kind == "at most" else found < self.value


@dataclass(frozen=True)
class Figure:
    """One line of the table; `sides` are those whose runs decide it. Without a goal it is for information."""

    case: str
    title: str
    unit: Unit
    read: Callable[[Results], float | None]
    sides: tuple[str, ...] = ()
    goal: Goal | None = None

    def runs(self, results: Results) -> int:
        """The number of rounds in which all sides ran; 0 for what is counted and not timed."""
        rounds = [{run["round"] for run in runs_of(results, self.case, side)} for side in self.sides]
        return len(set.intersection(*rounds)) if rounds else 0


def text_of(value: float, unit: Unit) -> str:
    """A figure for people."""
    if unit == "times":
        return f"{value:.2f} x" if value < 10 else f"{value:.1f} x"
    if unit == "share":
        return f"{(value - 1) * 100:+.2f} %"
    return f"{value:.2f} s" if unit == "s" else f"{value:,.0f} MB"


def goal_text(figure: Figure) -> str:
    """A goal for people."""
    return f"{figure.goal.kind} {text_of(figure.goal.value, figure.unit)}" if figure.goal else ""


def verdict(figure: Figure, results: Results) -> str:
    """Whether the goal is reached; what was not measured says so."""
    value = figure.read(results)
    if value is None:
        return "not measured"
    return "" if figure.goal is None else ("reached" if figure.goal.holds(value) else "NOT reached")


def _faster(case: str, peer: str, title: str, goal: float | None = None, *, ours: str = "ours") -> Figure:
    wanted = None if goal is None else Goal("at least", goal)
    return Figure(case, title, "times", lambda results: ratio_of(results, case, peer, ours), (ours, peer), wanted)


def _within(case: str, floor: str, title: str, goal: float, *, ours: str = "ours") -> Figure:
    reading = lambda results: ratio_of(results, case, ours, floor)  # noqa: E731
    return Figure(case, title, "times", reading, (ours, floor), Goal("at most", goal))


def _value(case: str, name: str, title: str, unit: Unit, goal: Goal | None = None) -> Figure:
    return Figure(case, title, unit, lambda results: _stored(results, case, name), (), goal)


def _stored(results: Results, case: str, name: str) -> float | None:
    found = results["cases"].get(case, {}).get("values", {}).get(name)
    return None if found is None else float(found)


_COLD = (
    _faster("cold", "pip-enroot", "buildah, pip, squashfs as enroot makes it", 5),
    _faster("cold", "pip-stackinator", "buildah, pip, squashfs as stackinator makes it"),
    _faster("cold", "uv-enroot", "buildah, uv, squashfs as enroot makes it"),
    _faster("cold", "uv-stackinator", "buildah, uv, squashfs as stackinator makes it"),
    _faster("cold", "by-hand-plain", "best pipeline by hand, no side byte-compiles", 1.8, ours="ours-plain"),
    _faster("cold", "by-hand", "best pipeline by hand, both sides byte-compile", 1.25),
    _within("cold", "parts", "its parts at once: inflate, byte-compile, zstd", 1.2),
)
_CHANGED = (
    _faster("second", "by-hand", "best pipeline by hand, nine tenths in common", 8),
    _faster("variable", "by-hand", "best pipeline by hand, all of it again", 20),
    _faster("variable", "by-hand-pack", "best pipeline by hand, tree kept and packed again", 20),
    _within("variable", "cp", "cp of the image", 1.5),
    _within("variable", "cp-sync", "cp of the image, sync counted on both sides", 1.5, ours="ours-sync"),
    Figure(
        "unchanged", "uenv build as a whole process", "s",
        lambda results: median_of(results, "unchanged", "ours"), ("ours",), Goal("under", 0.5),
    ),
)  # fmt: skip
_NEEDS = (
    _value("size", "image-ratio", "squashfs, against mksquashfs of the same tree", "share", Goal("at most", 1.01)),
    _value("size", "oci-ratio", "OCI layers, against tar and zstd of the same tree", "share"),
    _value("peaks", "cold-memory", "peak memory of a cold build", "MB", Goal("under", 600)),
    _value(
        "peaks", "cold-disk-ratio", "peak disk of a cold build beyond the image, in images", "times", Goal("under", 1.2)
    ),
)
FIGURES = (*_COLD, *_CHANGED, *_NEEDS)
