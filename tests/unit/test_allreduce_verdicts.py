"""Every verdict from a recorded log: what it says, which exit it leads to, and what faults of nodes change of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from uenv_builder.core.allreduce.figures import FigureFile, figure_at, figures_of_shape, load_figures
from uenv_builder.core.allreduce.nodes import NodeFault
from uenv_builder.core.allreduce.observing import observe_benchmark, observe_ranks
from uenv_builder.core.allreduce.verdict import (
    OUTCOMES,
    Expectation,
    Verdict,
    VerdictName,
    compare_with_known_good,
    judge,
)
from uenv_builder.core.logs.reading import read_log

LOGS = Path(__file__).parent.parent / "fixtures/allreduce"
TWO_NODES = Expectation(
    system="clariden", nodes=2, gpus_per_node=4, nccl="2.30.7", plugin=True, provider="cxi"
)  # fmt: skip
ONE_NODE = replace(TWO_NODES, nodes=1)

# log: how the program ended, the verdict, and a part of its reason
VERDICTS = {
    "good-cxi": (0, "good", ""),
    "good-cxi-labelled": (0, "good", ""),
    "tcp-fallback": (0, "wrong-transport", "NCCL used Socket"),
    "tcp-provider": (0, "wrong-transport", "libfabric's provider is tcp;ofi_rxm, not cxi"),
    "tcp-bandwidth": (0, "wrong-transport", "5.43 GB/s at 134217728 bytes is what TCP gives, not 122.6 GB/s"),
    "plugin-not-found": (0, "plugin-not-found", "NCCL has no plugin for Slingshot. NCCL used Socket"),
    "plugin-required": (3, "plugin-not-found", 'asks for the network "AWS Libfabric"'),
    "wrong-data": (1, "wrong-data", "1031 wrong values, the first at 67108864 bytes"),
    "hang": (None, "hang", "did not end within 300 s"),
    "hang-watchdog": (1, "hang", "waited for other ranks until it gave up"),
    "mixed-versions": (3, "mixed-versions", "Rank 0 loaded NCCL 23007 and rank 4 NCCL 22907"),
    "mixed-versions-told": (0, "mixed-versions", "the ranks have NCCL 2.30.7 and 2.29.7"),
    "wrong-version": (0, "wrong-version", "NCCL 2.29.7 ran, the lock has 2.30.7"),
    "low-bandwidth": (0, "low-bandwidth", "101.9 GB/s at 134217728 bytes, at least 110 expected"),
    "node-fault": (2, "node-fault", "The GPU's memory or its links are faulty on this node"),
    "node-down": (1, "node-fault", "A node failed while the job ran: nid001001"),
    "launch-failure": (1, "node-fault", "Slurm could not start the program on nid001001 (Socket timed out"),
    "crash": (2, "crashed", "ended with 2"),
    "no-debug": (0, "not-proved", "the log does not tell which network NCCL used"),
    "ranks-apart": (0, "not-proved", "1 ranks took part, 8 were started"),
    "unchecked": (0, "not-proved", "no data were compared"),
    "sendrecv": (0, "good", ""),
}


def seen(name, returncode, faults=()):
    with (LOGS / f"{name}.log").open(encoding="utf-8") as file:
        reading = read_log(file)
    operation = "sendrecv_perf" if name == "sendrecv" else "all_reduce_perf"
    return observe_benchmark(operation, reading, returncode=returncode, limit=300, faults=faults)


@pytest.mark.parametrize("name", VERDICTS)
def test_recorded_logs_give_their_verdicts(name):
    returncode, verdict, reason = VERDICTS[name]
    found = judge(seen(name, returncode), TWO_NODES, load_figures())
    assert found.name == verdict, found
    assert reason in found.reason
    assert bool(found.reason) == (verdict != "good")


def test_every_verdict_has_a_log_and_every_log_a_verdict():
    assert {verdict for _, verdict, _ in VERDICTS.values()} == set(get_args(VerdictName)) == set(OUTCOMES)
    assert {path.stem for path in LOGS.glob("*.log")} == {*VERDICTS, "one-node"}


def test_only_a_good_run_passes():
    assert [name for name, outcome in OUTCOMES.items() if outcome == "passed"] == ["good"]
    assert {name for name, outcome in OUTCOMES.items() if outcome == "inconclusive"} == {"node-fault", "not-proved"}


def test_on_one_node_the_network_is_not_judged_and_bandwidth_is():
    run = seen("one-node", 0)
    assert judge(run, ONE_NODE, load_figures()).name == "good"
    slow = replace(run, bandwidths={8_000_000_000: 249.0})
    found = judge(slow, ONE_NODE, load_figures())
    assert (found.name, found.reason) == ("low-bandwidth", "249 GB/s at 8000000000 bytes, at least 250 expected")


@pytest.mark.parametrize(
    ("name", "part", "verdict"),
    [
        ("low-bandwidth", "gpu", "node-fault"),
        ("low-bandwidth", "nic", "node-fault"),
        ("tcp-fallback", "nic", "node-fault"),
        ("tcp-fallback", "gpu", "wrong-transport"),
        ("plugin-not-found", "nic", "node-fault"),
        ("wrong-data", "memory", "node-fault"),
        ("wrong-data", "nic", "wrong-data"),
        ("hang", "nic", "node-fault"),
        ("crash", "memory", "node-fault"),
        ("wrong-version", "memory", "wrong-version"),
        ("mixed-versions", "nic", "mixed-versions"),
        ("good-cxi", "gpu", "good"),
        ("no-debug", "gpu", "not-proved"),
    ],
)
def test_a_faulty_node_excuses_what_can_come_from_it(name, part, verdict):
    fault = NodeFault("nid001001", part, "is broken")
    found = judge(seen(name, VERDICTS[name][0], [fault]), TWO_NODES, load_figures())
    assert found.name == verdict
    if verdict == "node-fault":
        assert found.reason == "nid001001: is broken"
        assert found.details[0].startswith(f"without these faults: {VERDICTS[name][1]}")


def changed(name, change):
    lines = (LOGS / f"{name}.log").read_text(encoding="utf-8").splitlines()
    reading = read_log(change(lines))
    return judge(observe_benchmark("all_reduce_perf", reading, returncode=0, limit=300), TWO_NODES, load_figures())


def mix_alone(lines):
    """Eight programs that do not find each other, and print their tables at the same time."""
    found = []
    for line in lines:
        alone = line.replace("#  Rank  3", "#  Rank  0") if "#  Rank  " in line else line
        found += [alone] if "NCCL INFO" in line else [] if "#  Rank  " in line and "Rank  0" not in line else [line] * 8
    return found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (mix_alone, "1 ranks took part, 8 were started"),
        (lambda lines: lines[: len(lines) - 4], "the table is not whole: the sums below it are missing"),
        (lambda lines: [line.replace(" 0    1092.5", " N/A 1092.5").replace("107.50      0", "107.50 N/A")
                        for line in lines], "the values of 1 of 3 rows were not compared"),
        (lambda lines: [line for line in lines if not ("4007" in line and "Selected" in line)],
         "7 of 8 ranks told which provider libfabric used"),
        (lambda lines: [line for line in lines if not ("4007" in line and "Using network" in line)],
         "7 of 8 ranks told which network NCCL used"),
        (lambda lines: [line for line in lines if not line.lstrip().startswith(("6710", "1342"))],
         "no size with a floor was measured (67108864, 134217728, 1073741824 bytes)"),
        (lambda lines: [line.replace("on  nid001001", "on  nid001000").replace("nNodes 2", "nNodes 1")
                        for line in lines], "NCCL saw 1 nodes, 2 were asked for"),
    ],
)  # fmt: skip
def test_a_good_run_with_a_gap_proves_nothing(change, reason):
    found = changed("good-cxi", change)
    assert (found.name, found.reason) == ("not-proved", reason), found


def test_a_known_good_image_tells_nodes_from_images():
    bad, good = Verdict("low-bandwidth", "slow"), Verdict("good", "")
    alike = compare_with_known_good(bad, Verdict("hang", "stuck"), "pytorch/1")
    assert (alike.name, alike.outcome) == ("node-fault", "inconclusive")
    assert "pytorch/1, known to be good, does not pass on the same nodes either: hang, stuck" in alike.reason
    blamed = compare_with_known_good(bad, good, "pytorch/1")
    assert (blamed.name, blamed.details) == ("low-bandwidth", ("pytorch/1 passes on the same nodes",))
    assert compare_with_known_good(good, bad, "pytorch/1") == good


def test_without_promises_versions_and_networks_are_not_judged():
    free = Expectation(system="elsewhere", nodes=2, gpus_per_node=4)
    for name in ("tcp-fallback", "wrong-version", "low-bandwidth", "no-debug"):
        assert judge(seen(name, 0), free, load_figures()).name == "good", name
    assert judge(seen("wrong-data", 1), free, load_figures()).name == "wrong-data"


def rank(number, **changes):
    found = {"rank": number, "wrong": [], "compared": 10, "nccl": 23007, "bandwidths": {"8000000000": 70.0 - number}}
    return {**found, **changes}


def answers(**changes):
    return [
        {"node": f"n{node}", "late": [], "broken": {}, "findings": [rank(4 * node + i) for i in range(4)], **changes}
        for node in range(4)
    ]


FOUR_NODES = replace(TWO_NODES, nodes=4)
GOOD = [
    f"nid{process // 4}:{process}:{process} [0] NCCL INFO {text}"
    for process in range(16)
    for text in ("Using network AWS Libfabric", "NET/OFI Selected provider is cxi, fabric is cxi (found 4 nics)")
]


def torch_verdict(documents, returncode=0, log=GOOD):
    run = observe_ranks(documents, read_log(log), returncode=returncode, limit=300)
    return run, judge(run, FOUR_NODES, load_figures())


def test_ranks_of_torch_that_agree_pass_and_the_slowest_counts():
    run, verdict = torch_verdict(answers())
    assert run.bandwidths == {8_000_000_000: 55.0}
    assert (verdict.name, run.compared, run.ranks, run.nccl) == ("good", 160, 16, ("2.30.7",))
    slow = answers()
    slow[3]["findings"][0]["bandwidths"] = {"8000000000": 49.0}
    assert torch_verdict(slow)[1].name == "low-bandwidth"


def change_last(**changes):
    documents = answers()
    documents[3]["findings"][3].update(changes)
    return documents


@pytest.mark.parametrize(
    ("documents", "log", "reason"),
    [
        (change_last(compared=0), GOOD, "rank 15 compared no data"),
        (change_last(nccl=None), GOOD, "15 of 16 ranks told which NCCL they have"),
        (change_last(rank=0), GOOD, "15 ranks took part, 16 were started"),
        (answers(), GOOD[:-2], "15 of 16 ranks told which network NCCL used"),
        (answers(), GOOD[:-1], "15 of 16 ranks told which provider libfabric used"),
        (answers(), [*GOOD, "nid0:1:1 [0] NCCL INFO nRanks 16 nNodes 2 x"], "NCCL saw 2 nodes, 4 were asked for"),
        ([{**item, "findings": [{**one, "bandwidths": {"4": 1.0}} for one in item["findings"]]} for item in answers()],
         GOOD, "no size with a floor was measured (8000000000 bytes)"),
    ],
)  # fmt: skip
def test_one_rank_that_leaves_something_open_leaves_all_open(documents, log, reason):
    found = torch_verdict(documents, log=log)[1]
    assert (found.name, found.reason) == ("not-proved", reason)


@pytest.mark.parametrize(
    ("change", "returncode", "verdict", "reason"),
    [
        (
            {"findings": [rank(0, wrong=[["int32", 9, 1, 4, 7, 8]])]},
            0,
            "wrong-data",
            "int32, 9 elements: rank 1 has 7 at 4",
        ),
        ({"findings": [rank(0, nccl=22907), rank(1)]}, 0, "mixed-versions", "the ranks have NCCL 2.29.7 and 2.30.7"),
        ({"findings": [rank(0)]}, 0, "not-proved", "1 ranks took part, 16 were started"),
        ({"broken": {"3": -9}}, 1, "crashed", "n0: rank 3 ended with -9"),
        ({"late": [2]}, 1, "crashed", "n0: rank 2 did not end in time"),
        ({"findings": []}, None, "hang", "did not end within 300 s"),
    ],
)
def test_ranks_of_torch_that_do_not(change, returncode, verdict, reason):
    _, found = torch_verdict(answers(**change), returncode)
    assert (found.name, reason in found.reason) == (verdict, True), found


def test_figures_count_up_to_twice_their_size():
    shape = figures_of_shape(load_figures().figures, "all_reduce_perf", "daint", 2, 4)
    assert [figure.bytes for figure in shape] == [1 << 24, 1 << 26, 1 << 27, 1 << 30]
    assert figure_at(shape, (1 << 30) + 4).good == 150.0
    assert figure_at(shape, (1 << 31) - 1).good == 150.0
    assert figure_at(shape, 1 << 31) is None
    assert figure_at(shape, (1 << 24) - 1) is None
    assert figures_of_shape(load_figures().figures, "all_reduce_perf", "daint", 3, 4) == ()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"node_failures": ("no-such-message",)}, "failures.yaml has no"),
        ({"figures": "twice"}, "two figures for the same"),
        ({"figures": "unordered"}, "must be tcp <= tcp_below"),
    ],
)
def test_figures_that_do_not_hang_together_are_refused(change, complaint):
    document = load_figures().model_dump()
    first = document["figures"][0]
    swapped = {"twice": (first, first), "unordered": ({**first, "fail_below": 5.0},)}
    change = {key: swapped.get(value, value) if isinstance(value, str) else value for key, value in change.items()}
    with pytest.raises(ValueError, match=complaint):
        FigureFile(**{**document, **change})
