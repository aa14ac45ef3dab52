"""How long a measurement will take, from what it took on a machine with two cores."""

from __future__ import annotations

from collections.abc import Sequence

from .setting import Setting

_SECONDS_PER_GB = {
    "cold": 80.0, "buildah": 100.0, "second": 30.0, "variable": 27.0, "unchanged": 0.5,
    "size": 20.0, "peaks": 30.0, "growth": 15.0,
}  # fmt: skip
"""For each GB of downloads (of `growth`: of payload), once; of `buildah`: one round with pip and uv."""


def estimated_seconds(setting: Setting, cases: Sequence[str]) -> float:
    """All of the cases together."""
    gigabytes = setting.payload.download_bytes / 1e9
    total = 0.0
    for case in cases:
        rate = _SECONDS_PER_GB[case]
        if case == "growth":
            total += rate * sum(setting.growth) / 1e9
        elif case in {"size", "peaks"}:
            total += rate * gigabytes
        else:
            total += rate * gigabytes * setting.runs
        if case == "cold":
            total += _SECONDS_PER_GB["buildah"] * gigabytes * setting.slow_runs
    return total
