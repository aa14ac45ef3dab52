"""Bus bandwidth over message size against what is expected, as SVG and PNG."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uenv_builder.core.allreduce.figures import Figure
from uenv_builder.system.files import write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXTRA = "plot"
"""The optional dependency that draws."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Curve:
    """What one check measured, GB/s by size in bytes."""

    name: str
    values: Mapping[int, float]


def can_plot() -> bool:
    """Whether what draws is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_busbw(folder: Path, title: str, curves: Sequence[Curve], figures: Sequence[Figure]) -> list[Path]:
    """Write `busbw.svg` and `busbw.png` into `folder`; equal input gives equal files. Needs matplotlib: `can_plot`."""
    # Heavy to import, and without it all but this works.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure as Page  # noqa: PLC0415

    written = []
    with mpl.rc_context({"svg.hashsalt": "uenv", "svg.fonttype": "none", "font.size": 9.0}):
        page = Page(figsize=(7.0, 4.4), layout="constrained")
        axes = page.add_subplot()
        _draw(axes, curves, figures)
        axes.set_title(title)
        for name, metadata in (("busbw.svg", {"Date": None}), ("busbw.png", {"Software": None})):
            with write_beside(folder / name) as file:
                page.savefig(file, format=name[-3:], dpi=150, metadata=metadata)
            written.append(folder / name)
    return written


def size_text(size: int) -> str:
    """`size` bytes in the largest unit that leaves a number of at least 1: 64 MiB."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {_UNITS[unit]}"


def _draw(axes: Axes, curves: Sequence[Curve], figures: Sequence[Figure]) -> None:
    for curve in curves:
        sizes = sorted(curve.values)
        axes.plot(sizes, [curve.values[size] for size in sizes], marker="o", markersize=3, label=curve.name)
    floors = [(figure.bytes, figure.fail_below) for figure in figures if figure.fail_below is not None]
    tcp = [(figure.bytes, figure.tcp_below) for figure in figures if figure.tcp_below is not None]
    for points, marker, label in ((floors, "_", "at least expected"), (tcp, "x", "TCP below")):
        if points:
            axes.plot(
                *zip(*points, strict=True), linestyle="none", marker=marker, markersize=11, color="black", label=label
            )
    axes.set_xscale("log", base=2)
    if any(value > 0 for curve in curves for value in curve.values.values()):
        axes.set_yscale("log")
    sizes = sorted({size for curve in curves for size in curve.values})
    shown = sizes[:: max(1, len(sizes) // 8)]
    axes.set_xticks(shown, [size_text(size) for size in shown], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("message size")
    axes.set_ylabel("bus bandwidth in GB/s")
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(fontsize="small")
