"""Layers in the store: one zstd-compressed tar stream, and beside it an index of what it holds.

The index repeats every header of the stream, and each file's sha256: images are planned from indices alone, and a blob
is read by comparing it with its index, so the two cannot disagree unnoticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard

from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.image import IndexEntry, Layer
from uenv_builder.system.entry_rules import EntryRules
from uenv_builder.system.files import write_beside
from uenv_builder.system.tar_stream import END, padding, tar_header

BLOB, INDEX = "layer.tar.zst", "index.json"
_FORMAT = 1  # of blob and index: raise it whenever the same entries give other bytes
_JOB_SIZE = 8 << 20  # bytes that one thread compresses at a time; left to zstd, it could change with zstd's defaults
_CHUNK = 1 << 20
_FIELDS: tuple[type, ...] = (str, str, int, int, int, int, int, str, str)  # of a row: those of IndexEntry
Member = tuple[IndexEntry, BinaryIO | None]
_KINDS = frozenset({"dir", "file", "symlink", "hardlink"})


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _DigestingSink:
    """Passes bytes on, and knows how many they were and their sha256."""

    def __init__(self, out: _Sink) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        self._out.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def compressor_version() -> str:
    """What a layer's bytes depend on besides its entries: part of the identity of every step that writes one."""
    return f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, layer format {_FORMAT}"


def write_layer(entries: Iterable[Entry], folder: Path, *, level: int = 3, threads: int = 0) -> Layer:
    """Write `entries`, in their order, as `layer.tar.zst` and `index.json` in `folder`, which exists.

    The same entries and `level` (zstd's, 1 to 22) give the same bytes for any number of `threads` (0: one for each
    processor of this process). Raises BuildError for an entry that violates the contract of `Entry`. Nothing has its
    final name before it is complete; the index comes last.
    """
    blob = folder / BLOB
    with write_beside(blob) as out:
        compressed = _DigestingSink(out)
        with _compressor(level, threads).stream_writer(cast("BinaryIO", compressed), closefd=False) as compressing:
            tar = _DigestingSink(compressing)
            index = _write_entries(entries, tar)
    layer = Layer(
        blob=blob, digest=compressed.sha256.hexdigest(), size=compressed.size, diff_id=tar.sha256.hexdigest(),
        entries=tuple(index.values()),
    )  # fmt: skip
    _write_index(layer, folder)
    return layer


def read_layer(folder: Path) -> Layer:
    """The layer that `write_layer` left in `folder`, from its index alone; the blob's size is compared, not its hash.

    Raises LockError where the layer is damaged or incomplete.
    """
    try:
        document = json.loads((folder / INDEX).read_bytes())
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']} is not {_FORMAT}")
        layer = Layer(
            blob=folder / BLOB, digest=_hex(document["digest"]), size=document["size"],
            diff_id=_hex(document["diff_id"]), entries=tuple(map(_index_entry, document["entries"])),
        )  # fmt: skip
        found = layer.blob.stat().st_size
        if found != layer.size:
            raise ValueError(f"{BLOB} has {found} bytes instead of {layer.size}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, str(error)) from error
    return layer


def layer_members(layer: Layer, *, verify: bool = True) -> Generator[Member, None, None]:
    """The layer's entries in their order, files with their content (readable once, until the next entry is taken).

    Each header is compared with the index. With `verify`, so is the blob's sha256 when the last entry has been taken:
    who uses contents before that must be ready to throw them away. Raises LockError, rule `hash-mismatch`.
    """
    with _open_blob(layer) as compressed:
        source = _DigestingSource(compressed)
        tar = _TarSource(layer.blob, source)
        yield from _members(layer, tar)
        if not verify:
            return
        tar.close()
        while source.read(_CHUNK):
            pass
        if source.sha256.hexdigest() != layer.digest:
            raise _damaged(layer.blob, f"sha256 is {source.sha256.hexdigest()} instead of {layer.digest}")


def read_files(layer: Layer, wanted: Callable[[IndexEntry], bool]) -> dict[str, bytes]:
    """The contents of the files that are `wanted`, by path, each verified by its own sha256; for small files.

    The blob is read up to the last of them only, and not at all when none is wanted. `wanted` is asked about files and
    hard links; a link's content is that of its target. Raises LockError, rule `hash-mismatch`.
    """
    sources = {
        entry.path: entry.target if entry.kind == "hardlink" else entry.path
        for entry in layer.entries
        if entry.kind in {"file", "hardlink"} and wanted(entry)
    }
    missing = set(sources.values())
    contents: dict[str, bytes] = {}
    with closing(layer_members(layer, verify=False)) as members:
        while missing:
            entry, content = next(members)
            if entry.path in missing and content is not None:
                missing.remove(entry.path)
                contents[entry.path] = content.read()
                if hashlib.sha256(contents[entry.path]).hexdigest() != entry.sha256:
                    raise _damaged(layer.blob, f"the content of {entry.path!r} is not the one that was written")
    return {path: contents[source] for path, source in sources.items()}


def _compressor(level: int, threads: int) -> zstandard.ZstdCompressor:
    # zstd cuts its input into jobs as soon as there is one worker, and differently when there is none.
    workers = threads if threads > 0 else len(os.sched_getaffinity(0))
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            level, threads=workers, job_size=_JOB_SIZE, write_content_size=False, write_checksum=False
        )
    )


def _write_entries(entries: Iterable[Entry], tar: _DigestingSink) -> dict[str, IndexEntry]:
    index: dict[str, IndexEntry] = {}
    rules = EntryRules(index)
    for given in entries:
        entry = rules.accept(given)
        tar.write(tar_header(entry))
        sha256 = _write_content(entry, tar) if entry.kind == "file" else ""
        index[entry.path] = IndexEntry(
            entry.path, entry.kind, entry.mode, entry.mtime, entry.uid, entry.gid, entry.size, entry.target, sha256
        )
    tar.write(END)
    return index


def _write_content(entry: Entry, tar: _DigestingSink) -> str:
    digest, left = hashlib.sha256(), entry.size
    content = entry.content or io.BytesIO()
    while left and (data := content.read(min(left, _CHUNK))):
        digest.update(data)
        tar.write(data)
        left -= len(data)
    if left or content.read(1):
        raise BuildError(
            f"{entry.path!r} has {'less' if left else 'more'} content than the {entry.size} bytes announced",
            rule="layer-entry", hint="the artefact that it comes from is broken, or changed while it was read",
        )  # fmt: skip
    tar.write(padding(entry.size))
    return digest.hexdigest()


def _write_index(layer: Layer, folder: Path) -> None:
    rows = [[getattr(entry, name) for name in IndexEntry.__slots__] for entry in layer.entries]
    document = {
        "format": _FORMAT, "digest": layer.digest, "size": layer.size, "diff_id": layer.diff_id, "entries": rows,
    }  # fmt: skip
    with write_beside(folder / INDEX) as out:
        out.write(json.dumps(document, separators=(",", ":")).encode("ascii"))


def _index_entry(row: list[str | int]) -> IndexEntry:
    if tuple(map(type, row)) != _FIELDS or row[1] not in _KINDS:
        raise ValueError(f"{row!r} describes no entry")
    return IndexEntry(*row)  # type: ignore[arg-type]  # the line above has compared the types


def _hex(text: str) -> str:
    if len(bytes.fromhex(text)) != 32:
        raise ValueError(f"{text!r} is no sha256")
    return text


class _DigestingSource:
    """A file being read, and the sha256 of what was read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data


class _TarSource:
    """The tar stream inside a blob, read in exact amounts; whatever goes wrong with that is damage."""

    def __init__(self, blob: Path, source: _DigestingSource) -> None:
        self._blob = blob
        reader = zstandard.ZstdDecompressor().stream_reader(cast("BinaryIO", source), closefd=False)
        self._stream = cast("BinaryIO", io.BufferedReader(reader, _CHUNK))

    def read(self, size: int) -> bytes:
        """The next `size` bytes, never less."""
        data = self._decompress(size)
        if len(data) != size:
            raise _damaged(self._blob, "the tar stream ends too early")
        return data

    def close(self) -> None:
        """Read the end of the stream."""
        if self._decompress(len(END) + 1) != END:
            raise _damaged(self._blob, "the tar stream does not end where the index says")

    def _decompress(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except zstandard.ZstdError as error:
            raise _damaged(self._blob, str(error)) from error


class _Content(io.RawIOBase):
    """The next `size` bytes of a tar stream, as a file of their own that ends with them."""

    def __init__(self, tar: _TarSource, size: int) -> None:
        super().__init__()
        self._tar = tar
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if self.closed:
            raise ValueError("the content of an entry that its stream has moved on from")
        data = self._tar.read(self._left if size is None or size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _members(layer: Layer, tar: _TarSource) -> Generator[Member, None, None]:
    for entry in layer.entries:
        header = tar_header(entry)
        if tar.read(len(header)) != header:
            raise _damaged(layer.blob, f"the tar stream and the index differ at {entry.path!r}")
        if entry.kind != "file":
            yield entry, None
            continue
        with _Content(tar, entry.size) as content:
            yield entry, cast("BinaryIO", content)
            while content.read(_CHUNK):
                pass
        tar.read(len(padding(entry.size)))


def _open_blob(layer: Layer) -> BinaryIO:
    try:
        return layer.blob.open("rb")
    except OSError as error:
        raise _damaged(layer.blob, str(error)) from error


def _damaged(place: Path, reason: str) -> LockError:
    return LockError(
        f"{place}: the stored layer is damaged: {reason}", rule="hash-mismatch",
        hint="`uenv cache verify` drops it; build again",
    )  # fmt: skip
