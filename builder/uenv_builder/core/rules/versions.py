"""Rules about versions that cannot work together, and about who brings the network stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from packaging.version import Version

from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.subject import Component, Subject
from uenv_builder.core.rules.version_facts import Interfaces, net_interfaces

_NETWORK_PINS = ("aws_ofi_nccl", "libfabric", "libcxi")


def check_plugin_interface(subject: Subject) -> Iterator[Finding]:
    """A plugin and an NCCL that share no interface, or only an older one than NCCL has."""
    nccl, plugin = subject.nccl, subject.aws_ofi_nccl
    facts = net_interfaces()
    loads, exports = _interfaces(facts.nccl, nccl), _interfaces(facts.aws_ofi_nccl, plugin)
    if nccl is None or plugin is None or loads is None or exports is None:
        return
    fitting = [entry.version for entry in facts.aws_ofi_nccl if max(loads) in entry.interfaces]
    common = set(loads) & set(exports)
    hint = f"pin aws_ofi_nccl: {', '.join(fitting)}" if fitting and plugin.origin == "recipe" else None
    if not common:
        yield Finding(
            message=f"aws-ofi-nccl {plugin.text} exports net-plugin interfaces up to v{max(exports)}, but NCCL "
            f"{nccl.text} loads v{min(loads)} and newer: NCCL would go on over TCP without saying so",
            at=plugin.at, hint=hint,
        )  # fmt: skip
    elif max(common) < max(loads):
        yield Finding(
            message=f"aws-ofi-nccl {plugin.text} and NCCL {nccl.text} meet at net-plugin interface v{max(common)}, and "
            f"NCCL has v{max(loads)}",
            at=plugin.at, hint=hint, severity="warning",
        )  # fmt: skip


def check_image_network(subject: Subject) -> Iterator[Finding]:
    """Network mode image without a whole network stack in the image."""
    if subject.recipe.network != "image" or not subject.slingshot or not (subject.torch or subject.nccl):
        return
    missing = [name for name in _NETWORK_PINS if getattr(subject.recipe.pins, name) is None]
    if missing:
        yield Finding(message=f"network mode image, and no pin of {', '.join(missing)}", at=("network",))


def check_own_stack(subject: Subject) -> Iterator[Finding]:
    """A network stack of the image's own in a mode in which the host's hooks bring theirs."""
    if not subject.by_hooks:
        return
    for name in _NETWORK_PINS:
        if getattr(subject.recipe.pins, name) is not None:
            yield Finding(
                message=f"network mode {subject.recipe.network} takes {name} from the host, and it is pinned here too",
                at=("pins", name),
            )


def check_no_network(subject: Subject) -> Iterator[Finding]:
    """NCCL on Slingshot without anything that knows Slingshot."""
    if subject.recipe.network == "none" and subject.slingshot and subject.gpu and (subject.torch or subject.nccl):
        modes = [mode for mode in subject.system.networks if mode != "none"]
        yield Finding(
            message=f"network mode none on {subject.system.name}: NCCL talks TCP between its nodes",
            at=("network",), hint=f"choose network: {' or '.join(modes)}, or accept it for jobs of one node",
        )  # fmt: skip


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "nccl-plugin-interface": check_plugin_interface,
    "image-network-pins": check_image_network,
    "hook-own-stack": check_own_stack,
    "nccl-over-tcp": check_no_network,
}
"""The rules by id; each has its story in knowledge/rules/versions.yaml."""


def _interfaces(known: tuple[Interfaces, ...], component: Component | None) -> tuple[int, ...] | None:
    if component is None:
        return None
    return next((entry.interfaces for entry in known if Version(entry.version) == component.version), None)
