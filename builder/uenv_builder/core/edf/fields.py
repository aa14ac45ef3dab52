"""The fields of one EDF file: their types, and their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from uenv_builder.core.edf.engine import EDF_SOURCE, ENGINES, Dialect, Verdict
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.toml_tree import TomlTree
from uenv_builder.core.yaml_tree import Path, Value, suggest
from uenv_builder.model.errors import Position, Severity

_Type = TypeVar("_Type")
_KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "an array", dict: "a table"}


@dataclass(frozen=True, slots=True)
class Entry(Generic[_Type]):
    """One value, and where it and its key stand."""

    value: _Type
    position: Position
    key: Position


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What a file sets, or several that build on each other; what it does not set is not there."""

    texts: dict[str, Entry[str]] = field(default_factory=dict)
    """image and workdir."""
    switches: dict[str, Entry[bool]] = field(default_factory=dict)
    """entrypoint and writable."""
    env: dict[str, Entry[str]] = field(default_factory=dict)
    annotations: dict[str, Entry[str]] = field(default_factory=dict)
    mounts: tuple[Entry[str], ...] = ()
    devices: tuple[Entry[str], ...] = ()
    bases: tuple[Entry[str], ...] = ()
    tops: dict[str, Position] = field(default_factory=dict)
    """Where each key of the outermost level stands."""

    def under(self, other: Fields) -> Fields:
        """These settings with those of `other` on top; the bases are those of `other`."""
        return Fields(
            texts={**self.texts, **other.texts}, switches={**self.switches, **other.switches},
            env={**self.env, **other.env}, annotations={**self.annotations, **other.annotations},
            # A file that several bases share is read for each of them, and its mounts are still the same.
            mounts=tuple(dict.fromkeys((*self.mounts, *other.mounts))),
            devices=tuple(dict.fromkeys((*self.devices, *other.devices))),
            bases=other.bases, tops={**self.tops, **other.tops},
        )  # fmt: skip


def read_fields(tree: TomlTree, dialect: Dialect) -> tuple[Fields, list[Verdict]]:
    """What the file sets, and what is wrong with keys and types; a value of another type is read as what was meant.

    The verdicts' `at` are paths of the tree.
    """
    reader = _Reader(tree)
    fields = Fields(
        texts=reader.each(("image", "workdir"), reader.text),
        switches=reader.each(("entrypoint", "writable"), reader.switch),
        env=reader.env(),
        annotations=dict(reader.annotations()),
        mounts=tuple(reader.texts("mounts")),
        devices=tuple(reader.texts("devices")),
        bases=tuple(reader.texts("base_environment", single=True)),
        tops={name: tree.key_position((name,)) for name in tree.value},
    )
    return fields, [*reader.found, *_unknown_keys(tree, dialect)]


def _unknown_keys(tree: TomlTree, dialect: Dialect) -> Iterator[Verdict]:
    known = ["base_environment", "image", "workdir", "entrypoint", "writable", "mounts", "env", "annotations"]
    known += ["devices"] if dialect == "sarus" else []
    for name in tree.value:
        if name == "devices" and dialect == "ce":
            hint = "leave it out: containers see all devices of the node"
            yield "edf-engine", Finding(message="Container Engine does not read devices", at=(name,), hint=hint)
        elif name not in known:
            near = suggest(name, known)
            message = f'{ENGINES[dialect]} passes over the unknown key "{name}" without a word'
            hint = near or f"known: {', '.join(known)}"
            severity: Severity | None = None if near is None else "error"
            yield "edf-key", Finding(message=message, at=(name,), hint=hint, severity=severity, source=EDF_SOURCE)


class _Reader:
    def __init__(self, tree: TomlTree) -> None:
        self._tree = tree
        self.found: list[Verdict] = []

    def each(self, names: tuple[str, ...], read: Callable[[Path, Value], _Type | None]) -> dict[str, Entry[_Type]]:
        values = self._tree.value
        found = {name: read((name,), values[name]) for name in names if name in values}
        return {name: self._entry((name,), value) for name, value in found.items() if value is not None}

    def text(self, path: Path, value: Value) -> str | None:
        if isinstance(value, str):
            return value
        self._wrong(path, value, "a text", f'write it in quotes: {path[-1]} = "{_spell(value)}"')
        return None

    def switch(self, path: Path, value: Value) -> bool | None:
        if isinstance(value, bool):
            return value
        word = str(value).lower() if str(value).lower() in {"true", "false"} else None
        self._wrong(path, value, "true or false", f"write {path[-1]} = {word or 'true or false'}, without quotes")
        return word == "true" if word else None

    def texts(self, name: str, *, single: bool = False) -> Iterator[Entry[str]]:
        value = self._tree.value.get(name, [])
        if isinstance(value, str):
            if not single:
                self._wrong((name,), value, "an array of texts", f'write it in brackets: {name} = ["{value}"]')
            if value or not single:
                yield self._entry((name,), value)
            return
        if not isinstance(value, list):
            self._wrong((name,), value, "an array of texts", f'write {name} = ["..."]')
            return
        for number, item in enumerate(value):
            if isinstance(item, str):
                yield self._entry((name, number), item)
            else:
                self._wrong((name, number), item, "a text", f'write it in quotes: "{_spell(item)}"')

    def env(self) -> dict[str, Entry[str]]:
        found = {}
        for name, value in self._table("env").items():
            if not isinstance(value, str):
                self._wrong(("env", name), value, "a text", f'write it in quotes: {name} = "{_spell(value)}"')
            if not isinstance(value, (dict, list)):
                found[name] = self._entry(("env", name), _spell(value))
        return found

    def annotations(self) -> Iterator[tuple[str, Entry[str]]]:
        for path, value in _leaves(("annotations",), self._table("annotations")):
            name = ".".join(str(part) for part in path[1:])
            if not isinstance(value, str):
                self._wrong(path, value, "a text", f'write it in quotes: {name} = "{_spell(value)}"')
            yield name, self._entry(path, _spell(value))

    def _table(self, name: str) -> dict[str, Value]:
        value = self._tree.value.get(name, {})
        if isinstance(value, dict):
            return value
        self._wrong((name,), value, "a table", f"write [{name}] on a line of its own, and its entries below")
        return {}

    def _entry(self, path: Path, value: _Type) -> Entry[_Type]:
        return Entry(value, self._tree.position(path), self._tree.key_position(path))

    def _wrong(self, path: Path, value: Value, wanted: str, hint: str) -> None:
        kind = _KINDS.get(type(value), "a date or a time")
        where = ".".join(str(part) for part in path if isinstance(part, str))
        message = f"{where}: {kind} stands here, and {wanted} is expected"
        # Annotations of another type come through as texts, at least in one engine.
        severity: Severity | None = "warning" if path[0] == "annotations" and len(path) > 1 else None
        self.found.append(
            ("edf-type", Finding(message=message, at=path, hint=hint, severity=severity, source=EDF_SOURCE))
        )


def _leaves(path: Path, table: dict[str, Value]) -> Iterator[tuple[Path, Value]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves((*path, name), value)
        else:
            yield (*path, name), value


def _spell(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "..." if isinstance(value, (dict, list)) else str(value)
