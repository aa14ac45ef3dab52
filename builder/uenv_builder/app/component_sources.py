"""The sources of components: fetched by hash or commit, and unpacked where they are built."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from uenv_builder.app.session import Session
from uenv_builder.core.component_planning import git_step_id
from uenv_builder.layers.source_archive import archive_entries
from uenv_builder.model.component import ComponentSource
from uenv_builder.model.entry import Entry
from uenv_builder.model.lock import LockedComponent, LockedSource
from uenv_builder.sources.git import GitSource, export_commit, fetch_commit
from uenv_builder.system.unpack import unpack_entries


def fetch_sources(session: Session, sources: Sequence[LockedSource]) -> None:
    """Have all sources in the store; raises what fetching raises, archives first."""
    session.fetch(session.archive_downloads(sources))
    for source in sources:
        if source.commit:
            git_folder(session, source)


def git_folder(session: Session, source: LockedSource) -> Path:
    """The folder that holds the commit, fetched where the store lacks it: from mirrors, and online from elsewhere."""
    wanted = GitSource(
        commit=source.commit or "", urls=source.git or (), submodules=bool(source.submodules), offline=session.offline
    )

    def fill(into: Path) -> None:
        # What is copied from mirrors goes where there is room for it, and does not stay.
        with tempfile.TemporaryDirectory(dir=into) as bundles:
            fetch_commit(wanted, into, session.listener, near=lambda commit: session.git_places(commit, Path(bundles)))

    return session.store.step(git_step_id(source), fill, listener=session.listener, label=f"git {source.file}")


def has_commit(session: Session, source: LockedSource) -> bool:
    """Whether the store has the commit of a source."""
    return session.store.step_folder(git_step_id(source)) is not None


def unpack_sources(session: Session, locked: LockedComponent, sources: Sequence[ComponentSource], target: Path) -> int:
    """Unpack all sources of a component into the empty folder `target`.

    Returns the newest time of their files, in seconds since 1970: what is built from them is of that time.
    """
    newest = 0
    files = session.fetch(session.archive_downloads(locked.sources))
    for pin, source in zip(locked.sources, sources, strict=True):
        place = target / source.folder
        place.mkdir(parents=True, exist_ok=True)
        if pin.commit:
            newest = max(newest, _unpack_git(session, pin, place))
        else:
            newest = max(newest, _unpack_archive(files, pin, source, place))
    return newest


def _unpack_git(session: Session, pin: LockedSource, place: Path) -> int:
    return export_commit(pin.commit or "", git_folder(session, pin), place)


def _unpack_archive(files: Mapping[str, Path], pin: LockedSource, source: ComponentSource, place: Path) -> int:
    strip = 1 if source.strip is None else source.strip
    times = [0]

    def noted(entry: Entry) -> Entry:
        times.append(entry.mtime if entry.kind == "file" else 0)
        return entry

    entries = archive_entries(files[pin.sha256 or ""], name=pin.file, strip=strip)
    unpack_entries(map(noted, entries), place, keep_times=True)
    return max(times)
