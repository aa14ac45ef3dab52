"""What may stand in the settings of an environment definition file (EDF), whichever engine reads it.

Container Engine and Sarus Suite read the same file in different ways: eth-cscs/cscs-docs
docs/software/container-engine/edf.md and resource-hook.md, sarus-suite/raster src/. The rules keep to what means the
same in both, and refuse what an engine would pass over in silence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from uenv_builder.core.environment import VARIABLE_NAME
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import Diagnostic, Position, Severity
from uenv_builder.model.recipe import EdfSection
from uenv_builder.model.system import NetworkMode, System

Place = Callable[..., Position | None]

_EDF = "eth-cscs/cscs-docs docs/software/container-engine/edf.md"
_HOOKS = "eth-cscs/cscs-docs docs/software/container-engine/resource-hook.md"
_RASTER = "sarus-suite/raster src/common.rs and src/mount.rs"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^{}$]*)?\}")
_COLON = re.compile(r":(?![^{}]*\})")
_ROOTED = re.compile(r"/|\$\{[A-Za-z_]")
_FLAGS = (
    "ro", "rw", "nosuid", "nodev", "noexec", "private", "rprivate", "slave", "rslave", "shared", "rshared", "sqsh",
)  # fmt: skip
_SYSTEM_FOLDERS = ("/", "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr", "/usr/lib")
_HOMES = ("/users", "${HOME}")
_SWITCH = re.compile("true|false")
_ANNOTATION_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ANNOTATIONS = {
    "com.hooks.cxi.enabled": _SWITCH,
    "com.hooks.aws_ofi_nccl.enabled": _SWITCH,
    "com.hooks.aws_ofi_nccl.variant": re.compile("cuda12|cuda13|cuda-dl|rocm5|rocm6"),
    "com.hooks.netstack.source": re.compile("host|artifact"),
    "com.hooks.netstack.version": re.compile(".+"),
    "com.hooks.netstack.name": re.compile(".+"),
    "com.hooks.ssh.enabled": _SWITCH,
    "com.hooks.ssh.authorize_ssh_key": re.compile(r"(/|\$\{).*"),
    "com.hooks.ssh.port": re.compile("[0-9]{1,5}"),
    "com.hooks.nvidia_cuda_mps.enabled": _SWITCH,
    "com.hooks.dcgm.enabled": _SWITCH,
    "com.hooks.slurm.enabled": _SWITCH,
    "com.pyxis.pytorch_remap_vars": _SWITCH,
    "com.pyxis.entrypoint_log": _SWITCH,
}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of an EDF: folder or file of the host, place in the container, flags without separators."""

    source: str
    target: str
    flags: tuple[str, ...] = ()


def parse_mount(text: str) -> Mount:
    """The mount `SOURCE[:TARGET[:FLAG+FLAG...]]`, without a target mounted at its own place; else ValueError."""
    fields = _COLON.split(text)
    if len(fields) > 3 or not all(fields):
        raise ValueError("has the form SOURCE[:TARGET[:FLAG+FLAG]]")
    flags = tuple(re.split("[+,]", fields[2])) if len(fields) == 3 else ()
    return Mount(fields[0], fields[1] if len(fields) > 1 else fields[0], flags)


def lint_edf_settings(
    settings: EdfSection,
    place: Place = lambda *_: None,
    *,
    system: System | None = None,
    network: NetworkMode | None = None,
) -> list[Diagnostic]:
    """What is wrong with a recipe's `edf` section; `place` gives the position of a value by its path in the section.

    With `system` and `network`, also where the recipe's annotations contradict those of the network mode.
    """
    contract = system.annotations.get(network, {}) if system and network else {}
    return [
        *_base_findings(settings, place),
        *_mount_findings(settings, place),
        *_workdir_findings(settings, place),
        *_env_findings(settings, place),
        *_annotation_findings(settings, place),
        *_combination_findings(settings, contract, place),
    ]


def _base_findings(settings: EdfSection, place: Place) -> Iterator[Diagnostic]:
    for number, base in enumerate(settings.base_environment):
        where = place("base_environment", number)
        yield from _expansion_findings("base_environment", base, where)
        if base.startswith(".") or (not _ROOTED.match(base) and ("/" in base or base.endswith(".toml"))):
            yield Diagnostic(
                rule="edf-base", message=f'base_environment: "{base}" depends on the folder that a job starts in',
                position=where, source=_EDF, hint="give an absolute path, or a name in the search path without .toml",
            )  # fmt: skip


def _workdir_findings(settings: EdfSection, place: Place) -> Iterator[Diagnostic]:
    if settings.workdir is not None:
        yield from _expansion_findings("workdir", settings.workdir, place("workdir"))


def _mount_findings(settings: EdfSection, place: Place) -> Iterator[Diagnostic]:
    targets: dict[str, str] = {}
    for number, text in enumerate(settings.mounts):
        where = place("mounts", number)
        expansion = list(_expansion_findings("mounts", text, where))
        yield from expansion
        try:
            mount = parse_mount(text)
        except ValueError as error:
            yield Diagnostic(
                rule="edf-mount", message=f'mounts: "{text}" {error}', position=where,
                hint="for example /capstor, or /capstor/data:/data:ro", source=_EDF,
            )  # fmt: skip
            continue
        for message, hint in _mount_problems(text, mount, targets):
            yield Diagnostic(rule="edf-mount", message=f"mounts: {message}", position=where, hint=hint, source=_EDF)
        if mount.target.rstrip("/") in _HOMES:
            yield Diagnostic(
                rule="edf-mount-home", severity="warning", position=where, source=_EDF,
                message=f"mounts: {mount.target} brings every user's own settings and packages into the container",
                hint="mount the folders that jobs need",
            )  # fmt: skip


def _mount_problems(text: str, mount: Mount, targets: dict[str, str]) -> Iterator[tuple[str, str]]:
    for role, path in (("source", mount.source), ("target", mount.target)):
        if not _ROOTED.match(path):
            yield f'the {role} of "{text}" is no absolute path', "begin it with / or with a variable such as ${SCRATCH}"
        if ":-" in path:
            yield (
                f'the {role} of "{text}" has a default',
                "Sarus Suite splits mounts at each colon: write ${NAME} alone",
            )
    target = mount.target.rstrip("/") or "/"
    if target in _SYSTEM_FOLDERS:
        yield f'"{text}" hides {target} of the image', "choose another place in the container"
    if target in targets:
        yield f'"{text}" and "{targets[target]}" have the same target', "keep one of the two"
    targets.setdefault(target, text)
    for flag in mount.flags:
        if flag not in _FLAGS:
            yield (
                f'"{text}" has the unknown flag "{flag}"',
                suggest(flag, list(_FLAGS)) or f"known: {', '.join(_FLAGS)}",
            )
    if "sqsh" in mount.flags and len(mount.flags) > 1:
        yield f'"{text}" joins sqsh with other flags', "Container Engine mounts a squashfs only where sqsh stands alone"


def _env_findings(settings: EdfSection, place: Place) -> Iterator[Diagnostic]:
    for name, value in settings.env.items():
        where = place("env", name)
        yield from _expansion_findings(f"env: {name}", value, where)
        if not VARIABLE_NAME.match(name):
            yield Diagnostic(
                rule="env-name", message=f'env: "{name}" is no name of an environment variable', position=where,
                hint="names are made of letters, digits and _, and do not start with a digit",
            )  # fmt: skip
        others = sorted({match[1] for match in _VARIABLE.finditer(value)} & (set(settings.env) - {name}))
        if others:
            yield Diagnostic(
                rule="edf-env-reference", message=f"env: {name} refers to {others[0]}, which is set beside it",
                position=where, hint="variables here come from the host alone: write the value out", source=_EDF,
            )  # fmt: skip


def _annotation_findings(settings: EdfSection, place: Place) -> Iterator[Diagnostic]:
    keys = sorted(settings.annotations)
    for key in keys:
        value, where = settings.annotations[key], place("annotations", key)
        yield from _expansion_findings(f"annotations: {key}", value, where)
        pattern = _ANNOTATIONS.get(key)
        if not _ANNOTATION_KEY.fullmatch(key):
            yield Diagnostic(
                rule="edf-annotation", message=f'annotations: "{key}" is no dotted name', position=where,
                hint="for example com.hooks.ssh.enabled",
            )  # fmt: skip
        elif pattern is None and key.startswith(("com.hooks.", "com.pyxis.")):
            yield Diagnostic(
                rule="edf-annotation-unknown", message=f"annotations: no hook is known to read {key}", position=where,
                hint=suggest(key, list(_ANNOTATIONS)) or "an unknown annotation is passed over without a word",
                source=_HOOKS, severity="warning",
            )  # fmt: skip
        elif pattern is not None and not pattern.fullmatch(value):
            yield Diagnostic(
                rule="edf-annotation", message=f'annotations: {key} cannot be "{value}"', position=where,
                hint=f"it takes: {pattern.pattern.replace('|', ', ')}", source=_HOOKS,
            )  # fmt: skip
    for key, following in pairwise(keys):
        if following.startswith(f"{key}."):
            yield Diagnostic(
                rule="edf-annotation", message=f"annotations: {key} cannot have a value and hold {following}",
                position=place("annotations", following), hint="keep one of the two",
            )  # fmt: skip


def _combination_findings(settings: EdfSection, contract: Mapping[str, str], place: Place) -> Iterator[Diagnostic]:
    own, hooks = settings.annotations, {**contract, **settings.annotations}

    def finding(key: str, message: str, hint: str, severity: Severity = "error") -> Diagnostic:
        position = place("annotations", key) if key in own else place("annotations")
        message = f"annotations: {message}"
        return Diagnostic(
            rule="edf-hooks", message=message, severity=severity, position=position, hint=hint, source=_HOOKS
        )

    for key in sorted(set(own) & set(contract)):
        if own[key] != contract[key]:
            message = f'{key} is "{own[key]}" here and "{contract[key]}" by the network mode'
            yield finding(key, message, "choose the network mode that fits, and leave the annotation out")
    nccl, cxi = "com.hooks.aws_ofi_nccl.enabled", "com.hooks.cxi.enabled"
    if hooks.get(nccl) == "true" and hooks.get(cxi) == "false":
        yield finding(nccl if nccl in own else cxi, f"{nccl} needs {cxi}", "switch both on, or both off")
    variant = "com.hooks.aws_ofi_nccl.variant"
    if variant in own and contract and hooks.get(nccl) != "true":
        yield finding(variant, f"{variant} needs {nccl}", "leave it out, or choose a hook mode", "warning")
    elif variant in own and hooks.get("com.hooks.netstack.source") == "artifact":
        yield finding(variant, f"{variant} is ignored with a netstack artifact", "leave it out", "warning")
    for key in ("com.hooks.ssh.enabled", "com.hooks.nvidia_cuda_mps.enabled"):
        if hooks.get(key) == "true" and not settings.writable:
            yield finding(key, f"{key} needs a writable container", "set `writable: true`")


def _expansion_findings(what: str, text: str, where: Position | None) -> Iterator[Diagnostic]:
    def finding(message: str, hint: str, source: str | None = _EDF) -> Diagnostic:
        return Diagnostic(rule="edf-expansion", message=f"{what}: {message}", position=where, hint=hint, source=source)

    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        yield finding("the value holds a control character", "write the value on one line", None)
    for sign in ("$(", "`"):
        if sign in text:
            yield finding(f"the value holds {sign}", "engines fill in ${NAME} and run nothing", _RASTER)
            return
    if "$$" in text:
        yield finding("the value holds $$", "the engines read it differently: leave it out", _RASTER)
    elif "$" in _VARIABLE.sub("", text):
        yield finding("a $ that is not part of ${NAME}", "write ${NAME} or ${NAME:-}, with braces")
    for sign in (";", '"'):
        if sign in text:
            yield Diagnostic(
                rule="edf-expansion", severity="warning", message=f"{what}: Sarus Suite refuses values with {sign}",
                position=where, hint="leave it out where the file shall serve both engines", source=_RASTER,
            )  # fmt: skip
