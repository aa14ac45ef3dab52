"""Debian's packages as they are: the control archive in memory, the data archive as a stream of entries (deb(5))."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import zstandard
from debian.deb822 import Deb822

from uenv_builder.layers.safe_paths import PATH_MAX, SymlinkGuard, is_merged_link, merge_usr, safe_path
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError

_AR_MAGIC, _AR_HEADER, _AR_END = b"!<arch>\n", 60, b"`\n"
_MEMBER = re.compile(r"(?P<archive>control|data)\.tar(?P<suffix>\.xz|\.zst|\.gz|)")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_ARCHITECTURE = re.compile(r"[a-z0-9-]+")
_MAX_CONTROL = 256 << 20  # bytes unpacked; the largest control archives of Debian have some ten MiB
_MAX_DATA, _MIN_DATA_LIMIT = 16 << 30, 1 << 30  # bytes unpacked
_SIZE_FACTOR = 8  # how often Installed-Size may be exceeded: some publishers estimate it badly
_CHUNK = 1 << 20
_DAMAGE = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError, tarfile.TarError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebControl:
    """The control archive of one package: its members with their contents, and the fields of its `control` member."""

    fields: Mapping[str, str]
    members: Mapping[str, bytes]

    @property
    def name(self) -> str:
        """The package's name."""
        return self.fields["Package"]

    @property
    def version(self) -> str:
        """The package's version."""
        return self.fields["Version"]

    @property
    def architecture(self) -> str:
        """Debian's name of the architecture, or `all`."""
        return self.fields["Architecture"]

    @property
    def stanza(self) -> str:
        """The `control` member as text that ends with one line feed."""
        return self.text("control").strip("\n") + "\n"

    @property
    def postinst(self) -> str:
        """The script that dpkg would run after unpacking; empty if there is none."""
        return self.text("postinst")

    @property
    def conffiles(self) -> tuple[str, ...]:
        """The configuration files that the package ships, absolute; without those that an upgrade would remove."""
        lines = [line.strip() for line in self.text("conffiles").splitlines()]
        return tuple(line for line in lines if line.startswith("/"))

    def text(self, member: str) -> str:
        """A member as text, bytes that are not UTF-8 escaped; empty if there is none."""
        return self.members.get(member, b"").decode(errors="surrogateescape")


def deb_control(deb: Path) -> DebControl:
    """Read the control archive of `deb`; raises BuildError, rule `broken-deb`, if it is none or lacks what it needs."""
    members = {}
    with _open_archive(deb, "control", _MAX_CONTROL) as archive:
        for member in archive:
            if member.isfile():
                content = archive.extractfile(member)
                members[safe_path(member.name, artefact=deb.name)] = content.read() if content else b""
    fields = dict(Deb822(members.get("control", b"").decode(errors="surrogateescape")))
    for field, pattern in (("Package", _NAME), ("Architecture", _ARCHITECTURE), ("Version", re.compile(r"\S+"))):
        if not pattern.fullmatch(fields.get(field, "")):
            raise _broken(deb, f"its control stanza has no valid {field}")
    return DebControl(fields=fields, members=members)


def deb_entries(deb: Path, *, newest: int) -> Iterator[Entry]:
    """The files of `deb` in its own order, placed as on a system with merged /usr: `/lib/x.so` is at `usr/lib/x.so`.

    Times later than `newest` (seconds since the epoch) become `newest`. Owners are the archive's numbers. Files lose
    their setuid, setgid and sticky bits: enroot and uenv mount images so that these have no effect, and whoever unpacks
    an image as root gets no privileged programs unasked.

    Raises BuildError: rule `broken-deb` for what is damaged or no package, `deb-size` for one that unpacks to more than
    eight times its Installed-Size (1 GiB at least, 16 GiB at most), `device-node` for a device, FIFO or the like,
    `unsafe-path` for a path that leads out of the root.
    """
    for _, entry in deb_members(deb, deb_control(deb), newest=newest):
        yield entry


def deb_members(deb: Path, control: DebControl, *, newest: int) -> Iterator[tuple[str, Entry]]:
    """As `deb_entries`, each entry with the path that the package itself gives it, such as `lib/x.so`."""
    limit = _data_limit(control)
    guard = SymlinkGuard(deb.name)
    with _open_archive(deb, "data", limit) as archive:
        for member in archive:
            if member.name.strip("/") in {"", "."}:
                continue
            if member.size > limit:
                raise _too_big(deb, limit)
            yield safe_path(member.name, artefact=deb.name), _read_entry(deb, archive, member, guard, newest)


def _read_entry(
    deb: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, guard: SymlinkGuard, newest: int
) -> Entry:
    path = safe_path(member.name, artefact=deb.name)
    if not (member.issym() and is_merged_link(path, member.linkname)):
        path = merge_usr(path)
    mtime = min(max(int(member.mtime), 0), newest)
    entry = Entry(path=path, kind="dir", mode=member.mode & 0o777, mtime=mtime, uid=member.uid, gid=member.gid)
    if member.isdir():
        entry = replace(entry, mode=member.mode & 0o7777)
    elif member.issym():
        entry = replace(entry, kind="symlink", mode=0o777, target=_link_text(deb, path, member.linkname))
    elif member.islnk():
        target = merge_usr(safe_path(member.linkname, artefact=deb.name))
        if guard.kind(target) not in {"file", "hardlink"}:
            raise _broken(deb, f"{path!r} is a hard link to {target!r}, which is no file before it")
        entry = replace(entry, kind="hardlink", target=target)
    elif member.isreg() and (content := archive.extractfile(member)):
        checked = cast("BinaryIO", _Checked(content, deb))
        entry = replace(entry, kind="file", size=member.size, content=checked)
    else:
        raise _special(deb, path)
    guard.admit(path, entry.kind)
    return entry


def _link_text(deb: Path, path: str, text: str) -> str:
    if not text or "\0" in text or len(text) >= PATH_MAX:
        raise _broken(deb, f"the link {path!r} has no valid target")
    return text


def _data_limit(control: DebControl) -> int:
    size = control.fields.get("Installed-Size", "")  # in KiB
    claimed = int(size) * 1024 if size.isascii() and size.isdigit() else _MAX_DATA
    return min(max(claimed * _SIZE_FACTOR, _MIN_DATA_LIMIT), _MAX_DATA)


@contextlib.contextmanager
def _open_archive(deb: Path, name: str, limit: int) -> Generator[tarfile.TarFile, None, None]:
    """The archive called `name`, to be read from front to end; what cannot be read raises BuildError."""
    with deb.open("rb") as file, contextlib.ExitStack() as opened:
        member, suffix = _find_member(deb, file, name)
        unpacked = opened.enter_context(_DECOMPRESSORS[suffix](member))
        stream = cast("BinaryIO", _Checked(unpacked, deb, limit=limit))
        try:
            with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:
                yield archive
        except tarfile.TarError as error:
            raise _broken(deb, str(error)) from error
        while stream.read(_CHUNK):  # the checksum comes last
            pass


def _find_member(deb: Path, file: BinaryIO, name: str) -> tuple[BinaryIO, str]:
    """The part of `file` that holds the archive called `name`, and the suffix that tells how it is compressed."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise _broken(deb, "it is no ar archive")
    total = deb.stat().st_size
    while header := file.read(_AR_HEADER):
        digits = header[48:58].strip()
        if len(header) != _AR_HEADER or header[58:60] != _AR_END or not digits.isdigit():
            raise _broken(deb, "a header of the ar archive is damaged")
        start, size = file.tell(), int(digits)
        if start + size > total:
            raise _broken(deb, "it is cut off")
        match = _MEMBER.fullmatch(header[:16].decode(errors="replace").rstrip(" ").rstrip("/"))
        if match and match["archive"] == name:
            return cast("BinaryIO", io.BufferedReader(_Part(file, start, size), _CHUNK)), match["suffix"]
        file.seek(start + size + size % 2)
    raise _broken(deb, f"it has no {name} archive of a known kind")


class _Part(io.RawIOBase):
    """`size` bytes of `file`, from `start` on."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._left = file, size
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        read = self._file.read(min(len(buffer), self._left))
        buffer[: len(read)] = read
        self._left -= len(read)
        return len(read)


class _Checked(io.RawIOBase):
    """Reads `source` and tells damage as an error of the package; refuses to deliver more than `limit` bytes."""

    def __init__(self, source: object, deb: Path, *, limit: int = _MAX_DATA) -> None:
        super().__init__()
        self._source, self._deb, self._limit, self._left = cast("BinaryIO", source), deb, limit, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            read = self._source.read(len(buffer))
        except _DAMAGE as error:
            raise _broken(self._deb, str(error)) from error
        self._left -= len(read)
        if self._left < 0:
            raise _too_big(self._deb, self._limit)
        buffer[: len(read)] = read
        return len(read)


def _unpack_zstd(member: BinaryIO) -> contextlib.AbstractContextManager[object]:
    return zstandard.ZstdDecompressor().stream_reader(member, read_across_frames=True, closefd=False)


_DECOMPRESSORS: dict[str, Callable[[BinaryIO], contextlib.AbstractContextManager[object]]] = {
    "": contextlib.nullcontext,
    ".gz": lambda member: gzip.GzipFile(fileobj=member),
    ".xz": lzma.LZMAFile,
    ".zst": _unpack_zstd,
}


def _broken(deb: Path, reason: str) -> BuildError:
    return BuildError(f"{deb.name} is no intact Debian package: {reason}", rule="broken-deb",
                      hint="remove the file, so that it is fetched again")  # fmt: skip


def _too_big(deb: Path, limit: int) -> BuildError:
    return BuildError(f"{deb.name} unpacks to more than {limit >> 20} MiB, which does not fit its Installed-Size",
                      rule="deb-size", hint="do not use the package, and tell those who publish it")  # fmt: skip


def _special(deb: Path, path: str) -> BuildError:
    return BuildError(f"{deb.name}: {path!r} is a device, FIFO or another special file", rule="device-node",
                      hint="leave the package out: images get their devices from the container engine")  # fmt: skip
