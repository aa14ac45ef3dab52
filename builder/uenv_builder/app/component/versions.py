"""Which version a component has, and who decided it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from uenv_builder.app.component.model import Case, Decision, Identity
from uenv_builder.core.requirement_chain import (
    recipe_wishes,
)
from uenv_builder.core.rules.reading import HOOKED
from uenv_builder.core.rules.stack_facts import find_release, torch_facts
from uenv_builder.core.rules.torch_build import find_torch
from uenv_builder.model.lock import Lock, LockedBase


def find_decisions(case: Case) -> Iterator[Decision]:
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
    for name in case.identity.components & HOOKED:
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
    for deb in lock.debs:
        if deb.name in identity.packages:
            text = f"Debian package {deb.name} {deb.version} ({deb.architecture}, {deb.suite})"
            yield Decision(by="lock", version=deb.version, text=text)
    if lock.base:
        yield from _find_in_base(lock.base, identity)


def _find_in_base(base: LockedBase, identity: Identity) -> Iterator[Decision]:
    contents = base.contents
    wheels = {*identity.wheels, *identity.components}
    for what, versions, names in (
        ("Debian package", contents.packages, set(identity.packages)),
        ("Python package", contents.distributions, {"torch" if name == "pytorch" else name for name in wheels}),
    ):
        for name in sorted(names & versions.keys()):
            text = f"{what} {name} {versions[name]} of {base.name}"
            yield Decision(by="lock", version=versions[name], text=text)


def _find_torch_words(case: Case) -> Iterator[Decision]:
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
