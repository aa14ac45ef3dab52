"""Environment definition files (EDF) as people write them: read with all files that they build on, and with places.

What two files both say is merged as the engines do it: later bases over earlier ones, the file itself over its bases;
mounts and devices of all of them (eth-cscs/cscs-docs, docs/software/container-engine/edf.md; sarus-suite/raster,
src/lib.rs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from uenv_builder.core.edf.engine import EDF_SOURCE, ENGINES, RASTER_SOURCE, Dialect, Verdict
from uenv_builder.core.edf.fields import Entry, Fields, read_fields
from uenv_builder.core.edf.values import check_bases, check_defined, fill_in
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.verdicts import diagnose
from uenv_builder.core.toml_tree import read_toml
from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.errors import Diagnostic, Position, RecipeError
from uenv_builder.model.system import NetworkMode, System

_Type = TypeVar("_Type")
_AT_KEY = ("edf-key", "edf-engine")
"""Rules about a key, whatever its value."""
MAX_FILES = 10
"""How many files may stand in one line of inheritance, the first one included."""


@dataclass(frozen=True, kw_only=True)
class EdfContext:
    """What is known of where an EDF is read; `read` gives a base's content, and the file name for its places."""

    dialect: Dialect
    read: Callable[[str], tuple[bytes, str] | None]
    """By a name or a path of `base_environment`, with the host's variables filled in; None where there is none."""
    host_env: Mapping[str, str] | None = None
    """The host's variables; None where they are not known."""
    system: System | None = None
    """Where jobs shall run."""
    network: NetworkMode | None = None
    """How the image gets its network stack, where that is known."""
    search_path: tuple[str, ...] = ()
    """The folders that names are looked up in, for messages."""


@dataclass(frozen=True, kw_only=True)
class Edf:
    """The settings of an EDF together with those of its bases; None where no file says anything."""

    file: str
    image: str | None = None
    workdir: str | None = None
    entrypoint: bool | None = None
    writable: bool | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    """By their dotted names, such as com.hooks.cxi.enabled."""
    mounts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    readable: bool = True
    """Whether the file itself is TOML; without that it is empty."""
    complete: bool = True
    """Whether all files that it builds on were read."""
    positions: Mapping[Path, Position] = field(default_factory=dict)
    keys: Mapping[Path, Position] = field(default_factory=dict)

    def position(self, path: Path) -> Position:
        """Where the value of ("image",), ("env", NAME), ("annotations", NAME) or ("mounts", number) stands, in
        whichever file; for what is not set, where its table does, or the beginning of the first file.
        """
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, Position(self.file, 1, 1))

    def key_position(self, path: Path) -> Position:
        """Where the key at `path` stands (the value's place for mounts and devices)."""
        return self.keys.get(path) or self.position(path)


def read_edf(content: bytes, file: str, context: EdfContext) -> tuple[Edf, list[Diagnostic]]:
    """The EDF `content` with all that it inherits, and what is wrong with the form of these files and their chain.

    Where a file is no TOML, its own settings are left out, and one finding says so.
    """
    chain = _Chain(context)
    fields, _ = chain.read(content, file, ())
    positions: dict[Path, Position] = {(name,): place for name, place in fields.tops.items()}
    keys: dict[Path, Position] = {}
    for path, entry in _paths(fields):
        positions[path], keys[path] = entry.position, entry.key
    edf = Edf(
        file=file, positions=positions, keys=keys, complete=chain.complete,
        readable=file not in chain.unreadable,
        image=_one(fields.texts, "image"), workdir=_one(fields.texts, "workdir"),
        entrypoint=_one(fields.switches, "entrypoint"), writable=_one(fields.switches, "writable"),
        env={name: entry.value for name, entry in fields.env.items()},
        annotations={name: entry.value for name, entry in fields.annotations.items()},
        mounts=tuple(entry.value for entry in fields.mounts),
        devices=tuple(entry.value for entry in fields.devices),
    )  # fmt: skip
    return edf, chain.found


def _one(entries: Mapping[str, Entry[_Type]], name: str) -> _Type | None:
    return entries[name].value if name in entries else None


def _paths(fields: Fields) -> Iterator[tuple[Path, Entry[str] | Entry[bool]]]:
    for table in (fields.texts, fields.switches):
        yield from (((name,), entry) for name, entry in table.items())
    for name, entries in (("env", fields.env), ("annotations", fields.annotations)):
        yield from (((name, key), entry) for key, entry in entries.items())
    for name, items in (("mounts", fields.mounts), ("devices", fields.devices)):
        yield from (((name, number), entry) for number, entry in enumerate(items))


class _Chain:
    """Reads a file and what it builds on, each file once."""

    def __init__(self, context: EdfContext) -> None:
        self._context = context
        self._read: dict[str, tuple[Fields, int]] = {}
        self.complete = True
        self.unreadable: set[str] = set()
        self.found: list[Diagnostic] = []

    def read(self, content: bytes, file: str, above: tuple[str, ...]) -> tuple[Fields, int]:
        """The settings of a file with those of its bases, and how many files are in its longest line of inheritance.

        `above` are the files that build on it.
        """
        try:
            tree = read_toml(content, file)
        except RecipeError as error:
            self.found += error.diagnostics
            self.unreadable.add(file)
            self.complete = False
            return Fields(), 1
        own, found = read_fields(tree, self._context.dialect)
        self._tell(found, tree.key_position, tree.position)
        if above and self._context.dialect == "sarus" and not {"image", "base_environment"} & set(tree.value):
            self._tell([_fragment()], tree.position)
        inherited, length = self._bases(own, (*above, file))
        return inherited.under(own), length + 1

    def _bases(self, own: Fields, above: tuple[str, ...]) -> tuple[Fields, int]:
        places: dict[Path, Position] = {("base_environment", n): base.position for n, base in enumerate(own.bases)}
        texts: dict[Path, str] = {("base_environment", n): base.value for n, base in enumerate(own.bases)}
        found = list(check_bases(texts, self._context.dialect))
        self._tell(found, places.__getitem__)
        misread = {finding.at for rule, finding in found if rule == "edf-base"}
        merged, longest = Fields(), 0
        for at, name in texts.items():
            below, length = self._base(at, name, places, above, told=at in misread)
            merged, longest = merged.under(below), max(longest, length)
        return merged, longest

    def _base(
        self, at: Path, name: str, places: Mapping[Path, Position], above: tuple[str, ...], *, told: bool
    ) -> tuple[Fields, int]:
        """What the base adds, and the length of its line; `told`: the name itself has been found wrong already."""
        known, verdicts, answer = self._context.host_env, list[Verdict](), None
        if known is not None:
            verdicts += [*check_defined(at, "base_environment", name, known), *self._search_path(at, name, known)]
        filled = name if "$" not in name else fill_in(name, known) if known is not None else None
        if filled is not None and "$" not in filled:
            answer = self._context.read(filled)
            verdicts += [self._missing(at, name)] if answer is None and not told else []
        fields, length = Fields(), 0
        if answer is None:
            self.complete = False
        elif (problem := self._line_problem(at, name, answer[1], above)) is not None:
            verdicts.append(problem)
            self.complete = False
        else:
            if answer[1] not in self._read:
                self._read[answer[1]] = self.read(answer[0], answer[1], above)
            fields, length = self._read[answer[1]]
        self._tell(verdicts, places.__getitem__)
        return fields, length

    def _line_problem(self, at: Path, name: str, file: str, above: tuple[str, ...]) -> Verdict | None:
        if file in above:
            message = f'base_environment: "{name}" builds on itself: {" -> ".join((*above[above.index(file) :], file))}'
            return "edf-base", Finding(message=message, at=at, hint="take one of these names out of its file")
        length = self._read[file][1] if file in self._read else 1
        if len(above) + length > MAX_FILES:
            message = f'base_environment: "{name}" makes a line of more than {MAX_FILES} files'
            hint = "write the settings of several bases into one file"
            return "edf-base", Finding(message=message, at=at, hint=hint, source=EDF_SOURCE)
        return None

    def _missing(self, at: Path, name: str) -> Verdict:
        folders = ", ".join(self._context.search_path)
        place = f" in {folders}" if folders and not name.startswith(("/", ".")) else ""
        hint = "correct the name (without .toml for a file of the search path), or give an absolute path"
        return "edf-base", Finding(message=f'base_environment: there is no EDF "{name}"{place}', at=at, hint=hint)

    def _search_path(self, at: Path, name: str, host_env: Mapping[str, str]) -> Iterator[Verdict]:
        folders = host_env.get("EDF_PATH", "")
        if not folders or name.startswith(("/", ".", "$")):
            return
        if self._context.dialect == "sarus" and ":" in folders:
            message = f'base_environment: "{name}" is looked up in {folders}, which Sarus Suite takes for one folder'
            hint = "give an absolute path, or set EDF_PATH to one folder"
            yield "edf-search-path", Finding(message=message, at=at, hint=hint, source="sarus-suite/raster src/lib.rs")
        relative = [folder for folder in folders.split(":") if not folder.startswith("/")]
        if relative and self._context.dialect == "ce":
            message = f'base_environment: "{name}" is looked up in EDF_PATH, where "{relative[0]}" is no absolute path'
            hint = "give an absolute path, or set EDF_PATH to absolute paths with : between them"
            yield "edf-search-path", Finding(message=message, at=at, hint=hint)

    def _tell(self, verdicts: Iterable[Verdict], *places: Callable[[Path], Position]) -> None:
        for rule, finding in verdicts:
            place = places[0] if rule in _AT_KEY else places[-1]
            self.found.append(diagnose(rule, finding, place))


def _fragment() -> Verdict:
    message = f"{ENGINES['sarus']} refuses a base that has neither image nor base_environment"
    return "edf-base", Finding(message=message, hint="write `base_environment = []` into it", source=RASTER_SOURCE)
