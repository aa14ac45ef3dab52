"""What ranks must hold after an all-reduce, that wrong elements are found, and the verdicts made from it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from uenv_builder.checks.inside.exact_sums import (
    DEFAULT_SIZES,
    EXACT_INTEGERS,
    bandwidths,
    contribution,
    expected_sum,
    find_wrong,
    modulus,
)
from uenv_builder.checks.reductions import judge_reductions
from uenv_builder.checks.torch import compare_versions
from uenv_builder.model.lock import LockedAccelerator

INSIDE = Path(__file__).parents[2] / "builder/uenv_builder/checks/inside"
TYPES = ("float32", "float64", "int32", "int64", "bfloat16")


def as_bfloat16(value: int) -> float:
    """The number that bfloat16 keeps: 8 bits of significand, rounded to the nearest."""
    if value == 0:
        return 0.0
    step = 2.0 ** max(0, value.bit_length() - 8)
    return round(value / step) * step


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 64, 128])
def test_sums_are_exact_in_every_type(ranks: int) -> None:
    for dtype in TYPES:
        prime = modulus(ranks, EXACT_INTEGERS[dtype])
        assert ranks * (prime - 1) <= EXACT_INTEGERS[dtype]
    prime = modulus(ranks, EXACT_INTEGERS["bfloat16"])
    for index in range(2 * prime):
        partial = 0
        for rank in range(ranks):
            partial += contribution(rank, index, prime)
            assert as_bfloat16(partial) == partial
        assert partial == expected_sum(index, ranks, prime)


def test_too_many_ranks_for_a_type_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit exactly"):
        modulus(257, EXACT_INTEGERS["bfloat16"])


def test_modulus_is_prime() -> None:
    assert modulus(2, 256) == 127
    assert modulus(4, 256) == 61
    assert modulus(2, 2**24) == 251


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_and_neighbours_differ(ranks: int) -> None:
    prime = modulus(ranks, 256)
    rows = [[contribution(rank, index, prime) for index in range(3 * prime)] for rank in range(ranks)]
    for one, other in itertools.combinations(rows, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) <= 3 * 3
    sums = [expected_sum(index, ranks, prime) for index in range(3 * prime)]
    assert len(set(sums)) > prime // 4


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("chunk", [1, 2, 64, 127, 61, 128, 1024, 4096, 65536])
def test_swapped_chunks_and_a_lost_or_doubled_rank_are_noticed(ranks: int, chunk: int) -> None:
    prime = modulus(ranks, 256)
    right = [expected_sum(index, ranks, prime) for index in range(2 * chunk)]
    assert find_wrong(right[chunk:] + right[:chunk], right)
    for rank in range(ranks):
        parts = [contribution(rank, index, prime) for index in range(2 * chunk)]
        lost = [have - part for have, part in zip(right, parts, strict=True)]
        doubled = [have + part for have, part in zip(right, parts, strict=True)]
        if any(parts):
            assert find_wrong(lost, right)
            assert find_wrong(doubled, right)


@pytest.mark.parametrize("place", [0, 1, 499, 998, 999])
def test_one_wrong_element_is_found_wherever_it_is(place: int) -> None:
    prime = modulus(4, 256)
    right = [float(expected_sum(index, 4, prime)) for index in range(1000)]
    wrong = list(right)
    wrong[place] += 1
    assert find_wrong(right, right) == []
    assert find_wrong(wrong, right) == [(place, right[place] + 1, right[place])]


def test_not_a_number_and_missing_elements_are_wrong() -> None:
    assert len(find_wrong([float("nan")], [float("nan")])) == 1
    with pytest.raises(ValueError, match="longer"):
        find_wrong([1.0], [1.0, 2.0])
    assert len(find_wrong([0.0] * 10, [1.0] * 10)) == 3


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    assert bandwidths(8_000_000_000, 4, 2.0) == {"algbw_GBps": 4.0, "busbw_GBps": 6.0}


def run_of(ranks: int, **changes: object) -> dict:
    findings = [{"wrong": [], "unsupported": {}, "compared": 5, "algbw_GBps": 2.0 - r / 10} for r in range(ranks)]
    return {"ranks": ranks, "late": [], "broken": {}, "findings": findings, **changes}


def test_verdict_of_ranks_that_agree() -> None:
    result = judge_reductions("allreduce-gloo", [run_of(2), run_of(4)])
    assert (result.outcome, result.reason) == ("passed", "")
    assert result.measured["elements_compared_4_ranks"] == 20
    assert result.measured["algbw_2_ranks_GBps"] == 1.9


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"late": [1]}, "2 ranks: rank 1 did not end in time"),
        ({"broken": {"0": -11}}, "2 ranks: rank 0 ended with -11"),
        ({"findings": []}, "2 ranks: only 0 reported"),
        ({"findings": [{"wrong": [], "compared": 0}] * 2}, "2 ranks: a rank compared nothing"),
        (
            {"findings": [{"wrong": [["int32", 9, 1, 4, 7, 8]], "compared": 1}, {"wrong": [], "compared": 1}]},
            "2 ranks: int32, 9 elements: rank 1 has 7 at 4, exact is 8",
        ),
    ],
)
def test_verdict_of_ranks_that_failed(changes: dict, reason: str) -> None:
    result = judge_reductions("x", [run_of(4), run_of(2, **changes)])
    assert result.outcome == "failed"
    assert reason in result.details
    assert reason in result.reason


def test_no_run_is_no_pass_and_unsupported_types_are_told() -> None:
    assert judge_reductions("x", []).outcome == "failed"
    findings = [{"wrong": [], "compared": 1, "unsupported": {"bfloat16": "no such type"}}] * 2
    result = judge_reductions("x", [run_of(2, findings=findings)])
    assert result.details == ("2 ranks: bfloat16 was not reduced: no such type",)


LOCKED = LockedAccelerator(torch="2.14.1", variant="cuda", cuda="13.0", nccl="2.30.7", cudnn="9.24.0.43")
FOUND = {
    "torch": "2.14.1+cu130", "cuda": "13.0", "nccl": "2.30.7", "nccl_loaded": 23007, "nccl_path": "/x/libnccl.so.2",
    "cudnn": 92400, "gpus": 0,
}  # fmt: skip


def test_versions_that_agree() -> None:
    assert compare_versions(FOUND, LOCKED).outcome == "passed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"torch": "2.14.0+cu130"}, "the image has torch 2.14.0+cu130, the lock has 2.14.1"),
        ({"cuda": None}, "torch is built for CUDA None, the lock has 13.0"),
        ({"nccl_loaded": 22907}, "NCCL 2.29.7 from /x/libnccl.so.2 is loaded, the lock has 2.30.7"),
        ({"nccl_loaded": None}, "NCCL none is loaded, the lock has 2.30.7"),
        ({"cudnn": 91900}, "cuDNN 9.19.0 is loaded, the lock has 9.24.0.43"),
    ],
)
def test_versions_that_differ(change: dict, reason: str) -> None:
    result = compare_versions({**FOUND, **change}, LOCKED)
    assert (result.outcome, result.reason) == ("failed", reason)


def test_a_locked_local_version_counts_when_both_have_one() -> None:
    cpu = LockedAccelerator(torch="2.13.0+cpu", variant="cpu")
    assert compare_versions({"torch": "2.13.0+cpu", "cuda": None}, cpu).outcome == "passed"
    assert compare_versions({"torch": "2.13.0+cu130", "cuda": None}, cpu).outcome == "failed"


def run_program(name: str, request: object, *arguments: str) -> dict:
    command = [sys.executable, "-B", str(INSIDE / name), *arguments]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["answer"]


def test_imports_program_tells_versions_and_errors() -> None:
    answer = run_program("imports_program.py", ["json", "no_such_module"])
    assert answer["python"] == ".".join(str(number) for number in sys.version_info[:3])
    assert answer["modules"]["json"]["ok"]
    assert answer["modules"]["no_such_module"]["error"].startswith("ModuleNotFoundError")


def test_torch_program_reduces_exactly_between_real_processes() -> None:
    pytest.importorskip("torch")
    request = {"communicate": True, "ranks": [2, 4], "sizes": DEFAULT_SIZES, "seconds": [120]}
    answer = run_program("torch_program.py", request)
    result = judge_reductions("allreduce-gloo", answer["gloo"])
    assert result.outcome == "passed", result.details
    assert result.measured["elements_compared_2_ranks"] >= 2 * 4 * sum(DEFAULT_SIZES)
