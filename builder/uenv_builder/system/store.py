"""The content-addressed store: downloads by their sha256, results of steps by the step's id.

    downloads/ab/abcd...          a whole file whose sha256 is its name
    downloads/ab/abcd....part     what has come of one so far
    steps/ab/abcd.../             a step's result, with sums.json: the size and sha256 of each of its files
    locks/                        empty files that builds hold locks on

What is in its place is whole: files and folders are renamed there when they are done, so a process may be killed at
any moment and several may work at once. That asks of the file system an atomic rename, and flock among the processes
that build the same step at the same time (without it they do the work twice, to the same result). Nothing is mapped
into memory.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from uenv_builder.model.errors import LockError
from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.files import (
    TEMPORARY,
    explained,
    lock_file,
    remove_tree,
    replace_folder,
    sha256_of,
    try_lock,
    write_json,
)

SUMS = "sums.json"
_PART_AGE = 86400.0
"""Seconds after which a partial download counts as given up."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """How much the store holds, in numbers of entries and in bytes."""

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


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    key: str
    size: int
    used: float


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
        """Whether it is there, by its size; marks it as used."""
        path = self.download_path(sha256)
        try:
            found = path.stat().st_size == size
        except OSError:
            return False
        if found:
            _touch(path)
        return found

    def verified_download(self, sha256: str, size: int) -> Path:
        """The path of a stored file after reading all of it; a damaged one is dropped and raises LockError."""
        path = self.download_path(sha256)
        if path.stat().st_size != size or sha256_of(path) != sha256:
            path.unlink(missing_ok=True)
            raise LockError(
                f"{path}: is not what its name says, and was dropped", rule="hash-mismatch",
                hint="run the command again: it is fetched anew",
            )  # fmt: skip
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
        """
        listener = listener or Silent()
        lock = self.root / "locks" / step_id
        with lock_file(lock, waiting=lambda: listener.note("another build makes the same step: waiting for it")):
            if (found := self.step_folder(step_id)) is not None:
                return found
            path = self._step_path(step_id)
            with replace_folder(path) as folder:
                build(folder)
                sums = {name: {"size": file.stat().st_size, "sha256": sha256_of(file)} for name, file in _files(folder)}
                write_json(folder / SUMS, sums)
            return path

    def _step_path(self, step_id: str) -> Path:
        return self.root / "steps" / step_id[:2] / step_id

    @property
    def _use_lock(self) -> Path:
        return self.root / "locks" / "in-use"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the body runs, no clean-up removes what the store holds."""
        with try_lock(self._use_lock, shared=True) as granted:
            if not granted:  # a clean-up is under way, and is soon done
                with lock_file(self._use_lock):
                    pass
                with self.in_use():
                    yield
                return
            yield

    def info(self) -> StoreInfo:
        """Counts and bytes by kind."""
        downloads = [entry for entry in self._downloads() if entry.path.suffix != ".part"]
        parts = [entry for entry in self._downloads() if entry.path.suffix == ".part"]
        steps = list(self._steps())
        return StoreInfo(
            root=str(self.root),
            downloads=len(downloads),
            download_bytes=sum(entry.size for entry in downloads),
            partial_downloads=len(parts),
            partial_bytes=sum(entry.size for entry in parts),
            steps=len(steps),
            step_bytes=sum(entry.size for entry in steps),
        )

    def verify(self, listener: Listener) -> list[Damage]:
        """Read everything, drop what is damaged, and say what that was."""
        damages = []
        downloads = [entry for entry in self._downloads() if entry.path.suffix != ".part"]
        total = sum(entry.size for entry in downloads)
        with listener.task("verifying downloads", total) as task:
            for entry in downloads:
                if sha256_of(entry.path) != entry.key:
                    entry.path.unlink(missing_ok=True)
                    damages.append(Damage(f"download {entry.key}", "its content has another sha256"))
                task.advance(entry.size)
        steps = list(self._steps())
        with listener.task("verifying layers and images", sum(entry.size for entry in steps)) as task:
            for entry in steps:
                if reason := _step_damage(entry.path):
                    self._drop_step(entry)
                    damages.append(Damage(f"step {entry.key}", reason))
                task.advance(entry.size)
        return damages

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
        return Collected(len(removed), sum(removed), busy=not alone)

    def _remove_entries(
        self, keep: AbstractSet[str], older_than_seconds: float | None, max_bytes: int | None
    ) -> list[int]:
        removed: list[int] = []
        entries = sorted([*self._downloads(), *self._steps()], key=lambda entry: (entry.used, entry.key))
        total = sum(entry.size for entry in entries)
        now = time.time()
        for entry in entries:
            too_old = older_than_seconds is not None and now - entry.used > older_than_seconds
            too_much = max_bytes is not None and total > max_bytes
            if entry.key in keep or not (too_old or too_much) or not self._drop(entry):
                continue
            total -= entry.size
            removed.append(entry.size)
        return removed

    def _drop(self, entry: _Entry) -> bool:
        if entry.path.is_dir():
            return self._drop_step(entry)
        entry.path.unlink(missing_ok=True)
        return True

    def _drop_step(self, entry: _Entry) -> bool:
        with try_lock(self.root / "locks" / entry.key) as ours:
            if ours:
                # Renamed first: a reader sees all of it or nothing.
                away = entry.path.with_name(f"{TEMPORARY}{entry.key}")
                with explained(entry.path):
                    entry.path.rename(away)
                remove_tree(away)
            return ours

    def _remove_leftovers(self) -> list[int]:
        removed = []
        now = time.time()
        for folder in [*self.root.glob("downloads/*"), *self.root.glob("steps/*")]:
            for path in folder.iterdir():
                age = now - path.lstat().st_mtime
                if not (path.name.startswith(TEMPORARY) or path.suffix == ".part") or age < _PART_AGE:
                    continue
                removed.append(_size(path))
                if path.is_dir():
                    remove_tree(path)
                else:
                    path.unlink(missing_ok=True)
        return removed

    def _downloads(self) -> Iterator[_Entry]:
        for path in sorted(self.root.glob("downloads/*/*")):
            if not path.name.startswith(TEMPORARY) and path.suffix in {"", ".part"}:
                status = path.stat()
                yield _Entry(path, path.stem, status.st_size, status.st_mtime)

    def _steps(self) -> Iterator[_Entry]:
        for path in sorted(self.root.glob("steps/*/*")):
            if not path.name.startswith(TEMPORARY):
                yield _Entry(path, path.name, _size(path), path.stat().st_mtime)


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # somebody else's store, read-only: then nobody collects it by use
        return


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != SUMS:
            yield str(path.relative_to(folder)), path


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    sums = path / SUMS
    if sums.is_file():
        try:
            return sum(entry["size"] for entry in json.loads(sums.read_bytes()).values())
        except (ValueError, KeyError, TypeError):
            pass
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def _step_damage(folder: Path) -> str | None:
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        for name, expected in sums.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != expected["size"] or sha256_of(file) != expected["sha256"]:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{SUMS} cannot be read: {error}"
    return None
