"""Logs of jobs: what is read from them, and which finding comes first."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uenv_builder.core.logs.benchmarks import Row
from uenv_builder.core.logs.failures import FailureFile, fill_in, load_failures, placeholders
from uenv_builder.core.logs.reading import LINE_LIMIT, LogFacts, read_log

LOGS = Path(__file__).parent.parent / "fixtures" / "logs"
SEARCHED = [failure for failure in load_failures().failures if failure.regex]


def read(name):
    with (LOGS / f"{name}.log").open(encoding="utf-8", errors="replace", newline="\n") as file:
        return read_log(iter(lambda: file.readline(LINE_LIMIT), ""))


def ids(reading):
    return [finding.failure.id for finding in reading.ranked]


def finding(reading, name):
    (found,) = (found for found in reading.findings if found.failure.id == name)
    return found


# name of the log: lines, facts, and (id, first line, count) with the likely cause first
READINGS = {
    "allreduce-slingshot": (
        30,
        LogFacts(
            nccl=("2.30.7+cuda13.0",), aws_ofi_nccl=("1.20.0",), libfabric=("2.6",), cuda_driver=("13.1",),
            networks=("AWS Libfabric",), providers=("cxi",), nodes=2,
        ),
        [("ofi-provider-cxi", 5, 2), ("nccl-network-libfabric", 6, 2), ("nccl-tests-correct", 27, 1)],
    ),
    "allreduce-tcp": (
        20,
        LogFacts(nccl=("2.30.7+cuda13.0",), networks=("Socket",), nodes=2),
        [
            ("nccl-plugin-not-found", 2, 2), ("nccl-bandwidth-of-tcp", 18, 1), ("nccl-network-socket", 4, 3),
            ("nccl-tests-correct", 19, 1),
        ],
    ),
    "allreduce-slow": (13, LogFacts(nodes=2), [("nccl-bandwidth-low", 12, 1), ("nccl-tests-correct", 13, 1)]),
    "allreduce-wrong": (18, LogFacts(nodes=2), [("nccl-wrong-data", 12, 1), ("srun-task-exit", 18, 1)]),
    "network-not-found": (
        7,
        LogFacts(),
        [
            ("nccl-plugin-name-ofi", 1, 1), ("nccl-network-not-found", 2, 2), ("nccl-invalid-usage", 4, 1),
            ("srun-task-exit", 6, 2),
        ],
    ),
    "cudart-missing": (
        8,
        LogFacts(nccl=("2.29.7",), aws_ofi_nccl=("1.19.0",)),
        [
            ("ofi-cudart-missing", 3, 1), ("ofi-init-failed", 4, 1), ("nccl-no-net-plugin", 5, 1),
            ("nccl-invalid-usage", 6, 2), ("torch-nccl-error", 6, 1), ("srun-task-exit", 8, 1),
            ("ofi-plugin-old", 2, 1),
        ],
    ),
    "libfabric-too-old": (
        4,
        LogFacts(networks=("Socket",), nodes=2),
        [("libfabric-symbol-version", 1, 1), ("nccl-network-socket", 2, 2)],
    ),
    "one-node-socket": (
        4,
        LogFacts(nccl=("2.30.7+cuda13.0",), networks=("Socket",), nodes=1),
        [("nccl-socket-on-one-node", 2, 2)],
    ),
    "slingshot-provider": (
        9,
        LogFacts(
            nccl=("2.29.7", "2.30.7+cuda13.0", "2.29.7+cuda13.0"), libfabric=("2.5",), networks=("AWS Libfabric",),
            providers=("tcp;ofi_rxm",),
        ),
        [
            ("cxi-event-queue-overflow", 6, 1), ("ofi-provider-tcp", 2, 1), ("nccl-ll128-forced", 4, 1),
            ("cxi-map-failed", 5, 1), ("nccl-versions-differ", 8, 1), ("nccl-network-libfabric", 3, 1),
        ],
    ),
    "alpine-hook": (
        8,
        LogFacts(),
        [
            ("ce-dynamic-linker", 3, 1), ("enroot-hook-failed", 4, 1), ("pyxis-start-failed", 1, 2),
            ("slurm-spank", 6, 2), ("srun-task-exit", 8, 1),
        ],
    ),
    "image-by-name": (
        8,
        LogFacts(),
        [
            ("enroot-path-as-registry", 6, 1), ("enroot-registry-denied", 6, 1), ("pyxis-import-failed", 3, 1),
            ("pyxis-start-failed", 7, 1), ("slurm-spank", 8, 1),
        ],
    ),
    "watchdog": (
        5,
        LogFacts(),
        [
            ("torch-watchdog", 1, 2), ("srun-task-signal", 4, 1), ("torch-child-failed", 3, 1),
            ("slurm-cancelled", 5, 1), ("nccl-debug-missing", 1, 1),
        ],
    ),
    "rank-out-of-memory": (
        4,
        LogFacts(),
        [
            ("torch-out-of-memory", 1, 1), ("torch-watchdog", 3, 1), ("nccl-connection-closed", 2, 1),
            ("srun-task-exit", 4, 1),
        ],
    ),
    "no-pmix": (6, LogFacts(), [("pmix-not-used", 2, 1), ("mpich-gtl-missing", 6, 1), ("ucx-not-connected", 5, 1)]),
    "sbatch-environment": (3, LogFacts(), [("slurm-inside-container", 2, 2)]),
    "sarus-edf": (
        5,
        LogFacts(),
        [
            ("sarus-edf-not-found", 1, 1), ("sarus-mount", 4, 1), ("sarus-run-failed", 5, 1), ("sarus-disabled", 3, 1),
        ],
    ),
    "driver-and-wheel": (
        5,
        LogFacts(),
        [
            ("torch-cpu-build", 3, 1), ("cuda-driver-too-old", 1, 1), ("cuda-library-missing", 4, 1),
            ("python-module-missing", 5, 1), ("cuda-no-device", 2, 1),
        ],
    ),
    "colours-and-garbage": (
        4,
        LogFacts(),
        [("cuda-no-kernel-image", 1, 1), ("slurm-out-of-memory", 3, 1), ("srun-out-of-memory", 4, 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READINGS)
def test_logs_are_read_exactly(name):
    reading = read(name)
    lines, facts, found = READINGS[name]
    assert [(item.failure.id, item.line, item.count) for item in reading.ranked] == found
    assert reading.facts == facts
    assert reading.lines == lines
    assert sorted(item.line for item in reading.findings) == [item.line for item in reading.findings]


def test_every_log_has_its_reading():
    assert {path.stem for path in LOGS.glob("*.log")} == set(READINGS)


def test_the_cause_is_a_failure_or_nothing():
    assert read("alpine-hook").cause.failure.id == "ce-dynamic-linker"
    assert read("allreduce-tcp").cause.failure.id == "nccl-plugin-not-found"
    assert read("allreduce-slingshot").cause is None
    assert read("one-node-socket").cause is None
    assert read_log([]).cause is None


def test_effects_name_what_they_follow_from():
    reading = read("network-not-found")
    assert finding(reading, "nccl-plugin-name-ofi").explained_by == ()
    assert finding(reading, "nccl-network-not-found").explained_by == ("nccl-plugin-name-ofi",)
    assert finding(reading, "nccl-invalid-usage").explained_by == ("nccl-plugin-name-ofi", "nccl-network-not-found")


def test_texts_carry_the_values_of_the_log():
    image = finding(read("image-by-name"), "enroot-path-as-registry")
    assert image.cause.startswith('The image "pytorch.sqsh" was taken for one on Docker Hub')
    assert image.remedy == 'Give the whole path of pytorch.sqsh, in the EDF as image = "/path/pytorch.sqsh".'
    driver = finding(read("driver-and-wheel"), "cuda-driver-too-old")
    assert driver.cause.startswith("The driver of the node knows CUDA up to 12.8,")
    watchdog = finding(read("watchdog"), "torch-watchdog")
    assert watchdog.cause.startswith("ALLREDUCE number 1580 did not end in 600000 ms.")
    plugin = finding(read("allreduce-tcp"), "nccl-plugin-not-found")
    assert plugin.cause.startswith("The loader has no library named libnccl-net.so, so")
    spank = finding(read_log(["Failed to invoke spank plugin stack"]), "slurm-spank")
    assert spank.cause == "A plugin of Slurm stopped the task: not named."


def test_bandwidth_is_compared_with_what_is_usual_for_ranks_and_size():
    tcp = finding(read("allreduce-tcp"), "nccl-bandwidth-of-tcp")
    assert tcp.cause == (
        "all_reduce_perf reached 5.44 GB/s bus bandwidth at 134217728 bytes with 8 ranks on 2 nodes. "
        "That is what TCP gives (5.4 GB/s); Slingshot gives 122.6 GB/s."
    )
    assert tcp.excerpt.startswith("134217728      33554432     float")
    slow = finding(read("allreduce-slow"), "nccl-bandwidth-low")
    assert slow.cause == (
        "all_reduce_perf reached 106.16 GB/s bus bandwidth at 1073741824 bytes with 8 ranks on 2 nodes; "
        "150 GB/s are usual there, less than 135 GB/s is slow."
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GH200", "A100"),
        ("all_reduce_perf", "sendrecv_perf"),
        ("# Collective test starting: all_reduce_perf", "# nThread 1 nGpus 1 minBytes 8"),
        ("nid001001", "nid001000"),
        ("134217728", "134217720"),
    ],
)
def test_there_is_no_verdict_where_no_figure_fits(old, new):
    text = (LOGS / "allreduce-tcp.log").read_text().replace("16777216 ", "16777210 ").replace(old, new)
    reading = read_log(text.splitlines())
    assert "nccl-bandwidth-of-tcp" not in ids(reading)
    assert reading.benchmarks[0].bandwidths[16777210] == 5.86


def test_wrong_values_are_counted():
    reading = read("allreduce-wrong")
    assert finding(reading, "nccl-wrong-data").cause.startswith(
        "all_reduce_perf received wrong data: 1031 wrong values, first at 2097152 bytes."
    )
    (run,) = reading.benchmarks
    assert (run.wrong, run.wrong_at.line, run.wrong_at.size, run.average) == (1031, 12, 2097152, 18.6)
    only_sum = read_log(["# Collective test starting: x_perf", "# Out of bounds values : 3 FAILED"])
    assert only_sum.benchmarks[0].wrong_at == Row(2, None, "# Out of bounds values : 3 FAILED")
    assert "a test" not in finding(only_sum, "nccl-wrong-data").cause
    assert "first at not named bytes" in finding(only_sum, "nccl-wrong-data").cause


def test_tables_are_kept_with_the_better_bandwidth():
    (run,) = read("allreduce-slingshot").benchmarks
    assert (run.operation, run.ranks, sorted(run.nodes)) == ("all_reduce_perf", 8, ["nid001000", "nid001001"])
    assert run.bandwidths == {67108864: 108.7, 134217728: 123.6}
    assert (run.gpu, run.average, run.wrong) == ("NVIDIA GH200 120GB", 115.975, 0)


def test_columns_are_found_by_their_names():
    lines = [
        "# Collective test starting: all_reduce_perf",
        "#   size  count  type  redop  root  time  algbw  busbw  #wrong  i_min  i_max  time  algbw  busbw  #wrong",
        "    1024  256  float  sum  -1  20.0  1.0  2.5  0  19.0  21.0  20.0  1.0  3.5  4  2026-11-23 10:00:00",
    ]
    (run,) = read_log(lines).benchmarks
    assert (run.bandwidths, run.wrong) == ({1024: 3.5}, 4)


def test_several_tests_in_one_log_are_told_apart():
    wrong, right = (LOGS / f"allreduce-{name}.log" for name in ("wrong", "slingshot"))
    reading = read_log([*right.read_text().splitlines(), *wrong.read_text().splitlines()])
    assert [run.wrong for run in reading.benchmarks] == [0, 1031]
    assert finding(reading, "nccl-wrong-data").line == 30 + 12


def test_older_and_newer_wordings_are_read():
    lines = [
        "nid1:1:1 [0] NCCL INFO NET/OFI Using aws-ofi-nccl 1.7.4-aws",
        "nid1:1:1 [0] NCCL INFO NET/OFI Selected Provider is cxi (found 4 nics)",
        "This application was compiled with NCCL version 2.30.7, but is running with NCCL library version 2.28.9.",
    ]
    reading = read_log(lines)
    assert reading.facts == LogFacts(aws_ofi_nccl=("1.7.4-aws",), providers=("cxi",))
    assert ids(reading) == ["nccl-too-old", "ofi-plugin-old", "ofi-provider-cxi"]
    assert "built with NCCL 2.30.7 runs with NCCL 2.28.9" in reading.cause.cause


def test_quoted_network_names_are_their_own_failure():
    (quoted,) = read_log(["NCCL WARN Error: network 'AWS Libfabric' not found."]).findings
    assert quoted.failure.id == "nccl-network-quoted"
    assert "named 'AWS Libfabric', quotes included" in quoted.cause


def test_a_connection_that_is_tried_again_is_no_failure():
    tried = "[W1123 10:00:00.0 socket.cpp:764] [c10d] The client socket has failed to connect to [nid001000]:29500"
    assert read_log([f"{tried} (errno: 111 - Connection refused)."]).findings == ()
    (found,) = read_log(["The client socket has failed to connect to any network address of (nid9, 29500)."]).findings
    assert found.cause.startswith("A rank could not reach rank 0 at nid9:")


def test_what_healthy_runs_print_too_is_no_failure():
    lines = [
        "nid1:1:1 [0] NCCL INFO TUNER/Plugin: Could not find: libnccl-tuner.so. Using internal tuner plugin.",
        "nid1:1:1 [0] NCCL INFO NET/Plugin: Failed to find ncclCollNetPlugin_v10 symbol.",
        "nid1:1:1 [0] NCCL INFO NET/OFI No eligible providers were found",
        "nid1:1:1 [0] NCCL INFO Bootstrap : Using hsn0:172.28.0.1<0>",
        "nid1:1:1 [0] NCCL INFO NCCL_PROTO set by environment to ^LL128",
        "nid1:1:1 [0] NCCL INFO NET/OFI Initializing aws-ofi-nccl 1.20.0",
    ]
    assert read_log(lines).findings == ()


def test_values_are_kept_a_few_times_only():
    reading = read_log(f"NCCL version 2.{minor}.1" for minor in range(100))
    assert len(reading.facts.nccl) == 8


@pytest.mark.parametrize("failure", SEARCHED, ids=lambda failure: failure.id)
def test_each_failure_matches_its_example(failure):
    assert failure.example is not None
    reading = read_log([f"12: {failure.example}\n"])
    found = finding(reading, failure.id)
    assert (found.line, found.count) == (1, 1)
    assert "{" not in (found.cause + found.remedy).replace("${", "")


@pytest.mark.parametrize("failure", SEARCHED, ids=lambda failure: failure.id)
def test_patterns_take_linear_time(failure):
    for start in (failure.example, *failure.literals):
        for filling in (start, " ", "a", "0", "/a", "a.", ": ", "(", '"'):
            text = (start + filling * 8192)[:8192]
            begin = time.process_time()
            for _ in range(3):
                failure.regex.search(text)
            assert (time.process_time() - begin) / 3 < 0.05


def test_entries_are_complete():
    known = load_failures()
    assert len(known.failures) >= 45
    assert {"error", "warning", "note", "good"} == {failure.severity for failure in known.failures}
    assert all(failure.source for failure in known.failures)
    assert all(EXPECTED_NAMES[failure.id] == placeholders(failure) for failure in known.failures if not failure.regex)


EXPECTED_NAMES = {
    "nccl-wrong-data": {"operation", "wrong", "size"},
    "nccl-bandwidth-of-tcp": {"operation", "measured", "size", "ranks", "nodes", "tcp", "good"},
    "nccl-bandwidth-low": {"operation", "measured", "size", "ranks", "nodes", "good", "slow"},
    "nccl-versions-differ": {"versions"},
    "nccl-socket-on-one-node": set(),
    "nccl-debug-missing": set(),
}

ENTRY = {
    "id": "a", "component": "nccl", "severity": "error", "literal": "abcde", "pattern": "abcde(?P<x>y)",
    "cause": "because {x}", "remedy": "do this",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cause": "because {z}"}, "a has no groups for ['z']"),
        ({"follows": ("b",)}, "a follows unknown ['b']"),
        ({"literal": ()}, "a pattern needs a literal"),
        ({"id": "B"}, "pattern"),
        ({"weight": 101}, "less than or equal to 100"),
    ],
)
def test_wrong_entries_are_refused(change, complaint):
    file = {"source": "nowhere", "read": "2026-11-23", "facts": ()}
    assert FailureFile(**file, failures=(ENTRY,)).by_id["a"].weight == 50
    with pytest.raises(ValueError, match=re.escape(complaint)):
        FailureFile(**file, failures=(ENTRY | change,))
    with pytest.raises(ValueError, match="an id is used twice"):
        FailureFile(**file, failures=(ENTRY, ENTRY))


def test_filling_in_leaves_the_shell_alone_and_cleans_values():
    assert fill_in("{a} ${HOME} ${a} {b} {cuda}", {"a": "x\x1b[2J", "cuda": "13010"}) == (
        "x\ufffd[2J ${HOME} ${a} not named 13.1"
    )


def test_excerpts_are_short_printable_and_show_the_message():
    message = "CUDA error: no kernel image is available for execution on the device"
    (found,) = read_log(["\x1b[31m" + "x" * 3000 + "\x07" + message + "y" * 3000]).findings
    assert len(found.excerpt) == 200
    assert "no kernel image is available" in found.excerpt
    assert found.excerpt.isprintable()


def test_messages_anywhere_in_a_long_line_are_found_once():
    message = "Torch not compiled with CUDA enabled"
    for before in (0, 7600, 7690, 7700, 8180, 1_000_000):
        (found,) = read_log(["z" * before + message + "z" * 1_000_000]).findings
        assert (found.failure.id, found.count) == ("torch-cpu-build", 1)


def test_lines_that_are_read_in_pieces_keep_their_number():
    pieces = ["z" * LINE_LIMIT, "z" * LINE_LIMIT, "z\n", "Torch not compiled with CUDA enabled\n"]
    reading = read_log(pieces)
    assert (reading.lines, reading.findings[0].line) == (2, 2)


def test_memory_stays_while_a_log_grows():
    def endless(count):
        for number in range(count):
            yield f"srun: error: nid{number}: task {number}: Exited with exit code 1\n"

    (found,) = read_log(endless(20_000)).findings
    assert (found.line, found.count) == (1, 20_000)


@given(st.lists(st.text(max_size=200)))
def test_no_text_makes_it_raise(lines):
    assert read_log(lines).lines <= len(lines)


pieces = [failure.example for failure in SEARCHED] + (LOGS / "allreduce-wrong.log").read_text().splitlines()


@given(st.lists(st.tuples(st.sampled_from(pieces), st.integers(0, 200), st.text(max_size=5)), max_size=30))
def test_no_torn_message_makes_it_raise(torn):
    lines = [text[:cut] + noise + text[cut + 1 :] for text, cut, noise in torn]
    reading = read_log(lines)
    for found in reading.ranked:
        assert 1 <= found.line <= len(lines)
        assert 1 <= found.count <= len(lines)
        assert len(found.excerpt) <= 200
        assert (found.excerpt + found.cause + found.remedy).isprintable()


@given(st.binary(max_size=2000))
def test_binary_garbage_is_no_log(garbage):
    assert read_log(garbage.decode("utf-8", "replace").splitlines(keepends=True)).cause is None
