"""The environment variables that the network's libraries read: names, types, values, releases; from knowledge/compat.

One file a family, found by the prefix of its names; only the families that a set of variables names are read.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from uenv_builder.core.facts import Fact, FactFile, load_facts

Kind = Literal["int", "size", "scaled", "bool", "float", "text", "enum", "list", "switches"]
"""int and size: a number, size without a sign; scaled: bytes, where K, M, G and T are read; list: words of `values`;
switches: NCCL's lists of protocols and algorithms, which can differ by function.
"""
_ReleaseText = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$")]

_FILES = {
    "OFI_NCCL_": "ofi_nccl",
    "NCCL_": "nccl",
    "FI_CXI_": "fi_cxi",
    "FI_": "fi",
    "NVSHMEM_": "nvshmem",
    "OMPI_MCA_": "ompi_mca",
    "PMIX_": "pmix",
}
"""The file of knowledge/compat/variables by prefix; the longer of two prefixes comes first."""
_LONGEST = 80
_DIGITS = re.compile(rf"0[xX][0-9a-fA-F]{{1,{_LONGEST}}}|[0-9]{{1,{_LONGEST}}}")
_SUFFIXED = re.compile(r"([+-]?[0-9]{1,18}(?:\.[0-9]{1,9})?) ?([kKmMgGtT])(?:i?[bB])?")
_SCALES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SHORT = {"FI_", "PMIX_"}
"""Prefixes that other names come too near to, such as PMI_RANK."""
_OTHER_LIBRARIES = re.compile(r"[A-Z]?CCL_")
"""Libraries whose names differ from NCCL's in one letter, such as RCCL and oneCCL: no misspellings of it."""


class Definition(Fact):
    """One variable. A variable without `since` and `until` is in all releases that its family knows."""

    type: Kind
    default: str | None = None
    min: int | None = None
    max: int | None = None
    step: int | None = None
    """What the number has to be a multiple of."""
    values: tuple[str, ...] = ()
    """The words that an enum or a list takes."""
    exact: bool = False
    """Whether upper and lower case of a word matter."""
    open: bool = False
    """Whether there are words beside `values`, such as names of plugins."""
    numbers: bool = False
    """Whether plain numbers stand for words too."""
    negated: bool = False
    """Whether a list may begin with ^, which excludes its words."""
    separators: str = ","
    pattern: str | None = None
    """What the whole of a text has to match."""
    prefixes: tuple[str, ...] = ()
    """The functions that a part of `switches` can be for."""
    prefixes_since: _ReleaseText | None = None
    since: _ReleaseText | None = None
    """The first release that reads it."""
    until: _ReleaseText | None = None
    """The last release that reads it."""
    instead: str | None = None
    """The variable to set instead; where neither `until` nor `unread` is given, the old name still works."""
    unread: bool = False
    """Whether no release reads it, although documents name it."""
    fatal: bool = False
    """Whether releases after `until` refuse to start with it, rather than pass it over."""
    reader: str | None = None
    """Who reads it, where that is not the family's library."""
    note: str | None = None


class Family(FactFile):
    """The variables of one library, and how it takes what they say."""

    prefix: str
    component: str
    """The name that versions go by: nccl, aws_ofi_nccl, libfabric, nvshmem, openmpi."""
    reader: str
    """The library as people call it."""
    oldest: _ReleaseText
    newest: _ReleaseText
    """The releases that the file was made from."""
    bools: tuple[str, ...]
    """The words that mean true or false, in lower case."""
    bools_else: str
    """What happens with any other word."""
    strict: bool = False
    """Whether the library refuses a number with something behind it; others take the digits that it begins with."""
    hex: bool = True
    """Whether 0x10 is 16 and 010 is 8, as for C's strtol with base 0."""
    int_bits: Literal[32, 64]
    suffixed: bool = False
    """Whether K, M and G behind a number are read."""
    open: bool = False
    """Whether parts of the library bring variables of their own, so that an unknown name is no mistake by itself."""
    others: tuple[str, ...] = ()
    """How names begin that other software reads."""
    variables: dict[str, Definition]


def prefix_of(name: str) -> str | None:
    """The prefix of the family that the variable `name` belongs to by its name."""
    return next((prefix for prefix in _FILES if name.startswith(prefix)), None)


def family_of(name: str) -> Family | None:
    """The family of the variable `name`; None for names that none of the libraries reads."""
    prefix = prefix_of(name)
    return load_family(prefix) if prefix else None


def load_family(prefix: str) -> Family:
    """The family of that prefix; UenvError where its file does not fit: a fault of ours."""
    family: Family = load_facts(f"variables/{_FILES[prefix]}", Family)
    return family


def family_prefixes() -> tuple[str, ...]:
    """The prefixes of all families."""
    return tuple(_FILES)


def read_integer(value: str, family: Family) -> int | None:
    """`value` as the library reads it; None for what is no number to it as a whole."""
    digits = value.removeprefix("-") if value.startswith("-") else value.removeprefix("+")
    if not _DIGITS.fullmatch(digits):
        return None
    base = 10 if not family.hex else 16 if digits[1:2] in {"x", "X"} else 8 if digits.startswith("0") else 10
    try:
        number = int(digits, base)
    except ValueError:
        return None
    return -number if value.startswith("-") else number


def read_leading(value: str, family: Family) -> int:
    """The number that C's strtol makes of `value`: that of the digits that it begins with, else 0."""
    for end in range(min(len(value), _LONGEST), 0, -1):
        if (number := read_integer(value[:end], family)) is not None:
            return number
    return 0


def read_suffixed(value: str) -> int | None:
    """What a person means by a number with K, M, G or T behind it, such as 131072 by 128K; None for anything else."""
    found = _SUFFIXED.fullmatch(value)
    return int(float(found[1]) * _SCALES[found[2].lower()]) if found else None


def misspelt_prefix(name: str) -> str | None:
    """The variable that `name` is, but for one letter of the prefix or for its case; None where there is none."""
    for prefix, rest in _near_prefixes(name):
        if (right := prefix + rest) in load_family(prefix).variables:
            return right
    upper = name.upper()
    if upper != name and (family := family_of(upper)) is not None and upper in family.variables:
        return upper
    return None


def _near_prefixes(name: str) -> list[tuple[str, str]]:
    found = []
    for prefix in _FILES:
        for length in (len(prefix), len(prefix) - 1, len(prefix) + 1):
            head = name[:length]
            if head != prefix and prefix not in _SHORT and _is_near(head, prefix):
                found.append((prefix, name[length:]))
    return [] if _OTHER_LIBRARIES.match(name) else found


def _is_near(word: str, right: str) -> bool:
    """Whether one letter is missing, too much or another, or two neighbours are swapped."""
    if word == right or abs(len(word) - len(right)) > 1:
        return word == right
    start = next((at for at, (one, two) in enumerate(zip(word, right, strict=False)) if one != two), None)
    if start is None:
        return True
    tails = {
        (word[start + 1 :], right[start + 1 :]),
        (word[start:], right[start + 1 :]),
        (word[start + 1 :], right[start:]),
    }
    swapped = word[start : start + 2] == right[start : start + 2][::-1] and word[start + 2 :] == right[start + 2 :]
    return swapped or any(one == two for one, two in tails)
