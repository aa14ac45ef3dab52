"""What every verb works with: the store, the settings, the ways to the mirrors, and who listens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from uenv_builder.model.lock import LockedDeb, LockedWheel
from uenv_builder.sources.debian_mirrors import DebianMirrors
from uenv_builder.sources.python_index import PythonIndex
from uenv_builder.system.download import Download, Downloader
from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.settings import Settings
from uenv_builder.system.store import Store


def _default_jobs() -> int:
    return len(os.sched_getaffinity(0))


@dataclass
class Session:
    """One run of the builder. `jobs` is how many steps and downloads go on at once."""

    settings: Settings = field(default_factory=Settings)
    listener: Listener = field(default_factory=Silent)
    offline: bool = False
    jobs: int = field(default_factory=_default_jobs)

    @cached_property
    def store(self) -> Store:
        """The content-addressed store: $UENV_CACHE, else the settings' folder, else the user's cache folder."""
        if self.settings.cache and not os.environ.get("UENV_CACHE"):
            return Store(Path(self.settings.cache).expanduser())
        return Store.default()

    @cached_property
    def downloader(self) -> Downloader:
        """Fetches by hash into the store."""
        return Downloader(self.store, self.listener, offline=self.offline, jobs=max(2, self.jobs))

    @cached_property
    def mirrors(self) -> DebianMirrors:
        """Debian mirrors of the settings, else of this machine's apt."""
        keyring = Path(self.settings.debian_keyring) if self.settings.debian_keyring else None
        return DebianMirrors.of_machine(configured=self.settings.debian_mirrors, keyring=keyring)

    @cached_property
    def index(self) -> PythonIndex:
        """The Python package index of the settings, else the one that uv and pip are set to on this machine."""
        return PythonIndex.of_machine(
            configured=self.settings.python_index or None, extra=self.settings.python_extra_indexes
        )

    def deb_downloads(self, debs: Sequence[LockedDeb]) -> list[Download]:
        """How to fetch these packages; where from is only asked when the store does not have one."""
        return [
            Download(
                name=f"{deb.name} {deb.version}", sha256=deb.sha256, size=deb.size,
                urls=lambda deb=deb: [*self._folders(deb.sha256), *self.mirrors.urls(deb.path, suite=deb.suite)],  # type: ignore[misc]
            )
            for deb in debs
        ]  # fmt: skip

    def wheel_downloads(self, wheels: Sequence[LockedWheel]) -> list[Download]:
        """As `deb_downloads`, for wheels."""
        return [
            Download(
                name=wheel.file, sha256=wheel.sha256, size=wheel.size,
                urls=lambda wheel=wheel: [*self._folders(wheel.sha256), *self.index.find_urls(wheel)],  # type: ignore[misc]
            )
            for wheel in wheels
        ]  # fmt: skip

    def _folders(self, sha256: str) -> list[str]:
        files = [Path(folder).expanduser() / sha256[:2] / sha256 for folder in self.settings.mirror_folders]
        return [file.resolve().as_uri() for file in files if file.is_file()]
