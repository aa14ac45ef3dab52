"""The facts that rules about versions read."""

from __future__ import annotations

from uenv_builder.core.facts import Fact, FactFile, load_facts


class Interfaces(Fact):
    """The numbers of the net-plugin interfaces that one version loads (NCCL) or exports (the plugin)."""

    version: str
    interfaces: tuple[int, ...]


class InterfaceFile(FactFile):
    """knowledge/compat/net_interfaces.yaml."""

    nccl: tuple[Interfaces, ...]
    aws_ofi_nccl: tuple[Interfaces, ...]


def net_interfaces() -> InterfaceFile:
    """What NCCL loads and what the plugin exports."""
    found: InterfaceFile = load_facts("net_interfaces", InterfaceFile)
    return found
