"""Who asked for a component: the requirements in the files that the store has."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from email.parser import BytesParser
from pathlib import Path

from uenv_builder.app.component.model import PARTS, Asking, Case
from uenv_builder.core.requirement_chain import (
    Chain,
    Link,
    Wish,
    find_chains,
    find_debs,
    link_debs,
    link_wheels,
    marker_environment,
    recipe_wishes,
)
from uenv_builder.core.rules.torch_build import TorchBuild, find_build
from uenv_builder.layers.wheel_content import ZIP_ERRORS
from uenv_builder.model.errors import BuildError
from uenv_builder.system.store import Store


def find_asking(case: Case, store: Store) -> Asking:
    """Who asks for the wheels and packages that the component is, as far as files on this machine tell."""
    chains: list[Chain] = []
    notes: list[str] = []
    if case.identity.wheels or case.identity.components & PARTS.keys() or not case.identity.packages:
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


def _wheel_links(case: Case, store: Store) -> tuple[list[Wish], list[Link], list[str]]:
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


def _package_links(case: Case, store: Store) -> tuple[list[Wish], list[Link], list[str]]:
    from uenv_builder.layers.deb import deb_control  # noqa: PLC0415  (for Debian packages only)

    debs = case.lock.debs if case.lock else ()
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
