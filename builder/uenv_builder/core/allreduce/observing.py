"""What a test's log and the ranks' findings say, put together as an observation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from uenv_builder.core.allreduce.figures import Operation
from uenv_builder.core.allreduce.nodes import NodeFault
from uenv_builder.core.allreduce.verdict import Observation
from uenv_builder.core.digest import Json
from uenv_builder.core.logs.benchmarks import Benchmark, nccl_version
from uenv_builder.core.logs.reading import LogReading


def observe_benchmark(
    operation: Operation, reading: LogReading, *, returncode: int | None, limit: float,
    faults: Sequence[NodeFault] = (),
) -> Observation:  # fmt: skip
    """A run of a program of nccl-tests, from its log alone."""
    runs = reading.benchmarks
    bandwidths: dict[int, float] = {}
    wrong = []
    for run in runs:
        bandwidths |= run.bandwidths
        if run.wrong_at is not None:
            where = f" at {run.wrong_at.size} bytes" if run.wrong_at.size is not None else ""
            wrong.append(f"{run.wrong} wrong values, the first{where}: {run.wrong_at.text.strip()}")
    told = [text.partition("+")[0] for text in reading.facts.nccl] + [run.nccl for run in runs if run.nccl]
    return Observation(
        operation=operation,
        returncode=returncode,
        limit=limit,
        reading=reading,
        # Ranks that do not find each other are as many runs of one rank.
        ranks=max((run.ranks for run in runs), default=0),
        compared=sum(run.checked for run in runs),
        gaps=tuple(_gaps_of_table(runs)),
        wrong=tuple(wrong),
        nccl=tuple(dict.fromkeys(told)),
        bandwidths=bandwidths,
        faults=tuple(faults),
    )


def observe_ranks(
    answers: Sequence[Mapping[str, Json]], reading: LogReading, *, returncode: int | None, limit: float,
    faults: Sequence[NodeFault] = (), operation: Operation = "torch",
) -> Observation:  # fmt: skip
    """A run of ranks that are programs of ours; `answers` are what they wrote on each node."""
    findings = [item for answer in answers for item in _list(answer.get("findings")) if isinstance(item, Mapping)]
    codes = [int(str(item["nccl"])) for item in findings if item.get("nccl")]
    told = [nccl_version(code) for code in codes] or [text.partition("+")[0] for text in reading.facts.nccl]
    return Observation(
        operation=operation,
        returncode=returncode,
        limit=limit,
        reading=reading,
        ranks=len({str(item.get("rank")) for item in findings}),
        gaps=tuple(_gaps_of_ranks(findings, codes)),
        compared=sum(int(str(item.get("compared", 0))) for item in findings),
        wrong=tuple(_describe(place) for item in findings for place in _list(item.get("wrong"))),
        nccl=tuple(dict.fromkeys(told)),
        bandwidths=_slowest(findings),
        faults=tuple(faults),
        problems=tuple(problem for answer in answers for problem in _problems(answer)),
    )


def _gaps_of_table(runs: Sequence[Benchmark]) -> Iterator[str]:
    unchecked, rows = sum(run.unchecked for run in runs), sum(run.checked + run.unchecked for run in runs)
    if unchecked < rows and unchecked:
        yield f"the values of {unchecked} of {rows} rows were not compared"
    if any(not run.is_whole for run in runs):
        yield "the table is not whole: the sums below it are missing"


def _gaps_of_ranks(findings: Sequence[Mapping[str, Json]], codes: Sequence[int]) -> Iterator[str]:
    idle = [str(item.get("rank")) for item in findings if not item.get("compared")]
    if idle and len(idle) < len(findings):
        yield f"rank {idle[0]} compared no data"
    if codes and len(codes) < len(findings):
        yield f"{len(codes)} of {len(findings)} ranks told which NCCL they have"


def _slowest(findings: Sequence[Mapping[str, Json]]) -> dict[int, float]:
    """By size, the bandwidth of the slowest rank: the one that a job waits for."""
    found: dict[int, float] = {}
    for item in findings:
        rates = item.get("bandwidths")
        for size, rate in (rates if isinstance(rates, Mapping) else {}).items():
            found[int(size)] = min(float(str(rate)), found.get(int(size), float("inf")))
    return found


def _problems(answer: Mapping[str, Json]) -> list[str]:
    node = answer.get("node", "a node")
    codes = answer.get("broken")
    broken = codes.items() if isinstance(codes, Mapping) else ()
    problems = [f"{node}: rank {rank} ended with {code}" for rank, code in broken]
    return problems + [f"{node}: rank {rank} did not end in time" for rank in _list(answer.get("late"))]


def _describe(place: Json) -> str:
    dtype, size, rank, index, got, expected = _list(place)
    return f"{dtype}, {size} elements: rank {rank} has {got} at {index}, exact is {expected}"


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list | tuple) else ()
