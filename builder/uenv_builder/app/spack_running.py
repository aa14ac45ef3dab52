"""Spack in its sandbox: the machine's userland read-only, no network, the install tree at the mount point."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.session import Session
from uenv_builder.app.spack_places import SpackPlaces, inside_root
from uenv_builder.core.digest import digest_of
from uenv_builder.core.spack_file import BINARIES, CACHE, CACHES, ENVIRONMENT, SOURCES, SPACK, STAGE
from uenv_builder.model.spack import SpackSection
from uenv_builder.sandboxes.host import Hear, run_on_host, silently
from uenv_builder.sandboxes.interface import Bind, Command
from uenv_builder.system.mirrors import local_folder
from uenv_builder.system.process import Completed

BUILD_TIME = 315576060
"""SOURCE_DATE_EPOCH of all builds, in seconds since 1970: early in 1980, where the times of zip files begin."""
_PROGRAMS = Path(__file__).parents[1] / "sources/inside"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpackWorkspace:
    """The folders that Spack writes to, and how it is run on them.

    `folder` has the environment, the install tree, the stage and the sources; what outlives it, Spack's own cache and
    the binaries of earlier builds, lies in the store.
    """

    session: Session
    places: SpackPlaces
    section: SpackSection
    folder: Path
    mount: str

    @property
    def tree(self) -> Path:
        """What the image will have at its mount point."""
        return self.folder / "tree"

    @property
    def environment(self) -> Path:
        """The folder with spack.yaml and spack.lock."""
        return self.folder / "env"

    @property
    def sources(self) -> Path:
        """A source mirror for this build alone."""
        return self.folder / "sources"

    @property
    def stage(self) -> Path:
        """Where packages are compiled."""
        return self.folder / "stage"

    @property
    def binaries(self) -> Path:
        """A build cache of what was installed before at this mount point; paths in binaries are those of it."""
        return self._kept / "binaries" / digest_of([self.mount])[:16]

    @property
    def _kept(self) -> Path:
        return self.session.store.root / "spack"

    @property
    def _cache(self) -> Path:
        # What Spack caches follows from its version and from the package files, of which it looks at times and paths.
        origin = [self.places.commit or str(self.places.checkout), *(str(root) for root in self.places.roots.values())]
        return self._kept / "cache" / digest_of([*origin])[:16]

    def make(self, spack_yaml: str) -> None:
        """Make the folders, and write the environment's spack.yaml."""
        for place in (self.tree, self.environment, self.sources, self.stage, self.binaries, self._cache):
            place.mkdir(parents=True, exist_ok=True)
        (self.environment / "spack.yaml").write_text(spack_yaml, encoding="utf-8")

    def run(self, words: Sequence[str], hear: Hear = silently) -> Completed:
        """Run Spack with these words; a failure is in what is returned. Raises what `run_on_host` raises."""
        done = run_on_host(Command(argv=(f"{SPACK}/bin/spack", *words), env=_environment(), workdir=ENVIRONMENT,
                                   binds=tuple(self._binds())), hear=hear)  # fmt: skip
        return Completed(("spack", *words), done.returncode, done.stdout, done.stderr)

    def _binds(self) -> list[Bind]:
        own = {
            Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix) if str(prefix).startswith("/tmp/")  # noqa: S108
        }  # fmt: skip
        binds = [Bind(prefix, str(prefix)) for prefix in sorted(own)]
        binds += [
            Bind(self.tree, self.mount, writable=True),
            Bind(self.environment, ENVIRONMENT, writable=True),
            Bind(self.stage, STAGE, writable=True),
            Bind(self._cache, CACHE, writable=True),
            Bind(self.binaries, BINARIES, writable=True),
            Bind(self.sources, SOURCES),
            Bind(self.places.checkout, SPACK),
            Bind(_PROGRAMS, "/uenv/programs"),
        ]
        roots = self.places.roots
        binds += [Bind(roots[one.name], inside_root(one)) for one in self.places.repositories]
        for name, cache in self.section.build_caches.items():
            if cache.url.startswith("file://") and (folder := local_folder(cache.url)) is not None:
                binds.append(Bind(folder, f"{CACHES}/{name}", writable=cache.push))
        return binds


def _environment() -> dict[str, str]:
    """All that Spack and the builds see: nothing of whoever runs the builder."""
    return {
        "HOME": "/tmp",  # noqa: S108  (inside)
        "LC_ALL": "C.UTF-8",
        "MAKEFLAGS": "",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "SOURCE_DATE_EPOCH": str(BUILD_TIME),
        "SPACK_COLOR": "never",
        "SPACK_DISABLE_LOCAL_CONFIG": "1",
        "SPACK_PYTHON": sys.executable,
        "SPACK_USER_CACHE_PATH": CACHE,
        "TZ": "UTC",
    }
