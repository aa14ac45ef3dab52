"""Mirrors of artefacts: plain files by their hash, in a folder or below the URL at which any web server serves it.

    sha256/ab/<sha256>       a file of any kind: package, wheel, source archive, blob or manifest of an OCI image
    git/<commit>.bundle      a git commit with all that it needs, as `git bundle` writes it
    .unfinished/             what a `uenv mirror` at work, or one that was killed, has of files so far; not for readers

Nothing else is in a mirror, and nothing in it tells where it came from: the same artefacts are the same files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from uenv_builder.model.errors import UsageError
from uenv_builder.system.files import explained, lock_file, sha256_of
from uenv_builder.system.urls import is_local, public

UNFINISHED = ".unfinished"
_FILE = re.compile(r"sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_BUNDLE = re.compile(r"git/([0-9a-f]{40}|[0-9a-f]{64})\.bundle")


def file_place(sha256: str) -> str:
    """Where a mirror has the file with this sha256."""
    return f"sha256/{sha256[:2]}/{sha256}"


def bundle_place(commit: str) -> str:
    """Where a mirror has this git commit."""
    return f"git/{commit}.bundle"


def mirror_root(text: str) -> str:
    """The URL, without a slash at its end, of a mirror that a user names by a folder or URL. Raises UsageError."""
    if "://" not in text:
        return Path(text).expanduser().absolute().as_uri()
    parts = urlsplit(text)
    if parts.scheme not in {"file", "http", "https"} or not (parts.hostname or parts.scheme == "file"):
        raise UsageError(
            f"not a mirror: {public(text)}", rule="mirror-url", hint="name a folder, or a URL with http or https",
        )  # fmt: skip
    return text.rstrip("/")


def local_folder(root: str) -> Path | None:
    """The folder of a mirror that is one."""
    return Path(unquote(urlsplit(root).path)) if is_local(root) else None


@dataclass(frozen=True, slots=True)
class MirrorFolder:
    """A mirror that is filled: a place for downloads, as the store is one.

    What is in its place is whole and has the hash of its name; what has come of a file so far lies beside, where the
    next process goes on with it. Times say nothing in a mirror: files have the time 0, so that two mirrors filled with
    the same are the same to rsync.
    """

    root: Path

    def download_path(self, sha256: str) -> Path:
        """Where the file lies, or would lie."""
        return self.root / file_place(sha256)

    def bundle_path(self, commit: str) -> Path:
        """Where the commit lies, or would lie."""
        return self.root / bundle_place(commit)

    def part_path(self, key: str) -> Path:
        """Where that lies which has come of a file, or of a commit, so far."""
        return self.root / UNFINISHED / f"{key}.part"

    def has_download(self, sha256: str, size: int | None) -> bool:
        """Whether it is there, by its size in bytes where that is known."""
        try:
            found = self.download_path(sha256).stat().st_size
        except OSError:
            return False
        return size in {None, found}

    @contextmanager
    def writing_download(self, key: str, waiting: Callable[[], None]) -> Iterator[bool]:
        """Be the one who writes it, after `waiting` for others; yields whether the file system has locks."""
        path = self.root / UNFINISHED / f"{key}.lock"
        with lock_file(path, waiting=waiting) as locked:
            try:
                yield locked
            finally:
                path.unlink(missing_ok=True)

    def place_download(self, part: Path, sha256: str) -> None:
        """Put a whole file in its place. Raises OSError."""
        _place(part, self.download_path(sha256))

    def place_bundle(self, part: Path, commit: str) -> None:
        """Put a whole bundle in its place. Raises OSError."""
        _place(part, self.bundle_path(commit))

    @contextmanager
    def filling(self) -> Iterator[None]:
        """While it is filled, by one of several processes; the last one leaves nothing that is not for readers.

        Each shares a lock on the folder itself: no file is left for it.
        """
        with explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_SH)
            yield
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (self.root / UNFINISHED).rmdir()
        finally:
            os.close(handle)

    def files(self) -> list[Path]:
        """All files that readers may ask for, sorted by name."""
        found = [*self.root.glob("sha256/*/*"), *self.root.glob("git/*")]
        return sorted(path for path in found if not path.is_dir())

    def commit_of(self, path: Path) -> str | None:
        """The commit whose bundle lies there, None for other files."""
        match = _BUNDLE.fullmatch(path.relative_to(self.root).as_posix())
        return match[1] if match else None

    def damage(self, path: Path) -> str | None:
        """What is wrong with one of `files`, after reading it; None where nothing is, and for bundles: git knows."""
        place = path.relative_to(self.root).as_posix()
        if self.commit_of(path):
            return None
        match = _FILE.fullmatch(place)
        if match is None:
            return "is not named as a mirror's files are"
        try:
            if (found := sha256_of(path)) != match[2]:
                return f"has sha256 {found}"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return None


def _place(part: Path, path: Path) -> None:
    part.chmod(0o644)
    os.utime(part, (0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    part.rename(path)
