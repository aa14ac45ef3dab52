"""The content-addressed store: downloads by their sha256, results of steps by the step's id.

    downloads/ab/abcd...          a whole file whose sha256 is its name
    downloads/ab/abcd....part     what has come of one so far
    steps/ab/abcd.../             a step's result, with sums.json: the size and sha256 of each of its files
    steps/ab/.tmp-abcd...-USER-x/ a step that USER has under way, or has left when it was killed
    logs/NAME-abcd.log            what compilers printed where a component did not build; clean-ups remove old ones
    users/USER.json               a process at work, and what it refers to
    roots/....json                a build's folder or a lock, and what it refers to
    shared/NAME                   the word by which a job of Slurm proves that its node sees this store
    locks/                        empty files that processes hold locks on
    index.json                    sizes, remembered; may be removed

What is in its place is whole: files and folders are renamed there when they are done, so a process may be killed at
any moment and several may work at once, on several hosts. What that asks of the file system, and what happens where it
does not give it, is in docs/explanation/store.md. Nothing is mapped into memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from uenv_builder.model.errors import BuildError, LockError, UenvError
from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.files import explained, file_size, lock_file, sha256_of, write_text
from uenv_builder.system.store_collect import CleanUp, Collected, Limits, Removal
from uenv_builder.system.store_entries import (
    BEGUN,
    LABEL,
    LOGS,
    PART,
    SUMS,
    References,
    StoredEntry,
    download_lock,
    log_files,
    step_damage,
    step_lock,
    write_sums,
)
from uenv_builder.system.store_index import content_size, list_entries, read_index
from uenv_builder.system.store_leftovers import drop, remove_away, take_away, tidy_after_the_dead
from uenv_builder.system.store_presence import Presence, presence_in
from uenv_builder.system.store_roots import RootKind, is_written, make_root, write_root
from uenv_builder.system.store_users import unfinished_prefix
from uenv_builder.system.store_verify import Damage, Verifier

__all__ = ["Collected", "Damage", "Limits", "References", "Removal", "Store", "StoreInfo"]

_ATTEMPTS = 3
_IN_THE_WAY = {errno.EEXIST, errno.ENOTEMPTY}


Fill = Callable[[Path], Mapping[str, str] | None]
"""Fills the folder of a result; answers with the sha256 of files, by their names in it, that it knows already."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """How much the store holds, in numbers of entries and in bytes of content; what several results hold counts once.

    `unfinished` are results under way, or left by processes that were killed.
    """

    root: str
    downloads: int
    download_bytes: int
    partial_downloads: int
    partial_bytes: int
    steps: int
    step_bytes: int
    unfinished: int
    roots: int
    logs: int
    log_bytes: int


class Store:
    """The store below `root`, which is made when something is first put there."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @classmethod
    def default(cls, configured: str = "") -> Store:
        """The store at $UENV_CACHE, else at `configured`, else in the user's cache folder (XDG)."""
        place = os.environ.get("UENV_CACHE") or configured
        return cls(Path(place).expanduser() if place else platformdirs.user_cache_path("uenv-builder"))

    def log_path(self, name: str) -> Path:
        """Where the log of this name lies, or would lie; clean-ups remove it when it is old."""
        return self.root / LOGS / f"{name}.log"

    def download_path(self, sha256: str) -> Path:
        """Where the file with this sha256 lies, or would lie."""
        return self.root / "downloads" / sha256[:2] / sha256

    def has_download(self, sha256: str, size: int | None) -> bool:
        """Whether it is there, by its size in bytes where that is known; marks it as used."""
        self._presence.refer(References.of(downloads=[sha256]))
        path = self.download_path(sha256)
        try:
            found = path.stat().st_size == size or size is None
        except OSError:
            return False
        if found:
            _touch(path)
        return found

    def part_path(self, sha256: str) -> Path:
        """Where that lies which has come of a download so far."""
        path = self.download_path(sha256)
        return path.with_name(f"{path.name}{PART}")

    @contextmanager
    def writing_download(self, sha256: str, waiting: Callable[[], None]) -> Iterator[bool]:
        """Be the one who writes the download, after `waiting` for others; yields whether the file system has locks."""
        with self.in_use(), lock_file(download_lock(self.root, sha256), waiting=waiting) as locked:
            yield locked

    def place_download(self, part: Path, sha256: str) -> None:
        """Put a whole file in its place. Raises OSError."""
        part.rename(self.download_path(sha256))

    def verified_download(self, sha256: str, size: int | None) -> Path:
        """The path of a stored file after reading all of it; one that is damaged is dropped.

        Raises LockError, rule `hash-mismatch` where it is damaged and `not-in-store` where it is not there.
        """
        self._presence.refer(References.of(downloads=[sha256]))
        path = self.download_path(sha256)
        if not path.is_file():
            raise LockError(
                f"{path}: is not in the store", rule="not-in-store", hint="run without --offline to fetch it"
            )
        with explained(path):
            if (size is not None and path.stat().st_size != size) or sha256_of(path) != sha256:
                path.unlink(missing_ok=True)
                raise LockError(
                    f"{path}: is not what its name says, and was dropped", rule="hash-mismatch",
                    hint="run the command again: it is fetched anew",
                )  # fmt: skip
        _touch(path)
        return path

    def step_folder(self, step_id: str) -> Path | None:
        """The folder of a step's result, or None where there is none; marks it as used."""
        self._presence.refer(References.of(steps=[step_id]))
        path = self._step_path(step_id)
        if not (path / SUMS).is_file():
            return None
        _touch(path)
        return path

    def step_sums(self, step_id: str) -> Path:
        """The file that makes a folder a step's result, where there is one; asking does not mark it as used."""
        return self._step_path(step_id) / SUMS

    def sound_step(self, step_id: str) -> Path | None:
        """As `step_folder`, after reading all of the result: one that is damaged is dropped. Raises BuildError."""
        folder = self.step_folder(step_id)
        if folder is None or step_damage(folder) is None:
            return folder
        drop(StoredEntry("step", folder, step_id, 0, 0.0, step_lock(self.root, step_id)))
        return None

    def step(
        self, step_id: str, build: Fill, *, listener: Listener | None = None, label: str = ""
    ) -> Path:  # fmt: skip
        """The folder of a step's result: the stored one, else the one that `build` fills.

        Two processes that build the same step do so one after the other; the second finds the first one's result.
        `label` says, in one line, what the result is one of (`wheel numpy`): clean-ups keep the last of each. Raises
        what `build` raises, and then keeps nothing; OSErrors of files become BuildErrors.
        """
        if (found := self.step_folder(step_id)) is not None:
            return found
        speaker = listener or Silent()

        def waiting() -> None:
            speaker.note(f"another build makes the same step ({step_id[:12]}): waiting for it")

        with self.in_use(listener=speaker), lock_file(step_lock(self.root, step_id), waiting=waiting):
            if (found := self.step_folder(step_id)) is not None:
                return found
            return self._make(step_id, build, label)

    def _make(self, step_id: str, build: Fill, label: str) -> Path:
        path = self._step_path(step_id)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=unfinished_prefix(step_id, self._presence.name), dir=path.parent))
            try:
                (new / BEGUN).touch()
                _fill(new, build, label)
                new.chmod(0o755)  # mkdtemp's folders are private
                _place(new, path)
            finally:
                if new.is_dir():
                    remove_away(new)
        return path

    def _step_path(self, step_id: str) -> Path:
        return self.root / "steps" / step_id[:2] / step_id

    @property
    def _presence(self) -> Presence:
        return presence_in(self.root)

    @contextmanager
    def in_use(self, references: References | None = None, *, listener: Listener | None = None) -> Iterator[None]:
        """While the body runs, no clean-up removes `references`, and what is looked for beyond them.

        Without them, nothing is removed but leftovers; within another `in_use` of this process, its references hold.
        Waits for a clean-up that is under way, and tells `listener`. Removes what dead processes have left. Raises
        BuildError.
        """
        if self._presence.enter(references, listener or Silent()):
            with contextlib.suppress(OSError):
                tidy_after_the_dead(self.root)
        try:
            yield
        finally:
            self._presence.leave()

    def add_root(self, kind: RootKind, path: Path, references: References, *, plan: str = "") -> None:
        """Keep `references` from now on: for a build, as long as the manifest in the folder `path` names `plan`; for a
        lock, as long as the file is there.

        To be called before the build's folder is put in its place, within the `in_use` that it is put there in: until
        that ends, the folder need not be there. Where the root is there already, nothing is written. Raises BuildError;
        in a store that may only be read, nothing is kept.
        """
        root = make_root(kind, path, references, plan=plan, user="")
        if is_written(self.root, root):
            return
        with self.in_use(references):
            if self._presence.name:
                write_root(self.root, replace(root, user=self._presence.name))

    def info(self) -> StoreInfo:
        """Counts and bytes by kind, from the store's index as far as it holds."""
        index = read_index(self.root)
        downloads, steps = (
            [size for place, folder in index.items() if place.startswith(family) for size in folder.sizes.values()]
            for family in ("downloads", "steps")
        )
        unfinished = [self.root / place / name for place, folder in index.items() for name in folder.unfinished]
        parts = [path for path in unfinished if path.suffix == PART]
        logs = log_files(self.root)
        return StoreInfo(
            root=str(self.root), downloads=len(downloads), download_bytes=content_size(downloads),
            partial_downloads=len(parts), partial_bytes=sum(map(file_size, parts)),
            steps=len(steps), step_bytes=content_size(steps), unfinished=len(unfinished) - len(parts),
            logs=len(logs), log_bytes=sum(map(file_size, logs)),
            roots=sum(1 for path in (self.root / "roots").glob("*.json") if path.name[0] != "."),
        )  # fmt: skip

    def verify(self, listener: Listener, *, jobs: int = 1) -> list[Damage]:
        """Read everything in `jobs` threads, drop what is damaged, and say what that was.

        Partial downloads are verified on their way. Clean-ups and builds go on meanwhile.
        """
        if not self.root.is_dir():
            return []
        with self.in_use(References(), listener=listener):
            entries = list_entries(self.root, read_index(self.root, fresh=True))
            verifier = Verifier(listener, jobs)
            downloads = [entry for entry in entries if entry.kind == "download"]
            steps = [entry for entry in entries if entry.kind == "step"]
            return [
                *verifier.verify("verifying downloads", downloads),
                *verifier.verify("verifying layers and images", steps),
            ]

    def collect(
        self,
        limits: Limits | None = None,
        *,
        keep: References | None = None,
        forget_hosts: Sequence[str] = (),
        dry_run: bool = False,
    ) -> Collected:
        """Remove what dead processes left; then what is over the `limits` and nobody refers to, least used first.

        `forget_hosts` are patterns of hosts whose builds and locks, where they cannot be seen from here, count as gone.
        Raises BuildError.
        """
        clean_up = CleanUp(self.root, limits or Limits(), keep or References(), forget_hosts, dry_run)
        return clean_up.run()


def _fill(new: Path, build: Fill, label: str) -> None:
    try:
        hashed = build(new)
        if label:
            write_text(new / LABEL, f"{label}\n")
        write_sums(new, hashed)
    except (OSError, UenvError) as error:
        if not (new / BEGUN).exists():
            raise _taken_for_dead(new) from error
        raise
    # The folder may be one that was made anew, by a late file, where a clean-up took the first one away.
    try:
        (new / BEGUN).unlink()
    except FileNotFoundError as error:
        raise _taken_for_dead(new) from error


def _place(new: Path, path: Path) -> None:
    """Put a finished result in its place, unless somebody else has put the same one there."""
    for _ in range(_ATTEMPTS):
        try:
            new.rename(path)
        except OSError as error:
            # On NFS, a rename whose answer was lost is asked for again, and refused though it was done.
            if (path / SUMS).is_file():
                return
            if error.errno not in _IN_THE_WAY:
                raise
            with contextlib.suppress(FileNotFoundError):
                remove_away(take_away(path))  # what has lost its sums is no result
        else:
            return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))


def _taken_for_dead(new: Path) -> BuildError:
    return BuildError(
        f"{new}: what this build had not finished was removed: another host had no sign of life of it for an hour",
        rule="file-system", hint="run the build again; what was finished is in the store",
    )  # fmt: skip


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # somebody else's store, read-only: then nobody collects it by use
        return
