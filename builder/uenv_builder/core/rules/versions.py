"""Rules about versions that cannot work together, and about who brings the network stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from packaging.version import Version

from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.subject import Component, Subject
from uenv_builder.core.rules.version_facts import Interfaces, TorchWheel, cuda_drivers, net_interfaces, torch_wheels

_NETWORK_PINS = ("aws_ofi_nccl", "libfabric", "libcxi")


def check_driver(subject: Subject) -> Iterator[Finding]:
    """A driver that is older than CUDA's family asks for."""
    cuda, driver = subject.cuda, subject.system.driver
    if cuda is None or driver is None:
        return
    for family in cuda_drivers().families:
        if str(cuda.version.major) == family.cuda and Version(driver) < Version(family.driver):
            yield Finding(
                message=f"CUDA {cuda.text} needs driver {family.driver} or newer, and {subject.system.name} has "
                f"{driver}",
                at=cuda.at, source=family.source,
            )  # fmt: skip


def check_toolkit_driver(subject: Subject) -> Iterator[Finding]:
    """A driver of the family that is older than the one that the toolkit was released with."""
    cuda, driver = subject.cuda, subject.system.driver
    if cuda is None or driver is None or any(check_driver(subject)):
        return
    for toolkit in cuda_drivers().toolkits:
        same = cuda.version.release[:2] == Version(toolkit.cuda).release[:2]
        if same and Version(driver) < Version(toolkit.driver):
            yield Finding(
                message=f"CUDA {cuda.text} was released with driver {toolkit.driver}, and {subject.system.name} has "
                f"the older {driver}",
                at=cuda.at,
            )  # fmt: skip


def check_torch_variant(subject: Subject) -> Iterator[Finding]:
    """A torch without CUDA although CUDA is pinned, or where the nodes have GPUs."""
    torch = subject.torch
    if torch is None or not (subject.gpu or subject.recipe.pins.cuda):
        return
    why = f"CUDA {subject.recipe.pins.cuda} is pinned" if subject.recipe.pins.cuda else "the nodes have GPUs"
    wheel = _wheel_of(subject)
    if subject.lock and subject.lock.accelerator:
        if subject.lock.accelerator.variant == "cpu":
            yield Finding(message=f"the locked torch {torch.text} is built for the CPU alone, and {why}", at=torch.at)
    elif wheel is not None and not wheel.gpu:
        yield Finding(message=f"torch {torch.text} has only a CPU wheel for aarch64, and {why}", at=torch.at)


def check_torch_cuda(subject: Subject) -> Iterator[Finding]:
    """A torch that is built for another CUDA than the pinned one."""
    wheel, pinned = _wheel_of(subject), subject.recipe.pins.cuda
    if wheel is not None and wheel.cuda and pinned and wheel.cuda != pinned:
        others = [other.version for other in torch_wheels().torch if other.cuda == pinned]
        yield Finding(
            message=f"torch {wheel.version} is built for CUDA {wheel.cuda}, and CUDA {pinned} is pinned",
            at=("pins", "cuda"),
            hint=f'pin cuda: "{wheel.cuda}"' + (f", or pytorch {', '.join(others)}" if others else ""),
        )


def check_torch_nccl(subject: Subject) -> Iterator[Finding]:
    """A pinned NCCL that is not the one that torch requires."""
    wheel, pinned = _wheel_of(subject), subject.recipe.pins.nccl
    if wheel is not None and wheel.nccl and pinned and Version(wheel.nccl) != Version(pinned):
        others = [other.version for other in torch_wheels().torch if other.nccl == pinned]
        yield Finding(
            message=f"torch {wheel.version} requires NCCL {wheel.nccl} exactly, and NCCL {pinned} is pinned",
            at=("pins", "nccl"),
            hint=f'pin nccl: "{wheel.nccl}"' + (f", or pytorch {', '.join(others)}" if others else ""),
        )


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


def check_musl(subject: Subject) -> Iterator[Finding]:
    """A base with musl instead of glibc."""
    base = subject.recipe.base.oci
    if base is not None and "alpine" in base.image.lower():
        yield Finding(
            message=f"{base.image} has musl as its C library, and wheels and the host's hooks need glibc",
            at=("base", "oci", "image"),
        )


def check_base_digest(subject: Subject) -> Iterator[Finding]:
    """A base image by a tag, which may move."""
    base = subject.recipe.base.oci
    if base is not None and "@sha256:" not in base.image:
        yield Finding(
            message=f"{base.image} has no digest: another image may answer tomorrow", at=("base", "oci", "image")
        )


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "cuda-driver": check_driver,
    "cuda-minor-version": check_toolkit_driver,
    "torch-cpu-wheel": check_torch_variant,
    "torch-cuda": check_torch_cuda,
    "torch-nccl": check_torch_nccl,
    "nccl-plugin-interface": check_plugin_interface,
    "image-network-pins": check_image_network,
    "hook-own-stack": check_own_stack,
    "nccl-over-tcp": check_no_network,
    "musl-base": check_musl,
    "base-digest": check_base_digest,
}
"""The rules by id; each has its story in knowledge/rules/versions.yaml."""


def _wheel_of(subject: Subject) -> TorchWheel | None:
    torch = subject.torch
    if torch is None or subject.uarch.machine != "aarch64":
        return None
    return next((wheel for wheel in torch_wheels().torch if Version(wheel.version) == torch.version), None)


def _interfaces(known: tuple[Interfaces, ...], component: Component | None) -> tuple[int, ...] | None:
    if component is None:
        return None
    return next((entry.interfaces for entry in known if Version(entry.version) == component.version), None)
