"""What each rank puts into an all-reduce, and what every element of the sum must then be, exactly.

Runs with the image's own Python and with nothing but its standard library. `index` may be a number, or an array of
64-bit integers of numpy or torch: only +, *, // and % are used on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from typing import Self

EXACT_INTEGERS = {
    "float32": 2**24,
    "float64": 2**53,
    "int32": 2**31,
    "int64": 2**63,
    "bfloat16": 2**8,
    "float16": 2**11,
}
"""Up to here a type holds every integer (its significand's bits; IEEE 754, and 8 bits for bfloat16)."""
DEFAULT_SIZES = (1, 3, 1000, 65537, 1048583)
"""Numbers of elements: one, less than the ranks, and ones that no number of ranks divides."""


class Integers(Protocol):
    """A number or an array of numbers that can be computed with."""

    def __add__(self, other: Self | int, /) -> Self: ...
    def __mul__(self, other: Self | int, /) -> Self: ...
    def __floordiv__(self, other: Self | int, /) -> Self: ...
    def __mod__(self, other: Self | int, /) -> Self: ...


Index = TypeVar("Index", bound=Integers)


def modulus(ranks: int, limit: int) -> int:
    """The largest prime p up to 251 for which `ranks` summands below p never add up to more than `limit`.

    A prime, so that no chunk of a usual size repeats the pattern. Raises ValueError where there is none.
    """
    for candidate in range(min(251, limit // ranks + 1), 1, -1):
        if all(candidate % divisor for divisor in range(2, candidate)):
            return candidate
    raise ValueError(f"sums over {ranks} ranks do not fit exactly below {limit}")


def contribution(rank: int, index: Index, prime: int) -> Index:
    """What `rank` puts in at `index`: 0 to prime - 1, different for neighbours, ranks and blocks of elements."""
    within = index * (rank + 1) + 5 * rank
    return (within + index // prime * 2 + index // (prime * prime) * 3) % prime


def expected_sum(index: Index, ranks: int, prime: int) -> Index:
    """What every rank must hold at `index` afterwards."""
    total = contribution(0, index, prime)
    for rank in range(1, ranks):
        total = total + contribution(rank, index, prime)
    return total


def find_wrong(got: Iterable[float], expected: Iterable[float], limit: int = 3) -> list[tuple[int, float, float]]:
    """The first `limit` places where the sequences differ: (index, got, expected). Not-a-number differs from all."""
    different = (
        (index, have, want) for index, (have, want) in enumerate(zip(got, expected, strict=True)) if have != want
    )
    return list(islice(different, limit))


def bandwidths(size_bytes: int, ranks: int, seconds: float) -> dict[str, float]:
    """Figures in GB/s: bytes over time, and that times 2(n-1)/n, nccl-tests' bus bandwidth of an all-reduce."""
    rate = size_bytes / seconds / 1e9
    return {"algbw_GBps": round(rate, 4), "busbw_GBps": round(rate * 2 * (ranks - 1) / ranks, 4)}
