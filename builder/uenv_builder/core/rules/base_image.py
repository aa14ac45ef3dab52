"""Rules about what the image stands on: its C library, its Python, and what an image of a registry leaves behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from packaging.version import Version

from uenv_builder.core.rules.base_contents import find_locked_leaks
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.stack_facts import (
    BaseLeak,
    BaseRelease,
    base_facts,
    find_base,
    find_nccl_wheel,
    find_release,
    read_version,
)
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.torch_build import find_build, find_torch
from uenv_builder.core.yaml_tree import Path

_LEGACY_TAGS = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
"""PEP 600 says which glibc the older tags mean."""
_SHOWN = 3


def check_digest(subject: Subject) -> Iterator[Finding]:
    """A base image by a tag, which may move."""
    base = subject.recipe.base.oci
    if base is not None and "@sha256:" not in base.image:
        yield Finding(
            message=f"{base.image} has no digest, and may be another image tomorrow", at=("base", "oci", "image"),
            hint=f"write {base.image}@sha256:...; `skopeo inspect docker://{base.image}` prints the digest",
        )  # fmt: skip


def check_musl(subject: Subject) -> Iterator[Finding]:
    """A base with musl under wheels or under the host's hooks."""
    release, base = _find_base(subject), subject.recipe.base.oci
    if release is None or release.libc != "musl" or base is None:
        return
    reasons = [
        *(["wheels for manylinux need glibc"] if _has_wheels(subject) else []),
        *(["the host's hooks bring libraries for glibc"] if subject.by_hooks else []),
    ]
    if reasons:
        yield Finding(
            message=f"{base.image} has musl as its C library, and {' and '.join(reasons)}",
            at=("base", "oci", "image"), hint=f"choose a base with glibc, such as {_bases_with(Version('2'))}",
        )  # fmt: skip


def check_wheel_glibc(subject: Subject) -> Iterator[Finding]:
    """Wheels that are made for a newer glibc than the base has."""
    glibc = _find_glibc(subject)
    if glibc is None:
        return
    unfit = sorted(((floor, what) for what, floor in _wheel_floors(subject) if floor > glibc), reverse=True)
    if unfit:
        newest = unfit[0][0]
        names = ", ".join(f"{what} (glibc {floor})" for floor, what in unfit[:_SHOWN])
        more = f" and {len(unfit) - _SHOWN} more" if len(unfit) > _SHOWN else ""
        yield Finding(
            message=f"{_name_base(subject)} has glibc {glibc}, which is too old for {names}{more}",
            at=_base_path(subject), hint=f"choose a base with glibc {newest} or newer, such as {_bases_with(newest)}",
        )  # fmt: skip


def check_hook_glibc(subject: Subject) -> Iterator[Finding]:
    """Libraries of the host's hooks that need a newer glibc than the base has."""
    glibc, needed = _find_glibc(subject), read_version(subject.hooks.glibc) if subject.hooks else None
    if subject.by_hooks and glibc is not None and needed is not None and glibc < needed:
        yield Finding(
            message=f"the libraries that the hooks of {subject.system.name} put into a container need glibc {needed}, "
            f"and {_name_base(subject)} has {glibc}",
            at=_base_path(subject), hint=f"choose a base with glibc {needed} or newer, such as {_bases_with(needed)}",
        )  # fmt: skip


def check_base_python(subject: Subject) -> Iterator[Finding]:
    """A pinned Python that is not the base's own."""
    release, pinned = _find_base(subject), subject.recipe.pins.python
    if subject.lock and subject.lock.base:
        return  # whose own Python was looked at when it was locked
    if release is None or release.python is None or pinned is None or Version(pinned) == Version(release.python):
        return
    debian = subject.recipe.base.debian
    if debian is None and not re.search(r"(^|/)(debian|ubuntu|cuda):", _image(subject) or ""):
        return
    others = [one.name for one in base_facts().releases if one.python == pinned]
    yield Finding(
        message=f"the Python of {release.name} is {release.python}, and Python {pinned} is pinned",
        at=("pins", "python"),
        hint=f'pin python: "{release.python}"' + (f", or choose {' or '.join(others)} as the base" if others else ""),
        severity=None if debian and release.name.startswith("Debian") else "warning",
    )


def check_leaks(subject: Subject) -> Iterator[Finding]:
    """What the locked image, or one that is known, leaves in every job, and the recipe neither removes nor unsets."""
    base = subject.recipe.base.oci
    if base is None:
        return
    if subject.lock and subject.lock.base:
        yield from find_locked_leaks(subject, frozenset(_own_variables(subject)))
        return
    for leak in base_facts().leaks:
        if not _applies(leak, subject):
            continue
        if leak.variable and leak.variable not in base.unset and leak.variable not in _own_variables(subject):
            yield Finding(
                message=f"{base.image} sets {leak.variable}: {leak.harm}", at=("base", "oci", "image"),
                hint=f"add {leak.variable} to unset: of base: oci:", severity=leak.severity, source=leak.source,
            )  # fmt: skip
        path = (leak.path or "").format(multiarch=subject.uarch.multiarch)
        if path and not _removes(base.remove, path):
            yield Finding(
                message=f"{base.image} has {path}: {leak.harm}", at=("base", "oci", "image"),
                hint=f"add {path} to remove: of base: oci:", severity=leak.severity, source=leak.source,
            )  # fmt: skip


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "base-digest": check_digest,
    "base-leak": check_leaks,
    "base-python": check_base_python,
    "musl-base": check_musl,
    "wheel-glibc": check_wheel_glibc,
    "hook-glibc": check_hook_glibc,
}
"""The rules by id; each has its story in knowledge/rules/stack.yaml."""


def _image(subject: Subject) -> str | None:
    """Registry, name and tag of the base image, without the digest."""
    base = subject.recipe.base.oci
    return base.image.partition("@")[0].lower() if base else None


def _find_base(subject: Subject) -> BaseRelease | None:
    debian = subject.recipe.base.debian
    return find_base(suite=debian.suite) if debian else find_base(image=_image(subject))


def _base_path(subject: Subject) -> Path:
    return ("base", "debian", "suite") if subject.recipe.base.debian else ("base", "oci", "image")


def _name_base(subject: Subject) -> str:
    release = _find_base(subject)
    return release.name if release else _image(subject) or "the base"


def _find_glibc(subject: Subject) -> Version | None:
    """The base's glibc: of the locked libc6, else of the release that the base is known to be."""
    locked = read_version((subject.deb("libc6") or "").partition("-")[0])
    if locked is not None:
        return locked
    if subject.lock and subject.lock.base:
        return read_version(subject.lock.base.contents.glibc)
    release = _find_base(subject)
    return read_version(release.glibc) if release else None


def _bases_with(glibc: Version) -> str:
    """The newest two bases that have that glibc or a newer one."""
    fitting = [one for one in base_facts().releases if one.glibc and Version(one.glibc) >= glibc]
    newest = sorted(fitting, key=lambda one: Version(one.glibc or "0"), reverse=True)[:2]
    return " or ".join(one.name for one in newest)


def _has_wheels(subject: Subject) -> bool:
    pins, python = subject.recipe.pins, subject.recipe.python
    return bool(python.requirements or pins.pytorch or pins.nccl or (subject.lock and subject.lock.accelerator))


def _wheel_floors(subject: Subject) -> Iterator[tuple[str, Version]]:
    """The oldest glibc of each wheel: from the locked files' names, else from the facts about torch and NCCL."""
    if subject.lock is not None and subject.lock.python is not None:
        for wheel in subject.lock.python.wheels:
            if (floor := _floor_of(wheel.file)) is not None:
                yield f"{wheel.name} {wheel.version}", floor
        return
    torch, build = find_torch(subject), find_build(subject)
    release = find_release(torch.version) if torch else None
    if release is None or build is None or subject.uarch.machine != "aarch64":
        return
    yield f"torch {release.version}", Version(release.glibc)
    cuda, nccl = read_version(build.cuda), read_version(build.nccl)
    wheel_facts = find_nccl_wheel(cuda.major, nccl) if cuda and nccl else None
    if wheel_facts is not None and wheel_facts.glibc:
        yield f"NCCL {build.nccl}", Version(wheel_facts.glibc)


def _floor_of(file: str) -> Version | None:
    """The oldest glibc that a wheel of that file name is made for; None for one that says nothing about glibc."""
    floors = []
    for tag in file.removesuffix(".whl").rpartition("-")[2].split("."):
        if found := re.match(r"manylinux_(\d+)_(\d+)_", tag):
            floors.append(Version(f"{found[1]}.{found[2]}"))
        elif (legacy := _LEGACY_TAGS.get(tag.partition("_")[0])) is not None:
            floors.append(Version(legacy))
    return min(floors, default=None)


def _applies(leak: BaseLeak, subject: Subject) -> bool:
    found = re.search(leak.images, _image(subject) or "")
    if found is None:
        return False
    if leak.where == "slingshot" and (not subject.slingshot or subject.recipe.network == "none"):
        return False
    if leak.where == "torch" and find_torch(subject) is None:
        return False
    release = read_version(found.groupdict().get("release"))
    if leak.since is not None and (release is None or release < Version(leak.since)):
        return False
    return leak.until is None or (release is not None and release <= Version(leak.until))


def _own_variables(subject: Subject) -> set[str]:
    """Those that the recipe, the system or its hooks set themselves: their values win over the base's."""
    recipe, system = subject.recipe, subject.system
    hooked = subject.hooks.env if subject.hooks else {}
    return {*recipe.env, *recipe.edf.env, *system.env.get(recipe.network, {}), *hooked}


def _removes(patterns: Iterable[str], path: str) -> bool:
    """Whether one of `patterns` takes out `path`, a folder above it, or all that is in it."""
    folders = {*accumulate(path.split("/"), lambda above, name: f"{above}/{name}"), f"{path}/*"}
    within_a_name = (
        re.compile("[^/]*".join(re.escape(part) for part in pattern.rstrip("/").split("*"))) for pattern in patterns
    )
    return any(pattern.fullmatch(folder) for pattern in within_a_name for folder in folders if folder)
