"""What images hold, so that no ratio is printed of two things that are not the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .processes import output_of

_SQUASHFS_LINE = re.compile(r"^-\S+ +\S+ +(\d+) [\d-]+ [\d:]+ [^/]*/(.*)$")
_TAR_LINE = re.compile(r"^-\S+ +\S+ +(\d+) [\d-]+ [\d:.]+ (.*)$")
_ONE_SIDED = ("etc/", "var/lib/dpkg/")
"""What a builder of whole systems makes, and a tree of unpacked packages has not: not counted on any side."""
TOLERANCE = 0.02
"""Of files and of bytes: scripts, logs and caches of one side that the other has not."""


class NotComparableError(Exception):
    """Two sides did not make the same; nothing can be said of their times."""


@dataclass(frozen=True)
class Content:
    """Regular files and their bytes, and of these the byte code."""

    files: int
    bytes: int
    compiled_files: int
    compiled_bytes: int

    def document(self) -> dict[str, int]:
        """For the results."""
        return asdict(self)


def squashfs_content(image: Path) -> Content:
    """What a squashfs holds, as unsquashfs lists it."""
    return count(_matches(_SQUASHFS_LINE, output_of(["unsquashfs", "-lln", image])))


def tar_content(file: Path) -> Content:
    """What a zstd-compressed tar holds."""
    return _tars_content([file], "zstd -dcq")


def oci_content(layout: Path) -> Content:
    """What the layers of an OCI layout hold together, compressed by zstd or not at all."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    layers = [_blob(layout, layer["digest"]) for layer in manifest["layers"]]
    compressed = all(layer["mediaType"].endswith("zstd") for layer in manifest["layers"])
    return _tars_content(layers, "zstd -dcq" if compressed else "cat")


def oci_layer_bytes(layout: Path) -> int:
    """The size of all layers' blobs."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    return sum(layer["size"] for layer in manifest["layers"])


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _tars_content(files: Iterable[Path], reading: str) -> Content:
    script = f'set -o pipefail; {reading} "$@" | tar -ivtf - --full-time'
    return count(_matches(_TAR_LINE, output_of(["bash", "-c", script, "bash", *files])))


def _matches(pattern: re.Pattern[str], listing: str) -> Iterable[tuple[str, int]]:
    for line in listing.splitlines():
        if match := pattern.match(line):
            yield match[2], int(match[1])


def count(files: Iterable[tuple[str, int]]) -> Content:
    """Paths and sizes, added up, without what only one side can have."""
    listed = [(path, size) for path, size in files if not path.removeprefix("./").startswith(_ONE_SIDED)]
    compiled = [size for path, size in listed if path.endswith(".pyc")]
    return Content(len(listed), sum(size for _, size in listed), len(compiled), sum(compiled))


def require_same(ours: Content, theirs: Content, what: str) -> None:
    """Raise NotComparableError where files, bytes, or byte code differ by more than TOLERANCE."""
    for name, value in ours.document().items():
        other = theirs.document()[name]
        if abs(value - other) > TOLERANCE * max(value, other):
            raise NotComparableError(f"{what}: {name.replace('_', ' ')}: {value:,} here and {other:,} there")
