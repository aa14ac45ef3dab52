"""Rules about who brings the network stack: the image, the host's hooks, or nobody."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from uenv_builder.core.edf.hooks import CXI, NCCL, NETSTACK, VARIANT
from uenv_builder.core.edf.image import is_extended, lacks_cudart_link
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.network_choice import choose_libcxi, choose_libfabric, choose_plugin
from uenv_builder.core.rules.network_facts import find_symbols, stack_facts
from uenv_builder.core.rules.stack_facts import read_version
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.torch_build import find_build, find_cuda, find_torch
from uenv_builder.core.yaml_tree import Path

_STACK = ("aws_ofi_nccl", "libfabric", "libcxi")
_MPI_STACK = ("libfabric", "libcxi")
_IMAGE_MODE = "image (with aws_ofi_nccl, libfabric, libcxi and gdrcopy pinned)"
_STATIC = re.compile(r"cuda([0-9]+)")


def check_image_network(subject: Subject) -> Iterator[Finding]:
    """Network mode image without a whole network stack in the image."""
    if subject.recipe.network != "image" or not subject.slingshot or not _uses_nccl(subject) or _is_whole(subject):
        return
    missing = _missing(subject, _STACK)
    if missing:
        yield Finding(
            message=f"network mode image, and no pin of {', '.join(missing)}",
            at=("network",), hint=_take_pins(subject, missing),
        )  # fmt: skip


def check_own_stack(subject: Subject) -> Iterator[Finding]:
    """A network stack of the image's own in a mode in which the host's hooks bring theirs."""
    if not subject.by_hooks:
        return
    mode, image = subject.recipe.network, _base_image(subject)
    for name in _STACK:
        if getattr(subject.recipe.pins, name) is not None:
            message = f"network mode {mode} takes {name} from the host, and it is pinned here too"
            more = _older_symbols(subject) if name == "libfabric" else ""
            yield Finding(message=message + more, at=("pins", name), hint=_leave_pin_out(subject, name))
    if is_extended(image):
        yield Finding(
            message=f"{image} has a network stack of its own, and network mode {mode} takes the host's",
            at=("base", "oci", "image"),
            hint="take the image that it stands on" + (", or choose network: image" if _can_bring(subject) else ""),
        )  # fmt: skip


def check_no_network(subject: Subject) -> Iterator[Finding]:
    """NCCL on Slingshot without anything that knows Slingshot."""
    if subject.recipe.network != "none" or not (subject.slingshot and subject.gpu) or _is_whole(subject):
        return
    if _uses_nccl(subject):
        yield Finding(
            message=f"network mode none on {subject.system.name}: NCCL talks TCP between its nodes",
            at=("network",), hint=_choose_mode(subject),
        )  # fmt: skip


def check_mpi(subject: Subject) -> Iterator[Finding]:
    """An MPI that knows no way over Slingshot."""
    if subject.slingshot:
        yield from _own_mpi(subject)
        yield from _wheel_mpi(subject)
        yield from _debian_mpi(subject)


def check_cudart(subject: Subject) -> Iterator[Finding]:
    """An image without the libcudart.so that the hook's plugin opens."""
    if not (subject.by_hooks and subject.slingshot and subject.gpu and _uses_nccl(subject)):
        return
    build = find_build(subject)
    if not _opens_cudart(subject) or _brings_cudart(subject) or (build is not None and build.variant == "cpu"):
        return
    image, cuda = _base_image(subject), find_cuda(subject)
    if not (lacks_cudart_link(image) if image else subject.lock is not None):
        return
    wheel = "nvidia-cuda-runtime-cu12" if cuda and cuda.version.major == 12 else "nvidia-cuda-runtime"
    pinned = next((name for name in ("cuda", "nccl") if getattr(subject.recipe.pins, name)), None)
    yield Finding(
        message=f"the hook's NCCL plugin opens libcudart.so, and {image or 'nothing in the lock'} "
        + ("has it with a version in its name alone" if image else "brings it"),
        at=("base", "oci", "image") if image else ("pins", pinned) if pinned else ("network",),
        hint=("take the image's devel variant, or " if image else "") + f"add {wheel} to python: requirements:",
    )


def check_variant(subject: Subject) -> Iterator[Finding]:
    """A variant of the hook's plugin that is linked with another CUDA than the image has."""
    own = subject.recipe.edf.annotations
    variant, cuda = _annotations(subject).get(VARIANT, ""), find_cuda(subject)
    static = _STATIC.fullmatch(variant)
    if not subject.by_hooks or not static or cuda is None or _from_artifact(subject):
        return
    # Another variant than the contract's is refused with the other annotations.
    contradicts = VARIANT in own and VARIANT in _contract(subject)
    if int(static[1]) != cuda.version.major and not contradicts:
        yield Finding(
            message=f"{VARIANT} is {variant}, whose plugin is linked with CUDA {static[1]}, and the image has CUDA "
            f"{cuda.text}",
            at=("edf", "annotations", VARIANT) if VARIANT in own else cuda.at,
            hint=f'write {VARIANT}: "cuda-dl"' if VARIANT in own else f"pin a torch and a CUDA {static[1]} that fit",
        )  # fmt: skip


def check_annotations(subject: Subject) -> Iterator[Finding]:
    """Annotations that switch hooks against the network mode, on systems whose contract says nothing of them."""
    own, mode = subject.recipe.edf.annotations, subject.recipe.network
    if {CXI, NCCL} & set(_contract(subject)):
        return
    unwanted = "false" if subject.by_hooks else "true"
    harm = (
        "puts the host's libraries before those of the image" if mode == "image" else "takes the host's network stack"
    )
    harm = "switches off what the mode takes from the host" if subject.by_hooks else harm
    for key in (CXI, NCCL):
        if own.get(key) == unwanted:
            yield Finding(
                message=f'network mode {mode}, and {key}: "{unwanted}" {harm}',
                at=("edf", "annotations", key), hint=_take_mode(subject),
                severity="warning" if mode == "none" else None,
            )  # fmt: skip


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "image-network-pins": check_image_network,
    "hook-own-stack": check_own_stack,
    "nccl-over-tcp": check_no_network,
    "mpi-over-tcp": check_mpi,
    "hook-cudart": check_cudart,
    "hook-variant": check_variant,
    "network-annotations": check_annotations,
}
"""The rules by id; each has its story in knowledge/rules/network.yaml."""


def _uses_nccl(subject: Subject) -> bool:
    return find_torch(subject) is not None or subject.nccl is not None


def _base_image(subject: Subject) -> str:
    """The base's name in a registry; empty for another kind of base."""
    base = subject.recipe.base.oci
    return base.image if base else ""


def _is_whole(subject: Subject) -> bool:
    """Whether the base brings a network stack for Slingshot."""
    return is_extended(_base_image(subject))


def _missing(subject: Subject, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(subject.recipe.pins, name) is None]


def _can_bring(subject: Subject) -> bool:
    return "image" in subject.system.networks


def _older_symbols(subject: Subject) -> str:
    host = read_version(subject.hooks.libfabric) if subject.hooks else None
    has = find_symbols(subject.libfabric.version) if subject.libfabric else None
    needs = find_symbols(host) if host else None
    if has is None or needs is None or has >= needs:
        return ""
    return f"; its symbols end at FABRIC_1.{has}, and what is linked with the host's asks for FABRIC_1.{needs}"


def _leave_pin_out(subject: Subject, name: str) -> str:
    return f"leave {name} out" + (f", or choose network: {_IMAGE_MODE}" if _can_bring(subject) else "")


def _choose_mode(subject: Subject) -> str:
    modes = [_IMAGE_MODE if mode == "image" else mode for mode in subject.system.networks if mode != "none"]
    return (f"choose network: {' or '.join(modes)}, or " if modes else "") + "accept it for jobs of one node"


def _take_mode(subject: Subject) -> str:
    wanted = {"image", "none"} if subject.by_hooks else {"hook-host", "hook-artifact"}
    modes = [mode for mode in subject.system.networks if mode in wanted]
    return "leave it out" + (f", or choose network: {' or '.join(modes)}" if modes else "")


def _take_pins(subject: Subject, names: list[str]) -> str:
    choices = {"aws_ofi_nccl": choose_plugin, "libfabric": choose_libfabric, "libcxi": choose_libcxi}
    pins = [choices[name](subject) or f"pin {name}" for name in names]
    if _uses_nccl(subject) and subject.gpu and subject.recipe.pins.gdrcopy is None:
        pins.append(f'pin gdrcopy: "{stack_facts().gdrcopy}"')
    hooks = [mode for mode in subject.system.networks if mode not in {"image", "none"}]
    return "; ".join(pins) + (f"; or choose network: {' or '.join(hooks)}" if hooks else "")


def _own_mpi(subject: Subject) -> Iterator[Finding]:
    pinned, mode = subject.recipe.pins.openmpi, subject.recipe.network
    others = any(check_image_network(subject)) or any(check_no_network(subject))
    if pinned is None or subject.by_hooks or others or _is_whole(subject):
        return
    missing = _missing(subject, _MPI_STACK)
    if mode == "none":
        message = f"network mode none on {subject.system.name}: Open MPI {pinned} talks TCP between nodes"
        yield Finding(message=message, at=("pins", "openmpi"), hint=_choose_mode(subject))
    elif missing:
        yield Finding(
            message=f"Open MPI {pinned}, and no pin of {' and '.join(missing)}: it talks TCP between nodes",
            at=("pins", "openmpi"), hint=_take_pins(subject, missing),
        )  # fmt: skip


def _wheel_mpi(subject: Subject) -> Iterator[Finding]:
    instead = "pin openmpi, libfabric and libcxi in network mode image"
    if subject.by_hooks:
        instead = "take openmpi-bin of the base's distribution, whose libfabric the hook replaces"
    for package in stack_facts().mpi_wheels:
        place = _wheel_place(subject, package.name)
        if place is not None:
            yield Finding(
                message=f"the wheel {package.name} has a libfabric of its own, without a provider for Slingshot: MPI "
                "talks TCP between nodes",
                at=place, hint=f"leave it out, and {instead}; or accept it for jobs of one node", source=package.source,
            )  # fmt: skip


def _debian_mpi(subject: Subject) -> Iterator[Finding]:
    """The first package with MPI, where no hook puts the host's libfabric in place of Debian's."""
    debian = subject.recipe.base.debian
    if subject.by_hooks or debian is None:
        return
    listed = [text.partition("=")[0] for text in debian.packages]
    for package in stack_facts().mpi_debs:
        if package.name not in listed and subject.deb(package.name) is None:
            continue
        number = (listed.index(package.name),) if package.name in listed else ()
        yield Finding(
            message=f"{package.name} is linked with Debian's libfabric, which has no provider for Slingshot: MPI talks "
            "TCP between nodes",
            at=("base", "debian", "packages", *number), source=package.source,
            hint="leave it out, and pin openmpi, libfabric and libcxi in network mode image; or accept it for jobs of "
            "one node",
        )  # fmt: skip
        return


def _wheel_place(subject: Subject, name: str) -> Path | None:
    """Where the recipe requires that wheel, or could; None where it is not in the environment."""
    for number, text in enumerate(subject.recipe.python.requirements):
        try:
            required = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(required.name) == name and not required.marker:
            return ("python", "requirements", number)
    return ("python", "requirements") if subject.wheel(name) else None


def _contract(subject: Subject) -> dict[str, str]:
    """The annotations that the network mode brings."""
    return subject.system.annotations.get(subject.recipe.network, {})


def _annotations(subject: Subject) -> dict[str, str]:
    return {**_contract(subject), **subject.recipe.edf.annotations}


def _from_artifact(subject: Subject) -> bool:
    """Whether the hook takes the plugin from a netstack artifact, all of which open CUDA's runtime by name."""
    default = "artifact" if subject.recipe.network == "hook-artifact" else "host"
    return _annotations(subject).get(NETSTACK, default) == "artifact"


def _opens_cudart(subject: Subject) -> bool:
    return _from_artifact(subject) or _annotations(subject).get(VARIANT) == "cuda-dl"


def _brings_cudart(subject: Subject) -> bool:
    """Whether the image has libcudart.so, as far as the lock says, or before there is one, the torch."""
    facts = stack_facts()
    if subject.lock is None:
        build = find_build(subject)
        return (build is not None and build.variant == "cuda") or any(
            _wheel_place(subject, name) is not None for name in facts.cudart_wheels
        )
    return any(subject.wheel(name) for name in facts.cudart_wheels) or any(
        subject.deb(name) is not None for name in facts.cudart_debs
    )
