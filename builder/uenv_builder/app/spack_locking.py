"""Locking what Spack installs: the solver is asked once, and its answer is held by hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.app.session import Session
from uenv_builder.app.spack_compiler import system_gcc
from uenv_builder.app.spack_places import SpackPlaces, find_places, inside_place
from uenv_builder.app.spack_running import BUILD_TIME, SpackWorkspace
from uenv_builder.core.lock_file import dump_lock
from uenv_builder.core.spack_file import SpackRequest, asked_digest, render_spack_file
from uenv_builder.core.systems import load_system
from uenv_builder.model.errors import LockError, UsageError
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.spack import SpackExternal, SpackSection
from uenv_builder.model.spack_lock import LockedSpack
from uenv_builder.model.system import System, Uarch
from uenv_builder.sources.spack import concretize, read_sources, read_spack_lock, read_version, require_machine
from uenv_builder.system.abandoned import scratch_folder
from uenv_builder.system.files import sha256_of, write_text
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems


def spack_lock_path(loaded: LoadedRecipe, uarch: str) -> Path:
    """Where spack.lock lies: beside the lock."""
    return loaded.folder / f"{uarch}.spack.lock"


def section_of(recipe: Recipe) -> SpackSection:
    """The Spack section of a recipe that has one."""
    if recipe.spack is None:
        raise UsageError(f"{recipe.name}: the recipe has no `spack:`")
    return recipe.spack


def lock_spack(
    session: Session, loaded: LoadedRecipe, uarch: Uarch, older: LockedSpack | None
) -> tuple[LockedSpack, int]:  # fmt: skip
    """Solve the recipe's environments on this machine; with the time of all files of the image. Raises MissingToolError
    without Spack, IncompatibleError where there is no solution or this machine is not of the target's kind.

    `older` keeps the commits that branches and tags were. The text of spack.lock is in the store afterwards.
    """
    section = section_of(loaded.recipe)
    places = find_places(session, loaded, section, _keep(section, older))
    with scratch_folder("uenv-spack-") as folder:
        workspace = SpackWorkspace(
            session=session, places=places, section=section, folder=folder, mount=loaded.recipe.mount
        )  # fmt: skip
        workspace.make("spack: {}\n")
        with session.listener.task("asking Spack for its version and this machine"):
            version = read_version(workspace.run)
            require_machine(workspace.run, target_of(uarch))
        gcc = system_gcc(section, system_of(loaded, uarch))
        request = make_request(loaded, uarch, repositories=places.inside, gcc=gcc, version=version.numbers)
        workspace.make(render_spack_file(request))
        with session.listener.task(f"solving {len(section.environments)} environments with Spack {version.text}"):
            concretize(workspace.run)
        with session.listener.task("asking Spack for the sources of all packages"):
            sources = read_sources(workspace.run)
        text = (workspace.environment / "spack.lock").read_text(encoding="utf-8")
        digest = sha256_of(workspace.environment / "spack.lock")
    locked = LockedSpack(
        version=version.text, git=places.git, commit=places.commit, repositories=places.repositories, gcc=gcc,
        asked=asked_digest(request), lockfile=digest, nodes=read_spack_lock(text, sources),
    )  # fmt: skip
    _tell_unverified(session, locked)
    kept = _kept(session, digest)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, text)
    return locked, _epoch(places)


def _kept(session: Session, digest: str) -> Path:
    return session.store.root / "spack/locks" / f"{digest}.lock"


def _epoch(places: SpackPlaces) -> int:
    """The time of all files of the image, in seconds since 1970: that of the newest commit of package files."""
    files = [places.roots[one.name] / one.path / "repo.yaml" for one in places.repositories if one.commit]
    return max([BUILD_TIME, *(int(file.stat().st_mtime) for file in files)])


def _keep(section: SpackSection, older: LockedSpack | None) -> LockedSpack | None:
    """What of an older lock still holds: the commits of references that the recipe still names."""
    if older is None:
        return None
    same = [
        one for one in older.repositories
        if (asked := section.repositories.get(one.name)) and asked.ref is not None and asked.git == one.git
    ]  # fmt: skip
    chosen = section.checkout
    commit = older.commit if chosen and chosen.ref is not None and chosen.git == older.git else None
    return older.model_copy(update={"repositories": tuple(same), "commit": commit})


def target_of(uarch: Uarch) -> str:
    """The processor as Spack names it."""
    return uarch.cpu or uarch.machine


def system_of(loaded: LoadedRecipe, uarch: Uarch) -> System:
    """The system that a lock for this node type is made for: the first of the recipe's targets that has it."""
    name = next(target.system for target in loaded.recipe.targets if target.uarch == uarch.name)
    return load_system(name, read_site_systems(load_settings().systems))


def make_request(
    loaded: LoadedRecipe, uarch: Uarch, *, repositories: Mapping[str, str], gcc: SpackExternal, version: tuple[int, int]
) -> SpackRequest:
    """What spack.yaml is rendered from; `version` is Spack's, in two numbers."""
    return SpackRequest(
        section=section_of(loaded.recipe), mount=loaded.recipe.mount, target=target_of(uarch),
        repositories=repositories, system=system_of(loaded, uarch).spack, gcc=gcc, version=version,
    )  # fmt: skip


def locked_request(loaded: LoadedRecipe, uarch: Uarch, locked: LockedSpack) -> SpackRequest:
    """As `make_request`, with what is locked; LockError where the system asks for something else than it did then."""
    major, minor = locked.version.split(".")[:2]
    request = make_request(
        loaded, uarch, repositories={one.name: inside_place(one) for one in locked.repositories}, gcc=locked.gcc,
        version=(int(major), int(minor)),
    )  # fmt: skip
    if asked_digest(request) != locked.asked:
        raise LockError(
            f"{loaded.lock_path(uarch.name)}: is stale: what the system says to Spack has changed since",
            rule="lock-stale", hint=f"write it with `uenv lock {loaded.folder} --uarch {uarch.name}`",
        )  # fmt: skip
    return request


def require_spack_lock(loaded: LoadedRecipe, uarch: str, locked: LockedSpack) -> str:
    """The text of spack.lock; raises LockError where it is not there, or not the one that the lock names."""
    path = spack_lock_path(loaded, uarch)
    hint = "take both files from the same commit, or write them anew with `uenv lock`"
    if not path.is_file():
        raise LockError(f"{path}: is missing; the lock beside it needs it", rule="spack-lock", hint=hint)
    if sha256_of(path) != locked.lockfile:
        raise LockError(f"{path}: is not the one that the lock beside it names", rule="spack-lock", hint=hint)
    return path.read_text(encoding="utf-8")


def recipe_files(loaded: LoadedRecipe, uarch: Uarch, lock: Lock, spack_file: str) -> dict[str, tuple[str, int]]:
    """What the image keeps of its recipe, with modes: the recipe as written, the lock, and Spack's two files."""
    spack_lock = require_spack_lock(loaded, uarch.name, lock.spack) if lock.spack else ""
    texts = {
        "recipe.yaml": loaded.path.read_text(encoding="utf-8"),
        f"{uarch.name}.lock.yaml": dump_lock(lock),
        f"{uarch.name}.spack.lock": spack_lock,
        "spack.yaml": spack_file,
    }
    return {path: (text, 0o644) for path, text in texts.items()}


def place_spack_lock(session: Session, loaded: LoadedRecipe, uarch: str, locked: LockedSpack) -> None:
    """Put spack.lock beside the lock; it has to be there before the lock that names it is."""
    text = _kept(session, locked.lockfile).read_text(encoding="utf-8")
    write_text(spack_lock_path(loaded, uarch), text, durable=True)


def _tell_unverified(session: Session, locked: LockedSpack) -> None:
    for node in locked.built:
        for source in node.sources:
            if source.unverified:
                session.listener.note(
                    f"{node.name}@{node.version}: {source.url} cannot be verified: {source.unverified}"
                )  # fmt: skip
