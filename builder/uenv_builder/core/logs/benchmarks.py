"""Tables of nccl-tests in a log: ranks, nodes, bus bandwidth by size, and wrong values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

_LABEL = re.compile(r"\s{0,8}(?:[0-9]{1,6}|\[\w{1,20}\]): ?")
"""What `srun --label` and torchrun put in front of each line."""
_START = re.compile(r"# Collective test starting: (?P<operation>\w{1,40})")
_VERSION = re.compile(r"# nccl-tests version [\w.]{1,20} nccl-headers=[0-9]{1,9} nccl-library=(?P<library>[0-9]{4,9})")
_DEVICE = re.compile(
    r"#\s{1,4}Rank\s{1,6}(?P<rank>[0-9]{1,6})\b[^\r\n]{0,60} on\s{1,20}(?P<node>[^\s]{1,80}) device\s{1,4}[0-9]{1,3} "
    r"\[[^\]]{1,20}\] (?P<gpu>[^\r\n]{1,60})"
)
_BOUNDS = re.compile(r"# Out of bounds values\s{1,20}: (?P<wrong>[0-9]{1,18}) ")
_AVERAGE = re.compile(r"# Avg bus bandwidth\s{1,20}: (?P<average>[0-9.e+-]{1,20})")
_SIZE = re.compile(r"[0-9]{1,18}")
_MARKS = ("# nccl-tests", "# Collective test", "# nThread ", " busbw ", "# Out of bounds", "# Avg bus", "#  Rank ")
_LONGEST = 400
_MOST_SIZES = 4096
_MOST_RANKS = 100_000


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table, or of the sums below it."""

    line: int
    size: int | None
    """Bytes; None for a sum."""
    text: str


@dataclass(slots=True)
class Benchmark:
    """One run of a program of nccl-tests, as far as the log has it."""

    operation: str | None = None
    """Its name, such as all_reduce_perf; older versions do not print it."""
    numbers: set[int] = field(default_factory=set)
    """Of its ranks. Programs that do not find each other may print their lines mixed, each as rank 0."""
    nodes: set[str] = field(default_factory=set)
    gpu: str | None = None
    bandwidths: dict[int, float] = field(default_factory=dict)
    """The better of out-of-place and in-place bus bandwidth, GB/s, by size in bytes."""
    rows: dict[int, Row] = field(default_factory=dict)
    """The first row of each size."""
    average: float | None = None
    """The average bus bandwidth that it prints, GB/s; only comparable between runs over the same sizes."""
    wrong: int = 0
    """How many values were wrong."""
    checked: int = 0
    """How many rows had their values compared at all; `N/A` stands in the others."""
    nccl: str | None = None
    """The version of NCCL that ran, where the program says so; older ones do not."""
    wrong_at: Row | None = None
    """Where the first wrong values are."""
    unchecked: int = 0
    """How many rows have a bandwidth, and `N/A` for their wrong values."""
    is_whole: bool = False
    """Whether the sums that end a table are there: a program that died, or was cut off, prints none."""

    @property
    def ranks(self) -> int:
        """How many took part."""
        return len(self.numbers)


class BenchmarkReader:
    """Collects the runs of nccl-tests from lines in order."""

    def __init__(self) -> None:
        self.finished: list[Benchmark] = []
        self._current: Benchmark | None = None
        self._columns: list[str] = []
        self._nccl: str | None = None

    def concerns(self, text: str) -> bool:
        """Whether any line of `text` can matter here."""
        return bool(self._columns) or any(mark in text for mark in _MARKS)

    def read(self, number: int, line: str) -> None:
        """Take in one line."""
        if len(line) > _LONGEST:
            return
        if label := _LABEL.match(line):
            line = line[label.end() :]
        text = line.strip()
        if text.startswith("#"):
            self._read_comment(number, text)
        elif self._columns and text[:1].isdecimal():
            self._read_row(number, text)

    def finish(self) -> list[Benchmark]:
        """All runs, the last also where the log ends within it."""
        self._close()
        return self.finished

    def _read_comment(self, number: int, text: str) -> None:
        if version := _VERSION.match(text):
            self._close()
            self._nccl = nccl_version(int(version["library"]))
        elif start := _START.match(text):
            self._close()
            self._current = Benchmark(start["operation"])
        elif text.startswith("# nThread ") and (self._current is None or self._current.ranks):
            self._close()
            self._current = Benchmark()
        elif text.startswith("# Collective test concluded"):
            self._close()
        elif device := _DEVICE.match(text):
            self._add_rank(int(device["rank"]), device["node"], device["gpu"].strip())
        elif " busbw " in text and "size" in text:
            self._columns = text.split()[1:]
            self._current = self._current or Benchmark()
        elif self._current is not None:
            self._read_sums(number, text, self._current)

    def _read_sums(self, number: int, text: str, run: Benchmark) -> None:
        if bounds := _BOUNDS.match(text):
            self._columns = []
            run.is_whole = True
            wrong = int(bounds["wrong"])
            if wrong and run.wrong_at is None:
                run.wrong_at = Row(number, None, text)
            run.wrong = max(run.wrong, wrong)
        elif average := _AVERAGE.match(text):
            run.average = _number(average["average"])

    def _add_rank(self, number: int, node: str, gpu: str) -> None:
        self._current = self._current or Benchmark()
        self._current.gpu = self._current.gpu or gpu
        if len(self._current.numbers) < _MOST_RANKS:
            self._current.numbers.add(number)
            self._current.nodes.add(node)

    def _read_row(self, number: int, text: str) -> None:
        cells = text.split()
        run = self._current
        if run is None or len(cells) < len(self._columns) or not _SIZE.fullmatch(cells[0]):
            return
        row = Row(number, int(cells[0]), text)
        named = list(zip(self._columns, cells, strict=False))
        speeds = [speed for name, cell in named if name == "busbw" and (speed := _number(cell)) is not None]
        counts = [int(value) for name, cell in named if name == "#wrong" and (value := _number(cell)) is not None]
        run.checked += bool(counts)
        run.unchecked += bool(speeds) and not counts
        wrong = sum(counts)
        if wrong > 0:
            run.wrong += wrong
            run.wrong_at = run.wrong_at or row
        _add_speed(run, int(cells[0]), row, speeds)

    def _close(self) -> None:
        if self._current is not None and (self._current.bandwidths or self._current.wrong):
            self._current.nccl = self._nccl
            self.finished.append(self._current)
        self._current = None
        self._columns = []


def nccl_version(code: int) -> str:
    """23007 as 2.30.7: two digits each for minor and patch since 2.9 (nccl.h, NCCL_VERSION)."""
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"


def _add_speed(run: Benchmark, size: int, row: Row, speeds: list[float]) -> None:
    if speeds and (size in run.bandwidths or len(run.bandwidths) < _MOST_SIZES):
        run.bandwidths[size] = max(*speeds, run.bandwidths.get(size, 0.0))
        run.rows.setdefault(size, row)


def _number(text: str) -> float | None:
    """A finite number, or None for `N/A` and the like."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
