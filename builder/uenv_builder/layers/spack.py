"""What Spack installed, as a layer: the same packages give the same bytes, whenever and wherever they were built.

Spack notes when it built what. Of the files that differ between two builds of the same spack.lock, those that others
read later are kept with the layer's own time in them; the rest is left out (docs/how-to/spack.md says which, and why).
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uenv_builder.core.spack_modules import VIEW, without_time
from uenv_builder.layers.made_entries import make_file, make_folder, make_link, with_parents
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError

_DATABASE = ".spack-db"
_MODULES = f"{VIEW}/"
_LEFT_OUT = re.compile(
    r"(.*/)?\.spack/([^/]+/)?(spack-build-.*out\.txt(\.gz)?|spack-build-env(-mods)?\.txt|install_environment\.json"
    r"|binary_distribution|errors\.txt|install_times\.json|archived-files(/.*)?)"
    r"|\.spack-db/(?!index\.json$).*"
    r"|(.*/)?\.spack-empty|env/\._[^/]+(/.*)?"
)
"""Logs with times, the environment of the build with paths of the machine, locks, and views that were replaced."""


def spack_entries(tree: Path, *, epoch: int, prefix: str = "") -> Iterator[Entry]:
    """The entries of the install tree `tree`, below `prefix` (a relative path) in the image; all times are `epoch`.

    Every user may read everything, whatever the umask was. Hard links stay. Raises BuildError for a file that is none
    of file, folder and link, and for a database of Spack's that cannot be read.
    """
    base = f"{prefix}/" if prefix else ""
    if prefix:
        yield from with_parents([make_folder(prefix)], epoch)
    links: dict[tuple[int, int], str] = {}
    for path, status in _walk(tree, ""):
        if _LEFT_OUT.fullmatch(path):
            continue
        place = base + path
        if stat.S_ISLNK(status.st_mode):
            yield replace(make_link(place, str((tree / path).readlink())), mtime=epoch)
        elif stat.S_ISDIR(status.st_mode):
            yield Entry(path=place, kind="dir", mode=0o755, mtime=epoch)
        elif not stat.S_ISREG(status.st_mode):
            raise BuildError(f"{path}: is neither a file nor a folder nor a link", rule="spack-tree",
                             hint="an image cannot have it: see which package installs it")  # fmt: skip
        elif path.startswith(_MODULES):
            yield replace(make_file(place, without_time((tree / path).read_bytes())), mtime=epoch)
        elif (edit := _editor(path)) is not None:
            yield replace(make_file(place, _edited(tree, path, edit, epoch)), mtime=epoch)
        else:
            yield from _file(tree / path, place, status, links, epoch)


def _walk(tree: Path, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """All below `folder`, each folder before what is in it, by name."""
    with os.scandir(tree / folder) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        path = posixpath.join(folder, name)
        status = (tree / path).lstat()
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(tree, path)


def _file(
    source: Path, place: str, status: os.stat_result, links: dict[tuple[int, int], str], epoch: int
) -> Iterator[Entry]:
    key = (status.st_dev, status.st_ino)
    mode = _mode(status)
    if status.st_nlink > 1 and key in links:
        yield Entry(path=place, kind="hardlink", mode=mode, mtime=epoch, target=links[key])
        return
    links[key] = place
    with source.open("rb") as content:
        yield Entry(path=place, kind="file", mode=mode, mtime=epoch, size=status.st_size, content=content)


def _mode(status: os.stat_result) -> int:
    return 0o755 if status.st_mode & 0o111 else 0o644


_Edit = Callable[[Any, int], Any]


def _editor(path: str) -> _Edit | None:
    if path == f"{_DATABASE}/index.json":
        return _edit_database
    if path.endswith("/.spack/install_manifest.json"):
        return _edit_manifest
    return _edit_bill if re.search(r"/\.spack/sbom/[^/]+\.json$", path) else None


def _edited(tree: Path, path: str, edit: _Edit, epoch: int) -> bytes:
    try:
        document = json.loads((tree / path).read_text(encoding="utf-8"))
        return json.dumps(edit(document, epoch), sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"{path}: is not as Spack writes it: {error!r}", rule="spack-tree",
            hint="use a released Spack from 1.0 on; with one, this is a fault of the builder",
        ) from error  # fmt: skip


def _edit_database(document: Any, epoch: int) -> Any:  # noqa: ANN401  (JSON)
    for record in document["database"]["installs"].values():
        record["installation_time"] = float(epoch)
        record.pop("in_buildcache", None)
    return document


def _edit_manifest(document: Any, epoch: int) -> Any:  # noqa: ANN401
    kept = {}
    for path, record in document.items():
        relative = path.partition("/.spack/")[2]
        if relative and (_LEFT_OUT.fullmatch(f".spack/{relative}") or relative.startswith("sbom/")):
            continue  # what is not there, or has another content than it had
        kept[path] = {**record, "time": float(epoch)} if "time" in record else record
    return kept


def _edit_bill(document: Any, epoch: int) -> Any:  # noqa: ANN401
    time = datetime.fromtimestamp(epoch, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**document, "creationInfo": {**document["creationInfo"], "created": time}}
