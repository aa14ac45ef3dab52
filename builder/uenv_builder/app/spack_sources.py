"""The sources of what Spack builds: all of them are here, and verified, before anything is compiled without network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from uenv_builder.app.session import Session
from uenv_builder.app.spack_running import SpackWorkspace
from uenv_builder.model.errors import NetworkError
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.spack_lock import LockedSpack, LockedSpackNode, LockedSpackSource
from uenv_builder.system.download import Download
from uenv_builder.system.files import link_or_copy
from uenv_builder.system.mirrors import local_folder, mirror_root
from uenv_builder.system.urls import is_local


def place_sources(session: Session, recipe: Recipe, locked: LockedSpack, workspace: SpackWorkspace) -> None:
    """Lay out the sources of all packages as a source mirror of Spack's.

    Files with a sha256 come through the store: from mirrors of the recipe (as Spack fills them), mirrors of the
    builder, or their own URL. What is a git commit, or has no checksum, is taken from a mirror of Spack's that is a
    folder. Raises NetworkError with all that is nowhere.
    """
    roots = [*_mirrors(recipe), *session.artefact_mirrors]
    pairs = [(node, source) for node in _needed(locked, workspace) for source in node.sources]
    wanted = {source.sha256: download_of(node, source, roots) for node, source in pairs if source.sha256}
    files = session.fetch(list(wanted.values()))
    missing = []
    for node, source in pairs:
        place = workspace.sources / source.place
        place.parent.mkdir(parents=True, exist_ok=True)
        found = files[source.sha256] if source.sha256 else _in_mirror(roots, source)
        if found is None:
            missing.append(f"{node.name}@{node.version}: {source.url}")
        elif not place.exists():
            link_or_copy(found, place)
    if missing:
        raise NetworkError(
            f"sources without a sha256 come from a source mirror of Spack's, and are in none:{_listed(missing)}",
            rule="spack-source",
            hint="fill one with `spack mirror create -d DIR`, and name DIR below `spack: mirrors:` or with --mirror",
        )  # fmt: skip


def download_of(node: LockedSpackNode, source: LockedSpackSource, roots: Sequence[str]) -> Download:
    """How to fetch a source; `roots` are the mirrors that may have it under the place that Spack gives it."""
    mirrored = [f"{root}/{source.place}" for root in roots]
    return Download(
        name=f"{node.name}@{node.version} ({source.url.rpartition('/')[2]})", sha256=source.sha256 or "", size=None,
        urls=[*(url for url in mirrored if not is_local(url)), source.url],
        near=[url for url in mirrored if (folder := local_folder(url)) is not None and folder.is_file()],
    )  # fmt: skip


def _mirrors(recipe: Recipe) -> Iterator[str]:
    for url in recipe.spack.mirrors if recipe.spack else ():
        yield mirror_root(url)


def _needed(locked: LockedSpack, workspace: SpackWorkspace) -> Iterable[LockedSpackNode]:
    """The packages whose binaries the store does not have."""
    there = {path.name for path in workspace.binaries.rglob("*") if path.is_file()}
    return [node for node in locked.built if not any(node.hash in name for name in there)]


def _in_mirror(roots: Sequence[str], source: LockedSpackSource) -> Path | None:
    folders = [folder for root in roots if (folder := local_folder(root)) is not None]
    return next((place for folder in folders if (place := folder / source.place).is_file()), None)


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"\n    {line}" for line in lines)
