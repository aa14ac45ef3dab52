"""The rule about combinations of versions that are known not to work, which knowledge/compat/known_bad.yaml lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.stack_facts import Condition, known_bad_facts, read_version
from uenv_builder.core.rules.subject import Component, Subject
from uenv_builder.core.rules.torch_build import find_cuda, find_nccl, find_torch

_COMPONENTS: dict[str, Callable[[Subject], Component | None]] = {
    "torch": find_torch,
    "cuda": find_cuda,
    "nccl": find_nccl,
    "python": lambda subject: subject.python,
    "aws_ofi_nccl": lambda subject: subject.aws_ofi_nccl,
    "libfabric": lambda subject: subject.libfabric,
    "libcxi": lambda subject: subject.libcxi,
    "slingshot": lambda subject: _component("slingshot", subject.system.slingshot),
}
"""Where the version of a component comes from; any other name is that of a wheel."""


def check_known_bad(subject: Subject) -> Iterator[Finding]:
    """Versions that are known not to work together; silent where the recipe has decided none of them."""
    for entry in known_bad_facts().entries:
        if subject.uarch.machine not in entry.machines:
            continue
        met = [_find_met(subject, condition) for condition in entry.conditions]
        found = [component for component in met if component is not None]
        decided = next((component for component in found if component.origin != "system"), None)
        if len(found) == len(entry.conditions) and decided is not None:
            versions = " with ".join(f"{component.name} {component.text}" for component in found)
            yield Finding(
                message=f"{versions}: {entry.message}",
                at=decided.at, hint=entry.remedy, severity=entry.severity, source=entry.source,
            )  # fmt: skip


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {"known-bad": check_known_bad}
"""The rule by its id; its story is in knowledge/rules/stack.yaml."""


def _find_met(subject: Subject, condition: Condition) -> Component | None:
    """The component of a condition where its version is one of the bad ones."""
    find = _COMPONENTS.get(condition.component)
    component = find(subject) if find else subject.wheel(condition.component)
    return component if component is not None and condition.covers(component.version) else None


def _component(name: str, text: str | None) -> Component | None:
    """Something of the host's, where its version can be compared."""
    return Component(name, text or "", "system", ("network",)) if read_version(text) else None
