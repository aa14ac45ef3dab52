"""What a wheel's RECORD says of its files, and contents that are held to it while they are read."""

from __future__ import annotations

import base64
import copy
import csv
import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Protocol, Self, cast

from isal import igzip_lib, isal_zlib

_INFLATING = cast("type[Exception]", igzip_lib.IsalError)  # its stub takes it for an instance
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, _INFLATING)
"""What reading a damaged, encrypted or oddly compressed zip raises."""
Digest = tuple[str, int]
"""The sha256 as RECORD writes it (urlsafe base64 without padding), and the size in bytes."""
_ALGORITHMS = hashlib.algorithms_guaranteed - {"md5", "sha1", "shake_128", "shake_256"}  # the first two: PEP 376, 427
_CHUNK = 1 << 20
_COMPRESSED = 64 << 10


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    """A member for reading, inflated by ISA-L, which takes less than half of zlib's time for it. Raises ZIP_ERRORS."""
    if info.compress_type != zipfile.ZIP_DEFLATED:
        return archive.open(info)
    stored = copy.copy(info)  # as if it were stored: then zipfile reads the compressed bytes
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC  # it is that of the inflated bytes
    return _Inflated(archive.open(stored), info)


class Member(Protocol):
    """A member that is open for reading."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None: ...


class _Inflated:
    def __init__(self, compressed: IO[bytes], info: zipfile.ZipInfo) -> None:
        self._compressed = compressed
        self._info = info
        self._inflater = isal_zlib.decompressobj(-zlib.MAX_WBITS)
        self._crc = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._compressed.close()

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size and (found := self._read_some(size if size > 0 else _CHUNK)):
            parts.append(found)
            size -= len(found) if size > 0 else 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, most: int) -> bytes:
        found = b""
        while not found and not self._inflater.eof:
            compressed = self._inflater.unconsumed_tail or self._compressed.read(_COMPRESSED)
            found = self._inflater.decompress(compressed, most)
            if not found and not compressed and not self._inflater.eof:
                raise EOFError(f"{self._info.filename} ends early")
        self._crc = isal_zlib.crc32(found, self._crc)
        if not found and self._crc != self._info.CRC:
            raise zipfile.BadZipFile(f"{self._info.filename} is not what its checksum says")
        return found


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row of RECORD: the hash's name in hashlib, its value as above, and the size where the row has one."""

    algorithm: str
    value: str
    size: int | None

    @property
    def digest(self) -> Digest | None:
        """The row as it stands in a RECORD of ours; None where that would need other figures."""
        return (self.value, self.size) if self.algorithm == "sha256" and self.size is not None else None


def read_record(text: str) -> dict[str, Recorded]:
    """The rows of a RECORD that have a hash of a known kind, by the name of the file in the wheel."""
    found = {}
    for row in csv.reader(text.splitlines()):
        algorithm, _, value = row[1].partition("=") if len(row) == 3 else ("", "", "")
        if algorithm in _ALGORITHMS:
            size = int(row[2]) if row[2].isdecimal() else None
            found[row[0].replace("\\", "/")] = Recorded(algorithm, value.rstrip("="), size)
    return found


def digest_of(content: bytes) -> Digest:
    """What RECORD says of `content`."""
    return _encode(hashlib.sha256(content).digest()), len(content)


def matches(content: bytes, recorded: Recorded | None) -> bool:
    """Whether `content` is what the row says; anything is where there is no row."""
    if recorded is None:
        return True
    value = _encode(hashlib.new(recorded.algorithm, content).digest())
    return value == recorded.value and recorded.size in {None, len(content)}


def measure(member: Member, recorded: Recorded | None) -> Digest | None:
    """The digest of a whole file, read in pieces; None where it is not what the row says."""
    own = hashlib.sha256()
    named = hashlib.new(recorded.algorithm) if recorded else own
    count = 0
    while data := member.read(_CHUNK):
        count += len(data)
        own.update(data)
        if named is not own:
            named.update(data)
    if recorded and (_encode(named.digest()) != recorded.value or recorded.size not in {None, count}):
        return None
    return _encode(own.digest()), count


def hex_digest(digest: Digest) -> str:
    """The sha256 as 64 hex digits."""
    return base64.urlsafe_b64decode(digest[0] + "=" * (-len(digest[0]) % 4)).hex()


def _encode(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
