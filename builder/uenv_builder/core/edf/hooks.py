"""Rules about the annotations of an EDF, which switch the engine's hooks: names, values, and what contradicts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from uenv_builder.core.edf.engine import ENGINES, FOREIGN_ANNOTATIONS, HOOKS_SOURCE, Reader, Verdict
from uenv_builder.core.edf.values import VARIABLE, check_expansion
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.yaml_tree import Path, suggest
from uenv_builder.model.errors import Severity

CXI = "com.hooks.cxi.enabled"
NCCL = "com.hooks.aws_ofi_nccl.enabled"
VARIANT = "com.hooks.aws_ofi_nccl.variant"
NETSTACK = "com.hooks.netstack.source"
SSH = "com.hooks.ssh.enabled"
MPS = "com.hooks.nvidia_cuda_mps.enabled"

_SWITCH = re.compile("true|false")
_ANNOTATION_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ANNOTATIONS = {
    CXI: _SWITCH,
    NCCL: _SWITCH,
    VARIANT: re.compile("cuda12|cuda13|cuda-dl|rocm5|rocm6"),
    NETSTACK: re.compile("host|artifact"),
    "com.hooks.netstack.version": re.compile(".+"),
    "com.hooks.netstack.name": re.compile(".+"),
    SSH: _SWITCH,
    "com.hooks.ssh.authorize_ssh_key": re.compile(r"(/|\$\{).*"),
    "com.hooks.ssh.port": re.compile("[0-9]{1,5}"),
    MPS: _SWITCH,
    "com.hooks.dcgm.enabled": _SWITCH,
    "com.hooks.slurm.enabled": _SWITCH,
    "com.pyxis.pytorch_remap_vars": _SWITCH,
    "com.pyxis.entrypoint_log": _SWITCH,
}
_LEAVE_OUT = "leave it out, or choose a hook mode"
# sarus-suite/raster src/config.rs, update_config_by_user; tracking_... are several.
_SARUS_ANNOTATIONS = tuple(
    f"com.sarus.{name}"
    for name in (
        "hooks.parallax_imagestore_create", "parallax_imagestore", "parallax_imagestore_keepalive",
        "parallax_mount_program", "parallax_mp_logfile", "parallax_mp_squashfuse_path", "parallax_path", "perfmon",
        "podman_module", "podman_path", "podman_tmp_path", "runtime_path", "skybox_enabled",
    )
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What rules about combinations of hooks look at."""

    annotations: Mapping[str, str]
    writable: bool = True
    contract: Mapping[str, str]
    """The annotations of the system's network mode; empty where it is not known."""
    reader: Reader
    """None: the contract's annotations are added to a file that is written later."""
    complete: bool = True
    """Whether these are all annotations; False where a base could not be read."""
    cuda: str | None = None
    """The image's major version of CUDA, where its name tells it."""

    @property
    def effective(self) -> Mapping[str, str]:
        """What the engine will find."""
        return self.annotations if self.reader else {**self.contract, **self.annotations}

    def is_on(self, key: str) -> bool:
        """Whether that switch is on in what the engine will find."""
        return self.effective.get(key) == "true"


def check_annotations(
    annotations: Mapping[str, str], reader: Reader, *, inherited: frozenset[str] = frozenset()
) -> Iterator[Verdict]:
    """What is wrong with single annotations; `inherited` are those of a file that another one builds on."""
    keys = sorted(annotations)
    for key in keys:
        value = annotations[key]
        yield from check_expansion(("annotations", key), f"annotations: {key}", value, reader, in_base=key in inherited)
        yield from _annotation(key, value, reader)
    for key, following in pairwise(keys):
        if following.startswith(f"{key}.") and reader is None:
            yield "edf-annotation", Finding(
                message=f"annotations: {key} cannot have a value and hold {following}",
                at=("annotations", following), hint="keep one of the two",
            )  # fmt: skip


def _annotation(key: str, value: str, reader: Reader) -> Iterator[Verdict]:
    at: Path = ("annotations", key)
    pattern = _ANNOTATIONS.get(key)
    known = [*_ANNOTATIONS, *(_SARUS_ANNOTATIONS if reader == "sarus" else ())]
    families = ("com.hooks.", "com.pyxis.", *(("com.sarus.",) if reader == "sarus" else ()))
    if not _ANNOTATION_KEY.fullmatch(key):
        yield (
            "edf-annotation",
            Finding(message=f'annotations: "{key}" is no dotted name', at=at, hint="for example com.hooks.ssh.enabled"),
        )
    elif reader and key.startswith(FOREIGN_ANNOTATIONS[reader]):
        message = f"annotations: {ENGINES[reader]} does not read {key}"
        yield "edf-engine", Finding(message=message, at=at, hint="leave it out of this file", source=HOOKS_SOURCE)
    elif key not in known and key.startswith(families) and not key.startswith("com.sarus.tracking_"):
        yield "edf-annotation-unknown", Finding(
            message=f"annotations: no hook is known to read {key}", at=at, source=HOOKS_SOURCE,
            hint=suggest(key, known) or "an unknown annotation is passed over without a word",
        )  # fmt: skip
    elif pattern is not None and not pattern.fullmatch(value) and not (reader and VARIABLE.search(value)):
        yield "edf-annotation", Finding(
            message=f'annotations: {key} cannot be "{value}"', at=at, source=HOOKS_SOURCE,
            hint=f"it takes: {pattern.pattern.replace('|', ', ')}",
        )  # fmt: skip


def check_hooks(hooks: Hooks) -> Iterator[Verdict]:
    """What annotations say against each other, against the network mode, and against the rest of the file."""
    yield from _contract(hooks)
    yield from _networks(hooks)
    yield from _variant(hooks)
    for key in (SSH, MPS):
        # Sarus Suite has no SSH hook, which is said elsewhere.
        if hooks.is_on(key) and not hooks.writable and not (hooks.reader == "sarus" and key == SSH):
            yield _finding(key, f"{key} needs a writable container", "set `writable` to true")


def _finding(key: str, message: str, hint: str, severity: Severity | None = None) -> Verdict:
    message = f"annotations: {message}"
    return "edf-hooks", Finding(
        message=message, at=("annotations", key), hint=hint, severity=severity, source=HOOKS_SOURCE
    )


def _contract(hooks: Hooks) -> Iterator[Verdict]:
    own, contract = hooks.annotations, hooks.contract
    for key in sorted(set(own) & set(contract)):
        if own[key] != contract[key]:
            message = f'{key} is "{own[key]}" here and "{contract[key]}" by the network mode'
            yield _finding(key, message, "choose the network mode that fits, and leave the annotation out")
    if hooks.reader and hooks.complete and contract.get(NCCL) == "true" and NCCL not in own:
        hint = f'write {NCCL} = "true", or choose the network mode that fits'
        yield _finding(NCCL, f'{NCCL} is "true" by the network mode and missing here', hint, "warning")


def _networks(hooks: Hooks) -> Iterator[Verdict]:
    key = NCCL if NCCL in hooks.annotations else CXI
    if not hooks.is_on(NCCL):
        return
    if hooks.effective.get(CXI) == "false":
        yield _finding(key, f"{NCCL} needs {CXI}", "switch both on, or both off")
    elif hooks.reader == "sarus" and hooks.complete and CXI not in hooks.effective:
        message = f"{NCCL} does not switch {CXI} on in Sarus Suite"
        yield _finding(key, message, f'write {CXI} = "true" beside it')


def _variant(hooks: Hooks) -> Iterator[Verdict]:
    variant = hooks.annotations.get(VARIANT)
    if variant is None or hooks.reader == "sarus":
        return
    if (hooks.contract or hooks.reader) and hooks.complete and not hooks.is_on(NCCL):
        hint = f'write {NCCL} = "true" beside it, or leave it out' if hooks.reader else _LEAVE_OUT
        yield _finding(VARIANT, f"{VARIANT} needs {NCCL}", hint, "warning")
    elif {**hooks.contract, **hooks.annotations}.get(NETSTACK) == "artifact":
        yield _finding(VARIANT, f"{VARIANT} is ignored with a netstack artifact", "leave it out", "warning")
    elif hooks.cuda and variant.startswith("cuda") and variant not in {f"cuda{hooks.cuda}", "cuda-dl"}:
        message = f'{VARIANT} is "{variant}", and the image has CUDA {hooks.cuda}'
        static = f'"cuda{hooks.cuda}" or ' if _ANNOTATIONS[VARIANT].fullmatch(f"cuda{hooks.cuda}") else ""
        yield _finding(VARIANT, message, f'write {static}"cuda-dl"')
