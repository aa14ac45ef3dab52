"""Locking: ask the mirrors and the index once what a recipe means today, and hold later builds to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from uenv_builder.app.base_locking import (
    base_accelerator,
    base_glibc,
    lock_base,
    require_buildable,
    require_no_second,
)
from uenv_builder.app.checking import check_recipe
from uenv_builder.app.component_locking import lock_build
from uenv_builder.app.component_wheels import add_wheels, kept_wheels
from uenv_builder.app.lock_files import read_lock, require_fresh
from uenv_builder.app.python_locking import deb_glibc, lock_python
from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.app.session import Session
from uenv_builder.app.spack_locking import lock_spack, place_spack_lock
from uenv_builder.app.storing import keep_lock
from uenv_builder.core.component_choice import run_packages
from uenv_builder.core.digest import Document
from uenv_builder.core.lock_file import dump_lock, recipe_digest
from uenv_builder.model.errors import Diagnostic, IncompatibleError, LockError, Position, RecipeError, UsageError
from uenv_builder.model.lock import (
    Lock,
    LockedAccelerator,
    LockedBase,
    LockedBuild,
    LockedDeb,
    LockedPython,
    LockedRecipe,
    LockedTarget,
    LockedUserland,
    LockedWheel,
)
from uenv_builder.model.recipe import DebianBase, OciBase
from uenv_builder.model.spack_lock import LockedSpack
from uenv_builder.model.system import MACHINES, Machine, Uarch
from uenv_builder.sources.apt import ResolvedUserland, UnknownPackagesError, UserlandRequest, resolve_userland
from uenv_builder.sources.wheel import WheelRequest, read_accelerator, resolve_wheels
from uenv_builder.system.abandoned import remove_abandoned, scratch_folder
from uenv_builder.system.files import write_text


def require_lock(session: Session, loaded: LoadedRecipe, uarch: Uarch, *, locked: bool) -> Lock:
    """The lock that a build goes by: the one beside the recipe, made or renewed where needed unless `locked`."""
    try:
        return require_fresh(loaded, uarch)
    except LockError as error:
        if locked or session.offline or error.diagnostics[0].rule not in {"lock-stale", "lock-missing"}:
            raise
        session.listener.note(f"{error.diagnostics[0].message}; locking now")
    return write_lock(session, loaded, uarch)


def describe(loaded: LoadedRecipe, uarch: Uarch, lock: Lock) -> Document:
    """What a lock came to, in numbers."""
    wheels = lock.python.wheels if lock.python else ()
    sizes = [layer.size for layer in (lock.base.layers if lock.base else ())]
    sizes += [*(deb.size for deb in lock.debs), *(wheel.size for wheel in wheels)]
    accelerator = lock.accelerator
    spack = lock.spack
    unverified = [source for node in (spack.built if spack else ()) for source in node.sources if source.unverified]
    return {
        "lock": str(loaded.lock_path(uarch.name)),
        **({"base": lock.base.name, "layers": len(lock.base.layers)} if lock.base else {}),
        **(
            {"spack": spack.version, "spack_packages": len(spack.built), "unverified": len(unverified)} if spack else {}
        ),
        "packages": len(lock.debs),
        "wheels": len(wheels),
        "megabytes": round(sum(sizes) / 1e6, 1),
        "accelerator": accelerator.model_dump(mode="json") if accelerator else None,
    }


def write_lock(session: Session, loaded: LoadedRecipe, uarch: Uarch, *, upgrade: Upgrade | None = None) -> Lock:
    """Resolve, and put the lock beside the recipe. What an older lock chose stays where the recipe still allows it.

    The recipe's rules are asked before anything is resolved, and again with what was: then new warnings are told, and
    with errors (IncompatibleError or RecipeError) the older lock stays.
    """
    before = check_recipe(loaded, {})
    lock = make_lock(session, loaded, uarch, upgrade=upgrade or Upgrade())
    for finding in check_recipe(loaded, {uarch.name: lock}):
        if finding not in before:
            session.listener.note(str(finding))
    remove_abandoned(loaded.folder)
    if lock.spack:
        place_spack_lock(session, loaded, uarch.name, lock.spack)
    write_text(loaded.lock_path(uarch.name), dump_lock(lock), durable=True)
    keep_lock(session.store, loaded.lock_path(uarch.name), lock)
    return lock


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What may move: everything, or the named packages (Debian's or Python's), or nothing that need not."""

    everything: bool = False
    names: frozenset[str] = frozenset()


def make_lock(session: Session, loaded: LoadedRecipe, uarch: Uarch, *, upgrade: Upgrade) -> Lock:
    """The lock of the recipe for `uarch`; raises IncompatibleError with every reason why there is none."""
    if session.offline:
        raise UsageError("locking asks the mirrors and the index, and --offline forbids it")
    if loaded.recipe.kind == "both":
        raise UsageError("recipes of kind both can be checked, and not yet locked or built", hint="write two recipes")
    if loaded.components.unavailable:
        raise IncompatibleError.collect(loaded.components.unavailable)
    older = None if upgrade.everything else _usable_lock(loaded, uarch)
    if upgrade.names and older:
        _require_known(upgrade.names, older)
    parts = _lock_parts(session, loaded, uarch, older=older, upgrade=upgrade)
    _require_cuda(loaded, parts.accelerator)
    return Lock.model_validate(
        {
            "lock-format": 1,
            "recipe": LockedRecipe(
                name=loaded.recipe.name,
                version=loaded.recipe.version,
                digest=recipe_digest(loaded.recipe, uarch, loaded.components.chosen),
            ),
            "target": LockedTarget(uarch=uarch.name, debian=uarch.debian),
            "epoch": parts.epoch,
            "userland": parts.userland,
            "base": parts.base,
            "python": parts.python,
            "accelerator": parts.accelerator,
            "build": parts.build,
            "spack": parts.spack,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What was resolved; the fields are those of Lock."""

    epoch: int
    userland: LockedUserland | None = None
    base: LockedBase | None = None
    python: LockedPython | None
    accelerator: LockedAccelerator | None
    build: LockedBuild | None = None
    spack: LockedSpack | None = None


def _lock_parts(
    session: Session, loaded: LoadedRecipe, uarch: Uarch, *, older: Lock | None, upgrade: Upgrade
) -> _Parts:
    if loaded.recipe.spack is not None:
        spack, epoch = lock_spack(session, loaded, uarch, older.spack if older else None)
        return _Parts(epoch=epoch, python=None, accelerator=None, spack=spack)
    if loaded.recipe.base.oci is not None:
        return _lock_on_base(session, loaded, loaded.recipe.base.oci, uarch, older=older, upgrade=upgrade)
    with scratch_folder("uenv-lock-") as place:
        userland = _lock_userland(session, loaded, uarch, older=older, upgrade=upgrade, place=place)
        build = _lock_build(session, loaded, uarch, image=userland.packages, older=older, upgrade=upgrade, place=place)
    glibc = partial(deb_glibc, userland.packages)
    python = lock_python(session, loaded, uarch, glibc=glibc, older=older, upgrade=upgrade.names)
    if build:
        build = _lock_build_wheels(session, loaded, uarch, build, image=(userland, python), older=older)
    newest = max(datetime.fromisoformat(release.date) for release in userland.releases)
    accelerator = read_accelerator(python.wheels, index=session.index) if python else None
    return _Parts(
        epoch=int(newest.timestamp()), userland=userland, python=python, accelerator=accelerator, build=build
    )  # fmt: skip


def _lock_on_base(
    session: Session, loaded: LoadedRecipe, oci: OciBase, uarch: Uarch, *, older: Lock | None, upgrade: Upgrade
) -> _Parts:
    require_buildable(loaded)
    base = lock_base(session, loaded, oci, uarch, older)
    glibc = partial(base_glibc, loaded, base)
    python = lock_python(session, loaded, uarch, glibc=glibc, older=older, upgrade=upgrade.names, base=base)
    wheels = python.wheels if python else ()
    require_no_second(loaded, base, wheels)
    accelerator = read_accelerator(wheels, index=session.index) or base_accelerator(base)
    return _Parts(epoch=base.created, base=base, python=python, accelerator=accelerator)


def _usable_lock(loaded: LoadedRecipe, uarch: Uarch) -> Lock | None:
    try:
        return read_lock(loaded, uarch)
    except LockError:
        return None


def _require_known(names: Iterable[str], older: Lock) -> None:
    known = {deb.name for deb in older.debs}
    known |= {wheel.name for wheel in older.python.wheels} if older.python else set()
    if missing := sorted(set(names) - known):
        raise UsageError(f"--upgrade: the lock holds no package {', '.join(missing)}")


def _lock_userland(
    session: Session, loaded: LoadedRecipe, uarch: Uarch, *, older: Lock | None, upgrade: Upgrade, place: Path
) -> LockedUserland:
    python = loaded.recipe.pins.python
    with session.listener.task(f"resolving Debian packages for {uarch.debian}"):
        keep = _versions(older.debs, upgrade) if older and older.userland else None
        image = _resolve(session, loaded, _image_request(loaded, uarch.debian), place, keep=keep)
    if python:
        _require_python(loaded, python, image.packages)
    compilers: dict[str, tuple[LockedDeb, ...]] = {}
    if python and loaded.recipe.python.byte_compile:
        wanted = {deb.name: deb.version for deb in image.packages if "python" in deb.name}
        for machine in MACHINES:
            with session.listener.task(f"resolving Python {python} for {machine} build machines"):
                request = _request(loaded, machine, [f"python{python}-minimal"])
                found = _resolve_near(session, loaded, request, place, keep=wanted)
            compilers[machine] = found.packages
    return LockedUserland(releases=image.releases, packages=image.packages, compilers=compilers)


def _lock_build(
    session: Session,
    loaded: LoadedRecipe,
    uarch: Uarch,
    *,
    image: Sequence[LockedDeb],
    older: Lock | None,
    upgrade: Upgrade,
    place: Path,
) -> LockedBuild | None:
    """What the recipe's components are compiled with, in the image's versions where these have the package, too."""
    if not loaded.components.chosen:
        return None

    def resolve(architecture: str, packages: Sequence[str], keep: Mapping[str, str]) -> tuple[LockedDeb, ...]:
        own = _request(loaded, architecture, packages)
        return _resolve_near(session, loaded, own, place, keep=dict(keep)).packages

    before = older.build.packages if older and older.build else ()
    kept = tuple(deb for deb in before if deb.name not in upgrade.names)
    with session.listener.task("resolving the packages that components are compiled with"):
        return lock_build(loaded.components.chosen, uarch, resolve, image=image, older=kept)


def _lock_build_wheels(
    session: Session,
    loaded: LoadedRecipe,
    uarch: Uarch,
    build: LockedBuild,
    *,
    image: tuple[LockedUserland, LockedPython | None],
    older: Lock | None,
) -> LockedBuild:
    userland, python = image
    keep = kept_wheels(older.build.components) if older and older.build else {}

    def resolve(requirements: Sequence[str], machine: Machine) -> tuple[LockedWheel, ...]:
        # Compilers have to fit the libraries of the image.
        own = tuple(f"{wheel.name}=={wheel.version}" for wheel in (python.wheels if python else ()))
        request = WheelRequest(
            requirements=tuple(requirements), python=loaded.recipe.pins.python or "3.13", machine=machine,
            glibc=deb_glibc(userland.packages), constraints=own,
        )  # fmt: skip
        with session.listener.task(f"resolving wheels that components are compiled with, for {machine}"):
            return resolve_wheels(request, session.index, listener=session.listener, keep=keep).wheels

    return add_wheels(build, loaded, uarch, python, resolve)


def _debian(loaded: LoadedRecipe) -> DebianBase:
    debian = loaded.recipe.base.debian
    assert debian is not None, "only asked for where the base is Debian's"
    return debian


def _request(loaded: LoadedRecipe, architecture: str, packages: Sequence[str]) -> UserlandRequest:
    debian = _debian(loaded)
    return UserlandRequest(
        suites=(debian.suite, *(debian.suite + pocket for pocket in debian.pockets)),
        components=tuple(debian.components),
        architecture=architecture,
        packages=tuple(packages),
        essential=False,
    )


def _image_request(loaded: LoadedRecipe, architecture: str) -> UserlandRequest:
    debian = _debian(loaded)
    request = _request(loaded, architecture, [*debian.packages, *run_packages(loaded.components.chosen)])
    return replace(request, essential=debian.essential, recommends=debian.recommends)


def _resolve(
    session: Session, loaded: LoadedRecipe, request: UserlandRequest, workspace: Path, *, keep: dict[str, str] | None
) -> ResolvedUserland:
    try:
        return resolve_userland(request, session.mirrors, workspace=workspace, listener=session.listener, keep=keep)
    except UnknownPackagesError as error:
        raise RecipeError.collect(_at_packages(loaded, error)) from error


def _resolve_near(
    session: Session, loaded: LoadedRecipe, request: UserlandRequest, workspace: Path, *, keep: dict[str, str]
) -> ResolvedUserland:
    """As `_resolve`; with other versions where the wished ones do not exist, as after a rebuild for one machine."""
    try:
        return _resolve(session, loaded, request, workspace, keep=keep)
    except IncompatibleError as error:
        if any(finding.rule != "version-gone" for finding in error.diagnostics):
            raise
        return _resolve(session, loaded, request, workspace, keep=None)


def _at_packages(loaded: LoadedRecipe, error: UnknownPackagesError) -> list[Diagnostic]:
    places: dict[str, Position | None] = {
        package.partition("=")[0]: loaded.evaluated.tree.position(("base", "debian", "packages", number))
        for number, package in enumerate(_debian(loaded).packages)
    }
    suite = _debian(loaded).suite
    return [
        Diagnostic(
            rule="unknown-package", message=f'Debian {suite} has no package "{name}" for this architecture',
            position=places.get(name), hint=f'did you mean "{close[0]}"?' if close else None,
        )
        for name, close in error.names.items()
    ]  # fmt: skip


def _versions(debs: Sequence[LockedDeb], upgrade: Upgrade) -> dict[str, str]:
    return {deb.name: deb.version for deb in debs if deb.name not in upgrade.names}


def _require_python(loaded: LoadedRecipe, python: str, packages: Sequence[LockedDeb]) -> None:
    names = {deb.name for deb in packages}
    if f"python{python}-minimal" in names:
        return
    position = loaded.evaluated.tree.position(("pins", "python"))
    others = sorted(match[1] for name in names if (match := re.fullmatch(r"python(3\.\d+)-minimal", name)))
    suite = _debian(loaded).suite
    if others:
        raise IncompatibleError(
            f"Python {python} is pinned, but Debian {suite} has Python {', '.join(others)}",
            rule="python-pin", position=position, hint=f'pin python: "{others[-1]}", or choose another suite',
        )  # fmt: skip
    raise IncompatibleError(
        f"Python {python} is pinned, but no package of the userland brings it",
        rule="python-pin", position=position, hint="add python3 to base.debian.packages",
    )  # fmt: skip


def _require_cuda(loaded: LoadedRecipe, accelerator: LockedAccelerator | None) -> None:
    """Rules judge torch's own CUDA and NCCL; where there is no torch, nothing brings CUDA."""
    cuda = loaded.recipe.pins.cuda
    if cuda and accelerator is None:
        raise IncompatibleError(
            f"CUDA {cuda} is pinned, but nothing in the lock brings CUDA", rule="cuda-unused",
            position=loaded.evaluated.tree.position(("pins", "cuda")), hint="pin pytorch too, or drop the pin",
        )  # fmt: skip
