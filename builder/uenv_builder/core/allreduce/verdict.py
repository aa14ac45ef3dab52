"""From what a test on real nodes left, its log and its data, to a verdict with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from uenv_builder.core.allreduce.figures import Figure, FigureFile, Operation, figure_at, figures_of_shape
from uenv_builder.core.allreduce.nodes import NodeFault, Part
from uenv_builder.core.logs.reading import LogFinding, LogReading
from uenv_builder.model.report import Outcome

VerdictName = Literal[
    "good", "wrong-data", "node-fault", "plugin-not-found", "wrong-transport", "mixed-versions", "wrong-version",
    "hang", "crashed", "not-proved", "low-bandwidth",
]  # fmt: skip
OUTCOMES: Mapping[VerdictName, Outcome] = {
    "good": "passed",
    "wrong-data": "failed",
    "node-fault": "inconclusive",
    "plugin-not-found": "failed",
    "wrong-transport": "failed",
    "mixed-versions": "failed",
    "wrong-version": "failed",
    "hang": "failed",
    "crashed": "failed",
    "not-proved": "inconclusive",
    "low-bandwidth": "failed",
}
EXCUSES: Mapping[VerdictName, frozenset[Part]] = {
    "wrong-data": frozenset({"memory"}),
    "plugin-not-found": frozenset({"nic"}),
    "wrong-transport": frozenset({"nic"}),
    "hang": frozenset({"gpu", "memory", "nic"}),
    "crashed": frozenset({"gpu", "memory", "nic"}),
    "low-bandwidth": frozenset({"gpu", "memory", "nic"}),
}
"""Which faults of a node can be what a verdict comes from; versions never come from a node."""
_MOST_DETAILS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the image promises on a system, and the shape of the job. None: nothing is promised, or nothing known."""

    system: str
    nodes: int
    gpus_per_node: int
    nccl: str | None = None
    """The lock's version of NCCL."""
    plugin: bool = False
    """Whether NCCL has to go through aws-ofi-nccl."""
    provider: str | None = None
    """libfabric's provider, such as cxi."""

    @property
    def ranks(self) -> int:
        """One for each GPU."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one program left. `returncode` is None where it did not end within `limit` seconds.

    `wrong` describes the first wrong elements, `compared` counts all elements (torch) or rows of a table (nccl-tests)
    whose values were compared. `bandwidths` has bus bandwidth in GB/s by size in bytes.
    """

    operation: Operation
    returncode: int | None
    limit: float
    reading: LogReading
    ranks: int
    compared: int
    wrong: tuple[str, ...] = ()
    nccl: tuple[str, ...] = ()
    """Every version of NCCL that any rank had, without its CUDA."""
    bandwidths: Mapping[int, float] = field(default_factory=dict)
    faults: tuple[NodeFault, ...] = ()
    problems: tuple[str, ...] = ()
    """What the program says of ranks that broke or came late."""
    gaps: tuple[str, ...] = ()
    """What its data and tables do not cover."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict, its reason in one line, what to do where that is known, and further lines."""

    name: VerdictName
    reason: str
    remedy: str = ""
    details: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """passed, failed, or inconclusive."""
        return OUTCOMES[self.name]


def judge(seen: Observation, expected: Expectation, known: FigureFile) -> Verdict:
    """The verdict; a fault of a node that can be its cause makes it `node-fault`."""
    found = _judge_image(seen, expected, known)
    blamed = [str(fault) for fault in seen.faults if fault.part in EXCUSES.get(found.name, ())]
    if blamed:
        details = (f"without these faults: {found.name}, {found.reason}", *found.details)
        return Verdict("node-fault", "; ".join(blamed[:4]), "leave these nodes out, and test again", details)
    return found


def compare_with_known_good(verdict: Verdict, other: Verdict, label: str) -> Verdict:
    """`verdict` in the light of what the image `label`, known to be good, got on the same nodes."""
    if verdict.name not in EXCUSES:
        return verdict
    if not _says_of_nodes(verdict, other):
        told = "passes" if other.outcome == "passed" else f"does not decide: {other.name}, {other.reason}"
        details = (*verdict.details, f"{label} {told} on the same nodes")
        return Verdict(verdict.name, verdict.reason, verdict.remedy, details)
    reason = f"{label}, known to be good, does not pass on the same nodes either: {other.name}, {other.reason}"
    details = (f"this image: {verdict.name}, {verdict.reason}", *verdict.details)
    return Verdict("node-fault", reason, "test again on other nodes", details)


def _says_of_nodes(verdict: Verdict, other: Verdict) -> bool:
    """Whether what a good image got can come from the nodes, and explains the verdict. Slowness does not excuse wrong
    data, and a missing proof or another version excuses nothing.
    """
    if verdict.name == "wrong-data":
        return other.name in {"wrong-data", "node-fault"}
    return other.name == "node-fault" or other.name in EXCUSES


def floors(seen: Observation, expected: Expectation, known: FigureFile) -> dict[int, Figure]:
    """The figures that judge the measured sizes; none where other ranks took part than were started."""
    if seen.ranks != expected.ranks:
        return {}
    shape = figures_of_shape(known.figures, seen.operation, expected.system, expected.nodes, expected.gpus_per_node)
    found = {size: figure_at(shape, size) for size in seen.bandwidths}
    return {size: figure for size, figure in found.items() if figure is not None}


def _judge_image(seen: Observation, expected: Expectation, known: FigureFile) -> Verdict:
    """The first that applies: what comes earlier in this order is the cause of what comes later, or worse."""
    log = {finding.failure.id: finding for finding in seen.reading.findings}
    for judge_one in (_judge_data, _judge_transport, _judge_versions, _judge_end, _judge_proof):
        verdict = judge_one(seen, expected, known, log)
        if verdict is not None:
            return verdict
    return _judge_bandwidth(seen, expected, known)


def _judge_data(
    seen: Observation,
    expected: Expectation,  # noqa: ARG001  (all judges take the same)
    known: FigureFile,
    log: Mapping[str, LogFinding],
) -> Verdict | None:
    if seen.wrong:
        return _of_finding("wrong-data", log.get("nccl-wrong-data"), seen.wrong[0], seen.wrong)
    failure = _first(log, known.node_failures)
    return _of_finding("node-fault", failure) if failure and seen.returncode != 0 else None


def _judge_transport(
    seen: Observation, expected: Expectation, known: FigureFile, log: Mapping[str, LogFinding]
) -> Verdict | None:
    if expected.nodes < 2:
        return None
    facts = seen.reading.facts
    others = [name for name in facts.networks if name not in known.plugin_networks]
    plugin_failure = _first(log, known.plugin_failures)
    if expected.plugin and plugin_failure and (others or not facts.networks):
        fell_back = f" NCCL used {', '.join(others)}" if others else ""
        return _of_finding("plugin-not-found", plugin_failure, note=fell_back)
    if expected.plugin and others:
        return _of_finding("wrong-transport", log.get("nccl-network-socket"), f"NCCL used {', '.join(others)}")
    strange = [name for name in facts.providers if expected.provider and name.split(";")[0] != expected.provider]
    if strange:
        finding = log.get("ofi-provider-tcp")
        return _of_finding(
            "wrong-transport", finding, f"libfabric's provider is {', '.join(strange)}, not {expected.provider}"
        )
    for size, figure in sorted(floors(seen, expected, known).items(), reverse=True):
        if figure.tcp_below is not None and seen.bandwidths[size] < figure.tcp_below:
            return _of_finding(
                "wrong-transport", log.get("nccl-bandwidth-of-tcp"),
                f"{seen.bandwidths[size]:g} GB/s at {size} bytes is what TCP gives, not {figure.good:g} GB/s",
            )  # fmt: skip
    return None


def _judge_versions(
    seen: Observation,
    expected: Expectation,
    known: FigureFile,  # noqa: ARG001
    log: Mapping[str, LogFinding],
) -> Verdict | None:
    if "nccl-versions-mixed" in log or len(seen.nccl) > 1:
        reason = f"the ranks have NCCL {' and '.join(seen.nccl)}" if len(seen.nccl) > 1 else ""
        return _of_finding("mixed-versions", log.get("nccl-versions-mixed") or log.get("nccl-versions-differ"), reason)
    if expected.nccl and seen.nccl and seen.nccl[0] != expected.nccl:
        return Verdict("wrong-version", f"NCCL {seen.nccl[0]} ran, the lock has {expected.nccl}")
    return None


def _judge_end(
    seen: Observation,
    expected: Expectation,  # noqa: ARG001
    known: FigureFile,
    log: Mapping[str, LogFinding],
) -> Verdict | None:
    cause = seen.reading.cause
    waited = _first(log, known.hang_failures)
    if seen.returncode is None:
        return _of_finding("hang", cause or waited, f"did not end within {seen.limit:.0f} s", seen.problems)
    if seen.returncode != 0 and waited:
        return _of_finding("hang", cause or waited, "waited for other ranks until it gave up", seen.problems)
    if seen.returncode != 0 or seen.problems:
        reason = seen.problems[0] if seen.problems else f"ended with {seen.returncode}"
        return _of_finding("crashed", cause, reason, seen.problems)
    return None


def _judge_proof(
    seen: Observation,
    expected: Expectation,
    known: FigureFile,
    log: Mapping[str, LogFinding],  # noqa: ARG001
) -> Verdict | None:
    """What a run that ended well still leaves open."""
    missing = []
    if seen.ranks != expected.ranks:
        missing.append(f"{seen.ranks} ranks took part, {expected.ranks} were started")
    if seen.reading.facts.nodes not in {None, expected.nodes}:
        missing.append(f"NCCL saw {seen.reading.facts.nodes} nodes, {expected.nodes} were asked for")
    if not seen.compared:
        missing.append("no data were compared")
    if not seen.bandwidths:
        missing.append("no bandwidth was measured")
    missing += seen.gaps
    if not seen.nccl:
        missing.append("the version of NCCL that ran is not told")
    missing += [*_open_transport(seen, expected), *_open_bandwidth(seen, expected, known)]
    return Verdict("not-proved", missing[0], "", tuple(missing[1:])) if missing else None


def _open_transport(seen: Observation, expected: Expectation) -> Iterator[str]:
    """Each rank of a job on many nodes is a process, and has to tell its network and its provider itself."""
    if expected.nodes < 2:
        return
    facts = seen.reading.facts
    for wanted, values, told, text in (
        (expected.plugin, facts.networks, facts.told_network, "network NCCL"),
        (expected.provider, facts.providers, facts.told_provider, "provider libfabric"),
    ):
        if wanted and not values:
            yield f"the log does not tell which {text} used"
        elif wanted and told < expected.ranks:
            yield f"{told} of {expected.ranks} ranks told which {text} used"


def _open_bandwidth(seen: Observation, expected: Expectation, known: FigureFile) -> Iterator[str]:
    shape = figures_of_shape(known.figures, seen.operation, expected.system, expected.nodes, expected.gpus_per_node)
    wanted = [figure.bytes for figure in shape if figure.fail_below is not None]
    judged = [figure for figure in floors(seen, expected, known).values() if figure.fail_below is not None]
    if wanted and seen.bandwidths and seen.ranks == expected.ranks and not judged:
        yield f"no size with a floor was measured ({', '.join(map(str, wanted))} bytes)"


def _judge_bandwidth(seen: Observation, expected: Expectation, known: FigureFile) -> Verdict:
    judged = floors(seen, expected, known)
    low = [
        f"{seen.bandwidths[size]:g} GB/s at {size} bytes, at least {figure.fail_below:g} expected"
        for size, figure in sorted(judged.items(), reverse=True)
        if figure.fail_below is not None and seen.bandwidths[size] < figure.fail_below
    ]
    if low:
        sources = sorted({f"figure: {figure.source or known.source}" for figure in judged.values()})
        finding = next((item for item in seen.reading.findings if item.failure.id == "nccl-bandwidth-low"), None)
        return Verdict("low-bandwidth", low[0], finding.remedy if finding else "", (*low[1:], *sources))
    return Verdict("good", "")


def _first(log: Mapping[str, LogFinding], names: Sequence[str]) -> LogFinding | None:
    """The heaviest of the findings with these names."""
    found = [log[name] for name in names if name in log]
    return max(found, key=lambda finding: finding.failure.weight, default=None)


def _of_finding(
    name: VerdictName, finding: LogFinding | None, reason: str = "", details: Sequence[str] = (), note: str = ""
) -> Verdict:
    """A verdict with what the log says: its cause is the reason, or a further line where there is a reason."""
    lines = list(details[1:] if details and details[0] == reason else details)
    if finding is None:
        return Verdict(name, reason + note, "", tuple(lines[:_MOST_DETAILS]))
    lines.append(f"line {finding.line}: {finding.excerpt}")
    if reason:
        lines.insert(0, finding.cause)
    return Verdict(name, (reason or finding.cause) + note, finding.remedy, tuple(lines[:_MOST_DETAILS]))
