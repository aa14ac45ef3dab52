"""What processes that died have left in a store, and how an entry is taken out of it.

steps/ab/.tmp-ID-USER-xyz    a result that USER has not finished
steps/ab/.tmp-ID-gone-xyz    a result that is being removed: whoever comes by goes on with that
logs/NAME-abcd.log           of a component that did not build: for a month
downloads/ab/SHA256.part     what has come of a download: the next one goes on with it, for a day
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import time
from collections.abc import Set as AbstractSet
from pathlib import Path

from uenv_builder.model.errors import BuildError
from uenv_builder.system.abandoned import remove_abandoned
from uenv_builder.system.files import TEMPORARY, explained, remove_tree
from uenv_builder.system.store_entries import LOGS, SUMS, StoredEntry, log_files
from uenv_builder.system.store_index import list_unfinished, read_index
from uenv_builder.system.store_users import list_users, lock_now, owner_of, unfinished_prefix, users_folder

LOG_AGE = 30 * 86400.0
"""Seconds for which a log of a component that did not build stays."""
GIVEN_UP = 86400.0
"""Seconds after which a partial download, and what nobody known has begun, counts as given up."""
_GONE = "gone"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def remove_leftovers(root: Path, *, dry_run: bool = False) -> list[StoredEntry]:
    """Remove what dead processes have left, and say what; nothing of what is in its place, or of a living process."""
    # Listed before the users are: whoever begins a result has announced itself by then.
    unfinished = list(list_unfinished(root, read_index(root, fresh=True, save=not dry_run)))
    living, dead = list_users(root)
    left = [entry for entry in unfinished if _is_left(entry, {user.name for user in living}, {u.name for u in dead})]
    if dry_run:
        return left
    removed = [entry for entry in left if _remove(entry)]
    _forget_users(root, {user.name for user in dead})
    _remove_unfinished_files(root)
    return removed


def remove_old_logs(root: Path, *, older_than: float = LOG_AGE, dry_run: bool = False) -> list[StoredEntry]:
    """Remove logs that were written more than `older_than` seconds ago, and say which. Raises BuildError."""
    found = []
    for path in log_files(root):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(StoredEntry("log", path, path.stem, status.st_size, status.st_mtime, path))
    old = [entry for entry in found if time.time() - entry.used > older_than]
    return old if dry_run else [entry for entry in old if _remove(entry)]


def tidy_after_the_dead(root: Path) -> None:
    """Remove what dead users have left, as the next run does: a look into three folders where there are none."""
    _remove_unfinished_files(root)
    dead = {user.name for user in list_users(root)[1]}
    if not dead:
        return
    for folder in (root / "steps").glob(f"*/{TEMPORARY}*"):
        if owner_of(folder.name) in dead:
            with contextlib.suppress(OSError):
                remove_away(take_away(folder))
    _forget_users(root, dead)


def take_away(folder: Path) -> Path:
    """Take a result out of its place at once, so that nobody finds a half of it; where it is now, to be removed.

    Where the disk is too full for another name, it stays there, without the sums that make it a result.
    """
    if owner_of(folder.name) == _GONE:
        return folder
    key = folder.name.removeprefix(TEMPORARY).partition("-")[0]
    away = folder.with_name(f"{unfinished_prefix(key, _GONE)}{secrets.token_hex(4)}")
    try:
        folder.rename(away)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        (folder / SUMS).unlink(missing_ok=True)
        return folder
    return away


def remove_away(folder: Path) -> None:
    """Remove what was taken away. What cannot be removed now (a file open on NFS) waits for the next clean-up."""
    with contextlib.suppress(OSError):
        remove_tree(folder)


def drop(entry: StoredEntry) -> bool:
    """Remove an entry unless somebody writes it at this moment; says whether it was removed. Raises BuildError."""
    with lock_now(entry.lock) as ours:
        return ours and _remove(entry)


def _is_left(entry: StoredEntry, living: AbstractSet[str], dead: AbstractSet[str]) -> bool:
    given_up = time.time() - entry.used > GIVEN_UP
    if entry.kind == "part":
        return given_up and _nobody_writes(entry)
    owner = owner_of(entry.path.name)
    if owner in living:
        return False
    return owner == _GONE or owner in dead or given_up


def _nobody_writes(entry: StoredEntry) -> bool:
    if not entry.lock.exists():
        return True
    try:
        with lock_now(entry.lock) as ours:
            return ours
    except BuildError:  # it is somebody else's
        return False


def _remove(entry: StoredEntry) -> bool:
    with explained(entry.path):
        try:
            if entry.path.is_dir():
                remove_away(take_away(entry.path))
            else:
                entry.path.unlink()
        except FileNotFoundError:
            return False
    return True


def _forget_users(root: Path, names: AbstractSet[str]) -> None:
    # Last: were they forgotten before what they have left, nobody would know whose that is.
    for name in names:
        with contextlib.suppress(OSError):
            (users_folder(root) / f"{name}.json").unlink()


def _remove_unfinished_files(root: Path) -> None:
    for folder in (root, root / "roots", root / LOGS, users_folder(root)):
        remove_abandoned(folder)
