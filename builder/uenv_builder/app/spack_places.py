"""Where Spack and its package files lie on this machine: what a recipe names, or a lock has, is in the store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from uenv_builder.app.component_sources import git_folder
from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.app.session import Session
from uenv_builder.core.spack_file import REPOSITORIES
from uenv_builder.core.spack_planning import checkout_id
from uenv_builder.model.errors import LockError, MissingToolError, RecipeError
from uenv_builder.model.lock import LockedSource
from uenv_builder.model.spack import SpackRepository, SpackSection
from uenv_builder.model.spack_lock import LockedSpack, LockedSpackRepository
from uenv_builder.sources.git import export_commit, resolve_ref
from uenv_builder.system.files import sha256_of

TREE = "tree"
"""The folder with a commit's files in its result in the store."""
_INDEX = "spack-repo-index.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpackPlaces:
    """Folders of this machine: Spack's own, and each repository's by its name; and what the lock says of them."""

    checkout: Path
    git: str | None
    commit: str | None
    repositories: tuple[LockedSpackRepository, ...]
    roots: Mapping[str, Path]

    @property
    def inside(self) -> dict[str, str]:
        """Where the sandbox has each repository's repo.yaml."""
        return {one.name: inside_place(one) for one in self.repositories}


def inside_root(repository: LockedSpackRepository) -> str:
    """Where the sandbox has a repository: Spack asks for a path that ends in spack_repo/NAMESPACE."""
    root = f"{REPOSITORIES}/{repository.name}"
    return root if "spack_repo" in repository.path.split("/") else f"{root}/spack_repo/{repository.name}"


def inside_place(repository: LockedSpackRepository) -> str:
    """Where the sandbox has its repo.yaml."""
    root = inside_root(repository)
    return root if repository.path == "." else f"{root}/{repository.path}"


def find_places(
    session: Session, loaded: LoadedRecipe, section: SpackSection, locked: LockedSpack | None
) -> SpackPlaces:
    """The places of Spack and its package files, for the commits that are locked, else for those that the recipe names
    now. Raises MissingToolError without a Spack, LockError where a folder has changed since it was locked.
    """
    before = {one.name: one for one in locked.repositories} if locked else {}
    roots, repositories = {}, []
    for name, repository in section.repositories.items():
        root, found = _repository(session, loaded, name, repository, before.get(name))
        roots[name] = root
        repositories.append(found)
    git, commit, checkout = _spack(session, section, locked)
    return SpackPlaces(
        checkout=checkout, git=git, commit=commit, repositories=tuple(repositories), roots=roots
    )  # fmt: skip


def _spack(session: Session, section: SpackSection, locked: LockedSpack | None) -> tuple[str | None, str | None, Path]:
    chosen = section.checkout
    if chosen is None:
        place = os.environ.get("SPACK_ROOT", "")
        if not place or not (Path(place) / "bin/spack").is_file():
            there = f"in {place}, which SPACK_ROOT names" if place else "on this machine (SPACK_ROOT is not set)"
            raise MissingToolError(
                f"there is no Spack {there}",
                hint="set SPACK_ROOT to Spack's folder, or name a commit in the recipe: `spack: checkout:`",
            )  # fmt: skip
        return None, None, Path(place)
    commit = locked.commit if locked and locked.commit else chosen.commit or resolve_ref(chosen.git, chosen.ref or "")
    return chosen.git, commit, _checkout(session, chosen.git, commit)


def _checkout(session: Session, git: str, commit: str) -> Path:
    def fill(into: Path) -> None:
        source = LockedSource(git=(git,), commit=commit, submodules=False)
        (into / TREE).mkdir()
        export_commit(commit, git_folder(session, source), into / TREE)

    label = f"files of {git.rstrip('/').rpartition('/')[2]}"
    with session.listener.task(f"commit {commit[:12]} of {git.rstrip('/').rpartition('/')[2]}"):
        folder = session.store.step(checkout_id(commit), fill, listener=session.listener, label=label)
    return folder / TREE


def _repository(
    session: Session, loaded: LoadedRecipe, name: str, asked: SpackRepository, before: LockedSpackRepository | None
) -> tuple[Path, LockedSpackRepository]:
    if asked.folder is not None:
        root = _folder(loaded, name, asked.folder)
        digest = _digest(root)
        if before and before.digest != digest:
            raise LockError(
                f"{root}: package files have changed since they were locked", rule="lock-stale",
                hint="write the lock anew with `uenv lock`",
            )  # fmt: skip
        path = _repo_path(loaded, name, root, asked)
        return root, LockedSpackRepository(name=name, path=path, folder=asked.folder, digest=digest)
    git = asked.git or ""
    commit = before.commit if before and before.commit else asked.commit or resolve_ref(git, asked.ref or "")
    root = _checkout(session, git, commit)
    return root, LockedSpackRepository(name=name, path=_repo_path(loaded, name, root, asked), git=git, commit=commit)


def _folder(loaded: LoadedRecipe, name: str, folder: str) -> Path:
    places = [Path(folder)] if folder.startswith("/") else [place / folder for place in loaded.folders]
    for place in places:
        if place.is_dir():
            return place
    raise RecipeError(
        f"{folder}: there is no such folder", rule="spack-repository",
        position=loaded.evaluated.tree.position(("spack", "repositories", name, "folder")),
        hint="name a folder of the recipe's folder, relative to it, or an absolute path",
    )  # fmt: skip


def _repo_path(loaded: LoadedRecipe, name: str, root: Path, asked: SpackRepository) -> str:
    path = asked.path
    if path is None and (root / _INDEX).is_file():
        index = yaml.safe_load((root / _INDEX).read_text(encoding="utf-8"))
        paths = (index.get("repo_index") or {}).get("paths") or []
        path = next((one for one in paths if one.rstrip("/").endswith(f"/{name}")), paths[0] if paths else None)
    path = (path or ".").strip("/")
    if (root / path / "repo.yaml").is_file():
        return path
    raise RecipeError(
        f"package repository {name} has no repo.yaml in {path}", rule="spack-repository",
        position=loaded.evaluated.tree.position(("spack", "repositories", name)),
        hint="name the folder that has one with `path:`; a new one says `repo: {namespace: NAME, api: v2.0}`",
    )  # fmt: skip


def _digest(root: Path) -> str:
    """Of all files below, by name and content; what Spack and Python leave there does not count."""
    left_out = {"__pycache__", ".git"}
    files = sorted(path for path in root.rglob("*") if path.is_file() and not left_out.intersection(path.parts))
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(root)}\0{sha256_of(path)}\n".encode())
    return total.hexdigest()
