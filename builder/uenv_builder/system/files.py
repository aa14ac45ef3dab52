"""Files and folders that are whole or not there: everything is written beside its place and renamed into it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from uenv_builder.model.errors import BuildError, UenvError

TEMPORARY = ".tmp-"
"""How the names of unfinished files and folders begin; whatever is left of a killed process can be removed."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def sha256_of(path: Path) -> str:
    """The sha256 of the file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def explain_os_error(error: OSError, path: Path) -> UenvError:
    """The error that a user understands: what could not be written, why, how much is free and where else to go."""
    remedy = "set UENV_CACHE (for the store) or --output (for the build) to a folder elsewhere"
    if error.errno in _NO_SPACE:
        return BuildError(
            f"{path}: no space left ({_free(path)} free)", rule="no-space", hint=f"make room, or {remedy}"
        )
    if error.errno in _NO_PERMISSION:
        return BuildError(f"{path}: cannot be written: {error.strerror}", rule="no-permission", hint=remedy)
    return BuildError(f"{path}: {error.strerror or error}", rule="file-system", hint=remedy)


def _free(path: Path) -> str:
    place = next((parent for parent in [path, *path.parents] if parent.exists()), Path("/"))
    return f"{shutil.disk_usage(place).free:,} bytes"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into the error that a user understands."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path) from error


@contextmanager
def write_beside(path: Path, *, permissions: int = 0o644) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when the body ends well, and is gone when it does not."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), permissions)
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with write_beside(path) as file:
        file.write(text.encode())


def write_json(path: Path, document: object) -> None:
    """Write `document` as JSON with sorted keys, indented, with a newline at its end."""
    write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill that takes the place of `path` when the body ends well.

    The two are exchanged in one step (renameat2), so that at any moment `path` is the old folder or the new one, whole;
    where the file system cannot do that, the old one is moved away first.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
        try:
            new.chmod(0o755)
            yield new
            if not path.exists():
                new.rename(path)
            elif not _exchange(new, path):
                old = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
                path.rename(old)
                new.rename(path)
                remove_tree(old)
        finally:
            if new.exists():
                remove_tree(new)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it, also where its folders are not writable."""

    def unlock(function: Callable[[str], object], name: str, _error: object) -> None:
        os.chmod(os.path.dirname(name), 0o700)
        function(name)

    shutil.rmtree(folder, onerror=unlock)


def _exchange(first: Path, second: Path) -> bool:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source` where the file system allows it, else a copy; replaces what is there."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        spare = Path(tempfile.mktemp(prefix=TEMPORARY, dir=target.parent))  # noqa: S306  (link refuses an existing name)
        try:
            spare.hardlink_to(source)
        except FileExistsError:
            raise
        except OSError:
            with source.open("rb") as content, write_beside(target) as out:
                _copy_content(content, out)
            return
        os.replace(spare, target)
        # Renaming onto another link of the same file does nothing and leaves both names.
        spare.unlink(missing_ok=True)


def _copy_content(source: IO[bytes], target: IO[bytes]) -> None:
    left = os.fstat(source.fileno()).st_size
    try:
        while left > 0 and (count := os.copy_file_range(source.fileno(), target.fileno(), left)):
            left -= count
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        target.seek(0)
        target.truncate()
        source.seek(0)
        shutil.copyfileobj(source, target, 1 << 20)


@contextmanager
def lock_file(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock (flock) on `path`, which stays as an empty file; the kernel frees it when a process dies.

    `waiting` is called once if somebody else holds it.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def try_lock(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """As `lock_file`, without waiting: yields whether the lock is ours. Any number of holders share a `shared` one."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
