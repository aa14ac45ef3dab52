"""Rules about the versions of the network stack: NCCL, its plugin for libfabric, libfabric, and libcxi."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from packaging.version import Version

from uenv_builder.core.rules import network_modes
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.network_choice import (
    choose_libcxi,
    choose_libfabric,
    choose_nccl,
    choose_plugin,
    find_plugin,
    is_known_bad,
)
from uenv_builder.core.rules.network_facts import (
    find_interfaces,
    find_needs,
    find_symbols,
    is_for_aws,
    is_public_release,
    missing_fixes,
    net_interfaces,
    stack_facts,
)
from uenv_builder.core.rules.stack_facts import read_version
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.torch_build import find_nccl

_HOST_LIBFABRIC = re.compile(r"/opt/cray/libfabric/(\d+(?:\.\d+)+)(?:/|:|$)")
_COPIES = "the plugin then copies all data through the host's memory"
_OWN_NUMBER = Version("2")
"""libcxi's own versions are 1.x; Slingshot's releases are far beyond."""


def check_plugin_interface(subject: Subject) -> Iterator[Finding]:
    """A plugin and an NCCL that share no interface, or only an older one than NCCL has."""
    nccl, plugin = find_nccl(subject), find_plugin(subject)
    loads = find_interfaces(net_interfaces().nccl, nccl)
    exports = find_interfaces(net_interfaces().aws_ofi_nccl, plugin)
    if nccl is None or plugin is None or loads is None or exports is None:
        return
    by_host, common = plugin.origin == "system", set(loads) & set(exports)
    name = f"the hook's aws-ofi-nccl {plugin.text}" if by_host else f"aws-ofi-nccl {plugin.text}"
    at = nccl.at if by_host else plugin.at
    if common and max(common) == max(loads):
        return
    choice = choose_nccl(subject) if by_host else choose_plugin(subject) or choose_nccl(subject)
    if not common:
        yield Finding(
            message=f"{name} exports net-plugin interfaces v{min(exports)} to v{max(exports)}, and NCCL {nccl.text} "
            f"loads v{min(loads)} to v{max(loads)}: NCCL would go on over TCP without saying so",
            at=at, hint=choice,
        )  # fmt: skip
    else:
        message = f"{name} and NCCL {nccl.text} meet at net-plugin interface v{max(common)}, and NCCL has v{max(loads)}"
        easy = f"nothing has to change; to have the newest interface, {choice or 'ask the site'}"
        yield Finding(
            message=message, at=at, hint=easy if by_host else choice, severity="note" if by_host else "warning",
        )  # fmt: skip


def check_plugin_nccl(subject: Subject) -> Iterator[Finding]:
    """An NCCL that is older than the plugin says it works with."""
    nccl, plugin = find_nccl(subject), find_plugin(subject)
    needs = find_needs(plugin.version) if plugin else None
    if nccl is None or plugin is None or needs is None or nccl.version >= Version(needs.nccl):
        return
    if not any(finding.severity is None for finding in check_plugin_interface(subject)):
        yield Finding(
            message=f"aws-ofi-nccl {plugin.text} is made for NCCL {needs.nccl} and newer, and this is {nccl.text}",
            at=nccl.at, hint=choose_nccl(subject), source=needs.source,
        )  # fmt: skip


def check_plugin_libfabric(subject: Subject) -> Iterator[Finding]:
    """A libfabric of the image that is older than its plugin asks for."""
    plugin, libfabric = find_plugin(subject), subject.libfabric
    needs = find_needs(plugin.version) if plugin else None
    # Beside hooks no part of the image's own can stay.
    if plugin is None or libfabric is None or needs is None or subject.by_hooks:
        return
    if libfabric.version < Version(needs.libfabric) and not any(check_libfabric_cxi(subject)):
        yield Finding(
            message=f"aws-ofi-nccl {plugin.text} needs libfabric {needs.libfabric} or newer, and this is "
            f"{libfabric.text}",
            at=libfabric.at, hint=choose_libfabric(subject), source=needs.source,
        )  # fmt: skip


def check_libfabric_symbols(subject: Subject) -> Iterator[Finding]:
    """A path to the host's libfabric before that of the image, whose plugin asks for newer symbols."""
    linked, plugin = subject.libfabric, find_plugin(subject)
    if subject.recipe.network != "image" or linked is None or (plugin is None and not subject.recipe.pins.openmpi):
        return
    needs = find_symbols(linked.version)
    for name, value in {**subject.recipe.env, **subject.recipe.edf.env}.items():
        host = _HOST_LIBFABRIC.search(value) if name in {"LD_LIBRARY_PATH", "LD_PRELOAD"} else None
        loaded = read_version(host[1]) if host else None
        has = find_symbols(loaded) if loaded else None
        if host and needs and has and has < needs:
            yield Finding(
                message=f"{name} leads to the host's libfabric {host[1]}, whose symbols end at FABRIC_1.{has}; what is "
                f"linked with the image's libfabric {linked.text} asks for FABRIC_1.{needs}, and does not load",
                at=("env", name), hint=f"take {host[0].rstrip(':/')} out of {name}",
            )  # fmt: skip


def check_libfabric_cxi(subject: Subject) -> Iterator[Finding]:
    """A libfabric of the image without the provider for Slingshot."""
    libfabric, first = subject.libfabric, stack_facts().libfabric_cxi
    if libfabric is None or not _in_image(subject) or not is_public_release(libfabric.version):
        return
    if libfabric.version < Version(first):
        yield Finding(
            message=f"libfabric {libfabric.text} has no provider for Slingshot: cxi came with {first}",
            at=libfabric.at, hint=choose_libfabric(subject),
        )  # fmt: skip


def check_gpu_direct(subject: Subject) -> Iterator[Finding]:
    """A libfabric with which the plugin gives up the GPU's memory."""
    libfabric, plugin = subject.libfabric, find_plugin(subject)
    if libfabric is None or plugin is None or not subject.gpu or not _in_image(subject):
        return
    first = stack_facts().libfabric_cuda_option
    if not is_public_release(libfabric.version) or any(check_libfabric_cxi(subject)):
        return
    if libfabric.version < Version(first):
        yield Finding(
            message=f"libfabric {libfabric.text} needs calls of CUDA on Slingshot, up to {first}: {_COPIES}",
            at=libfabric.at, hint=choose_libfabric(subject),
        )  # fmt: skip
    elif subject.recipe.pins.gdrcopy is None:
        yield Finding(
            message=f"libfabric {libfabric.text} without gdrcopy needs calls of CUDA on Slingshot: {_COPIES}",
            at=libfabric.at, hint=f'pin gdrcopy: "{stack_facts().gdrcopy}" beside it',
        )  # fmt: skip


def check_libcxi_host(subject: Subject) -> Iterator[Finding]:
    """A libcxi of a newer Slingshot release than the host has, or one that is named by another number."""
    libcxi, host = subject.libcxi, subject.system.slingshot
    if libcxi is None or not subject.slingshot or subject.by_hooks:
        return
    where = f"{subject.system.name} has Slingshot {host}"
    if libcxi.version < _OWN_NUMBER:
        yield Finding(
            message=f"{libcxi.text} is a version of the library itself, and the pin is the Slingshot release that it "
            f"comes from; {where}",
            at=libcxi.at, hint=choose_libcxi(subject),
        )  # fmt: skip
        return
    release = read_version(host)
    known = libcxi.text in stack_facts().libcxi_releases
    if release is not None and known and libcxi.version > release and not is_known_bad(subject, "libcxi"):
        yield Finding(
            message=f"libcxi is of Slingshot {libcxi.text}, and {where}: the library is newer than the driver that it "
            "talks to",
            at=libcxi.at, hint=choose_libcxi(subject),
        )  # fmt: skip


def check_plugin_for_aws(subject: Subject) -> Iterator[Finding]:
    """A release of the plugin that is meant for AWS's network alone."""
    plugin, written = find_plugin(subject), subject.recipe.pins.aws_ofi_nccl
    if plugin is None or not _in_image(subject):
        return
    if is_for_aws(plugin.version) or (written or "").endswith("-aws"):
        yield Finding(
            message=f"aws-ofi-nccl {written} is meant for AWS's network alone", at=plugin.at,
            hint=choose_plugin(subject),
        )  # fmt: skip


def check_plugin_fixes(subject: Subject) -> Iterator[Finding]:
    """A release of the plugin before those that mend what jobs on Slingshot meet."""
    plugin = find_plugin(subject)
    if plugin is None or not _in_image(subject) or any(check_plugin_for_aws(subject)):
        return
    if missing := missing_fixes(plugin.version):
        fixes = "; ".join(f"{fix.mends} ({fix.since})" for fix in missing)
        yield Finding(
            message=f"aws-ofi-nccl {plugin.text} has faults that show on Slingshot, mended in later releases: {fixes}",
            at=plugin.at, hint=choose_plugin(subject), source=missing[-1].source,
        )  # fmt: skip


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "nccl-plugin-interface": check_plugin_interface,
    "plugin-nccl": check_plugin_nccl,
    "plugin-libfabric": check_plugin_libfabric,
    "plugin-for-aws": check_plugin_for_aws,
    "plugin-slingshot": check_plugin_fixes,
    "libfabric-cxi": check_libfabric_cxi,
    "libfabric-symbols": check_libfabric_symbols,
    "libfabric-gpu-direct": check_gpu_direct,
    "libcxi-host": check_libcxi_host,
    **network_modes.RULES,
}
"""The rules by id; each has its story in knowledge/rules/network.yaml."""


def _in_image(subject: Subject) -> bool:
    """Whether the network stack is the image's, for Slingshot."""
    return subject.slingshot and subject.recipe.network == "image"
