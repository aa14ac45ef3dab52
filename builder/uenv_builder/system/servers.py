"""What a downloader has learnt of the servers that it asks: which have answered, and which are not asked any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from uenv_builder.system.events import Listener
from uenv_builder.system.mirrors import file_place, local_folder
from uenv_builder.system.transfer import GiveUpError, TryAgainError, UnreachableError, WrongContentError
from uenv_builder.system.urls import public

_FIRST_CONTACT = 2
"""How often a server is called that has never answered: that one is not there is likelier than that it is busy."""
_MIRROR_TIMEOUT = 5.0
"""Seconds to connect to a mirror: a mirror is near, and there are other places."""


class Servers:
    """Shared by all threads of one downloader. `mirrors` are the roots of mirrors, in the order they are asked in."""

    def __init__(self, mirrors: Sequence[str], listener: Listener, timeouts: tuple[float, float]) -> None:
        self.mirrors = tuple(mirrors)
        self._listener = listener
        self._timeouts = timeouts
        self._lock = threading.Lock()
        self._answered: set[str] = set()
        self._lost: dict[str, str] = {}

    def mirror_urls(self, sha256: str) -> Iterator[str]:
        """Where the mirrors have a file, if they have it; those that are lost are left out."""
        return (f"{root}/{file_place(sha256)}" for root in self.living_mirrors())

    def living_mirrors(self) -> Iterator[str]:
        """The roots of the mirrors that are not lost."""
        return (root for root in self.mirrors if root not in self._lost and not self._is_absent(root))

    def timeouts(self, url: str) -> tuple[float, float]:
        """Seconds to connect, and between two bytes."""
        connect, between = self._timeouts
        return (min(connect, _MIRROR_TIMEOUT), between) if self._mirror_of(url) else (connect, between)

    def require(self, url: str) -> None:
        """Raise GiveUpError, with the reason of the first time, for a server that cannot be reached."""
        if (reason := self._lost.get(_server_of(url))) is not None:
            raise GiveUpError(reason)

    def answer(self, url: str) -> None:
        """The server answered, be it with a no."""
        self._answered.add(_server_of(url))

    def attempts(self, url: str, error: TryAgainError, attempts: int) -> int:
        """How often such an error is worth another attempt, of `attempts` at most."""
        if not isinstance(error, UnreachableError):
            self.answer(url)
        if _server_of(url) in self._answered:
            return attempts
        return 1 if self._mirror_of(url) else min(attempts, _FIRST_CONTACT)

    def give_up(self, url: str, error: TryAgainError, reason: str) -> None:
        """All attempts failed: a server that cannot be reached is asked nothing more, a mirror that fails neither."""
        if (root := self._mirror_of(url)) is not None:
            self._lose(root, f"the mirror {public(root)} fails: {error}; going on without it")
        if isinstance(error, UnreachableError):
            self._lost[_server_of(url)] = reason

    def refuse(self, name: str, url: str, error: GiveUpError) -> None:
        """The file that `url` has is not the one of that name: told, where it is a mirror's and others are asked."""
        if isinstance(error, WrongContentError) and (root := self._mirror_of(url)) is not None:
            self._listener.note(
                f"{name}: the mirror {public(root)} has a damaged file ({error}); asking the next place"
            )

    def _mirror_of(self, url: str) -> str | None:
        return next((root for root in self.mirrors if url.startswith(f"{root}/")), None)

    def _is_absent(self, root: str) -> bool:
        if (folder := local_folder(root)) is None or folder.is_dir():
            return False
        self._lose(root, f"the mirror {folder} is not there; going on without it")
        return True

    def _lose(self, root: str, remark: str) -> None:
        with self._lock:
            if root in self._lost:
                return
            self._lost[root] = remark
        self._listener.note(remark)


def _server_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else url
