"""What a wheel's RECORD says of its files, and contents that are held to it while they are read."""

from __future__ import annotations

import base64
import csv
import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, cast

from isal import igzip_lib, isal_zlib

from uenv_builder.model.errors import BuildError

_INFLATING = cast("type[Exception]", igzip_lib.IsalError)  # its stub takes it for an instance
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, _INFLATING)
"""What reading a damaged, encrypted or oddly compressed zip raises."""
Digest = tuple[str, int]
"""The sha256 as RECORD writes it (urlsafe base64 without padding), and the size in bytes."""
_ALGORITHMS = hashlib.algorithms_guaranteed - {"md5", "sha1", "shake_128", "shake_256"}  # the first two: PEP 376, 427
_CHUNK = 1 << 20


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """A member for reading, inflated by ISA-L, which takes less than half of zlib's time for it.

    zipfile has no public way to choose what inflates; a test sees whether this one does. Raises ZIP_ERRORS.
    """
    member = archive.open(info)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        member._decompressor = isal_zlib.decompressobj(-zlib.MAX_WBITS)  # type: ignore[attr-defined]  # noqa: SLF001
    return member


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


def measure(member: IO[bytes], recorded: Recorded | None) -> Digest | None:
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


class CheckedContent:
    """A member's content that raises at its end when it was not what `expected` says."""

    def __init__(self, member: IO[bytes], expected: Digest, mismatch: Callable[[], BuildError]) -> None:
        self._member = member
        self._expected = expected
        self._mismatch = mismatch
        self._digest = hashlib.sha256()
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        try:
            data = self._member.read(size)
        except ZIP_ERRORS as error:
            raise self._mismatch() from error
        self._digest.update(data)
        self._count += len(data)
        if self._count > self._expected[1]:
            raise self._mismatch()
        ended = self._count == self._expected[1] or (not data and size != 0)
        if ended and (_encode(self._digest.digest()), self._count) != self._expected:
            raise self._mismatch()
        return data


def _encode(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
