"""What `uenv explain RECIPE COMPONENT` finds out: which version, who asked for it, which rules looked, what changes it.

It asks no server. A lock records no requirements, so who asked is read from the wheels and packages that the store has;
of what it does not have, nothing is guessed.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.parser import BytesParser
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeVar

from packaging.utils import canonicalize_name
from pydantic import BaseModel

from uenv_builder.app.lock_files import is_stale, read_lock
from uenv_builder.app.recipes import LoadedRecipe, find_recipe, load_recipe
from uenv_builder.app.selection import select
from uenv_builder.core.requirement_chain import (
    Chain,
    Link,
    Wish,
    find_chains,
    find_debs,
    link_debs,
    link_wheels,
    marker_environment,
    read_wish,
    recipe_wishes,
)
from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.rules.stack_facts import Machine, TorchRelease, base_facts, find_release, torch_facts
from uenv_builder.core.rules.stories import find_story
from uenv_builder.core.rules.subject import Component, Subject
from uenv_builder.core.rules.tables import RUNTIME_RULES, SUBJECT_RULES
from uenv_builder.core.rules.torch_build import TorchBuild, find_build, find_torch, write_pins
from uenv_builder.core.rules.verdicts import diagnose
from uenv_builder.core.variable_lint import lint_variables
from uenv_builder.core.variables import family_of
from uenv_builder.core.yaml_tree import Path as TreePath
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.layers.wheel_content import ZIP_ERRORS
from uenv_builder.model.errors import BuildError, Diagnostic, LockError, Position, Severity, UsageError
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Pins, Recipe
from uenv_builder.model.system import Uarch
from uenv_builder.system.settings import Settings, load_settings
from uenv_builder.system.site_systems import read_site_systems
from uenv_builder.system.store import Store

_PARTS = {
    "pytorch": r"torch",
    "cuda": r"nvidia-cuda-runtime(-cu\d+)?|cuda-toolkit",
    "nccl": r"nvidia-nccl(-cu\d+)?",
    "cudnn": r"nvidia-cudnn(-cu\d+)?",
    "nvshmem": r"nvidia-nvshmem(-cu\d+)?",
}
"""The wheels that bring a component, by its name: that of a pin, or of a library with variables of its own."""
_ALIASES = {"torch": "pytorch"}
_HOOKED = frozenset({"aws_ofi_nccl", "libfabric"})
_OF_NETWORK = frozenset({"aws_ofi_nccl", "libfabric", "libcxi", "gdrcopy", "openmpi"})
_OF_TORCH = {"cuda": "CUDA", "nccl": "NCCL", "cudnn": "cuDNN"}
_SHOWN = 3
_Value = TypeVar("_Value")
LockState = Literal["fresh", "stale", "missing", "unreadable"]
Reading = tuple[Literal["component", "presence", "wheel", "package", "variable"], str]
"""What a rule looked at: the version of a component by the name of its pin, or whether it is there at all; the version
of a wheel or a package; a variable.
"""
Note = Callable[[Reading], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a COMPONENT means in one target: pins and libraries of that name, and locked wheels and packages."""

    name: str
    components: frozenset[str]
    wheels: tuple[str, ...]
    packages: tuple[str, ...]

    def means_wheel(self, name: str) -> bool:
        """Whether the wheel of that normalised name is this component, or brings it."""
        parts = (_PARTS[one] for one in self.components if one in _PARTS)
        return name == canonicalize_name(self.name) or any(re.fullmatch(part, name) for part in parts)

    def covers(self, reading: Reading) -> bool:
        """Whether who looked at that looked at this component."""
        kind, name = reading
        if kind == "variable":
            family = family_of(name)
            return family is not None and family.component in self.components
        if kind in {"component", "presence"}:
            return name in self.components
        return name in (self.wheels if kind == "wheel" else self.packages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Somebody who says which version it is."""

    by: Literal["pin", "recipe", "lock", "hooks", "torch"]
    version: str
    text: str
    position: Position | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A chain of requirements: the recipe's words and their place, then what each package on the way asks for."""

    text: str
    position: Position | None
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a rule said that looked at the component: silent, accepted, or its worst finding's severity."""

    rule: str
    verdict: str
    title: str
    read: tuple[str, ...]
    """What it looked at: `version`, `presence`, and names of variables."""
    findings: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All about a component in those targets of a recipe for which it is the same."""

    targets: tuple[str, ...]
    lock: LockState
    version: str | None
    decisions: tuple[Decision, ...]
    asked_by: tuple[Asked, ...]
    verdicts: tuple[Verdict, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    """What is not known or not so, and why."""


_Asking = tuple[list[Chain], list[str]]
"""The chains of requirements to a component, shortest first, and what cannot be known of them."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One target and the component in it. `lock` is there also where it is stale: then the rules do not see it."""

    loaded: LoadedRecipe
    subject: Subject
    lock: Lock | None
    state: LockState
    identity: Identity

    def place(self, path: TreePath) -> Position | None:
        """The place of a value of the recipe; for a variable that others set, that of the network mode."""
        recipe = self.loaded.recipe
        if path[:1] == ("env",) and path[-1] not in recipe.env:
            path = ("edf", *path) if path[-1] in recipe.edf.env else ("network",)
        return self.loaded.evaluated.tree.key_position(path)

    @property
    def command(self) -> str:
        """The recipe as commands name it."""
        path = self.loaded.path
        return str(path.parent if path.name == "recipe.yaml" else path)

    @property
    def then_lock(self) -> str:
        """What follows a change of the recipe."""
        return f"then `uenv lock {self.command}`"

    @property
    def pinned(self) -> tuple[str, str] | None:
        """Name and version of the pin that is about the component."""
        pins = self.loaded.recipe.pins
        found = [(name, getattr(pins, name)) for name in Pins.model_fields if name in self.identity.components]
        return next((pin for pin in found if pin[1]), None)


def explain_component(recipe: str, name: str, *, uarch: str | None = None) -> tuple[Path, list[Explanation]]:
    """The recipe's file, and all about the component `name` in its targets, or in those of one node type.

    Raises UsageError where there is no such recipe, target or component, RecipeError for a recipe that is not valid.
    """
    settings = load_settings()
    loaded = load_recipe(find_recipe(recipe, settings.recipe_path))
    site = read_site_systems(settings.systems)
    select(loaded, uarch=uarch, site=site)
    targets = [target for target in loaded.recipe.targets if uarch in {None, target.uarch}]
    selections = [select(loaded, uarch=one.uarch, system=one.system, site=site) for one in targets]
    uarchs = {one.uarch.name: one.uarch for one in selections}
    locks = {node: _find_lock(loaded, found) for node, found in uarchs.items()}
    _require_known(loaded, name, [lock for lock, _, _ in locks.values() if lock])
    store = _open_store(settings)
    asking: dict[str, _Asking] = {}
    together: dict[Explanation, list[str]] = {}
    for one in selections:
        lock, state, note = locks[one.uarch.name]
        subject = Subject(loaded.recipe, one.system, one.uarch, lock if state == "fresh" else None)
        case = _Case(loaded, subject, lock, state, identify(name, loaded.recipe, lock))
        if one.uarch.name not in asking:
            asking[one.uarch.name] = _find_asking(case, store)
        explanation = _explain(case, *asking[one.uarch.name], [note] if note else [])
        together.setdefault(explanation, []).append(f"{one.system.name}%{one.uarch.name}")
    return loaded.path, [replace(one, targets=tuple(names)) for one, names in together.items()]


def identify(name: str, recipe: Recipe, lock: Lock | None) -> Identity:
    """What `name` means: a pin as YAML or people write it, a wheel, or a Debian package; without a lock, one that the
    recipe names.
    """
    wheel, word = str(canonicalize_name(name)), name.strip().lower()
    pin = _ALIASES.get(wheel, wheel.replace("-", "_"))
    known = {*Pins.model_fields, *_PARTS}
    component = pin if pin in known else next((one for one in _PARTS if re.fullmatch(_PARTS[one], wheel)), None)
    wheels = {each.name for each in lock.python.wheels} if lock and lock.python else set()
    packages = {each.name for each in lock.userland.packages} if lock else _package_words(recipe)
    pattern = _PARTS.get(component or "", r"(?!)")
    found = {wheel} & wheels or {each for each in wheels if re.fullmatch(pattern, each)}
    debs = {
        each for each in packages if each == word or (pin == "python" and re.fullmatch(r"python3\.\d+-minimal", each))
    }
    return Identity(name, frozenset({component} if component else ()), tuple(sorted(found)), tuple(sorted(debs)))


def _package_words(recipe: Recipe) -> set[str]:
    return {word.partition("=")[0] for word in recipe.base.debian.packages} if recipe.base.debian else set()


def _require_known(loaded: LoadedRecipe, name: str, locks: list[Lock]) -> None:
    recipe = loaded.recipe
    known = {
        *Pins.model_fields,
        *_PARTS,
        *_ALIASES,
        *_package_words(recipe),
        *(wish.name for wish in recipe_wishes(recipe)),
    }
    for lock in locks:
        known |= {wheel.name for wheel in lock.python.wheels} if lock.python else set()
        known |= {deb.name for deb in lock.userland.packages}
    spellings = {name.strip().lower(), str(canonicalize_name(name)), str(canonicalize_name(name)).replace("-", "_")}
    if spellings & known or identify(name, recipe, None).components:
        return
    what = "the recipe and its locks have" if locks else "the recipe has, and there is no lock yet that names more,"
    raise UsageError(
        f'{what} no component "{name}"', rule="unknown-component",
        hint=suggest(name.lower(), sorted(known)) or "name a pin (nccl), a wheel (numpy) or a Debian package (libc6)",
    )  # fmt: skip


def _find_lock(loaded: LoadedRecipe, uarch: Uarch) -> tuple[Lock | None, LockState, str | None]:
    """The lock, whether it fits, and what is to be said about that."""
    path = loaded.lock_path(uarch.name)
    try:
        lock = read_lock(loaded, uarch)
    except LockError as error:
        return None, "unreadable", error.diagnostics[0].message
    if lock is None:
        return None, "missing", f"{path}: there is no lock yet: only what the recipe and the facts say is known"
    if is_stale(loaded, uarch, lock):
        return (
            lock,
            "stale",
            f"{path}: is stale: its versions are those of an older recipe, and rules do not look at it",
        )
    return lock, "fresh", None


def _open_store(settings: Settings) -> Store:
    if settings.cache and not os.environ.get("UENV_CACHE"):
        return Store(Path(settings.cache).expanduser())
    return Store.default()


def _explain(case: _Case, chains: list[Chain], unknown: list[str], notes: list[str]) -> Explanation:
    decisions = tuple(_find_decisions(case))
    asked_by = tuple(Asked(text=one.wish.text, position=case.place(one.wish.at), links=one.links) for one in chains)
    return Explanation(
        targets=(), lock=case.state, version=decisions[0].version if decisions else None, decisions=decisions,
        asked_by=asked_by, verdicts=tuple(_find_verdicts(case)), changes=tuple(_find_changes(case, chains)),
        notes=(*notes, *unknown),
    )  # fmt: skip


# Which version it is


def _find_decisions(case: _Case) -> Iterator[Decision]:
    """All who say which version it is, the one that counts first."""
    if case.pinned:
        pin, version = case.pinned
        yield Decision(by="pin", version=version, text=f'{pin}: "{version}"', position=case.place(("pins", pin)))
    for wish in recipe_wishes(case.loaded.recipe):
        exact = re.search(r"==\s*([^*,;\s]+)\s*(;|$)", wish.text)
        if exact and wish.at[0] == "python" and case.identity.means_wheel(wish.name):
            yield Decision(by="recipe", version=exact[1], text=wish.text, position=case.place(wish.at))
    if case.lock is not None:
        yield from _find_locked(case.lock, case.identity)
    hooks = case.subject.hooks
    for name in case.identity.components & _HOOKED:
        if hooks is not None and (brings := getattr(hooks, name)):
            text = f"{brings}, by the host's hooks in network mode {case.loaded.recipe.network}"
            yield Decision(by="hooks", version=brings, text=text, source=hooks.source or None)
    yield from _find_torch_words(case)


def _find_locked(lock: Lock, identity: Identity) -> Iterator[Decision]:
    accelerator, python = lock.accelerator, lock.python
    if accelerator and accelerator.cuda and "cuda" in identity.components:
        text = f"CUDA {accelerator.cuda}, which the locked torch {accelerator.torch} is built for"
        yield Decision(by="lock", version=accelerator.cuda, text=text)
    if python and "python" in identity.components:
        yield Decision(by="lock", version=python.version, text=f"Python {python.version}, which the wheels are for")
    for wheel in python.wheels if python else ():
        if wheel.name in identity.wheels:
            text = f"wheel {wheel.name} {wheel.version}: {wheel.file}"
            yield Decision(by="lock", version=wheel.version, text=text)
    for deb in lock.userland.packages:
        if deb.name in identity.packages:
            text = f"Debian package {deb.name} {deb.version} ({deb.architecture}, {deb.suite})"
            yield Decision(by="lock", version=deb.version, text=text)


def _find_torch_words(case: _Case) -> Iterator[Decision]:
    """What the facts about torch's releases say of what torch brings."""
    torch, machine = find_torch(case.subject), case.subject.uarch.machine
    release = find_release(torch.version) if torch else None
    if release is None or machine not in release.cuda:
        return
    said = {
        "cuda": (
            release.cuda[machine],
            f"torch {release.version} is built for CUDA {release.cuda[machine]} on {machine}",
        ),
        "nccl": (release.nccl, f"torch {release.version} requires NCCL {release.nccl}, and no other"),
        "cudnn": (release.cudnn, f"torch {release.version} requires cuDNN {release.cudnn}, and no other"),
    }
    for name in case.identity.components & said.keys():
        version, text = said[name]
        yield Decision(by="torch", version=version, text=text, source=release.source or torch_facts().source)


# Who asked for it


def _find_asking(case: _Case, store: Store) -> _Asking:
    """Who asks for the wheels and packages that the component is, as far as files on this machine tell."""
    chains: list[Chain] = []
    notes: list[str] = []
    if case.identity.wheels or case.identity.components & _PARTS.keys() or not case.identity.packages:
        wishes, links, unknown = _wheel_links(case, store)
        known = {*(wish.name for wish in wishes), *(link.name for link in links)}
        names = set(case.identity.wheels) or {one for one in known if case.identity.means_wheel(one)}
        for name in sorted(names):
            chains += find_chains(name, wishes, links)
        notes += unknown if names else []
    if case.identity.packages:
        wishes, links, unknown = _package_links(case, store)
        for name in case.identity.packages:
            chains += find_chains(name, wishes, links)
        notes += unknown
    if not chains and not notes and (case.identity.wheels or case.identity.packages):
        notes = ["nothing that the recipe asks for leads to it"]
    return sorted(chains, key=lambda chain: len(chain.links)), notes


def _wheel_links(case: _Case, store: Store) -> tuple[list[Wish], list[Link], list[str]]:
    wishes = recipe_wishes(case.loaded.recipe)
    wheels = case.lock.python.wheels if case.lock and case.lock.python else ()
    metadata = {}
    for wheel in wheels:
        if (lines := _read_requirements(store.download_path(wheel.sha256))) is not None:
            metadata[wheel.name] = lines
    python = case.subject.python.text if case.subject.python else "3"
    links = [*link_wheels(wishes, metadata, marker_environment(python, case.subject.uarch.machine))]
    if "torch" not in metadata and (build := find_build(case.subject)) is not None:
        links += _torch_links(build)
    return wishes, links, _missing_note("wheels", len(wheels) - len(metadata), len(wheels))


def _torch_links(build: TorchBuild) -> Iterator[Link]:
    """What the facts, or the lock's own words about torch, say that it asks for; for want of its metadata."""
    family = (build.cuda or "").partition(".")[0]
    for part, version in (("nccl", build.nccl), ("cudnn", build.cudnn)):
        if family and version:
            yield Link("torch", f"nvidia-{part}-cu{family}", f"nvidia-{part}-cu{family}=={version}")


def _read_requirements(path: Path) -> tuple[str, ...] | None:
    """The lines of Requires-Dist in a wheel's METADATA; None for a file that is not there or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            content = archive.read(next(names, ""))
    except (OSError, KeyError, *ZIP_ERRORS):
        return None
    return tuple(str(line) for line in BytesParser().parsebytes(content, headersonly=True).get_all("Requires-Dist", []))


def _package_links(case: _Case, store: Store) -> tuple[list[Wish], list[Link], list[str]]:
    from uenv_builder.layers.deb import deb_control  # noqa: PLC0415  (for Debian packages only)

    debs = case.lock.userland.packages if case.lock else ()
    stanzas: dict[str, Mapping[str, str]] = {}
    for deb in debs:
        try:
            stanzas[deb.name] = deb_control(store.download_path(deb.sha256)).fields
        except (OSError, BuildError):
            continue
    names = {*case.identity.packages, *(deb.name for deb in debs)}
    base = case.loaded.recipe.base.debian
    wishes = [
        Wish(name, word, ("base", "debian", "packages", number))
        for number, word in enumerate(base.packages if base else ())
        for name in find_debs(word, stanzas, names)
    ]
    if base and base.essential:
        essential = [name for name, fields in stanzas.items() if fields.get("Essential") == "yes"]
        wishes += [Wish(name, "essential: true", ("base", "debian", "essential")) for name in essential]
    unknown = _missing_note("Debian packages", len(debs) - len(stanzas), len(debs))
    return wishes, [*link_debs(stanzas, names)], unknown


def _missing_note(what: str, missing: int, count: int) -> list[str]:
    if not missing:
        return []
    where = f"{missing} of {count} {what} are not in the store, which a build fills"
    return [f"the lock does not record who asks for what: it is read from the files themselves, and {where}"]


# Which rules looked at it


class _NotedText(str):
    """A text that tells when it is looked at; handing it on, as from a lock into what a rule computes, is not looking.

    Comparing it with another text counts only where both are equal: who searches a list by name looks at one entry.
    """

    __slots__ = ("_tell",)
    _tell: Callable[[], None]

    @classmethod
    def of(cls, text: str, tell: Callable[[], None]) -> Self:
        made = cls(text)
        made._tell = tell
        return made

    def __getattribute__(self, name: str) -> object:
        if not name.startswith("_"):
            self._tell()
        return super().__getattribute__(name)

    def __bool__(self) -> bool:
        self._tell()
        return str.__len__(self) > 0

    def __eq__(self, other: object) -> bool:
        same = str.__eq__(self, other) is True
        if same:
            self._tell()
        return same

    __hash__ = str.__hash__

    def __format__(self, form: str) -> str:
        self._tell()
        return str.__format__(self, form)


class _NotedPins:
    """Pins that note which of them are read, set or not."""

    def __init__(self, pins: Pins, note: Note) -> None:
        self._pins, self._note = pins, note

    def __getattr__(self, name: str) -> object:
        if name in Pins.model_fields:
            self._note(("component", name))
        return getattr(self._pins, name)


class _NotedNames(frozenset[str]):
    """Names of variables that note for which of them it was asked whether they are there."""

    _note: Note

    @classmethod
    def of(cls, names: frozenset[str], note: Note) -> Self:
        made = cls(names)
        made._note = note
        return made

    def __contains__(self, name: object) -> bool:
        self._note(("variable", str(name)))
        return super().__contains__(name)


class _NotedMapping(Mapping[str, _Value]):
    """A mapping that notes which of its keys are asked for, there or not."""

    def __init__(self, values: Mapping[str, _Value], note: Callable[[str], None]) -> None:
        self._values, self._note = values, note

    def __getitem__(self, key: str) -> _Value:
        self._note(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _NotedRuntime(Runtime):
    """A runtime that notes which variables and versions are looked at, and whether NCCL is asked for."""

    _note: Note

    @classmethod
    def of(cls, runtime: Runtime, note: Note) -> Self:
        env = _NotedMapping(runtime.env, lambda name: note(("variable", name)))
        versions = _NotedMapping(runtime.versions, lambda name: note(("component", name)))
        own = _NotedNames.of(frozenset(runtime.own), note)
        made = cls(**{**vars(runtime), "env": env, "versions": versions, "own": own})
        object.__setattr__(made, "_note", note)
        return made

    def __getattribute__(self, name: str) -> object:
        if name == "uses_nccl":
            object.__getattribute__(self, "_note")(("presence", "nccl"))
        return object.__getattribute__(self, name)


def _noted_subject(subject: Subject, note: Note) -> Subject:
    """`subject` with a pin, a lock and hooks that note which versions are looked at."""
    recipe = subject.recipe.model_copy(update={"pins": _NotedPins(subject.recipe.pins, note)})
    hooks = {
        mode: stack.model_copy(update=_noted_fields(stack, note, {name: ("component", name) for name in _HOOKED}))
        for mode, stack in subject.system.hooks.items()
    }
    lock = _noted_lock(subject.lock, note) if subject.lock else None
    return Subject(recipe, subject.system.model_copy(update={"hooks": hooks}), subject.uarch, lock)


def _noted_lock(lock: Lock, note: Note) -> Lock:
    python, accelerator = lock.python, lock.accelerator
    packages = tuple(
        deb.model_copy(update=_noted_fields(deb, note, dict.fromkeys(("name", "version"), ("package", deb.name))))
        for deb in lock.userland.packages
    )
    wheels = tuple(
        one.model_copy(update=_noted_fields(one, note, dict.fromkeys(("name", "version", "file"), ("wheel", one.name))))
        for one in (python.wheels if python else ())
    )
    parts: dict[str, Reading] = {
        "torch": ("component", "pytorch"), **{name: ("component", name) for name in _OF_TORCH},
    }  # fmt: skip
    version: dict[str, Reading] = {"version": ("component", "python")}
    return lock.model_copy(
        update={
            "userland": lock.userland.model_copy(update={"packages": packages}),
            "python": python and python.model_copy(update={**_noted_fields(python, note, version), "wheels": wheels}),
            "accelerator": accelerator and accelerator.model_copy(update=_noted_fields(accelerator, note, parts)),
        }
    )


def _noted_fields(model: BaseModel, note: Note, readings: Mapping[str, Reading]) -> dict[str, str]:
    """The texts among the fields of `model` that `readings` names, as texts that note what it says."""
    texts = {name: getattr(model, name) for name in readings}
    return {
        name: _NotedText.of(text, partial(note, readings[name])) for name, text in texts.items() if text is not None
    }


def _find_verdicts(case: _Case) -> Iterator[Verdict]:
    """What each rule said that looked at the component, in the rules' order; by letting each look, and taking notes."""
    read: set[Reading] = set()
    subject = _noted_subject(case.subject, read.add)
    runtime = _NotedRuntime.of(subject.runtime, read.add)
    calls = [(rule, partial(judge, subject)) for rule, judge in SUBJECT_RULES.items()]
    calls += [(rule, partial(judge, runtime)) for rule, judge in RUNTIME_RULES.items()]
    for rule, judge in calls:
        read.clear()
        found = tuple(diagnose(rule, finding, case.place) for finding in judge())
        covered = sorted(reading for reading in read if case.identity.covers(reading))
        if covered:
            yield _verdict(case, rule, found, tuple(dict.fromkeys(map(_word_of, covered))))
    yield from _variable_verdicts(case)


def _word_of(reading: Reading) -> str:
    kind, name = reading
    return name if kind == "variable" else "presence" if kind == "presence" else "version"


def _verdict(case: _Case, rule: str, findings: tuple[Diagnostic, ...], read: tuple[str, ...]) -> Verdict:
    story = find_story(rule)
    severities = {finding.severity for finding in findings}
    worst = next((one for one in ("error", "warning", "note") if one in severities), "silent")
    if worst not in {"error", "silent"} and rule in case.loaded.recipe.accept:
        worst = "accepted"
    title = " ".join(story.title.split()) if story else ""
    return Verdict(rule=rule, verdict=worst, title=title, read=read, findings=findings)


def _variable_verdicts(case: _Case) -> Iterator[Verdict]:
    """Findings about the library's variables that the recipe sets; these rules are one piece, so the silent ones are
    not told apart.
    """
    recipe = case.loaded.recipe
    own = {**recipe.env, **recipe.edf.env}
    names = [name for name in own if case.identity.covers(("variable", name))]
    found = lint_variables(
        {name: own[name] for name in names}, versions=case.subject.runtime.versions,
        locate=lambda name: case.place(("env", name)),
    )  # fmt: skip
    for rule in dict.fromkeys(finding.rule for finding in found):
        findings = tuple(finding for finding in found if finding.rule == rule)
        read = tuple(name for name in names if any(name in finding.message for finding in findings))
        yield _verdict(case, rule, findings, read)


# What would change it


def _find_changes(case: _Case, chains: list[Chain]) -> Iterator[str]:
    """What a person can write or run to get another version, the nearest first."""
    component = next(iter(case.identity.components), "")
    if component == "python":
        yield from _change_python(case)
        return
    if component in {"pytorch", *_OF_TORCH} and find_torch(case.subject) is not None:
        yield from _change_torch(case, component)
        return
    if component in _OF_NETWORK:
        yield from _change_network(case, component)
    elif component in Pins.model_fields:
        place = f", at {case.place(('pins', component))}" if case.pinned else ""
        yield f"`pins: {{{component}: ...}}`{place}, {case.then_lock}"
    wheels = {_end_of(chain) for chain in chains} - {*case.identity.packages}
    for name in sorted({*case.identity.wheels, *wheels}):
        yield from _change_wheel(case, name, [one for one in chains if _end_of(one) == name])
    for name in case.identity.packages:
        if case.lock is not None:
            yield f"`uenv lock {case.command} --upgrade {name}`, for the newest version that the suite has"
        yield f"`{name}=VERSION` under `base: debian: packages:`, for another version that the suite has"


def _change_python(case: _Case) -> Iterator[str]:
    recipe = case.loaded.recipe
    if recipe.base.debian is None:
        yield f"another image at {case.place(('base', 'oci', 'image'))}, and the `pins: python:` that it brings"
        return
    others = [one for one in base_facts().releases if one.suite and one.name.startswith("Debian") and one.python]
    for release in reversed(others):
        debian = recipe.base.debian.model_copy(update={"suite": release.suite})
        changed = {
            "base": recipe.base.model_copy(update={"debian": debian}),
            "pins": recipe.pins.model_copy(update={"python": release.python}),
        }
        words = _consequence(case, recipe.model_copy(update=changed))
        if release.suite != recipe.base.debian.suite and words is not None:
            what = f'`base: debian: suite: {release.suite}` with `pins: {{python: "{release.python}"}}`'
            yield f"{what}, since each suite has one Python{words}; {case.then_lock}"


def _change_torch(case: _Case, component: str) -> Iterator[str]:
    """Other releases of torch: it decides on its CUDA, NCCL and cuDNN."""
    torch, machine = find_torch(case.subject), case.subject.uarch.machine
    now = find_release(torch.version) if torch else None
    offered: dict[str, str] = {}
    for release in reversed(torch_facts().releases):
        value = _release_value(component, release, machine)
        if not value or value in offered or (now and value == _release_value(component, now, machine)):
            continue
        words = _consequence(case, _with_torch(case.loaded.recipe, torch, release, machine))
        if words is not None and (machine in release.cuda or not case.subject.gpu):
            brings = f" (CUDA {release.cuda[machine]}, NCCL {release.nccl})" if machine in release.cuda else ""
            offered[value] = f"{write_pins(case.subject, release)}{brings}{words}; {case.then_lock}"
    if component in _OF_TORCH:
        yield f"another torch: each release is made for one version of {_OF_TORCH[component]}"
    yield from [*offered.values()][:_SHOWN]


def _with_torch(recipe: Recipe, torch: Component | None, release: TorchRelease, machine: Machine) -> Recipe:
    """The recipe with another release of torch, and with those of its pins that have to follow."""
    brings = {"cuda": release.cuda.get(machine), "nccl": release.nccl}
    pins = {name: version for name, version in brings.items() if version and getattr(recipe.pins, name)}
    if torch is None or torch.at[:1] != ("python",):
        return recipe.model_copy(update={"pins": recipe.pins.model_copy(update={**pins, "pytorch": release.version})})
    _, section, number = torch.at
    texts = [
        f"torch=={release.version}" if one == number else text
        for one, text in enumerate(getattr(recipe.python, str(section)))
    ]
    python = recipe.python.model_copy(update={str(section): texts})
    return recipe.model_copy(update={"pins": recipe.pins.model_copy(update=pins), "python": python})


def _release_value(component: str, release: TorchRelease, machine: Machine) -> str | None:
    values = {"pytorch": release.version, "nccl": release.nccl, "cudnn": release.cudnn}
    return values.get(component, release.cuda.get(machine))


def _change_network(case: _Case, component: str) -> Iterator[str]:
    """The image's own by a pin, or the host's by the network mode."""
    recipe, system = case.loaded.recipe, case.subject.system
    if case.pinned:
        place = case.place(("pins", component))
        brings = getattr(case.subject.hooks, component, None) if component in _HOOKED else None
        if case.subject.by_hooks:
            yield f"without the pin at {place}, the host's hooks bring {brings or 'theirs'}"
        else:
            yield f"`pins: {{{component}: ...}}`, at {place}, {case.then_lock}"
        return
    for mode in system.networks:
        brings = getattr(system.hooks.get(mode), component, None) if component in _HOOKED else None
        words = _consequence(case, recipe.model_copy(update={"network": mode}))
        if mode != recipe.network and brings and words is not None:
            yield f"`network: {mode}`, whose hooks bring {brings}, at {case.place(('network',))}{words}"
    refuses = "`uenv lock` says whether there is a recipe to build it by"
    if component == "openmpi" or recipe.network == "image":
        yield f"`pins: {{{component}: ...}}`, for one of the image's own; {refuses}"
    elif "image" in system.networks:
        what = f"pins of {component} and of the network stack around it"
        yield f"`network: image` with {what}, all the image's own; {refuses}"
    else:
        modes = ", ".join(system.networks)
        yield f"a target on another system: the network modes of this one ({modes}) know no {component}"


def _change_wheel(case: _Case, name: str, chains: list[Chain]) -> Iterator[str]:
    bounds = [
        (wish, case.place(wish.at))
        for number, text in enumerate(case.loaded.recipe.python.constraints)
        if (wish := read_wish(text, ("python", "constraints", number))) is not None and wish.name == name
    ]
    exact = [one.links[-1] for one in chains if one.links and _is_exact(one.links[-1].text)]
    own = [one.wish for one in chains if not one.links]
    for wish in own:
        yield f"the requirement `{wish.text}`, at {case.place(wish.at)}, {case.then_lock}"
    for wish, place in bounds:
        yield f"the constraint `{wish.text}`, at {place}, {case.then_lock}"
    if exact:
        yield f"another {exact[0].by}, which asks for `{exact[0].text}` and takes no other version"
        return
    if not own and not bounds:
        yield f'`python: {{constraints: ["{name}<VERSION"]}}`, a bound for all who ask, {case.then_lock}'
    if case.lock is not None and not any(_is_exact(wish.text) for wish in (*own, *(bound for bound, _ in bounds))):
        yield f"`uenv lock {case.command} --upgrade {name}`, for the newest version that all requirements allow"


def _is_exact(requirement: str) -> bool:
    """Whether a requirement as a wheel or a recipe words it takes one version alone."""
    return re.search(r"==[^*,]*$", requirement.partition(";")[0]) is not None


def _end_of(chain: Chain) -> str:
    return chain.links[-1].name if chain.links else chain.wish.name


def _consequence(case: _Case, recipe: Recipe) -> str | None:
    """What rules would newly say if the recipe were `recipe`, as words to append; None where they would refuse it."""
    before, after = (_severities(replace(case.subject, recipe=one, lock=None)) for one in (case.loaded.recipe, recipe))
    new = {rule: severity for rule, severity in after.items() if before.get(rule) != severity}
    if "error" in new.values():
        return None
    warns = sorted(rule for rule, severity in new.items() if severity == "warning")
    return f", and {' and '.join(warns)} would warn" if warns else ""


def _severities(subject: Subject) -> dict[str, Severity]:
    """The rules that have something to say, with the severity of a finding of each: error where there is one."""
    runtime = subject.runtime
    found = [(rule, one) for rule, judge in SUBJECT_RULES.items() for one in judge(subject)]
    found += [(rule, one) for rule, judge in RUNTIME_RULES.items() for one in judge(runtime)]
    told = [(rule, diagnose(rule, one, lambda _: None).severity) for rule, one in found]
    return dict(sorted(told, key=lambda pair: pair[1] == "error"))
