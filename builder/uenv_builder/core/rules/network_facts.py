"""The facts that rules about the network stack read, and what they say about one version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import Field

from uenv_builder.core.facts import Fact, FactFile, load_facts
from uenv_builder.core.rules.stack_facts import Specifier, VersionNumber
from uenv_builder.core.rules.subject import Component


class Interfaces(Fact):
    """The numbers of the net-plugin interfaces that one version loads (NCCL) or exports (the plugin)."""

    version: VersionNumber
    interfaces: Annotated[tuple[int, ...], Field(min_length=1)]


class InterfaceFile(FactFile):
    """knowledge/compat/net_interfaces.yaml."""

    nccl: tuple[Interfaces, ...]
    aws_ofi_nccl: tuple[Interfaces, ...]


class _Since(Fact):
    since: VersionNumber
    """The first release that it holds for."""


class PluginNeeds(_Since):
    """The oldest libfabric and NCCL that releases of the plugin say they work with."""

    libfabric: VersionNumber
    nccl: VersionNumber


class PluginFix(_Since):
    """What a release mends, as a list has it: "a hang", "the order of its shutdown"."""

    mends: Annotated[str, Field(min_length=10)]


class FabricSymbols(_Since):
    """The number N of the newest FABRIC_1.N among libfabric's symbols."""

    fabric: int


class MpiPackage(Fact):
    """A wheel or a Debian package with MPI; `version` is the one that was looked into."""

    name: str
    version: str | None = None


class StackFile(FactFile):
    """knowledge/compat/network_stack.yaml; lists of versions stand in their order."""

    plugin_needs: tuple[PluginNeeds, ...]
    plugin_for_aws: Specifier
    plugin_fixes: tuple[PluginFix, ...]
    libfabric_symbols: tuple[FabricSymbols, ...]
    libfabric_releases: tuple[VersionNumber, ...]
    """Those that have the provider for Slingshot."""
    libfabric_cxi: VersionNumber
    libfabric_cuda_option: VersionNumber
    libcxi_releases: tuple[VersionNumber, ...]
    gdrcopy: VersionNumber
    mpi_wheels: tuple[MpiPackage, ...]
    mpi_debs: tuple[MpiPackage, ...]
    cudart_wheels: tuple[str, ...]
    cudart_debs: tuple[str, ...]


_Entry = TypeVar("_Entry", bound=_Since)


def net_interfaces() -> InterfaceFile:
    """What NCCL loads and what the plugin exports."""
    found: InterfaceFile = load_facts("net_interfaces", InterfaceFile)
    return found


def stack_facts() -> StackFile:
    """What the parts of the network stack need of each other."""
    found: StackFile = load_facts("network_stack", StackFile)
    return found


def find_interfaces(known: Sequence[Interfaces], component: Component | None) -> tuple[int, ...] | None:
    """The interfaces of that version; None for one that the facts do not have."""
    if component is None:
        return None
    return next((entry.interfaces for entry in known if Version(entry.version) == component.version), None)


def find_needs(plugin: Version) -> PluginNeeds | None:
    """What that release of the plugin needs; None for one that is older than all that is known."""
    return _find_last(stack_facts().plugin_needs, plugin)


def find_symbols(libfabric: Version) -> int | None:
    """N of the newest FABRIC_1.N that this libfabric has, at least where it is newer than the known ones."""
    found = _find_last(stack_facts().libfabric_symbols, libfabric)
    return found.fabric if found else None


def missing_fixes(plugin: Version) -> list[PluginFix]:
    """What this release of the plugin lacks of what jobs on Slingshot need."""
    return [fix for fix in stack_facts().plugin_fixes if plugin < Version(fix.since)]


def is_for_aws(plugin: Version) -> bool:
    """Whether this release of the plugin is meant for AWS's own network alone."""
    return SpecifierSet(stack_facts().plugin_for_aws).contains(plugin, prereleases=True)


def is_public_release(libfabric: Version) -> bool:
    """Whether it has the number of a public release. Vendors' builds have a fourth one, such as 1.15.2.0, and other
    providers than the release whose number they have.
    """
    return len(libfabric.release) <= 3 and libfabric.local is None


def _find_last(entries: Sequence[_Entry], version: Version) -> _Entry | None:
    return next((entry for entry in reversed(entries) if Version(entry.since) <= version), None)
