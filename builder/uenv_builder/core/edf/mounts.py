"""Rules about the mounts of an EDF."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from uenv_builder.core.edf.engine import EDF_SOURCE, ENGINES, FLAG_SEPARATORS, RASTER_SOURCE, Dialect, Reader, Verdict
from uenv_builder.core.edf.values import ROOTED, check_expansion
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.yaml_tree import Path, suggest
from uenv_builder.model.errors import Severity

_WORDS = re.compile(r"\$\{[^{}]*\}|:|[^:$]+|\$")
"""Variables with their defaults, colons between fields, and what is between these."""
_FLAGS = (
    "ro", "rw", "nosuid", "nodev", "noexec", "private", "rprivate", "slave", "rslave", "shared", "rshared", "sqsh",
)  # fmt: skip
_FURTHER_FLAGS: dict[Dialect, tuple[str, ...]] = {
    # NVIDIA/enroot 4.1.2, bin/enroot-mount.c
    "ce": (
        "async", "atime", "bind", "rbind", "defaults", "dev", "diratime", "dirsync", "exec", "lazytime", "noatime",
        "nodiratime", "norelatime", "relatime", "remount", "strictatime", "suid", "sync", "unbindable", "runbindable",
        "nofail", "x-create=auto", "x-create=dir", "x-create=file",
    ),
    # containers/podman v5.6.0, docs/source/markdown/options/volume.md
    "sarus": ("bind", "rbind", "copy", "nocopy", "dev", "exec", "suid", "unbindable", "runbindable", "z", "Z", "U",
              "O", "idmap", "no-dereference"),
}  # fmt: skip
_SYSTEM_FOLDERS = ("/", "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr", "/usr/bin",
                   "/usr/lib", "/usr/lib64", "/usr/local", "/usr/sbin")  # fmt: skip
_PROGRAM_FOLDERS = ("/opt",)
_HOME = re.compile(r"/users(/[^/]+)?|\$\{HOME\}")
_SPECIAL = ("tmpfs", "umount")
"""Sources that pyxis knows beside paths (NVIDIA/pyxis 0.24.0, args.c)."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of an EDF: folder or file of the host, place in the container, flags without separators."""

    source: str
    target: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Problem:
    message: str
    hint: str
    severity: Severity | None = None
    rule: str = "edf-mount"
    source: str = EDF_SOURCE


def parse_mount(text: str) -> Mount:
    """The mount `SOURCE[:TARGET[:FLAG+FLAG...]]`, without a target mounted at its own place; else ValueError."""
    fields = _split(text)
    if len(fields) > 3 or not all(fields):
        raise ValueError("has the form SOURCE[:TARGET[:FLAG+FLAG]]")
    flags = tuple(re.split("[+,]", fields[2])) if len(fields) == 3 else ()
    return Mount(fields[0], fields[1] if len(fields) > 1 else fields[0], flags)


def _split(text: str) -> list[str]:
    fields = [""]
    for word in _WORDS.findall(text):
        if word == ":":
            fields.append("")
        else:
            fields[-1] += word
    return fields


def check_mounts(
    mounts: Sequence[str], reader: Reader, *, in_base: Sequence[bool] | None = None, first: int = 0
) -> Iterator[Verdict]:
    """What is wrong with the mounts; `in_base` says of each whether another EDF builds on the one it stands in."""
    targets: dict[str, str] = {}
    for number, text in enumerate(mounts, first):
        at: Path = ("mounts", number)
        inherited = bool(in_base and in_base[number - first])
        yield from check_expansion(at, "mounts", text, reader, in_base=inherited)
        try:
            mount = parse_mount(text)
        except ValueError as error:
            hint = "for example /capstor:/capstor, or /capstor/data:/data:ro"
            yield "edf-mount", Finding(message=f'mounts: "{text}" {error}', at=at, hint=hint, source=EDF_SOURCE)
            continue
        for problem in _problems(text, mount, targets, reader):
            message = f"mounts: {problem.message}"
            yield (
                problem.rule,
                Finding(message=message, at=at, hint=problem.hint, severity=problem.severity, source=problem.source),
            )


def _problems(text: str, mount: Mount, targets: dict[str, str], reader: Reader) -> Iterator[_Problem]:
    yield from _paths(text, mount, reader)
    yield from _target(text, mount, targets)
    yield from _flags(text, mount, reader)
    if reader == "sarus" and len(_split(text)) == 1:
        yield _Problem(
            f'"{text}" has no target, which Sarus Suite refuses', f"write {text}:{text}", source=RASTER_SOURCE
        )
    homes = [path for path in (mount.target, mount.source) if _HOME.fullmatch(path.rstrip("/"))]
    if homes:
        yield _Problem(
            f"{homes[0]} brings every user's own settings and packages into the container",
            "mount the folders that jobs need", rule="edf-mount-home",
        )  # fmt: skip


def _paths(text: str, mount: Mount, reader: Reader) -> Iterator[_Problem]:
    roles = [
        ("source", mount.source),
        *([("target", mount.target)] if reader is None or mount.target != mount.source else []),
    ]
    special = reader == "ce" and mount.source in _SPECIAL and mount.target != mount.source
    for role, path in roles:
        if reader and role == "source" and path.startswith("."):
            yield _Problem(
                f'the source of "{text}" depends on the folder that a job starts in',
                "begin it with / or with a variable such as ${SCRATCH}", rule="edf-relative-path",
            )  # fmt: skip
        elif not ROOTED.match(path) and not (special and role == "source"):
            yield _Problem(
                f'the {role} of "{text}" is no absolute path', "begin it with / or with a variable such as ${SCRATCH}"
            )
        if ":-" in path and reader != "ce":
            hint = "Sarus Suite splits mounts at each colon: write ${NAME} alone"
            yield _Problem(f'the {role} of "{text}" has a default', hint, source=RASTER_SOURCE)


def _target(text: str, mount: Mount, targets: dict[str, str]) -> Iterator[_Problem]:
    if mount.source == "umount":
        return
    target = mount.target.rstrip("/") or "/"
    hint = "choose another place in the container"
    if target in _SYSTEM_FOLDERS:
        yield _Problem(f'"{text}" hides {target} of the image', hint)
    elif target in _PROGRAM_FOLDERS:
        yield _Problem(f'"{text}" hides {target} of the image', hint, severity="warning")
    if target in targets:
        same = targets[target] == text
        message = f'"{text}" stands here twice' if same else f'"{text}" and "{targets[target]}" have the same target'
        yield _Problem(message, "keep one of the two", severity="warning" if same else None)
    targets.setdefault(target, text)


def _flags(text: str, mount: Mount, reader: Reader) -> Iterator[_Problem]:
    field = _split(text)[2:]
    known = (*_FLAGS, *(_FURTHER_FLAGS[reader] if reader else ()))
    if reader and field and (wrong := "+,".replace(FLAG_SEPARATORS[reader], "")) in field[0]:
        right = FLAG_SEPARATORS[reader].join(mount.flags)
        yield _Problem(
            f'"{text}" joins flags with "{wrong}", and {ENGINES[reader]} takes that for a part of a flag',
            f"write {mount.source}:{mount.target}:{right}", source=EDF_SOURCE if reader == "ce" else RASTER_SOURCE,
        )  # fmt: skip
    for flag in mount.flags:
        if flag not in known:
            near = suggest(flag, list(known))
            unknown: Severity | None = "warning" if reader and flag and not near else None
            hint = near or f"known: {', '.join(_FLAGS)}"
            yield _Problem(f'"{text}" has the unknown flag "{flag}"', hint, severity=unknown)
    if reader == "sarus" and "sqsh" in mount.flags:
        hint = "mount a folder, or use Container Engine"
        yield _Problem(f'"{text}": Sarus Suite cannot mount a squashfs', hint, source=RASTER_SOURCE)
    elif "sqsh" in mount.flags and len(mount.flags) > 1:
        hint = (
            f"Container Engine mounts a squashfs only where sqsh stands alone: write {mount.source}:{mount.target}:sqsh"
        )
        yield _Problem(f'"{text}" joins sqsh with other flags', hint)
