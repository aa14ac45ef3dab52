"""A content that is held, while it is read, to what was said of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol


class Readable(Protocol):
    """What has `read`, as binary files do."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102


class CheckedContent:
    """A content that raises at its end when it was not what its `sha256` (64 hex digits) and size in bytes say.

    Who has read all of it need not hash it again. `errors` of reading, too, become what `mismatch` makes.
    """

    def __init__(
        self,
        content: Readable,
        sha256: str,
        size: int,
        mismatch: Callable[[], Exception],
        errors: tuple[type[Exception], ...] = (),
    ) -> None:
        self.sha256 = sha256
        self._content = content
        self._size = size
        self._mismatch = mismatch
        self._errors = errors
        self._digest = hashlib.sha256()
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        try:
            data = self._content.read(size)
        except self._errors as error:
            raise self._mismatch() from error
        self._digest.update(data)
        self._count += len(data)
        ended = self._count >= self._size or (not data and size != 0)
        if ended and (self._digest.hexdigest(), self._count) != (self.sha256, self._size):
            raise self._mismatch()
        return data
