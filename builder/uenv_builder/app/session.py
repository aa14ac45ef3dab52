"""What every verb works with: the store, the settings, the ways to the mirrors, and who listens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from uenv_builder.core.artefacts import Artefact, BasePart, Pin, artefact_of, base_layers
from uenv_builder.model.errors import LockError
from uenv_builder.model.lock import LockedBase, LockedDeb, LockedSource, LockedWheel
from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.mirrors import bundle_place, local_folder, mirror_root
from uenv_builder.system.settings import Settings
from uenv_builder.system.store import Store

if TYPE_CHECKING:  # what a run does not use is not imported: most builds find all that they need in the store
    from uenv_builder.sources.debian_mirrors import DebianMirrors
    from uenv_builder.sources.oci_registry import Registries
    from uenv_builder.sources.python_index import PythonIndex
    from uenv_builder.system.download import Download, Downloader, Shelf


def _default_jobs() -> int:
    return len(os.sched_getaffinity(0))


@dataclass
class Session:
    """One run of the builder. `jobs` is how many steps and downloads go on at once, `mirror` are further mirrors
    (folders or URLs), which are asked before those of the settings.
    """

    settings: Settings = field(default_factory=Settings)
    listener: Listener = field(default_factory=Silent)
    offline: bool = False
    jobs: int = field(default_factory=_default_jobs)
    shell_on_failure: bool = False
    """Whether a component that does not build opens a shell where it was being built."""
    mirror: Sequence[str] = ()

    @cached_property
    def store(self) -> Store:
        """The content-addressed store: $UENV_CACHE, else the settings' folder, else the user's cache folder."""
        return Store.default(self.settings.cache)

    @cached_property
    def downloader(self) -> Downloader:
        """Fetches by hash into the store."""
        from uenv_builder.system.download import Downloader

        return Downloader(
            self.store, self.listener, offline=self.offline, jobs=max(2, self.jobs), mirrors=self.artefact_mirrors
        )

    @cached_property
    def artefact_mirrors(self) -> tuple[str, ...]:
        """The roots of the mirrors that are asked for a file before anybody else; UsageError for what can be none."""
        return tuple(dict.fromkeys(map(mirror_root, (*self.mirror, *self.settings.mirrors))))

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

    @cached_property
    def registries(self) -> Registries:
        """Fetches from the registries of base images into the store, with the logins of the user."""
        return self.registries_into(self.store)

    def registries_into(self, shelf: Shelf) -> Registries:
        """As `registries`, into another place."""
        from uenv_builder.core.image_reference import RegistryAccess, read_registry_mirrors
        from uenv_builder.sources.oci_registry import Registries

        settings = self.settings
        access = RegistryAccess(
            mirrors=read_registry_mirrors(settings.registry_mirrors),
            insecure=frozenset(settings.insecure_registries),
            auth_files=tuple(Path(file).expanduser() for file in settings.registry_auth_files) or None,
        )
        return Registries(
            access, shelf, self.listener, offline=self.offline, jobs=max(2, self.jobs), mirrors=self.artefact_mirrors
        )  # fmt: skip

    def layer_downloads(self, base: LockedBase) -> list[Download]:
        """As `deb_downloads`, for the layers of a base image; `fetch_base` fetches them."""
        return [self.download(artefact_of(part)) for part in base_layers(base)]

    def fetch_base(self, base: LockedBase) -> tuple[Path, ...]:
        """The blobs of the layers of a base image, from the lowest up; as `fetch`, from its registry."""
        from uenv_builder.sources.oci_base import fetch_base

        self._drop_damaged(self.layer_downloads(base))
        return fetch_base(base, self.registries)

    def stop_downloads(self) -> None:
        """End all that is being fetched, in any thread."""
        self.downloader.stop()
        if "registries" in self.__dict__:
            self.registries.stop()

    def deb_downloads(self, debs: Sequence[LockedDeb]) -> list[Download]:
        """How to fetch these packages; where from is only asked when neither the store nor a mirror has one."""
        return [self.download(artefact_of(deb)) for deb in debs]

    def wheel_downloads(self, wheels: Sequence[LockedWheel]) -> list[Download]:
        """As `deb_downloads`, for wheels."""
        return [self.download(artefact_of(wheel)) for wheel in wheels]

    def archive_downloads(self, sources: Sequence[LockedSource]) -> list[Download]:
        """As `deb_downloads`, for the archives among the sources of components."""
        return [self.download(artefact_of(source)) for source in sources if source.sha256]

    def download(self, artefact: Artefact) -> Download:
        """How to fetch one file of a lock."""
        from uenv_builder.system.download import Download

        find = partial(self._urls, artefact.pin)
        return Download(name=artefact.name, sha256=artefact.sha256, size=artefact.size, urls=find)

    def servers(self, artefact: Artefact) -> Sequence[str]:
        """URLs of which one at least has to answer for an artefact to be had from where it comes from."""
        pin = artefact.pin
        if isinstance(pin, LockedWheel):
            return self.index.locations[-1:]
        if isinstance(pin, BasePart):
            return self._urls(pin)
        if isinstance(pin, LockedDeb) or pin.debian:
            return self.mirrors.roots
        return pin.archive or pin.git or ()

    def git_places(self, commit: str, folder: Path) -> Iterator[Path]:
        """The bundles and repositories of mirrors that have the commit; what servers have is copied into `folder`."""
        for mirror in filter(None, map(local_folder, self.artefact_mirrors)):
            places = (mirror / bundle_place(commit), mirror / f"git/{commit}.git")
            yield from (place for place in places if place.exists())
        yield from self.downloader.get_mirrored(bundle_place(commit), folder)

    def fetch(self, downloads: Sequence[Download]) -> dict[str, Path]:
        """The files' paths by sha256, fetched where they are missing. What the store has is read and hashed first: a
        layer is made of these bytes, and what has been damaged since it came is fetched again.
        """
        self._drop_damaged(downloads)
        return self.downloader.fetch_all(downloads)

    def _drop_damaged(self, downloads: Sequence[Download]) -> None:
        for download in {download.sha256: download for download in downloads}.values():
            if self.store.has_download(download.sha256, download.size):
                try:
                    self.store.verified_download(download.sha256, download.size)
                except LockError as error:
                    self.listener.note(error.diagnostics[0].message)

    def _urls(self, pin: Pin) -> Sequence[str]:
        # Mirrors and index are looked up on this machine only when something has to be fetched.
        if isinstance(pin, BasePart):
            from uenv_builder.sources.oci_base import part_urls

            return part_urls(pin, self.registries.access)
        if isinstance(pin, LockedDeb):
            return self.mirrors.urls(pin.path, suite=pin.suite)
        if isinstance(pin, LockedWheel):
            return self.index.find_urls(pin)
        return self.mirrors.urls(pin.debian) if pin.debian else pin.archive or ()
