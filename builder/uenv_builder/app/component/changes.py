"""What would change a component's version."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from uenv_builder.app.component.model import Case
from uenv_builder.core.requirement_chain import (
    Chain,
    read_wish,
)
from uenv_builder.core.rules.reading import HOOKED, OF_TORCH
from uenv_builder.core.rules.stack_facts import TorchRelease, base_facts, find_release, torch_facts
from uenv_builder.core.rules.subject import Component, Subject
from uenv_builder.core.rules.tables import RUNTIME_RULES, SUBJECT_RULES
from uenv_builder.core.rules.torch_build import find_torch, write_pins
from uenv_builder.core.rules.verdicts import diagnose
from uenv_builder.model.errors import Severity
from uenv_builder.model.recipe import Pins, Recipe
from uenv_builder.model.system import Machine

_OF_NETWORK = frozenset({"aws_ofi_nccl", "libfabric", "libcxi", "gdrcopy", "openmpi"})
_SHOWN = 3


def find_changes(case: Case, chains: list[Chain]) -> Iterator[str]:
    """What a person can write or run to get another version, the nearest first."""
    component = next(iter(case.identity.components), "")
    if component == "python":
        yield from _change_python(case)
        return
    if component in {"pytorch", *OF_TORCH} and find_torch(case.subject) is not None:
        yield from _change_torch(case, component)
        return
    if component in _OF_NETWORK:
        yield from _change_network(case, component)
    elif component in Pins.model_fields:
        place = f", at {case.place(('pins', component))}" if case.pinned else ""
        yield f"`pins: {{{component}: ...}}`{place}, {case.then_lock}"
    wheels = {_end_of(chain) for chain in chains} - {*case.identity.packages}
    base = case.lock.base if case.lock else None
    of_base = {*base.contents.packages, *base.contents.distributions} if base else set()
    if of_base & {*case.identity.wheels, *case.identity.packages}:
        yield f"another image at {case.place(('base', 'oci', 'image'))}, {case.then_lock}"
    for name in sorted({*case.identity.wheels, *wheels} - of_base):
        yield from _change_wheel(case, name, [one for one in chains if _end_of(one) == name])
    for name in case.identity.packages if base is None else ():
        if case.lock is not None:
            yield f"`uenv lock {case.command} --upgrade {name}`, for the newest version that the suite has"
        yield f"`{name}=VERSION` under `base: debian: packages:`, for another version that the suite has"


def _change_python(case: Case) -> Iterator[str]:
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


def _change_torch(case: Case, component: str) -> Iterator[str]:
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
    if component in OF_TORCH:
        yield f"another torch: each release is made for one version of {OF_TORCH[component]}"
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


def _change_network(case: Case, component: str) -> Iterator[str]:
    """The image's own by a pin, or the host's by the network mode."""
    recipe, system = case.loaded.recipe, case.subject.system
    if case.pinned:
        place = case.place(("pins", component))
        brings = getattr(case.subject.hooks, component, None) if component in HOOKED else None
        if case.subject.by_hooks:
            yield f"without the pin at {place}, the host's hooks bring {brings or 'theirs'}"
        else:
            yield f"`pins: {{{component}: ...}}`, at {place}, {case.then_lock}"
        return
    for mode in system.networks:
        brings = getattr(system.hooks.get(mode), component, None) if component in HOOKED else None
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


def _change_wheel(case: Case, name: str, chains: list[Chain]) -> Iterator[str]:
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


def _consequence(case: Case, recipe: Recipe) -> str | None:
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
