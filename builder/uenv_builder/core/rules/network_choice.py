"""What a recipe could pin instead, so that the rules about the network stack have nothing more to say."""

from __future__ import annotations

from dataclasses import replace

from packaging.version import Version

from uenv_builder.core.rules.known_bad import check_known_bad
from uenv_builder.core.rules.network_facts import (
    find_interfaces,
    find_needs,
    is_for_aws,
    missing_fixes,
    net_interfaces,
    stack_facts,
)
from uenv_builder.core.rules.stack_facts import find_nccl_wheel, read_version
from uenv_builder.core.rules.subject import Component, Subject
from uenv_builder.core.rules.torch_build import choose_release, find_cuda, find_nccl, find_torch, write_pins


def find_plugin(subject: Subject) -> Component | None:
    """The NCCL plugin, also where its version ends in -aws, which no comparison reads."""
    written = subject.recipe.pins.aws_ofi_nccl
    if written is None or not written.endswith("-aws"):
        return subject.aws_ofi_nccl
    number = written.removesuffix("-aws")
    return Component("aws_ofi_nccl", number, "recipe", ("pins", "aws_ofi_nccl")) if read_version(number) else None


def is_known_bad(subject: Subject, pin: str) -> bool:
    """Whether a combination that is known not to work is only there because of that pin."""
    return len(list(check_known_bad(subject))) > len(list(check_known_bad(_with_pin(subject, pin, None))))


def choose_plugin(subject: Subject) -> str | None:
    """Which plugins to pin: those with the newest interface of the recipe's NCCL and without known faults."""
    nccl = find_nccl(subject)
    loads = find_interfaces(net_interfaces().nccl, nccl)
    found = [
        entry.version
        for entry in net_interfaces().aws_ofi_nccl
        if (loads is None or max(loads) in entry.interfaces) and _has_no_faults(subject, entry.version, nccl)
    ]
    return f"pin aws_ofi_nccl: {_either(found)}" if found else None


def choose_libfabric(subject: Subject) -> str | None:
    """The newest libfabric to pin that is not known to fail here."""
    for version in reversed(stack_facts().libfabric_releases):
        if not is_known_bad(_with_pin(subject, "libfabric", version), "libfabric"):
            return f'pin libfabric: "{version}"'
    return None


def choose_libcxi(subject: Subject) -> str | None:
    """The libcxi to pin: that of the host's own release, else the newest public one before it."""
    host = read_version(subject.system.slingshot)
    found = [text for text in stack_facts().libcxi_releases if host is not None and Version(text) <= host]
    return f'pin libcxi: "{found[-1]}"' if found else None


def choose_nccl(subject: Subject) -> str | None:
    """What to pin for an NCCL that the plugin meets at its newest interface: NCCL itself, or the torch that has it."""
    plugin = find_plugin(subject)
    exports = find_interfaces(net_interfaces().aws_ofi_nccl, plugin)
    needs = find_needs(plugin.version) if plugin else None
    if exports is None or needs is None:
        return None
    for entry in reversed(net_interfaces().nccl):
        version = entry.version
        if max(entry.interfaces) in exports and Version(version) >= Version(needs.nccl):
            hint = _take_nccl(subject, version)
            if hint:
                return hint
    return None


def _take_nccl(subject: Subject, version: str) -> str | None:
    if find_torch(subject) is not None:
        release = choose_release(subject, nccl=version)
        return write_pins(subject, release) if release else None
    cuda = find_cuda(subject)
    wheel = find_nccl_wheel(cuda.version.major, Version(version)) if cuda else None
    if wheel is not None and not wheel.aarch64 and subject.uarch.machine == "aarch64":
        return None
    bad = is_known_bad(_with_pin(subject, "nccl", version), "nccl")
    return None if bad else f'pin nccl: "{version}"'


def _has_no_faults(subject: Subject, plugin: str, nccl: Component | None) -> bool:
    version = Version(plugin)
    needs = find_needs(version)
    fits = nccl is None or needs is None or nccl.version >= Version(needs.nccl)
    whole = not (is_for_aws(version) or missing_fixes(version)) or not subject.slingshot
    return fits and whole and not is_known_bad(_with_pin(subject, "aws_ofi_nccl", plugin), "aws_ofi_nccl")


def _with_pin(subject: Subject, name: str, version: str | None) -> Subject:
    pins = subject.recipe.pins.model_copy(update={name: version})
    return replace(subject, recipe=subject.recipe.model_copy(update={"pins": pins}))


def _either(versions: list[str]) -> str:
    quoted = [f'"{version}"' for version in versions]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
