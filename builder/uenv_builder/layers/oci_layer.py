"""A layer of an OCI image as a stream of entries, read in place (OCI image specification 1.1, layer.md)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self, cast

import zstandard
from isal import igzip, igzip_lib

from uenv_builder.layers.safe_paths import PATH_MAX, SymlinkGuard, merge_usr, safe_path
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError

WHITEOUT = ".wh."
"""How the name of an entry begins that removes what lower layers have under the rest of the name."""

_OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."  # bookkeeping of a file system that images were once made on; only _OPAQUE means something
_TIME_MAX, _ID_MAX = 2**32 - 1, 2**32 - 2
_CHUNK = 1 << 20
_MAX_SIZE = 256 << 30  # bytes, of the tar stream and of all files in it
_MAX_EXTENDED = 1 << 20  # bytes of one extended header: they are read into memory as a whole
_EXTENDED = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
             tarfile.GNUTYPE_LONGLINK}  # fmt: skip
_SPECIAL = {tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
_INFLATING = cast("type[Exception]", igzip_lib.IsalError)  # its stub takes it for an instance
_DAMAGE = (EOFError, OSError, _INFLATING, zstandard.ZstdError)
_COMPRESSION = re.compile(r"application/vnd\.(?:oci|docker)\.image\.[a-z0-9.]*\.tar(?:[+.](gzip|zstd))?")


class Removal:
    """Which paths of an image `patterns` take out: what matches one, and all below it.

    Patterns are absolute paths in which `*` stands for any text within a name. On an image with merged /usr, `/lib/x`
    means `/usr/lib/x`, and `/lib` the link. Whiteouts, which are nothing to remove, go only with a folder above them.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = {pattern: _compile(pattern) for pattern in patterns}

    def takes(self, path: str) -> bool:
        """Whether the entry at `path` (as in `Entry`) is to be left out."""
        folder, _, name = path.rpartition("/")
        if name.startswith(WHITEOUT):
            return bool(folder) and self.takes(folder)
        return any(pattern.fullmatch(path) for pattern in self._patterns.values())

    def unused(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The patterns that match none of `paths`, which are those of the whole image."""
        left = dict(self._patterns)
        for path in paths:
            for pattern in [pattern for pattern, compiled in left.items() if compiled.fullmatch(path)]:
                del left[pattern]
        return tuple(left)

    def whiteouts(self, paths: Iterable[str], *, mtime: int) -> Iterator[Entry]:
        """A layer that takes the same out of an image which has `paths`, for layers that are to stay as they are."""
        for path in sorted(paths):
            folder, _, name = path.rpartition("/")
            if self.takes(path) and not (folder and self.takes(folder)):
                yield Entry(path=_whiteout(folder, name), kind="file", mode=0o644, mtime=mtime)


def oci_layer_entries(
    blob: Path,
    *,
    media_type: str,
    diff_id: str,
    removal: Removal | None = None,
    note: Callable[[str], None] | None = None,
) -> Iterator[Entry]:
    """The entries of the layer in `blob`, in its order; whiteouts come as the files that they are in the layer.

    `media_type` is the one of the layer's descriptor, `diff_id` (64 hex digits) the sha256 of the tar stream. The blob
    is read twice: a path that comes several times has its last entry, as when the layer is unpacked, and what
    `removal` takes is left out; a hard link to a file that is gone for either reason becomes the file.

    Owners and times are the layer's. Files lose their setuid, setgid and sticky bits, and everything its extended
    attributes, file capabilities among them: images are mounted so that these have no effect. Devices and FIFOs become
    whiteouts, since containers get theirs from the engine; `note` hears of them.

    Raises LockError, rule `hash-mismatch`, before the first entry if the stream has another sha256; BuildError, rule
    `broken-layer` for what is damaged, of an unknown type or too large, `unsafe-path` for a path that leads out of the
    root or through a link.
    """
    survivors = _Survivors(blob, removal)
    special = 0
    for number, (name, entry) in enumerate(_members(blob, media_type, diff_id)):
        special += name != entry.path
        survivors.add(number, name, entry)
    survivors.settle()
    if special and note is not None:
        note(f"{blob.name}: {special} devices or FIFOs are left out: containers get theirs from the engine")
    guard = SymlinkGuard(blob.name)
    for number, (_, entry) in enumerate(_members(blob, media_type)):
        kept = survivors.take(number, entry)
        if kept is not None:
            guard.admit(kept.path, kept.kind)
            yield kept


class _Survivors:
    """Which entries of a layer are there in the end, by their numbers."""

    def __init__(self, blob: Path, removal: Removal | None) -> None:
        self._blob = blob
        self._removal = removal
        self._last: dict[str, int] = {}
        self._folders: set[str] = set()
        self._contents: dict[str, int] = {}
        self._links: dict[int, int] = {}
        self._paths: dict[int, str] = {}

    def add(self, number: int, name: str, entry: Entry) -> None:
        """The next entry of the layer; `name` is its path there, `entry.path` the one that it shall have."""
        self._replace(name, entry)
        if entry.kind == "hardlink":
            source = self._contents.get(entry.target)
            if source is None:
                raise _broken(self._blob, f"{name!r} is a hard link to {entry.target!r}, which is no file before it")
            self._links[number] = self._contents[entry.path] = source
        elif entry.kind == "file":
            self._contents[entry.path] = number
        self._last[entry.path] = number
        parent = entry.path.rpartition("/")[0]
        while parent and parent not in self._folders:
            self._folders.add(parent)
            parent = parent.rpartition("/")[0]

    def settle(self) -> None:
        """All entries came: the first surviving link of a content whose own name is gone takes its place."""
        takes = self._removal.takes if self._removal else lambda _: False
        self._paths = {number: path for path, number in self._last.items() if not takes(path)}
        for number in sorted(self._links.keys() & self._paths.keys()):
            if self._links[number] not in self._paths:
                self._paths[self._links[number]] = self._paths.pop(number)

    def take(self, number: int, entry: Entry) -> Entry | None:
        """The entry with that number as it shall be, or None if it is gone."""
        path = self._paths.get(number)
        if path is None:
            return None
        if entry.kind == "hardlink":
            return replace(entry, path=path, target=self._paths[self._links[number]])
        return replace(entry, path=path)

    def _replace(self, name: str, entry: Entry) -> None:
        """Forget what lies at `name`; with it, unless one folder replaces another, all below it."""
        self._contents.pop(name, None)
        if entry.kind == "dir" or name not in self._folders:
            if name != entry.path:
                self._last.pop(name, None)
            return
        for path in [path for path in self._last if path == name or path.startswith(f"{name}/")]:
            del self._last[path]
            self._contents.pop(path, None)


class _Header(tarfile.TarInfo):
    """A header as tarfile reads it, but what it would silently take for the end of the archive is damage."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one block."""
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from error
            raise
        if header.type in _EXTENDED and header.size > _MAX_EXTENDED:
            raise tarfile.ReadError(f"an extended header has {header.size:,} bytes")
        return header


class _Tar(io.RawIOBase):
    """The tar stream in a blob, with its hash if it is to be `hashed`; what cannot be read raises BuildError."""

    def __init__(self, source: object, blob: Path, *, hashed: bool) -> None:
        super().__init__()
        self._source, self._blob, self._hashed = cast("BinaryIO", source), blob, hashed
        self._count = 0
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            read = self._source.read(len(buffer))
        except _DAMAGE as error:
            raise _broken(self._blob, str(error)) from error
        self._count += len(read)
        if self._count > _MAX_SIZE:
            raise _too_big(self._blob)
        if self._hashed:
            self.sha256.update(read)
        buffer[: len(read)] = read
        return len(read)


class _Forward:
    """A stream for tarfile that goes forward only, without tarfile's own buffer, which is copied at every read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; less only at the end."""
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def seek(self, position: int) -> int:
        """Read on to `position`, or to the end."""
        if position < self._position:
            raise tarfile.StreamError("the content of an entry that its stream has moved on from")
        while self._position < position and self.read(min(_CHUNK, position - self._position)):
            pass
        return self._position

    def seekable(self) -> bool:
        """No."""
        return False


def _members(blob: Path, media_type: str, diff_id: str | None = None) -> Generator[tuple[str, Entry], None, None]:
    """All entries of the layer with their paths in it: the two differ for what becomes a whiteout.

    The hash is verified at the end, if it is given: computing it takes as long as unpacking does.
    """
    total = 0
    with _open_tar(blob, media_type, diff_id) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all
            name = member.name.strip("/")
            if name in {"", "."} or any(_is_aufs(part) for part in name.split("/")):
                continue
            path = safe_path(member.name, artefact=blob.name)
            entry = _read_entry(blob, archive, member, path)
            total += entry.size
            if total > _MAX_SIZE:
                raise _too_big(blob)
            yield path, entry


def _is_aufs(name: str) -> bool:
    return name.startswith(_AUFS) and name != _OPAQUE


@contextlib.contextmanager
def _open_tar(blob: Path, media_type: str, diff_id: str | None) -> Generator[tarfile.TarFile, None, None]:
    kind = _COMPRESSION.fullmatch(media_type)
    if kind is None:
        raise BuildError(f"{blob.name} is a layer of the type {media_type}, which cannot be unpacked",
                         rule="broken-layer", hint="choose an image with plain, gzip or zstd layers")  # fmt: skip
    with blob.open("rb") as file, contextlib.ExitStack() as opened:
        tar = _Tar(opened.enter_context(_DECOMPRESSORS[kind[1]](file)), blob, hashed=diff_id is not None)
        stream = cast("BinaryIO", io.BufferedReader(tar, _CHUNK))
        forward = cast("BinaryIO", _Forward(stream))
        try:
            with tarfile.open(
                fileobj=forward, mode="r:", tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
            ) as archive:
                yield archive
        except tarfile.TarError as error:
            raise _broken(blob, str(error)) from error
        while stream.read(_CHUNK):
            pass
        if diff_id is not None and tar.sha256.hexdigest() != diff_id:
            raise LockError(
                f"the layer {blob.name} unpacks to sha256 {tar.sha256.hexdigest()}, but the image says {diff_id}",
                rule="hash-mismatch", hint="choose another image, and tell those who publish this one",
            )  # fmt: skip


def _read_entry(blob: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Entry:
    mtime = min(max(int(member.mtime), 0), _TIME_MAX)
    if not (0 <= member.uid <= _ID_MAX and 0 <= member.gid <= _ID_MAX and member.size >= 0):
        raise _broken(blob, f"{path!r} has owner {member.uid}:{member.gid} and size {member.size}")
    entry = Entry(path=path, kind="dir", mode=member.mode & 0o777, mtime=mtime, uid=member.uid, gid=member.gid)
    folder, _, name = path.rpartition("/")
    if member.isdir():
        return replace(entry, mode=member.mode & 0o7777)
    if name.startswith(WHITEOUT):  # whatever it is: AUFS made hard links of them
        return replace(entry, kind="file")
    if member.type in _SPECIAL:
        return replace(entry, path=_whiteout(folder, name), kind="file", mode=0o644)
    if member.issym():
        return replace(entry, kind="symlink", mode=0o777, target=_link_text(blob, path, member.linkname))
    if member.islnk():
        return replace(entry, kind="hardlink", target=safe_path(member.linkname, artefact=blob.name))
    if member.isreg() and (content := archive.extractfile(member)) is not None:
        return replace(entry, kind="file", size=member.size, content=cast("BinaryIO", content))
    raise _broken(blob, f"{path!r} is of an unknown type ({member.type!r})")


def _link_text(blob: Path, path: str, text: str) -> str:
    if not text or "\0" in text or len(text) >= PATH_MAX:
        raise _broken(blob, f"the link {path!r} has no valid target")
    return text


def _whiteout(folder: str, name: str) -> str:
    return f"{folder}/{WHITEOUT}{name}" if folder else f"{WHITEOUT}{name}"


def _compile(pattern: str) -> re.Pattern[str]:
    plain = pattern.strip("/")
    forms = {plain, merge_usr(plain)} if "/" in plain else {plain}
    texts = sorted("[^/]*".join(re.escape(part) for part in form.split("*")) for form in forms)
    return re.compile(rf"(?:{'|'.join(texts)})(?:/.*)?", re.DOTALL)


def _unpack_zstd(file: BinaryIO) -> contextlib.AbstractContextManager[object]:
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)


_DECOMPRESSORS: dict[str | None, Callable[[BinaryIO], contextlib.AbstractContextManager[object]]] = {
    None: contextlib.nullcontext,
    "gzip": lambda file: igzip.IGzipFile(fileobj=file),  # type: ignore[no-untyped-call]  # half the time of zlib
    "zstd": _unpack_zstd,
}


def _broken(blob: Path, reason: str) -> BuildError:
    return BuildError(f"{blob.name} is no intact layer of an OCI image: {reason}", rule="broken-layer",
                      hint="choose another image, and tell those who publish this one")  # fmt: skip


def _too_big(blob: Path) -> BuildError:
    return _broken(blob, f"it unpacks to more than {_MAX_SIZE >> 30} GiB")
