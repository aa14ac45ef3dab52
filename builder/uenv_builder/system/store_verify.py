"""Reading all that a store holds, to find what a disk or a person has damaged."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from uenv_builder.model.errors import BuildError
from uenv_builder.system.events import Listener, Task
from uenv_builder.system.store_entries import StoredEntry, step_damage
from uenv_builder.system.store_leftovers import drop
from uenv_builder.system.threads import run_in_threads

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Damage:
    """An entry that is not what it should be; it was dropped, unless this process may not write."""

    entry: str
    reason: str
    dropped: bool = True


@dataclass
class _Share:
    """One entry's part of a task of several threads: all of its size is told of in the end, and never more."""

    task: Task
    lock: threading.Lock
    left: int

    def advance(self, amount: int) -> None:
        """So many bytes more have been read."""
        amount = min(amount, self.left)
        self.left -= amount
        with self.lock:
            self.task.advance(amount)


@dataclass
class Verifier:
    """Reads entries in `jobs` threads; a file with several names in the store, such as a layer, is read once."""

    listener: Listener
    jobs: int
    _known: dict[tuple[int, int], str] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def verify(self, title: str, entries: Sequence[StoredEntry]) -> list[Damage]:
        """What is damaged among `entries`, in their order; it is dropped. Raises BuildError."""
        found: dict[str, Damage] = {}
        lock = threading.Lock()
        with self.listener.task(title, sum(entry.whole_size for entry in entries)) as task:
            work = [partial(self._verify, entry, _Share(task, lock, entry.whole_size), found) for entry in entries]
            errors = run_in_threads(work, jobs=self.jobs, stop=self._stopped.set)
        if errors:
            raise errors[0]
        return [found[entry.key] for entry in entries if entry.key in found]

    def _verify(self, entry: StoredEntry, share: _Share, found: dict[str, Damage]) -> None:
        hash_file = partial(self._sha256, share=share)
        reason = step_damage(entry.path, hash_file) if entry.kind == "step" else _file_damage(entry, hash_file)
        share.advance(entry.whole_size)
        if reason is None:
            return
        try:
            # What somebody writes at this moment is replaced by it, and what has been removed is no damage.
            if not entry.path.exists() or not drop(entry):
                return
            dropped = True
        except BuildError as error:
            if error.diagnostics[0].rule != "no-permission":
                raise
            dropped = False
        found[entry.key] = Damage(f"{entry.kind} {entry.key}", reason, dropped)

    def _sha256(self, path: Path, share: _Share) -> str:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and identity in self._known:
                share.advance(status.st_size)
                return self._known[identity]
            buffer = bytearray(_CHUNK)
            while count := file.readinto(buffer):
                if self._stopped.is_set():
                    raise KeyboardInterrupt
                digest.update(memoryview(buffer)[:count])
                share.advance(count)
        self._known[identity] = digest.hexdigest()
        return digest.hexdigest()


def _file_damage(entry: StoredEntry, hash_file: Callable[[Path], str]) -> str | None:
    try:
        return None if hash_file(entry.path) == entry.key else "its content has another sha256"
    except OSError as error:
        return f"cannot be read: {error}"
