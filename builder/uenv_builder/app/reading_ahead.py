"""Reading an image's recorded start into memory before it is asked for."""

from __future__ import annotations

import time
from pathlib import Path

from uenv_builder.app.outputs import IMAGE
from uenv_builder.core.digest import Document
from uenv_builder.images.squashfs.start_part import read_extents
from uenv_builder.model.errors import UsageError
from uenv_builder.system.files import explained
from uenv_builder.system.page_cache import ReadingAhead


def begin_reading_ahead(image: Path) -> ReadingAhead | None:
    """Begin to read what the image's recorded start needs, beside all else; None where it has none.

    It is a help, and no condition: what cannot be read is left to whoever needs it.
    """
    try:
        extents = read_extents(image)
        return ReadingAhead(image, extents) if extents else None
    except OSError:
        return None


def read_ahead(path: Path) -> Document:
    """Read the recorded start of the image at `path`, a build's folder or a squashfs, and return when it is in memory.

    Raises UsageError where there is no such file, BuildError where it cannot be read.
    """
    image = path / IMAGE if path.is_dir() else path
    if not image.is_file():
        raise UsageError(f"{image}: there is no such image", hint="name a build's folder, or its squashfs")
    started = time.monotonic()
    with explained(image):
        extents = read_extents(image)
        count = ReadingAhead(image, extents).wait() if extents else 0
    return {
        "image": str(image),
        "recorded": bool(extents),
        "bytes": count,
        "extents": [list(extent) for extent in extents],
        "seconds": round(time.monotonic() - started, 3),
    }


def lines(document: Document) -> list[str]:
    """The same for people."""
    if not document["recorded"]:
        return [f"{document['image']}: has no recorded start, so nothing is read ahead"]
    return [f"{document['image']}: {document['bytes'] / 1e6:.1f} MB are in memory, in {document['seconds']:.2f} s"]
