"""What stands beside a layer's blob: the index of its entries, and the segment, the places of their contents.

Images are planned from these two alone, so each begins with the sha256 of the rest of it, and the segment names the
blob that it belongs to: what was damaged, or mixed up, is not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from uenv_builder.model.errors import LockError
from uenv_builder.model.image import IndexEntry, Layer
from uenv_builder.model.segment import FilePlace, Segment, Unit, raw_length
from uenv_builder.system.files import write_beside
from uenv_builder.system.frames import check_block_size

FORMAT = 3
"""Of blob, index and segment: raise it whenever the same entries give other bytes."""
BLOB, INDEX, SEGMENT = "layer.tar.zst", "index.json", "segment.json"

_HEAD, _END = b'{"sha256":"%s","content":', b"}"
_HEAD_SIZE = len(_HEAD % bytes(64))
_FIELDS: tuple[type, ...] = (str, str, int, int, int, int, int, str, str)  # of a row: those of IndexEntry
_KINDS = frozenset({"dir", "file", "symlink", "hardlink"})
_RAW, _ZERO = 1, 2  # bits of a unit's third number
_CHECK_SIZE = 16
_DAMAGE = (OSError, ValueError, KeyError, TypeError)

Document = dict[str, Any]


def write_index(layer: Layer, segment: Segment, folder: Path) -> None:
    """Write what `read_layer` and `read_segment` find in `folder`; the index, which makes the layer complete, last."""
    _write_document(
        folder / SEGMENT,
        {
            "format": FORMAT, "layer": layer.digest, "block_size": segment.block_size,
            "units": [[unit.length, unit.size, unit.raw * _RAW | unit.zero * _ZERO] for unit in segment.units],
            "checks": b"".join(unit.check for unit in segment.units).hex(),
            "places": [segment.places[entry.path] for entry in _files(layer)],
        },
    )  # fmt: skip
    _write_document(
        folder / INDEX,
        {
            "format": FORMAT, "digest": layer.digest, "size": layer.size, "diff_id": layer.diff_id,
            "entries": layer.entries,
        },
    )  # fmt: skip


def read_layer(folder: Path) -> Layer:
    """The layer that `write_layer` left in `folder`, from its index alone; the blob's size is compared, not its hash.

    Raises LockError, rule `hash-mismatch`, where the layer is damaged or incomplete.
    """
    try:
        document = _read_document(folder / INDEX)
        layer = Layer(
            blob=folder / BLOB, digest=_hex(document["digest"]), size=document["size"],
            diff_id=_hex(document["diff_id"]), entries=tuple(map(_index_entry, document["entries"])),
        )  # fmt: skip
        found = layer.blob.stat().st_size
        if found != layer.size:
            raise ValueError(f"{BLOB} has {found} bytes instead of {layer.size}")
    except _DAMAGE as error:
        raise damaged(folder, str(error)) from error
    return layer


def read_segment(layer: Layer) -> Segment:
    """The units of the layer's blob, and the places of its files, as they lie beside the blob.

    The blob is not read. Raises LockError, rule `hash-mismatch`, where they are damaged or belong to another blob.
    """
    place = layer.blob.parent / SEGMENT
    try:
        document = _read_document(place)
        if document["layer"] != layer.digest:
            raise ValueError(f"it belongs to the blob {document['layer']}, not to {layer.digest}")
        block_size = check_block_size(document["block_size"])
        units = tuple(_units(document["units"], bytes.fromhex(document["checks"]), block_size))
        if sum(unit.length for unit in units) != layer.size:
            raise ValueError(f"its units do not make up the {layer.size} bytes of the blob")
        files = _files(layer)
        places = [FilePlace(*row) for row in _whole_numbers(document["places"])]
        for entry, found in zip(files, places, strict=True):
            _check_place(entry, found, units, block_size)
    except _DAMAGE as error:
        raise damaged(place, str(error)) from error
    return Segment(block_size, units, {entry.path: found for entry, found in zip(files, places, strict=True)})


def damaged(place: Path, reason: str) -> LockError:
    """The error for a layer whose file at `place` is not what was written."""
    return LockError(
        f"{place}: the stored layer is damaged: {reason}", rule="hash-mismatch",
        hint="`uenv cache verify` drops it; build again",
    )  # fmt: skip


def _write_document(path: Path, document: Document) -> None:
    body = json.dumps(document, separators=(",", ":")).encode("ascii")
    with write_beside(path) as out:
        out.write(_head(body) + body + _END)


def _read_document(path: Path) -> Document:
    content = path.read_bytes()
    body = content[_HEAD_SIZE : -len(_END)]
    if not (content.startswith(_head(body)) and content.endswith(_END)):
        raise ValueError("its sha256 is not the one that stands in it")
    document: Document = json.loads(body)
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']} is not {FORMAT}")
    return document


def _head(body: bytes) -> bytes:
    return _HEAD % hashlib.sha256(body).hexdigest().encode("ascii")


def _files(layer: Layer) -> list[IndexEntry]:
    return [entry for entry in layer.entries if entry.kind == "file"]


def _index_entry(row: list[str | int]) -> IndexEntry:
    if tuple(map(type, row)) != _FIELDS or row[1] not in _KINDS:
        raise ValueError(f"{row!r} describes no entry")
    return IndexEntry._make(row)  # the line above has compared the types


def _units(rows: Sequence[Sequence[int]], checks: bytes, block_size: int) -> Iterator[Unit]:
    if len(checks) != len(rows) * _CHECK_SIZE:
        raise ValueError(f"{len(rows)} units have {len(checks)} bytes of checks")
    offset = 0
    for number, (length, size, kind) in enumerate(_whole_numbers(rows)):
        expected = length == raw_length(size) if kind == _RAW else 0 < length < size
        if not expected or not 0 < size <= block_size or kind > _ZERO or (kind == _ZERO and size != block_size):
            raise ValueError(f"{[length, size, kind]} describes no unit")
        check = checks[number * _CHECK_SIZE : (number + 1) * _CHECK_SIZE]
        yield Unit(offset, length, size, raw=kind == _RAW, zero=kind == _ZERO, check=check)
        offset += length


def _check_place(entry: IndexEntry, place: FilePlace, units: Sequence[Unit], block_size: int) -> None:
    blocks, tail = divmod(entry.size, block_size)
    full = units[place.first : place.first + blocks]
    right = place.blocks == blocks == len(full) and place.first >= 0 and all(unit.size == block_size for unit in full)
    if tail:
        right = right and 0 <= place.fragment < len(units) and place.offset >= 0
        fragment = units[place.fragment] if right else None
        right = fragment is not None and not fragment.zero and place.offset + tail <= fragment.size
    else:
        right = right and (place.fragment, place.offset) == (-1, 0)
    if not right:
        raise ValueError(f"{entry.path!r} of {entry.size} bytes is not at {place}")


def _whole_numbers(rows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if set(map(type, chain.from_iterable(rows))) - {int}:
        raise ValueError("it holds something else than whole numbers")
    return rows


def _hex(text: str) -> str:
    if len(bytes.fromhex(text)) != 32:
        raise ValueError(f"{text!r} is no sha256")
    return text
