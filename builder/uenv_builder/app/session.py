"""What every verb works with: the store, the settings, the ways to the mirrors, and who listens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from uenv_builder.model.errors import LockError
from uenv_builder.model.lock import LockedDeb, LockedSource, LockedWheel
from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.settings import Settings
from uenv_builder.system.store import Store

if TYPE_CHECKING:  # what a run does not use is not imported: most builds find all that they need in the store
    from uenv_builder.sources.debian_mirrors import DebianMirrors
    from uenv_builder.sources.python_index import PythonIndex
    from uenv_builder.system.download import Download, Downloader


def _default_jobs() -> int:
    return len(os.sched_getaffinity(0))


@dataclass
class Session:
    """One run of the builder. `jobs` is how many steps and downloads go on at once."""

    settings: Settings = field(default_factory=Settings)
    listener: Listener = field(default_factory=Silent)
    offline: bool = False
    jobs: int = field(default_factory=_default_jobs)
    shell_on_failure: bool = False
    """Whether a component that does not build opens a shell where it was being built."""

    @cached_property
    def store(self) -> Store:
        """The content-addressed store: $UENV_CACHE, else the settings' folder, else the user's cache folder."""
        return Store.default(self.settings.cache)

    @cached_property
    def downloader(self) -> Downloader:
        """Fetches by hash into the store."""
        from uenv_builder.system.download import Downloader

        return Downloader(self.store, self.listener, offline=self.offline, jobs=max(2, self.jobs))

    @cached_property
    def mirrors(self) -> DebianMirrors:
        """Debian mirrors of the settings, else of this machine's apt."""
        from uenv_builder.sources.debian_mirrors import DebianMirrors

        keyring = Path(self.settings.debian_keyring) if self.settings.debian_keyring else None
        return DebianMirrors.of_machine(configured=self.settings.debian_mirrors, keyring=keyring)

    @cached_property
    def index(self) -> PythonIndex:
        """The Python package index of the settings, else the one that uv and pip are set to on this machine."""
        from uenv_builder.sources.python_index import PythonIndex

        return PythonIndex.of_machine(
            configured=self.settings.python_index or None, extra=self.settings.python_extra_indexes
        )

    def deb_downloads(self, debs: Sequence[LockedDeb]) -> list[Download]:
        """How to fetch these packages; where from is only asked when the store does not have one."""
        return [
            self._download(f"{deb.name} {deb.version}", deb.sha256, deb.size, partial(self._deb_urls, deb))
            for deb in debs
        ]

    def wheel_downloads(self, wheels: Sequence[LockedWheel]) -> list[Download]:
        """As `deb_downloads`, for wheels."""
        return [
            self._download(wheel.file, wheel.sha256, wheel.size, partial(self._wheel_urls, wheel)) for wheel in wheels
        ]

    def archive_downloads(self, sources: Sequence[LockedSource]) -> list[Download]:
        """As `deb_downloads`, for the archives among the sources of components."""
        return [
            self._download(source.file, source.sha256, source.size, partial(self._archive_urls, source))
            for source in sources
            if source.sha256
        ]

    def git_places(self, commit: str) -> list[str]:
        """The folders and bundles of this machine's mirrors that have the commit."""
        places = [Path(folder).expanduser() / "git" / f"{commit}{end}" for folder in self.settings.mirror_folders
                  for end in (".git", ".bundle")]  # fmt: skip
        return [str(place.resolve()) for place in places if place.exists()]

    def fetch(self, downloads: Sequence[Download]) -> dict[str, Path]:
        """The files' paths by sha256, fetched where they are missing. What the store has is read and hashed first: a
        layer is made of these bytes, and what has been damaged since it came is fetched again.
        """
        for download in downloads:
            if self.store.has_download(download.sha256, download.size):
                try:
                    self.store.verified_download(download.sha256, download.size)
                except LockError as error:
                    self.listener.note(error.diagnostics[0].message)
        return self.downloader.fetch_all(downloads)

    def _download(self, name: str, sha256: str, size: int | None, find: Callable[[], Sequence[str]]) -> Download:
        from uenv_builder.system.download import Download

        folders = self._folders(sha256)
        urls = folders if self.offline else lambda: [*folders, *find()]
        return Download(name=name, sha256=sha256, size=size, urls=urls)

    # Mirrors and index are looked up on this machine only when something has to be fetched.
    def _deb_urls(self, deb: LockedDeb) -> Sequence[str]:
        return self.mirrors.urls(deb.path, suite=deb.suite)

    def _wheel_urls(self, wheel: LockedWheel) -> Sequence[str]:
        return self.index.find_urls(wheel)

    def _archive_urls(self, source: LockedSource) -> Sequence[str]:
        return self.mirrors.urls(source.debian) if source.debian else source.archive or ()

    def _folders(self, sha256: str) -> list[str]:
        files = [Path(folder).expanduser() / sha256[:2] / sha256 for folder in self.settings.mirror_folders]
        return [file.resolve().as_uri() for file in files if file.is_file()]
