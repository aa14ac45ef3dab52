"""The content-addressed store: downloads by their sha256, results of steps by the step's id.

    downloads/ab/abcd...          a whole file whose sha256 is its name
    downloads/ab/abcd....part     what has come of one so far
    steps/ab/abcd.../             a step's result, with sums.json: the size and sha256 of each of its files
    steps/ab/.tmp-abcd...-xyz/    a step under way, or what a killed process left of one
    locks/                        empty files that processes hold locks on

What is in its place is whole: files and folders are renamed there when they are done, so a process may be killed at
any moment and several may work at once. That asks of the file system an atomic rename, and flock among the processes
that build the same step at the same time (without it they do the work twice, to the same result, and nothing is cleaned
up). Nothing is mapped into memory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from uenv_builder.model.errors import LockError
from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.files import TEMPORARY, explained, lock_file, remove_tree, replace_folder, sha256_of, try_lock
from uenv_builder.system.store_entries import (
    SUMS,
    StoredEntry,
    list_entries,
    step_damage,
    step_lock,
    write_sums,
)

_PART_AGE = 86400.0
"""Seconds after which a partial download counts as given up."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """How much the store holds, in numbers of entries and in bytes of content."""

    root: str
    downloads: int
    download_bytes: int
    partial_downloads: int
    partial_bytes: int
    steps: int
    step_bytes: int


@dataclass(frozen=True, slots=True)
class Damage:
    """An entry that was not what it should be, and has been dropped."""

    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What a clean-up removed; `busy` says that a build was running, so that only leftovers were removed."""

    removed: int
    freed_bytes: int
    busy: bool = False


class Store:
    """The store below `root`, which is made when something is first put there."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @classmethod
    def default(cls) -> Store:
        """The store at $UENV_CACHE, else in the user's cache folder (XDG)."""
        configured = os.environ.get("UENV_CACHE")
        return cls(Path(configured).expanduser() if configured else platformdirs.user_cache_path("uenv-builder"))

    def download_path(self, sha256: str) -> Path:
        """Where the file with this sha256 lies, or would lie."""
        return self.root / "downloads" / sha256[:2] / sha256

    def has_download(self, sha256: str, size: int) -> bool:
        """Whether it is there, by its size in bytes; marks it as used."""
        path = self.download_path(sha256)
        try:
            found = path.stat().st_size == size
        except OSError:
            return False
        if found:
            _touch(path)
        return found

    def verified_download(self, sha256: str, size: int) -> Path:
        """The path of a stored file after reading all of it; one that is damaged is dropped.

        Raises LockError, rule `hash-mismatch` where it is damaged and `not-in-store` where it is not there.
        """
        path = self.download_path(sha256)
        if not path.is_file():
            raise LockError(
                f"{path}: is not in the store", rule="not-in-store", hint="run without --offline to fetch it"
            )
        if path.stat().st_size != size or sha256_of(path) != sha256:
            path.unlink(missing_ok=True)
            raise LockError(
                f"{path}: is not what its name says, and was dropped", rule="hash-mismatch",
                hint="run the command again: it is fetched anew",
            )  # fmt: skip
        _touch(path)
        return path

    def step_folder(self, step_id: str) -> Path | None:
        """The folder of a step's result, or None where there is none; marks it as used."""
        path = self._step_path(step_id)
        if not (path / SUMS).is_file():
            return None
        _touch(path)
        return path

    def step(self, step_id: str, build: Callable[[Path], None], *, listener: Listener | None = None) -> Path:
        """The folder of a step's result: the stored one, else the one that `build` fills.

        Two processes that build the same step do so one after the other; the second finds the first one's result.
        Raises what `build` raises, and then keeps nothing; OSErrors of files become BuildErrors.
        """
        if (found := self.step_folder(step_id)) is not None:
            return found
        speaker = listener or Silent()

        def waiting() -> None:
            speaker.note(f"another build makes the same step ({step_id[:12]}): waiting for it")

        with self.in_use(), lock_file(step_lock(self.root, step_id), waiting=waiting):
            if (found := self.step_folder(step_id)) is not None:
                return found
            path = self._step_path(step_id)
            with replace_folder(path) as folder:
                build(folder)
                write_sums(folder)
            return path

    def _step_path(self, step_id: str) -> Path:
        return self.root / "steps" / step_id[:2] / step_id

    @property
    def _use_lock(self) -> Path:
        return self.root / "locks" / "in-use"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the body runs, no clean-up removes what the store holds; waits for one that is under way."""
        with lock_file(self._use_lock, shared=True):
            yield

    def info(self) -> StoreInfo:
        """Counts and bytes by kind."""
        entries = list_entries(self.root)
        sizes = {kind: [entry.size for entry in entries if entry.kind == kind] for kind in ("download", "part", "step")}
        return StoreInfo(
            root=str(self.root),
            downloads=len(sizes["download"]),
            download_bytes=sum(sizes["download"]),
            partial_downloads=len(sizes["part"]),
            partial_bytes=sum(sizes["part"]),
            steps=len(sizes["step"]),
            step_bytes=sum(sizes["step"]),
        )

    def verify(self, listener: Listener) -> list[Damage]:
        """Read everything, drop what is damaged, and say what that was. Partial downloads are verified on their way."""
        with self.in_use():
            entries = list_entries(self.root)
            downloads = [entry for entry in entries if entry.kind == "download"]
            steps = [entry for entry in entries if entry.kind == "step"]
            return [
                *self._verify("verifying downloads", downloads, _download_damage, listener),
                *self._verify("verifying layers and images", steps, lambda entry: step_damage(entry.path), listener),
            ]

    def _verify(
        self,
        title: str,
        entries: Sequence[StoredEntry],
        find_damage: Callable[[StoredEntry], str | None],
        listener: Listener,
    ) -> Iterator[Damage]:
        with listener.task(title, sum(entry.size for entry in entries)) as task:
            for entry in entries:
                reason = find_damage(entry)
                # An entry that somebody writes at this moment is replaced by what they write.
                if reason is not None and self._drop(entry):
                    yield Damage(f"{entry.kind} {entry.key}", reason)
                task.advance(entry.size)

    def collect(
        self,
        *,
        keep: AbstractSet[str] = frozenset(),
        older_than_seconds: float | None = None,
        max_bytes: int | None = None,
    ) -> Collected:
        """Remove what killed processes left; then, least recently used first, what is older than the limit or too much.

        `keep` are sha256 of downloads and ids of steps that stay. While a build uses the store, only leftovers go.
        """
        removed = self._remove_leftovers()
        with try_lock(self._use_lock) as alone:
            if alone:
                removed += self._remove_entries(keep, older_than_seconds, max_bytes)
                self._remove_locks()
        return Collected(len(removed), sum(removed), busy=not alone)

    def _remove_leftovers(self) -> list[int]:
        now = time.time()
        return [
            entry.size
            for entry in list_entries(self.root)
            if (entry.kind == "leftover" or (entry.kind == "part" and now - entry.used > _PART_AGE))
            and self._drop(entry)
        ]

    def _remove_entries(
        self, keep: AbstractSet[str], older_than_seconds: float | None, max_bytes: int | None
    ) -> list[int]:
        removed: list[int] = []
        entries = sorted(list_entries(self.root), key=lambda entry: (entry.used, entry.key))
        total = sum(entry.size for entry in entries)
        now = time.time()
        for entry in entries:
            too_old = older_than_seconds is not None and now - entry.used > older_than_seconds
            too_much = max_bytes is not None and total > max_bytes
            if entry.key not in keep and (too_old or too_much) and self._drop(entry):
                total -= entry.size
                removed.append(entry.size)
        return removed

    def _remove_locks(self) -> None:
        for path in (self.root / "locks").iterdir():
            if path != self._use_lock:
                with try_lock(path) as ours:
                    if ours:
                        path.unlink(missing_ok=True)

    def _drop(self, entry: StoredEntry) -> bool:
        """Remove an entry, unless somebody holds its lock; says whether it was removed."""
        with try_lock(entry.lock) as ours:
            if not ours or not entry.path.exists():
                return False
            with explained(entry.path):
                if entry.kind == "step":
                    # Renamed first: a reader sees all of it or nothing, and a process that dies here leaves a leftover.
                    away = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{entry.key}-", dir=entry.path.parent))
                    entry.path.rename(away)
                    remove_tree(away)
                elif entry.path.is_dir():
                    remove_tree(entry.path)
                else:
                    entry.path.unlink(missing_ok=True)
            return True


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # somebody else's store, read-only: then nobody collects it by use
        return


def _download_damage(entry: StoredEntry) -> str | None:
    try:
        return None if sha256_of(entry.path) == entry.key else "its content has another sha256"
    except OSError as error:
        return f"cannot be read: {error}"
