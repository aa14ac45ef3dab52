"""Variables of a job against what the libraries that read them take: names, types, values, releases.

NCCL, its plugin, libfabric, NVSHMEM, Open MPI and PMIx all pass over what they do not understand, most without a word:
a misspelt name or `128K` shows as a slow job, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType

from packaging.version import Version

from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.stories import load_chapter
from uenv_builder.core.variables import (
    Definition,
    Family,
    family_of,
    load_family,
    misspelt_prefix,
    read_integer,
    read_leading,
    read_suffixed,
)
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import Diagnostic, Position, Severity

CHAPTER = "variables"
"""The file of knowledge/rules with the stories of these rules."""
_NOT_KNOWN: Mapping[str, Version] = MappingProxyType({})
_SCALED = re.compile(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?:[kKmMgGtT].*)?\Z", re.ASCII | re.DOTALL)
_NO_BOUND = -1
"""libfabric's way to say that a size has no bound."""
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z", re.ASCII)
_TRUE = {"true", "yes", "on", "y", "t", "enable", "enabled"}
_FALSE = {"false", "no", "off", "n", "f", "disable", "disabled"}
_FILLED_IN = re.compile(r"[$`]")
"""What a shell or an engine fills in: the value that a library will see is not known then."""


@dataclass(frozen=True, slots=True)
class _Variable:
    """One variable with what is known of it."""

    name: str
    value: str
    family: Family
    version: Version | None


def lint_variables(
    env: Mapping[str, str],
    *,
    versions: Mapping[str, Version] = _NOT_KNOWN,
    locate: Callable[[str], Position | None] = lambda _: None,
    quoted: bool = False,
) -> list[Diagnostic]:
    """What is wrong with the variables `env`, in their order; `locate` gives the place of a variable by its name.

    `versions` are those that the job will load, by component: nccl, aws_ofi_nccl, libfabric, nvshmem, openmpi. With
    `quoted`, a value that is in quotes as a whole is reported too, as core.environment does for an image's variables.
    An empty value is as good as none, and never reported.
    """
    found = []
    for name, value in env.items():
        if value.strip():
            found += [
                _diagnose(rule, finding, locate(name)) for rule, finding in _lint(name, value, versions, quoted=quoted)
            ]
    return found


_Found = Iterator[tuple[str, Finding]]


def _diagnose(rule: str, finding: Finding, position: Position | None) -> Diagnostic:
    story = load_chapter(CHAPTER).stories[rule]
    return Diagnostic(
        rule=rule, message=finding.message, severity=finding.severity or story.severity, position=position,
        hint=finding.hint or story.remedy, source=finding.source or story.sources[0],
    )  # fmt: skip


def _lint(name: str, value: str, versions: Mapping[str, Version], *, quoted: bool) -> _Found:
    family = family_of(name)
    if family is None:
        yield from _stray(name)
        return
    definition = family.variables.get(name)
    variable = _Variable(name, value.strip(), family, versions.get(family.component))
    if definition is None:
        yield from _unknown(variable)
        return
    found = list(_releases(variable, definition))
    if not found and not _FILLED_IN.search(value):
        found = list(_quotes(variable, definition, quoted=quoted))
        if not found and not _is_quoted(variable.value):
            found = list(_values(variable, definition))
    if definition.instead and not definition.until and not definition.unread:
        found.append(("variable-deprecated", _deprecated(variable, definition)))
    for rule, finding in found:
        yield rule, replace(finding, source=definition.source or family.source)


def _stray(name: str) -> _Found:
    right = misspelt_prefix(name)
    family = family_of(right) if right else None
    if right and family:
        message = f"{name}: nothing reads a variable of this name; {family.reader} reads {right}"
        yield "variable-unknown", Finding(message=message, hint=f"write {right}", source=family.source)


def _unknown(variable: _Variable) -> _Found:
    family, name = variable.family, variable.name
    if any(name.startswith(other) for other in family.others):
        return
    if family.open and any(name.startswith(f"{known}_") for known in family.variables):
        return
    near = _suggest_name(name, family)
    newer = variable.version is not None and variable.version > Version(family.newest)
    if near is None and family.open:
        return
    message = f"{name}: {family.reader} {family.oldest} to {family.newest} reads no variable of this name"
    severity: Severity | None = "note" if family.open or (newer and near is None) else None
    yield "variable-unknown", Finding(message=message, hint=near, severity=severity, source=family.source)


def _suggest_name(name: str, family: Family) -> str | None:
    """The name that may be meant; libfabric's are in two families."""
    names = [known for known, definition in family.variables.items() if not definition.unread]
    if (beside := {"FI_": "FI_CXI_", "FI_CXI_": "FI_"}.get(family.prefix)) is not None:
        names += load_family(beside).variables
    same = next((known for known in names if known.lower() == name.lower()), None)
    if same:
        return f"write {same}: upper and lower case matter"
    # All names share their beginning, which would make every one of them near.
    shared = "FI_" if beside else family.prefix
    near = get_close_matches(name.removeprefix(shared), [known.removeprefix(shared) for known in names], n=1)
    return suggest(name, [f"{shared}{near[0]}"]) if near else None


def _releases(variable: _Variable, definition: Definition) -> _Found:
    family, name, version = variable.family, variable.name, variable.version
    if definition.unread:
        message = f"{name}: no release of {family.reader} from {family.oldest} to {family.newest} reads it"
        yield "variable-not-read", Finding(message=message, hint=_successor(definition))
    elif definition.until and _is_past(definition.until, version, family):
        who = f"{family.reader} {version}" if version else f"{family.reader} {family.oldest} or newer"
        fails = definition.fatal and version is not None
        does = "refuses to start with it" if fails else "does not read it"
        message = f"{name}: {who} {does}; the last release that takes it is {definition.until}"
        yield "variable-removed", Finding(
            message=message, hint=_successor(definition), severity="error" if fails else None
        )  # fmt: skip
    elif definition.since and version is not None and version < Version(definition.since):
        message = f"{name}: {family.reader} {version} does not read it; the first that does is {definition.since}"
        hint = f"remove it, or take {family.reader} {definition.since} or newer"
        yield "variable-too-new", Finding(message=message, hint=hint)


def _successor(definition: Definition) -> str:
    note = f", {definition.note}" if definition.note else ""
    return f"set {definition.instead} instead{note}" if definition.instead else "remove it"


def _is_past(until: str, version: Version | None, family: Family) -> bool:
    """Whether `version` is later than `until`; where it is not known, whether all known releases are."""
    return (version or Version(family.oldest)) > Version(until)


def _deprecated(variable: _Variable, definition: Definition) -> Finding:
    reader = definition.reader or variable.family.reader
    message = f"{variable.name}: {reader} still takes this name; {definition.instead} has replaced it"
    return Finding(message=message, hint=_successor(definition))


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] in "\"'" and value[-1] in "\"'"


def _quotes(variable: _Variable, definition: Definition, *, quoted: bool) -> _Found:
    value = variable.value
    inside = definition.type != "text" and not _is_quoted(value) and any(sign in value for sign in "\"'")
    if inside or (quoted and _is_quoted(value)):
        plain = value.replace('"', "").replace("'", "") if inside else value[1:-1]
        message = f"{variable.name}: {variable.family.reader} takes the quotes in {value} for a part of the value"
        yield "variable-quotes", Finding(message=message, hint=f"write {plain}" if plain else "remove it")


def _values(variable: _Variable, definition: Definition) -> _Found:
    if variable.value == definition.default:
        return
    if definition.type in {"int", "size"}:
        yield from _number(variable, definition)
    elif definition.type == "switches":
        yield from _switches(variable, definition)
    else:
        yield from _word_checks[definition.type](variable, definition)


def _number(variable: _Variable, definition: Definition) -> _Found:
    name, value, family = variable.name, variable.value, variable.family
    amount = read_suffixed(value)
    if amount is not None and not family.suffixed:
        message = f"{name}: {family.reader} takes a plain number here, and {_reading(value, family)}"
        yield "variable-size-suffix", Finding(message=message, hint=f"write {amount}")
    if amount is not None:
        return
    number = read_integer(value, family)
    if number is None:
        message = f'{name}: "{value}" is no whole number; {family.reader} {_reading(value, family)}'
        yield "variable-type", Finding(message=message, hint=_number_hint(value, definition))
        return
    octal = family.hex and value.lstrip("+-").isdigit() and number != int(value)
    if octal and not (definition.default or "").startswith("0"):
        message = f"{name}: {family.reader} reads {value} as octal, which is {number}"
        yield "variable-octal", Finding(message=message, hint=f"write {int(value)}, or {number} if that is meant")
    yield from _range(variable, definition, number)


def _reading(value: str, family: Family) -> str:
    return f'refuses "{value}"' if family.strict else f'reads "{value}" as {read_leading(value, family)}'


def _number_hint(value: str, definition: Definition) -> str:
    if value.lower() in _TRUE:
        return "write 1"
    if value.lower() in _FALSE:
        return "write 0"
    if re.fullmatch("[0-9]{1,80}", value):
        return f"write {int(value)}"
    default = f", or remove it: the default is {definition.default}" if definition.default else ""
    return f"write a whole number{default}"


def _range(variable: _Variable, definition: Definition, number: int) -> _Found:
    family = variable.family
    size = definition.type == "size"
    bits = 63 if size else family.int_bits - 1
    natural = -(1 << bits) if not size else 0 if family.strict else _NO_BOUND
    low = natural if definition.min is None else definition.min
    high = (1 << bits) - 1 if definition.max is None else definition.max
    unbounded = f"{low} or more" if number < low else f"{high} or less"
    message = f"{variable.name}: {number} is out of range for {family.reader}"
    hint = f"write {unbounded if definition.max is None else f'a number from {low} to {high}'}"
    if definition.step and low <= number <= high:
        message = f"{variable.name}: {number} is no multiple of {definition.step}"
        hint = f"write a multiple, such as {max(definition.step, number // definition.step * definition.step)}"
    if not low <= number <= high or (definition.step and number % definition.step):
        yield "variable-range", Finding(message=message, hint=hint)


def _scaled(variable: _Variable, definition: Definition) -> _Found:
    if not _SCALED.match(variable.value):
        message = f'{variable.name}: "{variable.value}" is no size; {variable.family.reader} refuses to start with it'
        hint = "write bytes, or a number with K, M, G or T behind it and no blank between"
        yield "variable-type", Finding(message=message, hint=hint)
    elif re.fullmatch("[0-9]{1,80}", variable.value):
        yield from _range(variable, definition, int(variable.value))


def _bool(variable: _Variable, _: Definition) -> _Found:
    value, family = variable.value, variable.family
    if value.lower() in family.bools or (family.strict and read_integer(value, family) is not None):
        return
    word = "1" if value.lower() in _TRUE else "0" if value.lower() in _FALSE else "1 or 0"
    message = f'{variable.name}: "{value}" is no word for true or false; {family.bools_else}'
    yield "variable-type", Finding(message=message, hint=f"write {word}")


def _float(variable: _Variable, _: Definition) -> _Found:
    if not _FLOAT.match(variable.value):
        message = f'{variable.name}: "{variable.value}" is no number'
        yield "variable-type", Finding(message=message, hint="write a number such as 0.5")


def _text(variable: _Variable, definition: Definition) -> _Found:
    if definition.pattern and not re.fullmatch(definition.pattern, variable.value):
        message = f'{variable.name}: {variable.family.reader} does not understand "{variable.value}"'
        yield "variable-value", Finding(message=message, hint=f"write {definition.note}" if definition.note else None)


def _enum(variable: _Variable, definition: Definition) -> _Found:
    yield from _word(variable, definition, variable.value)


def _list(variable: _Variable, definition: Definition) -> _Found:
    words = variable.value.removeprefix("^") if definition.negated else variable.value
    for word in re.split(f"[{re.escape(definition.separators)}]", words):
        if word.strip():
            yield from _word(variable, definition, word.strip())


def _switches(variable: _Variable, definition: Definition) -> _Found:
    """NCCL's form: `LL,Simple;allreduce:^LL`. Only the first part can be for all functions."""
    name, since = variable.name, definition.prefixes_since
    for number, part in enumerate(part for part in variable.value.split(";") if part):
        function, colon, words = part.partition(":")
        if not colon:
            function, words = "", part
        if number and not colon:
            message = f'{name}: "{part}" names no function; only the first part of the list may be for all'
            yield "variable-value", Finding(message=message, hint=f"write it as {definition.prefixes[-1]}:{part}")
        if colon and function.lower() not in {known.lower() for known in definition.prefixes}:
            message = f'{name}: {variable.family.reader} knows no function "{function}"'
            yield "variable-value", Finding(message=message, hint=_choice(function, definition.prefixes))
        if colon and since and variable.version is not None and variable.version < Version(since):
            message = f"{name}: {variable.family.reader} {variable.version} knows no lists by function"
            hint = f"write one list for all, or take {variable.family.reader} {since} or newer"
            yield "variable-too-new", Finding(message=message, hint=hint)
        for word in words.removeprefix("^").split(","):
            if word:
                yield from _word(variable, definition, word)


def _word(variable: _Variable, definition: Definition, word: str) -> _Found:
    known = definition.values if definition.exact else tuple(value.lower() for value in definition.values)
    if (word if definition.exact else word.lower()) in known or (definition.numbers and re.fullmatch("[0-9]+", word)):
        return
    name, reader = variable.name, variable.family.reader
    if word.startswith("^"):
        message, hint = (
            f'{name}: a "^" inside of the list',
            "write ^ once, as the first character: it is for the whole list",
        )
        yield "variable-value", Finding(message=message, hint=hint)
        return
    message = f'{name}: {reader} knows no "{word}" here'
    severity = _open_severity(variable, definition)
    yield "variable-value", Finding(message=message, hint=_choice(word, definition.values), severity=severity)


def _open_severity(variable: _Variable, definition: Definition) -> Severity | None:
    if not definition.open:
        return None
    return "note" if variable.family.open else "warning"


def _choice(word: str, known: tuple[str, ...]) -> str:
    same = next((value for value in known if value.lower() == word.strip().lower()), None)
    near = f"write {same}" if same else suggest(word, list(known))
    return near or f"write one of: {', '.join(known)}"


_word_checks: dict[str, Callable[[_Variable, Definition], _Found]] = {
    "scaled": _scaled, "bool": _bool, "float": _float, "text": _text, "enum": _enum, "list": _list,
}  # fmt: skip
