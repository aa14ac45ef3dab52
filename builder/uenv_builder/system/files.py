"""Files and folders that are whole or not there: everything is written beside its place and renamed into it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal, overload

from uenv_builder.model.errors import BuildError, UenvError
from uenv_builder.system.store_process import process_mark

TEMPORARY = ".tmp-"
"""How the names of unfinished files and folders begin; whatever is left of a killed process can be removed: the name
goes on with what the thing will be, if need be, and says whose it is (`system/abandoned.py`)."""

_NO_SPACE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than is allowed here",
}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
"""What flock answers on a file system without locks, such as Lustre mounted without `flock`."""
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h


def sha256_of(path: Path) -> str:
    """The sha256 of the file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_size(path: Path, *, follow_links: bool = False) -> int:
    """Bytes of a file, or of a link itself unless it is followed; 0 where it has gone, or cannot be seen."""
    try:
        return path.stat(follow_symlinks=follow_links).st_size
    except OSError:
        return 0


def explain_os_error(error: OSError, path: Path) -> UenvError:
    """The error that a user understands: what could not be written, why, how much is free and where else to go.

    Where `error` names another file than `path`, and not an unfinished one of ours, that file is named.
    """
    remedy = "set UENV_CACHE (for the store) or --output (for the build) to a folder elsewhere"
    if isinstance(error.filename, str) and f"/{TEMPORARY}" not in f"/{error.filename}":
        path = Path(error.filename)
    message = f"{path}: {error.strerror or error}"
    if error.errno in _NO_SPACE:
        message = f"{path}: {_NO_SPACE[error.errno]} ({_free(path)})"
        return BuildError(message, rule="no-space", hint=f"make room, or {remedy}")
    if error.errno in _NO_PERMISSION:
        return BuildError(f"{message} ({_free(path)})", rule="no-permission", hint=remedy)
    return BuildError(message, rule="file-system")


def _free(path: Path) -> str:
    place = next((parent for parent in [path, *path.absolute().parents] if parent.exists()), Path("/"))
    status = os.statvfs(place)
    # Some file systems count no inodes: both numbers are 0 there.
    used_up = status.f_files > 0 and status.f_favail == 0
    return f"{status.f_bavail * status.f_frsize:,} bytes free" + (", no inodes free" if used_up else "")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into the error that a user understands; `path` is what the body writes.

    Errors of connections, and those without a number, which libraries derive from OSError, pass as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        raise explain_os_error(error, path) from error


@overload
def write_beside(
    path: Path, mode: Literal["wb"] = "wb", *, permissions: int = 0o644, durable: bool = False
) -> AbstractContextManager[IO[bytes]]: ...


@overload
def write_beside(
    path: Path, mode: Literal["w"], *, permissions: int = 0o644, durable: bool = False
) -> AbstractContextManager[IO[str]]: ...


@contextmanager
def write_beside(path: Path, mode: str = "wb", *, permissions: int = 0o644, durable: bool = False) -> Iterator[IO[Any]]:
    """A file to write that takes the place of `path` when the body ends well, and is gone when it does not.

    Text (mode `w`) is UTF-8 with line feeds. `permissions` are exact: no umask is taken off. What
    is `durable` is on the disk then, for what nobody could make again after a power failure. Raises BuildError.
    """
    text = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{process_mark()}-", dir=path.parent)
        unfinished = Path(name)
        try:
            with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fchmod(file.fileno(), permissions)
                if durable:
                    os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write `text` as UTF-8, whole or not at all; `durable` as for `write_beside`."""
    with write_beside(path, "w", durable=durable) as file:
        file.write(text)


def write_json(path: Path, document: object) -> None:
    """Write `document` as JSON with sorted keys, indented, with a newline at its end."""
    write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def make_new_folder(place: Path, stem: str) -> Path:
    """Make a folder below `place` that nobody else has: `stem`, or `stem` with the first number that is free."""
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
        names = (f"{stem}-{number}" if number > 1 else stem for number in count(1))
        return next(place / name for name in names if _is_made(place / name))


def _is_made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill that takes the place of `path` when the body ends well, and is gone when it does not.

    The two are exchanged in one step (renameat2), so that at any moment `path` is the old folder or the new one, whole;
    where the file system cannot do that, the old one is moved away first. A symbolic link stays: what it points to is
    replaced. The unfinished folder's name says what it will be and whose it is.
    """
    place = path.resolve() if path.is_symlink() else path
    with explained(path):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        new = _temporary_folder(place)
        try:
            yield new
            new.chmod(0o755)  # mkdtemp's folders are private
            _swap(new, place)
        except BaseException:
            _discard(new)
            raise


def _temporary_folder(place: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{place.name[:100]}-{process_mark()}-", dir=place.parent))


def _swap(new: Path, place: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    old = new
    if not _exchange(new, place):
        old = _temporary_folder(place)
        place.rename(old)
        new.rename(place)
    _discard(old)


def _discard(folder: Path) -> None:
    # What cannot be removed (a file that is still open on NFS) is a leftover, and no reason for the result to fail.
    with contextlib.suppress(OSError):
        remove_tree(folder)


def _exchange(first: Path, second: Path) -> bool:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it, also where its folders do not let their owner write; it may be gone already."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():  # somebody else removes it too: go on with what is left
            shutil.rmtree(folder, ignore_errors=True)
    except PermissionError:
        folder.chmod(0o700)
        for name, folders, _files in os.walk(folder):
            for inner in folders:
                path = Path(name, inner)
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source` where the file system allows it, else a copy; replaces what is there.

    A copy has the permissions of `source` and shares its blocks where the file system can. Raises BuildError.
    """
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        original = source.resolve()  # a link to a symbolic link would point elsewhere from its new folder
        spare = target.with_name(f"{TEMPORARY}{process_mark()}-{secrets.token_hex(8)}")
        try:
            spare.hardlink_to(original)
        except OSError:
            copy_file(original, target)
            return
        try:
            spare.replace(target)
        finally:
            # Renaming onto another link of the same file does nothing and leaves both names.
            spare.unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy content and permissions, in the kernel where it can (copy_file_range); `target` is whole or as before."""
    with source.open("rb") as content:
        status = os.fstat(content.fileno())
        with write_beside(target, permissions=stat.S_IMODE(status.st_mode)) as out:
            if not _copied_by_kernel(content.fileno(), out.fileno(), status.st_size):
                out.seek(0)
                out.truncate()
                content.seek(0)
                shutil.copyfileobj(content, out, 1 << 20)


def _copied_by_kernel(source: int, target: int, size: int) -> bool:
    """Whether all `size` bytes were copied; some pairs of file systems refuse, and some stop early."""
    try:
        while size > 0 and (count := os.copy_file_range(source, target, size)):
            size -= count
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        return False
    return size == 0


@contextmanager
def lock_file(path: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold a lock (flock) on `path`, an empty file that is made if needed; the kernel frees it when a process dies.

    It is exclusive, or one of any number of `shared` ones. `waiting` is called once if somebody else holds it. On a
    file system without locks the body runs without one; yields whether it has one.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    handle = _take_lock(path, kind | fcntl.LOCK_NB, lockless=True)
    if handle is None:
        if waiting:
            waiting()
        handle = _take_lock(path, kind, lockless=True)
    try:
        yield handle is not None and not _is_lockless(handle, kind)
    finally:
        if handle is not None:
            os.close(handle)


def _is_lockless(handle: int, kind: int) -> bool:
    """Whether the file system of an open file has no locks; taking a lock again that is held changes nothing."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return False


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """As an exclusive `lock_file`, without waiting: yields whether the lock is ours; never on a lockless file system.

    Whoever has it may remove `path`: those who wait for it then lock the file that comes in its place.
    """
    handle = _take_lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB, lockless=False)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _take_lock(path: Path, operation: int, *, lockless: bool) -> int | None:
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                taken = _flock(handle, operation, lockless=lockless)
                current = taken and _is_at(handle, path)
            except BaseException:
                os.close(handle)
                raise
            if current:
                return handle
            os.close(handle)
            if not taken:
                return None
            # The file was removed while we waited: lock the one in its place.


def _flock(handle: int, operation: int, *, lockless: bool) -> bool:
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return lockless
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
