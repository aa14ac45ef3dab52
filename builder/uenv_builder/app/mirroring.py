"""Mirrors from their owner's side: filled with all that recipes need, and looked through for damage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event

from uenv_builder.app.component_sources import git_folder
from uenv_builder.app.lock_files import require_fresh
from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.app.session import Session
from uenv_builder.app.storing import size_text
from uenv_builder.core.artefacts import Artefact, BasePart, artefacts_of
from uenv_builder.core.component_planning import git_step_id
from uenv_builder.core.digest import Document
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.errors import BuildError, Diagnostic, NetworkError, UsageError
from uenv_builder.model.lock import LockedSource
from uenv_builder.sources.git import bundle_damage, list_commits, write_bundle
from uenv_builder.system.download import Download, Downloader
from uenv_builder.system.download_progress import SharedTask
from uenv_builder.system.files import explained, file_size
from uenv_builder.system.mirrors import MirrorFolder
from uenv_builder.system.store_entries import References
from uenv_builder.system.threads import run_in_threads


@dataclass(frozen=True, slots=True)
class Filled:
    """What filling a mirror came to, in artefacts and bytes; `present` were there before."""

    folder: Path
    recipes: tuple[str, ...]
    added: int
    added_bytes: int
    present: int
    present_bytes: int
    replaced: tuple[str, ...]

    def document(self) -> Document:
        """For --json."""
        return {
            "mirror": str(self.folder),
            "recipes": list(self.recipes),
            "added": self.added,
            "added_bytes": self.added_bytes,
            "present": self.present,
            "present_bytes": self.present_bytes,
            "replaced": list(self.replaced),
        }

    def summary(self) -> list[str]:
        """For people."""
        added = f"{self.added} artefacts added ({size_text(self.added_bytes)})"
        present = f"{self.present} were there ({size_text(self.present_bytes)})"
        return [*(f"replaced what was damaged: {name}" for name in self.replaced), f"{self.folder}: {added}, {present}"]


def artefacts_of_recipe(loaded: LoadedRecipe, uarchs: Iterable[str]) -> list[Artefact]:
    """All that builds of the recipe for these node types may fetch; LockError where a lock is missing or stale."""
    known = load_uarchs()
    return [artefact for name in uarchs for artefact in artefacts_of(require_fresh(loaded, known[name]))]


def fill_mirror(
    session: Session, folder: Path, artefacts: Sequence[Artefact], *, recipes: Sequence[str] = (), verify: bool = False
) -> Filled:
    """Put all `artefacts` into the mirror `folder`: from the store, else from the session's mirrors, else from where
    they come from. What is there stays; with `verify` it is read first, and replaced where it is damaged.

    Each file is whole and has its hash before it gets its name. Raises BuildError where the folder cannot be written,
    and what Downloader.fetch_all raises; what came before that stays.
    """
    mirror = MirrorFolder(folder.absolute())
    wanted = {artefact.key: artefact for artefact in artefacts}
    paths = {key: _path_in(mirror, item) for key, item in wanted.items()}
    with _about_a_mirror(folder), mirror.filling():
        there = [key for key, item in wanted.items() if _has(mirror, item)]
        damaged = _find_damage(session, mirror, [paths[key] for key in there]) if verify else {}
        for path in damaged:
            path.unlink()
        present = {key for key in there if paths[key] not in damaged}
        added = [item for key, item in wanted.items() if key not in present]
        with session.store.in_use(References.of(downloads=wanted)):
            _add(session, mirror, added)
    return Filled(
        folder=folder, recipes=tuple(recipes),
        added=len(added), added_bytes=sum(_size_of(paths[item.key]) for item in added),
        present=len(present), present_bytes=sum(_size_of(paths[key]) for key in present),
        replaced=tuple(item.name for key, item in wanted.items() if paths[key] in damaged),
    )  # fmt: skip


def _path_in(mirror: MirrorFolder, item: Artefact) -> Path:
    return mirror.download_path(item.sha256) if item.sha256 else mirror.bundle_path(item.commit)


def _has(mirror: MirrorFolder, item: Artefact) -> bool:
    return mirror.has_download(item.sha256, item.size) if item.sha256 else mirror.bundle_path(item.commit).is_file()


def _add(session: Session, mirror: MirrorFolder, added: Sequence[Artefact]) -> None:
    downloader = Downloader(
        mirror, session.listener, offline=session.offline, jobs=max(2, session.jobs), mirrors=session.artefact_mirrors
    )
    files = [item for item in added if item.sha256]
    parts = [item for item in files if isinstance(item.pin, BasePart)]
    findings = _fetch(session, downloader, [item for item in files if item not in parts])
    if parts:  # registries ask for logins
        findings += _fetch(session, session.registries_into(mirror), parts)
    for item in added:
        if isinstance(item.pin, LockedSource) and item.commit:
            try:
                _add_commit(session, mirror, item.pin)
            except NetworkError as error:
                findings += error.diagnostics
    if findings:
        raise NetworkError.collect(findings)


def _fetch(session: Session, downloader: Downloader, items: Sequence[Artefact]) -> list[Diagnostic]:
    """Fetch these; what cannot be had is returned, since others may still be."""
    try:
        downloader.fetch_all([_near(session, session.download(item)) for item in items])
    except NetworkError as error:
        return list(error.diagnostics)
    return []


def _add_commit(session: Session, mirror: MirrorFolder, source: LockedSource) -> None:
    """The commit comes last: where it is, its submodules are. What was damaged in the store is not handed on."""
    session.store.sound_step(git_step_id(source))
    for commit, repository in list_commits(source.commit or "", git_folder(session, source)):

        def waiting(commit: str = commit) -> None:
            session.listener.note(f"another process writes the bundle of {commit}: waiting for it")

        with mirror.writing_download(commit, waiting):
            path = mirror.bundle_path(commit)
            if not path.is_file():
                with session.listener.task(f"bundling commit {commit[:12]} of {source.file}"), explained(path):
                    part = mirror.part_path(commit)
                    write_bundle(repository, commit, part)
                    mirror.place_bundle(part, commit)


def _near(session: Session, download: Download) -> Download:
    """The same, asking the store first."""
    store = session.store
    if not store.has_download(download.sha256, download.size):
        return download
    return replace(download, near=(store.download_path(download.sha256).as_uri(),))


@dataclass(frozen=True, slots=True)
class Verified:
    """What reading a whole mirror came to; `damaged` has the reason by the file's place in it."""

    folder: Path
    files: int
    bytes: int
    damaged: dict[str, str]

    def document(self) -> Document:
        """For --json."""
        damaged = [{"file": name, "reason": reason} for name, reason in self.damaged.items()]
        return {"mirror": str(self.folder), "files": self.files, "bytes": self.bytes, "damaged": damaged}

    def summary(self) -> list[str]:
        """For people."""
        found = [f"damaged: {name}: {reason}" for name, reason in self.damaged.items()]
        sound = f"{len(self.damaged)} of {self.files} files are damaged" if found else f"{self.files} files are sound"
        return [*found, f"{self.folder}: {sound} ({size_text(self.bytes)} read)"]


def verify_mirror(session: Session, folder: Path) -> Verified:
    """Read all of the mirror, and change nothing. Raises UsageError where there is none."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no mirror", hint="fill one with `uenv mirror RECIPE DIR`")
    mirror = MirrorFolder(folder.absolute())
    files = mirror.files()
    damaged = _find_damage(session, mirror, files)
    return Verified(
        folder=folder, files=len(files), bytes=sum(map(_size_of, files)),
        damaged={path.relative_to(mirror.root).as_posix(): damaged[path] for path in files if path in damaged},
    )  # fmt: skip


def _find_damage(session: Session, mirror: MirrorFolder, files: Sequence[Path]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    stopped = Event()
    with session.listener.task(f"verifying {len(files)} files", sum(map(_size_of, files))) as task:
        shared = SharedTask(task)

        def read(path: Path) -> None:
            if stopped.is_set():
                return
            commit = mirror.commit_of(path)
            reason = mirror.damage(path) if commit is None else bundle_damage(path, commit)
            if reason is not None:
                found[path] = reason
            shared.advance(_size_of(path))

        run_in_threads([partial(read, path) for path in files], jobs=session.jobs, stop=stopped.set)
    return found


def _size_of(path: Path) -> int:
    return file_size(path, follow_links=True)  # a site may have put files elsewhere


@contextmanager
def _about_a_mirror(folder: Path) -> Iterator[None]:
    """Errors of the disk, told once, with the remedy for a mirror: on a full disk each file fails."""
    try:
        yield
    except BuildError as error:
        first = error.diagnostics[0]
        hint = f"make room, name another folder, or have somebody fill it who may write to {folder}"
        raise BuildError.collect([replace(first, hint=hint)]) from error
