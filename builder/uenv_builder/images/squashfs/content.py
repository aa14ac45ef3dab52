"""The content of files, decompressed."""

from __future__ import annotations

from collections.abc import Iterator

from uenv_builder.images.squashfs.compressors import UNPACK_ERRORS, TooLongError, unpacker
from uenv_builder.images.squashfs.layout import SIZE_MASK, STORED_BLOCK, Compressor, block_count
from uenv_builder.images.squashfs.tree import FileData, Source
from uenv_builder.model.errors import BuildError

_REMEMBERED = 16  # fragments: files that share one are mostly read one after the other


class ContentReader:
    """Reads files of images with that compressor and block size; `name` is what errors call the image."""

    def __init__(self, compressor: Compressor, block_size: int, name: str) -> None:
        self._unpack = unpacker(compressor)
        self._block_size = block_size
        self._name = name
        self._fragments: dict[tuple[Source, int], bytes] = {}

    def blocks(self, content: FileData) -> Iterator[bytes]:
        """The content in parts of one block each, the last one shorter. Raises BuildError where it is damaged."""
        size, source, at, words, fragment, offset, _ = content
        if len(words) != block_count(size, self._block_size, fragment=fragment is not None):
            raise self._damaged(f"a file of {size} bytes has {len(words)} words")
        left = size
        for word in words:
            length = min(left, self._block_size)
            yield self._block(source, at, word, length) if word else bytes(length)
            at += word & SIZE_MASK
            left -= length
        if left and fragment is not None:
            tail = self._fragment(source, fragment)[offset : offset + left]
            if len(tail) != left:
                raise self._damaged(f"fragment {fragment} does not have {left} bytes at {offset}")
            yield tail

    def read(self, content: FileData) -> bytes:
        """The whole content, in memory."""
        return b"".join(self.blocks(content))

    def _fragment(self, source: Source, index: int) -> bytes:
        found = self._fragments.get((source, index))
        if found is None:
            at, word = source.fragments[index]
            found = self._unpacked(source, at, word)
            if len(self._fragments) == _REMEMBERED:
                del self._fragments[next(iter(self._fragments))]
            self._fragments[source, index] = found
        return found

    def _block(self, source: Source, at: int, word: int, length: int) -> bytes:
        found = self._unpacked(source, at, word)
        if len(found) != length:
            raise self._damaged(f"a block has {len(found)} bytes instead of {length}")
        return found

    def _unpacked(self, source: Source, at: int, word: int) -> bytes:
        stored = source.read(at, word & SIZE_MASK)
        if len(stored) != word & SIZE_MASK:
            raise self._damaged("its data ends early")
        if word & STORED_BLOCK:
            return stored
        try:
            return self._unpack(stored, self._block_size)
        except UNPACK_ERRORS as error:
            raise self._damaged(f"a block cannot be decompressed: {error}") from error
        except TooLongError as error:
            raise self._damaged(f"a block has more than {self._block_size} bytes") from error

    def _damaged(self, why: str) -> BuildError:
        return damaged(self._name, why)


def damaged(name: str, why: str) -> BuildError:
    """The error for an image that cannot be right."""
    return BuildError(
        f"{name}: the squashfs is damaged: {why}",
        rule="squashfs-damaged",
        hint="remove the file and build it again, or fetch it again",
    )
