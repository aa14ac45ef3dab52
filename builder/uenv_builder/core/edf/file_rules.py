"""What is wrong with an EDF file, for the engine that shall read it (`uenv check FILE.toml`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from uenv_builder.core.edf.engine import Verdict
from uenv_builder.core.edf.file import Edf, EdfContext, read_edf
from uenv_builder.core.edf.hooks import CXI, NCCL, NETSTACK, VARIANT, Hooks, check_annotations, check_hooks
from uenv_builder.core.edf.image import check_image, find_cuda, is_extended, lacks_cudart_link
from uenv_builder.core.edf.mounts import check_mounts
from uenv_builder.core.edf.values import ROOTED, check_defined, check_env, check_expansion
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.stack_facts import find_base
from uenv_builder.core.rules.verdicts import diagnose, without_repetition
from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.errors import Diagnostic, Severity

__all__ = ["Edf", "EdfContext", "check_edf"]

_AEI_SOURCE = "eth-cscs/cscs-docs 80abed13, docs/software/alps-extended-images.md"
_DEVICE = re.compile(r"/[^:]+(:/[^:]+)?(:[rwm]+)?|[A-Za-z0-9._-]+/[A-Za-z0-9._-]+=[A-Za-z0-9._:-]+")
_NO_IMAGE = {"ce": "Container Engine then starts no container", "sarus": "Sarus Suite then refuses the file"}


def check_edf(content: bytes, file: str, context: EdfContext) -> tuple[Edf, list[Diagnostic]]:
    """The EDF's settings with all that it inherits, and all that is wrong with them, in the order of files and lines.

    Values of variables such as NCCL_NET are not judged here; `Edf.env` and `Edf.key_position` have them.
    """
    edf, found = read_edf(content, file, context)
    if not edf.readable:
        return edf, found
    found += [diagnose(rule, finding, edf.position) for rule, finding in _verdicts(edf, context)]
    return edf, without_repetition(found)


def _verdicts(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    yield from _image(edf, context)
    yield from _paths(edf, context)
    yield from check_env(edf.env, context.dialect, inherited=_inherited_names(edf, "env"))
    yield from _annotations(edf, context)
    yield from _musl(edf, context)
    yield from _self_contained(edf, context)
    yield from _devices(edf, context)
    yield from _defaults(edf, context)
    if context.host_env is not None:
        for at, what, text in _texts(edf, context):
            yield from check_defined(at, what, text, context.host_env)


def _inherited(edf: Edf, at: Path) -> bool:
    return edf.position(at).file != edf.file


def _inherited_names(edf: Edf, table: Literal["env", "annotations"]) -> frozenset[str]:
    names = edf.env if table == "env" else edf.annotations
    return frozenset(name for name in names if _inherited(edf, (table, name)))


def _texts(edf: Edf, context: EdfContext) -> Iterator[tuple[Path, str, str]]:
    """All values in which the engine fills in variables."""
    if edf.image is not None and context.dialect == "ce":
        yield ("image",), "image", edf.image
    if edf.workdir is not None:
        yield ("workdir",), "workdir", edf.workdir
    yield from ((("env", name), f"env: {name}", value) for name, value in edf.env.items())
    yield from ((("annotations", name), f"annotations: {name}", text) for name, text in edf.annotations.items())
    for name, items in (("mounts", edf.mounts), ("devices", edf.devices)):
        yield from (((name, number), name, text) for number, text in enumerate(items))


def _image(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    if edf.image:
        if context.dialect == "ce":
            yield from check_expansion(("image",), "image", edf.image, "ce")
        yield from check_image(edf.image, context.dialect)
    elif edf.complete and (edf.image == "" or ("image",) not in edf.positions):
        severity: Severity = "error" if context.dialect == "sarus" else "warning"
        message = f"image: the file names none, and {_NO_IMAGE[context.dialect]}"
        yield "edf-image-missing", Finding(message=message, at=("image",), severity=severity)


def _paths(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    reader = context.dialect
    inherited = [_inherited(edf, ("mounts", number)) for number in range(len(edf.mounts))]
    yield from check_mounts(edf.mounts, reader, in_base=inherited)
    at: Path = ("workdir",)
    if edf.workdir:
        yield from check_expansion(at, "workdir", edf.workdir, reader, in_base=_inherited(edf, at))
        if not ROOTED.match(edf.workdir):
            good = reader == "ce" and edf.workdir.startswith(".")
            message = f'workdir: "{edf.workdir}" is no absolute path'
            hint = "begin it with / or with a variable such as ${SCRATCH}"
            severity: Severity | None = None if good else "error"
            yield "edf-relative-path", Finding(message=message, at=at, hint=hint, severity=severity)


def _annotations(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    inherited = _inherited_names(edf, "annotations")
    yield from check_annotations(edf.annotations, context.dialect, inherited=inherited)
    contract = _contract(edf, context)
    yield from check_hooks(
        Hooks(
            annotations=edf.annotations, writable=edf.writable is not False, contract=contract, reader=context.dialect,
            complete=edf.complete, cuda=find_cuda(edf.image or ""),
        )
    )  # fmt: skip
    hooks = {**contract, **edf.annotations}
    # Sarus Suite has the plugin of an artifact only.
    dynamic = context.dialect == "sarus" or hooks.get(NETSTACK) == "artifact" or hooks.get(VARIANT) == "cuda-dl"
    if dynamic and hooks.get(NCCL) == "true" and lacks_cudart_link(edf.image or ""):
        message = f"image: {edf.image} has no libcudart.so without a version, which the hook's NCCL plugin loads"
        yield "edf-cudart", Finding(message=message, at=("image",))


def _contract(edf: Edf, context: EdfContext) -> dict[str, str]:
    """The annotations of the network mode; rules of their own judge images with a network stack in them."""
    if context.system is None or context.network is None or _says_self_contained(edf, context):
        return {}
    modes = context.system.annotations if context.dialect == "ce" else context.system.sarus_annotations
    return dict(modes.get(context.network, {}))


def _says_self_contained(edf: Edf, context: EdfContext) -> bool:
    return context.network == "image" or is_extended(edf.image or "")


def _self_contained(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    """Hooks that would push an image's own network stack aside, and an entrypoint that does not set it up."""
    annotations = edf.annotations
    by_settings = annotations.get(CXI) == "false" and (
        edf.env.get("FI_PROVIDER") == "cxi" or edf.env.get("NCCL_NET") == "AWS Libfabric"
    )
    if not edf.complete or not (by_settings or _says_self_contained(edf, context)):
        return
    rule = "edf-self-contained"
    if annotations.get(NCCL) == "true":
        message = f"annotations: {NCCL} replaces the NCCL plugin that the image brings"
        yield rule, Finding(message=message, at=("annotations", NCCL), hint="leave it out", source=_AEI_SOURCE)
    if annotations.get(CXI) != "false" and (context.dialect == "ce" or annotations.get(CXI) == "true"):
        message = f"annotations: {CXI} is not switched off, and the host's libfabric hides the image's own"
        hint = f'write {CXI} = "false" under [annotations]'
        yield rule, Finding(message=message, at=("annotations", CXI), hint=hint, source=_AEI_SOURCE)
    if edf.entrypoint is False or (edf.entrypoint is None and context.dialect == "ce"):
        message = "entrypoint: the image sets its network stack up in its entrypoint, which does not run"
        severity: Severity | None = None if _says_self_contained(edf, context) else "warning"
        hint = "write entrypoint = true above the first table"
        yield rule, Finding(message=message, at=("entrypoint",), hint=hint, severity=severity, source=_AEI_SOURCE)


def _musl(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    base = find_base(image=edf.image) if edf.image else None
    if base is None or base.libc != "musl" or not edf.complete:
        return
    asked = [key for key in (NCCL, CXI) if edf.annotations.get(key) == "true"]
    by_default = context.dialect == "ce" and (context.system is None or context.system.slingshot is not None)
    left_on = [
        *([CXI] if edf.annotations.get(CXI) != "false" else []),
        *(["Slurm's hook"] if edf.env.get("ENROOT_SLURM_HOOK") != "0" else []),
    ]
    hooks = asked or (left_on if by_default else [])
    if hooks:
        severity: Severity = "error" if asked or context.system is not None else "warning"
        message = f"image: {edf.image} has musl as its C library, and {hooks[0]} runs glibc's ldconfig in the container"
        hint = "choose an image with glibc" + _switches_off(context.dialect)
        yield "musl-base", Finding(message=message, at=("image",), hint=hint, severity=severity)


def _switches_off(dialect: str) -> str:
    hook = ' and ENROOT_SLURM_HOOK = "0" under [env]' if dialect == "ce" else ""
    return f', or write {CXI} = "false" under [annotations]{hook}, without other network hooks'


def _devices(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    if context.dialect == "ce":
        return
    for number, device in enumerate(edf.devices):
        at: Path = ("devices", number)
        yield from check_expansion(at, "devices", device, "sarus", in_base=_inherited(edf, at))
        if "$" not in device and not _DEVICE.fullmatch(device):
            message = f'devices: "{device}" is neither a path nor the name of a device'
            yield "edf-devices", Finding(message=message, at=at)


def _defaults(edf: Edf, context: EdfContext) -> Iterator[Verdict]:
    if context.dialect == "sarus" and edf.entrypoint is None and edf.image and edf.complete:
        message = "entrypoint: not set, and Sarus Suite runs it by default where Container Engine does not"
        yield "edf-entrypoint", Finding(message=message, at=("entrypoint",))
