"""Layers in the store: one zstd-compressed tar stream, and beside it what it holds and where.

The index repeats every header of the stream, and each file's sha256: images are planned from indices alone, and a blob
is read by comparing it with its index, so the two cannot disagree unnoticed. The stream is cut into frames that can be
blocks of a squashfs, too: the segment says which are where.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import IndexEntry, Layer
from uenv_builder.model.segment import FilePlace, Segment
from uenv_builder.system.checked_content import CheckedContent
from uenv_builder.system.entry_rules import EntryRules
from uenv_builder.system.files import write_beside
from uenv_builder.system.frames import BLOCK_SIZE, FrameWriter
from uenv_builder.system.layer_index import BLOB, FORMAT, damaged, read_layer, read_segment, write_index
from uenv_builder.system.tar_stream import END, padding, tar_header

__all__ = ["compressor_version", "layer_members", "read_files", "read_layer", "read_segment", "write_layer"]

LEVEL = 3
_CHUNK = 1 << 20
Member = tuple[IndexEntry, BinaryIO | None]


def compressor_version(*, level: int = LEVEL, block_size: int = BLOCK_SIZE) -> str:
    """What a layer's bytes depend on besides its entries: part of the identity of every step that writes one."""
    zstd = ".".join(map(str, zstandard.ZSTD_VERSION))
    return f"zstd {zstd}, level {level}, blocks of {block_size} bytes, layer format {FORMAT}"


def write_layer(
    entries: Iterable[Entry], folder: Path, *, level: int = LEVEL, block_size: int = BLOCK_SIZE, threads: int = 0
) -> Layer:
    """Write `entries`, in their order, as `layer.tar.zst`, `segment.json` and `index.json` in `folder`, which exists.

    The same entries, `level` (zstd's, 1 to 22) and `block_size` (bytes that a frame holds at most, a power of two from
    4 KiB to 1 MiB) give the same bytes for any number of `threads` (0: one for each processor of this process). Raises
    BuildError for an entry that violates the contract of `Entry`. Nothing has its final name before it is complete; the
    index comes last.
    """
    blob = folder / BLOB
    with write_beside(blob) as out, FrameWriter(out, level=level, block_size=block_size, threads=threads) as frames:
        index, places = _write_entries(entries, frames)
        frames.close()
    layer = Layer(
        blob=blob, digest=frames.blob_sha256.hexdigest(), size=frames.size, diff_id=frames.tar_sha256.hexdigest(),
        entries=tuple(index.values()),
    )  # fmt: skip
    write_index(layer, Segment(block_size, tuple(frames.units), places), folder)
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
            raise damaged(layer.blob, f"sha256 is {source.sha256.hexdigest()} instead of {layer.digest}")


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
                    raise damaged(layer.blob, f"the content of {entry.path!r} is not the one that was written")
    return {path: contents[source] for path, source in sources.items()}


def _write_entries(entries: Iterable[Entry], frames: FrameWriter) -> tuple[dict[str, IndexEntry], dict[str, FilePlace]]:
    index: dict[str, IndexEntry] = {}
    places: dict[str, FilePlace] = {}
    first: dict[str, FilePlace] = {}  # by sha256: what has the same content is in an image once
    rules = EntryRules(index)
    for given in entries:
        entry = rules.accept(given)
        frames.add(tar_header(entry))
        sha256 = ""
        if entry.kind == "file":
            sha256, place = _write_content(entry, frames)
            places[entry.path] = first.setdefault(sha256, place)
        index[entry.path] = IndexEntry(
            entry.path, entry.kind, entry.mode, entry.mtime, entry.uid, entry.gid, entry.size, entry.target, sha256
        )
    frames.add(END)
    return index, places


def _write_content(entry: Entry, frames: FrameWriter) -> tuple[str, FilePlace]:
    content = entry.content or io.BytesIO()
    digest = None if isinstance(content, CheckedContent) else hashlib.sha256()
    blocks, rest = divmod(entry.size, frames.block_size)
    numbers = []
    for _ in range(blocks):
        data = _read_exactly(entry, content, frames.block_size)
        if digest:
            digest.update(data)
        numbers.append(frames.add_block(data))
    tail = _read_exactly(entry, content, rest)
    if digest:
        digest.update(tail)
    fragment, offset = frames.add_tail(tail) if tail else (-1, 0)
    if content.read(1):
        raise _wrong_size(entry, "more")
    frames.add(padding(entry.size))
    sha256 = digest.hexdigest() if digest else cast("CheckedContent", content).sha256
    return sha256, FilePlace(numbers[0] if numbers else 0, blocks, fragment, offset)


def _read_exactly(entry: Entry, content: BinaryIO, size: int) -> bytes:
    data = content.read(size) if size else b""
    while len(data) < size:
        more = content.read(size - len(data))
        if not more:
            raise _wrong_size(entry, "less")
        data += more
    return data


def _wrong_size(entry: Entry, comparison: str) -> BuildError:
    return BuildError(
        f"{entry.path!r} has {comparison} content than the {entry.size} bytes announced",
        rule="layer-entry", hint="the artefact that it comes from is broken, or changed while it was read",
    )  # fmt: skip


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
        reader = zstandard.ZstdDecompressor().stream_reader(
            cast("BinaryIO", source), read_across_frames=True, closefd=False
        )
        self._stream = cast("BinaryIO", io.BufferedReader(reader, _CHUNK))

    def read(self, size: int) -> bytes:
        """The next `size` bytes, never less."""
        data = self._decompress(size)
        if len(data) != size:
            raise damaged(self._blob, "the tar stream ends too early")
        return data

    def close(self) -> None:
        """Read the end of the stream."""
        if self._decompress(len(END) + 1) != END:
            raise damaged(self._blob, "the tar stream does not end where the index says")

    def _decompress(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except zstandard.ZstdError as error:
            raise damaged(self._blob, str(error)) from error


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
            raise damaged(layer.blob, f"the tar stream and the index differ at {entry.path!r}")
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
        raise damaged(layer.blob, str(error)) from error
