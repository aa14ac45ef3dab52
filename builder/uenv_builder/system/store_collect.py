"""Making room: which entries of a store go, and which stay because somebody refers to them."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uenv_builder.system.files import explained
from uenv_builder.system.store_entries import EntryKind, References, StoredEntry, read_label
from uenv_builder.system.store_index import content_size, list_entries, read_index
from uenv_builder.system.store_leftovers import LOG_AGE, remove_away, remove_leftovers, remove_old_logs, take_away
from uenv_builder.system.store_roots import JudgedRoot, judge_roots
from uenv_builder.system.store_users import Turn, User, cleaning_up, gate, list_users

Reason = Literal["leftover", "older than the limit", "makes room", "not among the last", "an old log"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay of what nobody refers to.

    `older_than` are seconds since the last use; `max_bytes` is the size of the whole store. `keep_last` results of each
    label stay, whatever the others say; alone, it means that no other results do.
    """

    keep_last: int | None = None
    older_than: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """An entry that was removed, or would be; `size` in bytes of content."""

    kind: EntryKind
    key: str
    size: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Collected:
    """What a clean-up came to.

    `freed_bytes` counts what several entries hold once, with the last of them. `blocked` says why only leftovers went,
    "" where all was done. `left_bytes` is what the store holds now, `protected_bytes` the part of it that somebody
    refers to, `over_bytes` how much the former is above the limit. Roots are paths of builds and locks.
    """

    removals: tuple[Removal, ...] = ()
    freed_bytes: int = 0
    blocked: str = ""
    left_bytes: int = 0
    protected: int = 0
    protected_bytes: int = 0
    over_bytes: int = 0
    dropped_roots: tuple[str, ...] = ()
    unseen_roots: tuple[str, ...] = ()

    @property
    def removed(self) -> int:
        """How many entries."""
        return len(self.removals)


@dataclass
class CleanUp:
    """One clean-up of the store at `root`; `keep` stays, too. With `dry_run` nothing is written and nothing removed."""

    root: Path
    limits: Limits
    keep: References = field(default_factory=References)
    forget_hosts: Sequence[str] = ()
    dry_run: bool = False
    _removals: list[Removal] = field(default_factory=list, init=False)
    _left: set[Path] = field(default_factory=set, init=False)
    _away: list[Path] = field(default_factory=list, init=False)
    _freed: int = field(default=0, init=False)

    def run(self) -> Collected:
        """Remove leftovers; then drop dead roots, and what is over the limits and nobody refers to."""
        if not self.root.is_dir():
            return Collected()
        leftovers = remove_leftovers(self.root, dry_run=self.dry_run)
        self._left = {entry.path for entry in leftovers}
        self._removals = [Removal(entry.kind, entry.key, entry.size, "leftover") for entry in leftovers]
        logs = remove_old_logs(self.root, older_than=min(LOG_AGE, self._age_limit()), dry_run=self.dry_run)
        self._removals += [Removal(entry.kind, entry.key, entry.size, "an old log") for entry in logs]
        self._freed = sum(entry.size for entry in [*leftovers, *logs])
        # Looked at before it is our turn: builds wait meanwhile. What has been used since is kept by who uses it.
        entries = self._entries()
        last = self._last(entries)
        if self.dry_run:
            return self._collect(entries, last, Turn(list_users(self.root)[0], None))
        with cleaning_up(self.root) as turn:
            collected = self._collect(entries, last, turn)
        # What has been taken away takes long to remove, and is in nobody's way.
        for folder in self._away:
            remove_away(folder)
        return collected

    def _collect(self, entries: Sequence[StoredEntry], last: AbstractSet[Path], turn: Turn | None) -> Collected:
        blocked = _why_blocked(turn)
        if blocked or turn is None:
            return Collected(tuple(self._removals), self._freed, blocked)
        roots = judge_roots(self.root, {user.name for user in turn.users}, self.forget_hosts)
        protected = self._protected(turn.users, roots)
        taken = self._evict(entries, protected, last, turn)
        if not turn.goes_on():
            blocked = "this clean-up stood still for so long that it has to begin again"
        elif not self.dry_run:
            _drop_roots(roots)
            if not turn.users:
                _remove_locks(self.root)
        left = [entry for entry in entries if entry.path not in taken]
        safe = [entry for entry in left if entry in protected]
        left_bytes = content_size(left)
        return Collected(
            removals=tuple(self._removals), freed_bytes=self._freed + content_size(entries) - left_bytes,
            blocked=blocked, left_bytes=left_bytes, protected=len(safe), protected_bytes=content_size(safe),
            over_bytes=max(0, left_bytes - self.limits.max_bytes) if self.limits.max_bytes is not None else 0,
            dropped_roots=tuple(root.root.path for root in roots if root.verdict == "gone"),
            unseen_roots=tuple(f"{root.root.path}: {root.reason}" for root in roots if root.verdict == "unseen"),
        )  # fmt: skip

    def _evict(
        self, entries: Sequence[StoredEntry], protected: References, last: AbstractSet[Path], turn: Turn
    ) -> set[Path]:
        taken = set[Path]()
        for entry, reason in self._choose(entries, protected, last):
            if not turn.goes_on():
                break
            if self._take(entry, reason):
                taken.add(entry.path)
        return taken

    def _age_limit(self) -> float:
        return math.inf if self.limits.older_than is None else self.limits.older_than

    def _entries(self) -> list[StoredEntry]:
        found = list_entries(self.root, read_index(self.root, fresh=True, save=not self.dry_run))
        return [entry for entry in found if entry.kind != "leftover" and entry.path not in self._left]

    def _protected(self, users: Iterable[User], roots: Iterable[JudgedRoot]) -> References:
        protected = self.keep
        for user in users:
            protected |= user.references or References()
        for root in roots:
            if root.verdict != "gone":
                protected |= root.references
        return protected

    def _choose(
        self, entries: Sequence[StoredEntry], protected: References, last: AbstractSet[Path]
    ) -> Iterator[tuple[StoredEntry, Reason]]:
        """What goes, and why: downloads before results, as they can be fetched again, then what was used least."""
        total = content_size(entries)
        holders = Counter(content for entry in entries for content in entry.shared)
        now = time.time()
        for entry in sorted(entries, key=lambda entry: (entry.kind == "step", entry.used, entry.key)):
            if entry in protected or entry.path in last:
                continue
            reason = self._reason(entry, now, total)
            if reason is None:
                continue
            holders.subtract(entry.shared.keys())
            total -= entry.size + sum(size for content, size in entry.shared.items() if holders[content] == 0)
            yield entry, reason

    def _reason(self, entry: StoredEntry, now: float, total: int) -> Reason | None:
        limits = self.limits
        if limits.older_than is not None and now - entry.used > limits.older_than:
            return "older than the limit"
        if limits.max_bytes is not None and total > limits.max_bytes:
            return "makes room"
        alone = limits.keep_last is not None and limits.older_than is None and limits.max_bytes is None
        return "not among the last" if alone and entry.kind == "step" else None

    def _last(self, entries: Sequence[StoredEntry]) -> set[Path]:
        if self.limits.keep_last is None:
            return set()
        by_label: dict[str, list[StoredEntry]] = defaultdict(list)
        for entry in sorted(entries, key=lambda entry: -entry.used):
            if entry.kind == "step":
                by_label[read_label(entry.path)].append(entry)
        return {entry.path for found in by_label.values() for entry in found[: self.limits.keep_last]}

    def _take(self, entry: StoredEntry, reason: Reason) -> bool:
        if not self.dry_run:
            with explained(entry.path):
                try:
                    if entry.kind == "step":
                        self._away.append(take_away(entry.path))
                    else:
                        entry.path.unlink()
                except FileNotFoundError:
                    return False
        self._removals.append(Removal(entry.kind, entry.key, entry.whole_size, reason))
        return True


def _why_blocked(turn: Turn | None) -> str:
    if turn is None:
        return "another clean-up is at work, or somebody who may only read the store uses it"
    # A process that does not say what it refers to may refer to anything.
    return "; ".join(f"the store is in use by {user}" for user in turn.users if user.references is None)


def _drop_roots(roots: Iterable[JudgedRoot]) -> None:
    for root in roots:
        if root.verdict == "gone":
            with explained(root.file):
                root.file.unlink(missing_ok=True)


def _remove_locks(root: Path) -> None:
    # Only where nobody is: on NFS, who waits for a lock does not see at once that its file is another one now.
    keep = {gate(root).name, "readers"}
    with contextlib.suppress(OSError):
        for path in (root / "locks").iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)
