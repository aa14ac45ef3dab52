"""Rules about what was found in a locked base image: its leaks, its variables, and removals without an effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uenv_builder.core.base_leaks import Leak, find_leaks
from uenv_builder.core.environment import check_environment
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.yaml_tree import Path

_IMAGE: Path = ("base", "oci", "image")


def find_locked_leaks(subject: Subject, own: frozenset[str]) -> Iterator[Finding]:
    """What the locked base really has, and the recipe leaves in; `own` are variables that others than the base set."""
    base = subject.lock.base if subject.lock else None
    if base is None:
        return
    env = {name: value for name, value in subject.base_env.items() if name not in own}
    for leak in find_leaks(base.contents.leaks, env):
        if _does_harm(leak, subject):
            section, entries = ("remove", leak.remove) if leak.remove else ("unset", leak.unset)
            yield Finding(
                message=f"{base.name} {'has' if leak.remove else 'sets'} {leak.what}: {leak.harm}", at=_IMAGE,
                hint=f"add {', '.join(entries)} to {section}: of base: oci:", severity=leak.severity,
            )  # fmt: skip


def check_unused(subject: Subject) -> Iterator[Finding]:
    """Entries of `remove:` and `unset:` that the locked base has nothing for."""
    base, recipe = subject.lock.base if subject.lock else None, subject.recipe.base.oci
    if base is None or recipe is None:
        return
    for number, pattern in enumerate(recipe.remove):
        if pattern in base.contents.unused:
            yield Finding(message=f"{base.name} has no {pattern}", at=("base", "oci", "remove", number))
    for number, name in enumerate(recipe.unset):
        if name not in base.env:
            yield Finding(message=f"{base.name} does not set {name}", at=("base", "oci", "unset", number))


def check_variables(subject: Subject) -> Iterator[Finding]:
    """Variables of the locked base that not every engine would hand to jobs as they are."""
    own = {**subject.system.env.get(subject.recipe.network, {}), **subject.recipe.env}
    env = {name: value for name, value in subject.base_env.items() if name not in own}
    for found in check_environment(env):
        if found.severity == "error":
            yield Finding(
                message=f"of the base's variables, {found.message}", at=_IMAGE,
                hint="set it anew in `env:`, or name it in unset: of base: oci:",
            )  # fmt: skip


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "base-unused": check_unused,
    "base-variable": check_variables,
}
"""The rules by id; each has its story in knowledge/rules/stack.yaml."""


def _does_harm(leak: Leak, subject: Subject) -> bool:
    if leak.where == "slingshot":
        return subject.slingshot and subject.recipe.network != "none"
    if leak.where == "nccl-wheel":
        wheels = subject.lock.python.wheels if subject.lock and subject.lock.python else ()
        return any(wheel.name.startswith("nvidia-nccl") for wheel in wheels)
    return True
