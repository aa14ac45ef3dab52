"""What a job's log says: versions and network, known failures with cause and remedy, the likely root cause first."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from uenv_builder.core.logs.benchmarks import Benchmark, BenchmarkReader
from uenv_builder.core.logs.conclusions import conclude
from uenv_builder.core.logs.failures import (
    EVERY_ERROR,
    Failure,
    FailureFile,
    LogSeverity,
    SearchedLine,
    cuda_version,
    fill_in,
    load_failures,
    printable,
)

LINE_LIMIT = 1 << 16
"""How many characters to read at once (`file.readline(LINE_LIMIT)`): a piece of exactly this length that does not end
its line is continued by the next, so that a log without line ends needs no more memory either."""
_PIECE, _OVERLAP = 8192, 512
_BATCH_LINES, _BATCH_CHARACTERS = 512, 1 << 17
_EXCERPT, _BEFORE = 200, 60
_MOST_VALUES = 8
_PROCESS = re.compile(r"(?P<process>[\w.-]{1,80}:[0-9]{1,10}):[0-9]{1,10} \[-?[0-9]{1,4}\] NCCL ")
"""Node and process, as NCCL puts them before each of its lines."""
_MOST_PROCESSES = 100_000
_PER_PROCESS = ("network", "provider")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]{0,30}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[@-Z\\^_])")


@dataclass(frozen=True, slots=True)
class LogFinding:
    """A known failure, or a good sign, in the log."""

    failure: Failure
    line: int
    """Where it was first, counted from 1."""
    count: int
    """On how many lines."""
    excerpt: str
    """The line, or the part around the message, at most 200 characters, printable."""
    cause: str
    remedy: str
    explained_by: tuple[str, ...] = ()
    """Ids of other findings of this log that it follows from."""

    @property
    def severity(self) -> LogSeverity:
        """error, warning, note or good."""
        return self.failure.severity


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Versions and choices that the log tells, each value once, in order of appearance; ranks can differ."""

    nccl: tuple[str, ...] = ()
    aws_ofi_nccl: tuple[str, ...] = ()
    libfabric: tuple[str, ...] = ()
    cuda_driver: tuple[str, ...] = ()
    """The newest CUDA that the driver knows."""
    networks: tuple[str, ...] = ()
    """What NCCL uses: AWS Libfabric, Socket, IB."""
    providers: tuple[str, ...] = ()
    """libfabric's, as the plugin selected them."""
    nodes: int | None = None
    told_network: int = field(default=0, compare=False)
    """How many processes told the network that NCCL uses."""
    told_provider: int = field(default=0, compare=False)
    """How many processes told libfabric's provider."""


@dataclass(frozen=True, slots=True)
class LogReading:
    """All that was understood of a log."""

    lines: int
    facts: LogFacts
    findings: tuple[LogFinding, ...]
    """In order of first occurrence."""
    benchmarks: tuple[Benchmark, ...]

    @property
    def ranked(self) -> tuple[LogFinding, ...]:
        """The likely cause first, then what follows from it, warnings, notes and good signs."""
        explaining = {cause for finding in self.findings for cause in finding.explained_by}
        return tuple(sorted(self.findings, key=lambda finding: _place(finding, explaining)))

    @property
    def cause(self) -> LogFinding | None:
        """The most likely reason for a failure, where there is one."""
        first = next(iter(self.ranked), None)
        return first if first is not None and first.severity in {"error", "warning"} else None


def read_log(lines: Iterable[str]) -> LogReading:
    """Read a log once, in constant memory; see LINE_LIMIT for logs that may have endless lines. Raises nothing."""
    reader = _Reader(load_failures())
    for batch in _batches(_numbered(lines)):
        reader.read(batch)
    return reader.result()


@dataclass(slots=True)
class _Sighting:
    line: int
    excerpt: str
    groups: Mapping[str, str | None]
    count: int = 1
    last: int = 0


@dataclass
class _Reader:
    known: FailureFile
    lines: int = 0
    seen: dict[str, _Sighting] = field(default_factory=dict)
    values: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    tellers: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    benchmarks: BenchmarkReader = field(default_factory=BenchmarkReader)

    def read(self, batch: list[tuple[int, str]]) -> None:
        # Most literals are nowhere in a batch: one search for each over the whole saves a search in every line.
        whole = "\n".join(text for _, text in batch)
        for failure in self.known.failures:
            for number, text, match in _matches(failure, whole, batch):
                self._add(failure.id, number, _excerpt(text, match.start()), match.groupdict())
        for fact in self.known.facts:
            for number, text, match in _matches(fact, whole, batch):
                self._add_value(fact.fact, match["value"], number)
                self._add_teller(fact.fact, text)
        if self.benchmarks.concerns(whole):
            for number, text in batch:
                self.benchmarks.read(number, text)
        self.lines = batch[-1][0]

    def _add(self, name: str, number: int, excerpt: str, groups: Mapping[str, str | None]) -> None:
        found = self.seen.get(name)
        if found is None:
            self.seen[name] = _Sighting(number, excerpt, groups, last=number)
        elif number != found.last:
            found.count += 1
            found.last = number

    def _add_value(self, fact: str, value: str, number: int) -> None:
        values = self.values[fact]
        if len(values) < _MOST_VALUES:
            values.setdefault(value, number)

    def _add_teller(self, fact: str, text: str) -> None:
        told = self.tellers[fact]
        if fact in _PER_PROCESS and len(told) < _MOST_PROCESSES and (match := _PROCESS.search(text)):
            told.add(match["process"])

    def _facts(self, benchmarks: list[Benchmark]) -> LogFacts:
        values = {fact: tuple(found) for fact, found in self.values.items()}
        nodes = [int(value) for value in values.get("nodes", ())] + [len(run.nodes) for run in benchmarks]
        return LogFacts(
            nccl=values.get("nccl", ()),
            aws_ofi_nccl=values.get("aws_ofi_nccl", ()),
            libfabric=values.get("libfabric", ()),
            cuda_driver=tuple(cuda_version(number) for number in values.get("cuda_driver", ())),
            networks=values.get("network", ()),
            providers=values.get("provider", ()),
            nodes=max(nodes, default=0) or None,
            told_network=len(self.tellers["network"]),
            told_provider=len(self.tellers["provider"]),
        )

    def result(self) -> LogReading:
        benchmarks = self.benchmarks.finish()
        facts = self._facts(benchmarks)
        if facts.nodes == 1 and (harmless := self.seen.pop("nccl-network-socket", None)):
            self.seen["nccl-socket-on-one-node"] = harmless
        for name, line, text, groups in conclude(benchmarks, self.values["nccl"]):
            self._add(name, line, _excerpt(text, 0), groups)
        reading = self._reading(facts, benchmarks)
        if (cause := reading.cause) is not None and cause.failure.vague and not facts.networks:
            self._add("nccl-debug-missing", cause.line, cause.excerpt, {})
            reading = self._reading(facts, benchmarks)
        return reading

    def _reading(self, facts: LogFacts, benchmarks: list[Benchmark]) -> LogReading:
        order = {name: number for number, name in enumerate(self.known.by_id)}
        self.seen = dict(sorted(self.seen.items(), key=lambda item: (item[1].line, order[item[0]])))
        findings = [self._finding(name, found) for name, found in self.seen.items()]
        return LogReading(self.lines, facts, tuple(findings), tuple(benchmarks))

    def _finding(self, name: str, found: _Sighting) -> LogFinding:
        failure = self.known.by_id[name]
        return LogFinding(
            failure, found.line, found.count, found.excerpt,
            cause=fill_in(failure.cause, found.groups), remedy=fill_in(failure.remedy, found.groups),
            explained_by=tuple(other for other in self.seen if self._explains(self.known.by_id[other], failure)),
        )  # fmt: skip

    @staticmethod
    def _explains(cause: Failure, effect: Failure) -> bool:
        if EVERY_ERROR in effect.follows and cause.severity == "error" and cause.weight > effect.weight:
            return True
        return cause.id in effect.follows


def _matches(known: SearchedLine, whole: str, batch: list[tuple[int, str]]) -> Iterator[tuple[int, str, re.Match[str]]]:
    """Lines of a batch that match, where its whole text holds a literal at all."""
    literals = [literal for literal in known.literals if literal in whole]
    if not literals or known.regex is None:
        return
    for number, text in batch:
        if any(literal in text for literal in literals) and (match := known.regex.search(text)):
            yield number, text, match


def _place(finding: LogFinding, explaining: set[str]) -> tuple[int, int, int, int]:
    """Where a finding stands in the order: causes, their effects by distance, warnings, notes, good signs."""
    failure = finding.failure
    if failure.severity == "error":
        group = 1 if finding.explained_by else 0
    elif failure.severity == "warning":
        group = 0 if failure.id in explaining and not finding.explained_by else 2
    else:
        group = 3 if failure.severity == "note" else 4
    return (group, len(finding.explained_by), -failure.weight, finding.line)


def _excerpt(text: str, start: int) -> str:
    text = text.rstrip()
    if len(text) > _EXCERPT:
        begin = max(0, min(start - _BEFORE, len(text) - _EXCERPT))
        text = text[begin : begin + _EXCERPT]
    return printable(text)


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Pieces of lines that are short enough to search, with the line's number; without colours."""
    number = 1
    for line in lines:
        ended = line.endswith("\n") or len(line) != LINE_LIMIT
        text = _ESCAPES.sub("", line) if "\x1b" in line else line
        # Progress bars put many texts on one line, each after a carriage return.
        for part in text.rstrip("\r\n").split("\r"):
            for begin in range(0, max(len(part) - _OVERLAP, 1), _PIECE - _OVERLAP):
                yield number, part[begin : begin + _PIECE]
        number += ended


def _batches(pieces: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1])
        if len(batch) >= _BATCH_LINES or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
