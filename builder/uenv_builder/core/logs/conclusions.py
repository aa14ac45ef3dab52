"""What several lines of a log say together: bandwidth that only TCP has, wrong data, two versions of NCCL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from uenv_builder.core.allreduce.figures import Figure, load_figures
from uenv_builder.core.logs.benchmarks import Benchmark

Conclusion: TypeAlias = "tuple[str, int, str, Mapping[str, str]]"
"""The failure's id, number and text of the line that it is drawn from, and the values for its texts."""


def conclude(benchmarks: Sequence[Benchmark], nccl: Mapping[str, int]) -> Iterator[Conclusion]:
    """Conclusions from the runs of nccl-tests, and from the versions of NCCL with the lines that name them."""
    for run in benchmarks:
        if run.wrong_at is not None:
            size = run.wrong_at.size
            values = {"operation": run.operation or "a test of nccl-tests", "wrong": str(run.wrong)}
            values["size"] = str(size) if size is not None else ""
            yield "nccl-wrong-data", run.wrong_at.line, run.wrong_at.text, values
        yield from _judge_bandwidth(run)
    # The same version is written with and without its CUDA.
    versions: dict[str, int] = {}
    for text, line in nccl.items():
        versions.setdefault(text.partition("+")[0], line)
    if len(versions) > 1:
        listed = ", ".join(versions)
        yield "nccl-versions-differ", max(versions.values()), f"NCCL version {listed}", {"versions": listed}


def _judge_bandwidth(run: Benchmark) -> Iterator[Conclusion]:
    """At most one verdict a run, on its largest size that there is a figure for."""
    if run.operation is None or run.gpu is None:
        return
    fitting = [figure for figure in load_figures().figures if _fits(figure, run)]
    for usual in sorted(fitting, key=lambda usual: -usual.bytes):
        measured, row = run.bandwidths[usual.bytes], run.rows[usual.bytes]
        values = {
            "operation": run.operation, "measured": f"{measured:g}", "size": str(usual.bytes), "ranks": str(run.ranks),
            "nodes": str(len(run.nodes)), "good": f"{usual.good:g}", "tcp": f"{usual.tcp:g}" if usual.tcp else "",
            "slow": f"{usual.slow_below:g}" if usual.slow_below else "",
        }  # fmt: skip
        if usual.tcp_below is not None and measured < usual.tcp_below:
            yield "nccl-bandwidth-of-tcp", row.line, row.text, values
            return
        if usual.slow_below is not None:
            if measured < usual.slow_below:
                yield "nccl-bandwidth-low", row.line, row.text, values
            return


def _fits(usual: Figure, run: Benchmark) -> bool:
    same_program = usual.operation == run.operation and run.gpu is not None and usual.gpu in run.gpu
    return same_program and (usual.nodes, usual.ranks) == (len(run.nodes), run.ranks) and usual.bytes in run.bandwidths
