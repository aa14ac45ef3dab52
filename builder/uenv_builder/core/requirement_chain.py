"""Who asked for a package: the requirements between packages, and the chains of them that begin in the recipe."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.recipe import Recipe

_DEB_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_DEPENDENCY_FIELDS = ("Pre-Depends", "Depends")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the recipe itself asks for: a package, the requirement as it stands there, and its place."""

    name: str
    text: str
    at: Path
    extras: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Link:
    """One package asks for another: the requirement as `by` words it."""

    by: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Chain:
    """From a wish of the recipe over links, each of which begins where the one before ends, to a package."""

    wish: Wish
    links: tuple[Link, ...] = ()


def find_chains(name: str, wishes: Iterable[Wish], links: Iterable[Link]) -> tuple[Chain, ...]:
    """For the recipe's own wishes for `name` and for each package that asks for it: the shortest chain, shortest first.

    A package that no wish leads to asks for nothing, and a chain never comes to `name` twice.
    """
    own = list(wishes)
    asked: dict[str, list[Link]] = {}
    for link in links:
        asked.setdefault(link.by, []).append(link)
    shortest = _shortest_chains(own, asked, stop=name)
    found = [Chain(wish) for wish in own if wish.name == name]
    for by, chain in shortest.items():
        last = next((link for link in asked.get(by, ()) if link.name == name), None)
        if last is not None:
            found.append(Chain(chain.wish, (*chain.links, last)))
    return tuple(sorted(found, key=lambda chain: len(chain.links)))


def _shortest_chains(wishes: Iterable[Wish], asked: Mapping[str, Sequence[Link]], *, stop: str) -> dict[str, Chain]:
    """The shortest chain to each package that can be come to without passing `stop`."""
    found: dict[str, Chain] = {}
    waiting = deque(Chain(wish) for wish in wishes)
    while waiting:
        chain = waiting.popleft()
        name = chain.links[-1].name if chain.links else chain.wish.name
        if name in found or name == stop:
            continue
        found[name] = chain
        waiting.extend(Chain(chain.wish, (*chain.links, link)) for link in asked.get(name, ()))
    return found


def read_wish(text: str, at: Path) -> Wish | None:
    """The wish of a PEP 508 requirement in a recipe; None for a text that is none."""
    try:
        found = Requirement(text)
    except InvalidRequirement:
        return None
    return Wish(str(canonicalize_name(found.name)), text, at, frozenset(map(canonicalize_name, found.extras)))


def recipe_wishes(recipe: Recipe) -> list[Wish]:
    """The wheels that a recipe asks for itself: by the pin of torch, and by its requirements."""
    torch = recipe.pins.pytorch
    wishes = [Wish("torch", f"torch=={torch}", ("pins", "pytorch"))] if torch else []
    for number, text in enumerate(recipe.python.requirements):
        if (wish := read_wish(text, ("python", "requirements", number))) is not None:
            wishes.append(wish)
    return wishes


def marker_environment(python: str, machine: str) -> dict[str, str]:
    """The variables of PEP 508's markers for CPython `python` (3.13) on Linux; its patch release counts as 0."""
    full = f"{python}.0"
    return {
        "python_version": python, "python_full_version": full, "implementation_version": full,
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix",
        "sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine,
        "platform_release": "", "platform_version": "",
    }  # fmt: skip


def link_wheels(
    wishes: Iterable[Wish], metadata: Mapping[str, Iterable[str]], environment: Mapping[str, str]
) -> tuple[Link, ...]:
    """The requirements that wheels have of each other in `environment` (the variables of PEP 508's markers).

    `metadata` has the lines of Requires-Dist by the wheel's normalised name. What a wheel asks for with an extra counts
    if somebody whom the wishes lead to asks for the extra.
    """
    read = {by: [one for line in lines if (one := _read_line(line)) is not None] for by, lines in metadata.items()}
    wanted: dict[str, set[str]] = {}
    waiting = [(wish.name, {"", *wish.extras}) for wish in wishes]
    found: dict[Link, None] = {}
    while waiting:
        name, extras = waiting.pop()
        new = extras - wanted.setdefault(name, set())
        wanted[name] |= new
        for requirement, line in read.get(name, ()) if new else ():
            if any(_applies(requirement, environment, extra) for extra in new):
                other = str(canonicalize_name(requirement.name))
                found[Link(name, other, line)] = None
                waiting.append((other, {"", *map(canonicalize_name, requirement.extras)}))
    return tuple(found)


def _read_line(line: str) -> tuple[Requirement, str] | None:
    text = " ".join(line.split())
    try:
        return Requirement(text), text
    except InvalidRequirement:
        return None


def _applies(requirement: Requirement, environment: Mapping[str, str], extra: str) -> bool:
    if requirement.marker is None:
        return extra == ""
    try:
        return requirement.marker.evaluate({**environment, "extra": extra})
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False


def link_debs(stanzas: Mapping[str, Mapping[str, str]], names: Collection[str]) -> tuple[Link, ...]:
    """The dependencies among the Debian packages `names`, by the fields of those whose control stanza is known.

    Of alternatives, all that are among `names` count: which of them apt took the dependency for is not told.
    """
    providers: dict[str, list[str]] = {}
    for name, fields in stanzas.items():
        for provided in _split(fields.get("Provides", ""), ","):
            providers.setdefault(_deb_name(provided), []).append(name)
    return tuple(
        Link(by, name, dependency)
        for by, fields in stanzas.items()
        for field in _DEPENDENCY_FIELDS
        for dependency in _split(fields.get(field, ""), ",")
        for name in dict.fromkeys(_find_debs(dependency, names, providers))
        if name != by
    )


def find_debs(word: str, stanzas: Mapping[str, Mapping[str, str]], names: Collection[str]) -> tuple[str, ...]:
    """The packages among `names` that `word` of a recipe's list means: that of the name, else those that provide it."""
    name = _deb_name(word)
    if name in names:
        return (name,)
    return tuple(
        by for by, fields in stanzas.items()
        if any(_deb_name(one) == name for one in _split(fields.get("Provides", ""), ","))
    )  # fmt: skip


def _find_debs(dependency: str, names: Collection[str], providers: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for alternative in _split(dependency, "|"):
        name = _deb_name(alternative)
        if name in names:
            yield name
        else:
            yield from providers.get(name, ())


def _split(text: str, sign: str) -> Iterator[str]:
    for part in text.split(sign):
        if words := " ".join(part.split()):
            yield words


def _deb_name(text: str) -> str:
    found = _DEB_NAME.match(text.strip())
    return found[0] if found else ""
