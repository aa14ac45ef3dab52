"""A wheel as a stream of entries: installed as PEP 427 says, straight from its zip, without a copy on disk."""

from __future__ import annotations

import calendar
import csv
import email.parser
import io
import posixpath
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from uenv_builder.layers.bytecode import ByteCompiler
from uenv_builder.layers.made_entries import new_parents
from uenv_builder.layers.safe_paths import safe_path
from uenv_builder.layers.wheel_content import (
    ZIP_ERRORS,
    Digest,
    Recorded,
    digest_of,
    hex_digest,
    matches,
    measure,
    open_member,
    read_record,
)
from uenv_builder.layers.wheel_scripts import PLACEHOLDER, entry_point_scripts, with_interpreter
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import INSTALLER
from uenv_builder.system.checked_content import CheckedContent

_LARGEST = 64 << 30
"""Bytes that one wheel may unpack to; torch's largest companion has about two."""
_IN_MEMORY = 64 << 20
_ENCRYPTED = 1
_EARLIEST, _LATEST = 315532800, 2**32 - 1  # 1980, where a zip's clock begins; the last second that squashfs can keep
_NOT_KEPT = ("RECORD", "RECORD.jws", "RECORD.p7s", "REQUESTED", "direct_url.json")
"""Of .dist-info: what an installer writes itself, and signatures of the RECORD that is written anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Where wheels go in the image (paths without a leading slash), and the interpreter that their scripts name."""

    prefix: str
    packages: str
    python: str


@dataclass(frozen=True, slots=True)
class _Member:
    """One file of the wheel: its name there, where it goes, and its row in RECORD."""

    info: zipfile.ZipInfo
    name: str
    path: str
    mode: int
    recorded: Recorded | None
    is_script: bool = False


def wheel_entries(
    wheel: Path, target: Installation, *, name: str, compiler: ByteCompiler | None = None
) -> Iterator[Entry]:
    """The files that installing `wheel` puts into the image, parents first, each content checked against RECORD.

    `name` is the wheel's file name on its index: in the store, files are called by their hashes.

    `.data` folders go to `target`'s scheme; entry points become scripts; RECORD is written anew with everything in it;
    with a `compiler`, each module has its `.pyc`. The result depends on the wheel's bytes, `target` and compiler
    alone. Raises BuildError for a wheel that is damaged, climbs out of its folder, or is not what its name says.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield from _with_parents(_Wheel(name, archive, target).entries(compiler))
    except ZIP_ERRORS as error:
        raise BuildError(f"{name}: is damaged: {error}", rule="wheel-damaged", hint=_DAMAGED) from error


_DAMAGED = "`uenv cache verify` drops damaged downloads; if it is as published, another version of the package may do"


def _with_parents(entries: Iterable[Entry]) -> Iterator[Entry]:
    done: set[str] = set()
    for entry in entries:
        for parent in new_parents(entry.path, done):
            yield Entry(path=parent, kind="dir", mode=0o755, mtime=entry.mtime)
        yield entry


class _Wheel:
    def __init__(self, name: str, archive: zipfile.ZipFile, target: Installation) -> None:
        self._name = name
        self._archive = archive
        self._target = target
        self._infos = self._checked_infos()
        self._dist_info = self._find_dist_info()
        self._require_version()
        self._require_metadata()
        self._record = read_record(self._read(f"{self._dist_info}/RECORD").decode("utf-8", errors="replace"))
        self._members = sorted(
            (self._place(name, info) for name, info in self._infos.items()), key=lambda member: member.path
        )
        self._refuse_collisions()
        self._newest = max(map(_time_of, self._infos.values()))

    def _fail(self, reason: str, rule: str = "wheel-invalid") -> BuildError:
        return BuildError(f"{self._name}: {reason}", rule=rule, hint=_DAMAGED)

    def _checked_infos(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            name = safe_path(info.filename.rstrip("/"), artefact=self._name)
            if info.is_dir():
                continue
            if stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG}:
                raise self._fail(f"{name} is not a plain file", "wheel-file-type")
            if info.flag_bits & _ENCRYPTED:
                raise self._fail(f"{name} is encrypted")
            if name in found:
                raise self._fail(f"{name} is in it twice")
            found[name] = info
        if (size := sum(info.file_size for info in found.values())) > _LARGEST:
            raise self._fail(f"claims to unpack to {size:,} bytes", "wheel-too-large")
        return found

    def _find_dist_info(self) -> str:
        try:
            name, version, _, _ = parse_wheel_filename(self._name)
        except (InvalidWheelFilename, InvalidVersion) as error:
            raise self._fail("its name is not that of a wheel") from error
        for folder in sorted({path.partition("/")[0] for path in self._infos}):
            if not folder.endswith(".dist-info"):
                continue
            found, _, number = folder.removesuffix(".dist-info").rpartition("-")
            if canonicalize_name(found) == name and _is_version(number, version):
                return folder
        raise self._fail(f"has no {name}-{version}.dist-info folder")

    def _require_version(self) -> None:
        headers = email.parser.BytesParser().parsebytes(self._read(f"{self._dist_info}/WHEEL"), headersonly=True)
        version = str(headers.get("Wheel-Version", ""))
        if version.split(".", maxsplit=1)[0] != "1":
            raise self._fail(f"has wheel format {version or 'unknown'}; 1.x is read here")

    def _require_metadata(self) -> None:
        headers = email.parser.BytesParser().parsebytes(self._read(f"{self._dist_info}/METADATA"), headersonly=True)
        name, _, version = self._dist_info.removesuffix(".dist-info").rpartition("-")
        found = str(headers.get("Name", "")), str(headers.get("Version", ""))
        if canonicalize_name(found[0]) != canonicalize_name(name) or not _is_version(version, found[1]):
            raise self._fail(f"its METADATA is that of {found[0] or 'nothing'} {found[1]}")

    def _read(self, path: str) -> bytes:
        if path not in self._infos:
            raise self._fail(f"has no {path}")
        info = self._infos[path]
        if info.file_size > _IN_MEMORY:
            raise self._fail(f"{path} claims to have {info.file_size:,} bytes", "wheel-too-large")
        with open_member(self._archive, info) as member:
            content = member.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise self._fail(f"{path} has another size than it claims", "wheel-too-large")
        return content

    def _place(self, name: str, info: zipfile.ZipInfo) -> _Member:
        mode = 0o755 if (info.external_attr >> 16) & 0o111 else 0o644
        head, _, rest = name.partition("/")
        recorded = self._record.get(name)
        if not head.endswith(".data") or not rest:
            return _Member(info, name, f"{self._target.packages}/{name}", mode, recorded)
        kind, _, below = rest.partition("/")
        project = head.removesuffix(".data").rpartition("-")[0]
        version = PurePosixPath(self._target.packages).parent.name
        places = {
            "purelib": self._target.packages,
            "platlib": self._target.packages,
            "scripts": f"{self._target.prefix}/bin",
            "headers": f"{self._target.prefix}/include/{version}/{project}",
            "data": self._target.prefix,
        }
        if kind not in places or not below:
            raise self._fail(f"{name}: there is no installation scheme {kind}")
        is_script = kind == "scripts"
        return _Member(info, name, f"{places[kind]}/{below}", 0o755 if is_script else mode, recorded, is_script)

    def _refuse_collisions(self) -> None:
        paths = [member.path for member in self._members]
        if len(set(paths)) != len(paths):
            double = next(path for path in paths if paths.count(path) > 1)
            raise self._fail(f"two of its files go to {double}")
        folders: set[str] = set()
        for path in paths:
            new_parents(path, folders)
        if below := next((path for path in paths if path in folders), None):
            raise self._fail(f"one of its files goes to {below}, another one below that")

    def entries(self, compiler: ByteCompiler | None) -> Iterator[Entry]:
        """Modules first, kept for the compiler, then byte code, scripts and the rest, RECORD last."""
        record: dict[str, Digest | None] = {}
        sources: list[tuple[str, bytes]] = []
        own = list(self._own_files())
        replaced = self._replaced(compiles=compiler is not None) | {path for path, _, _ in own}
        for member in self._members:
            if member.path in replaced:
                continue
            compiles = compiler is not None and self._is_module(member)
            content = self._small_content(member) if compiles or self._has_placeholder(member) else None
            if compiles and content is not None:
                sources.append((member.path, content))
            entry, record[member.path] = self._entry(member, content)
            yield entry
        for path, content in sorted(compiler.compile(sources).items()) if compiler else ():
            cache = _cache_path(path, self._target)
            record[cache] = None
            yield self._generated(cache, content)
        for path, content, mode in own:
            record[path] = digest_of(content)
            yield self._generated(path, content, mode)
        yield self._generated(f"{self._target.packages}/{self._dist_info}/RECORD", self._record_text(record))

    def _replaced(self, *, compiles: bool) -> set[str]:
        """Where files of the wheel give way to ours; byte code that it brings is older than its sources, or theirs."""
        found = {f"{self._target.packages}/{self._dist_info}/{name}" for name in _NOT_KEPT}
        if compiles:
            found |= {_cache_path(member.path, self._target) for member in self._members if self._is_module(member)}
        return found

    def _is_module(self, member: _Member) -> bool:
        inside = member.path.startswith(f"{self._target.packages}/")
        return inside and member.path.endswith(".py") and member.info.file_size <= _IN_MEMORY

    def _has_placeholder(self, member: _Member) -> bool:
        """Whether it is a script whose first line is to be set; others may be large programs."""
        if not member.is_script:
            return False
        with open_member(self._archive, member.info) as script:
            return script.read(len(PLACEHOLDER)) == PLACEHOLDER

    def _small_content(self, member: _Member) -> bytes:
        content = self._read_member(member)
        return with_interpreter(content, self._target.python) if member.is_script else content

    def _read_member(self, member: _Member) -> bytes:
        content = self._read(member.name)
        if not matches(content, member.recorded):
            raise self._mismatch(member)
        return content

    def _mismatch(self, member: _Member) -> BuildError:
        return self._fail(f"{member.name} is not the file that its RECORD lists", "record-mismatch")

    def _entry(self, member: _Member, content: bytes | None) -> tuple[Entry, Digest]:
        if content is not None:
            digest, stream = digest_of(content), cast("BinaryIO", io.BytesIO(content))
        else:
            digest = self._expected(member)
            content_of = open_member(self._archive, member.info)
            checked = CheckedContent(
                content_of, hex_digest(digest), digest[1], lambda: self._mismatch(member), ZIP_ERRORS
            )  # fmt: skip
            stream = cast("BinaryIO", checked)
        mtime = _time_of(member.info)
        entry = Entry(
            path=member.path, kind="file", mode=member.mode, mtime=mtime, size=digest[1], content=stream
        )  # fmt: skip
        return entry, digest

    def _expected(self, member: _Member) -> Digest:
        """What RECORD says, which reading will prove; read beforehand what it says nothing of, or in another hash."""
        digest = member.recorded.digest if member.recorded else None
        if digest is None:
            with open_member(self._archive, member.info) as content:
                digest = measure(content, member.recorded)
        if digest is None or digest[1] != member.info.file_size:
            raise self._mismatch(member)
        return digest

    def _own_files(self) -> Iterator[tuple[str, bytes, int]]:
        listed = self._infos.get(f"{self._dist_info}/entry_points.txt")
        if listed is not None:
            text = self._read(f"{self._dist_info}/entry_points.txt").decode("utf-8", errors="replace")
            for script in entry_point_scripts(text, python=self._target.python, wheel=self._name):
                yield f"{self._target.prefix}/bin/{script.name}", script.content, 0o755
        yield f"{self._target.packages}/{self._dist_info}/INSTALLER", f"{INSTALLER}\n".encode(), 0o644

    def _record_text(self, record: dict[str, Digest | None]) -> bytes:
        base = self._target.packages
        rows: list[tuple[str, str, str]] = [(f"{self._dist_info}/RECORD", "", "")]
        for path, digest in record.items():
            name = posixpath.relpath(path, base)
            rows.append((name, f"sha256={digest[0]}", str(digest[1])) if digest else (name, "", ""))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(sorted(rows))
        return text.getvalue().encode()

    def _generated(self, path: str, content: bytes, mode: int = 0o644) -> Entry:
        return Entry(
            path=path, kind="file", mode=mode, mtime=self._newest, size=len(content), content=io.BytesIO(content)
        )  # fmt: skip


def _time_of(info: zipfile.ZipInfo) -> int:
    """The file's time, taken as UTC; of a date that is none (some tools write zeros), the earliest of a zip."""
    try:
        return min(calendar.timegm((*info.date_time, 0, 0, 0)), _LATEST)
    except ValueError:
        return _EARLIEST


def _is_version(text: str, version: Version | str) -> bool:
    try:
        return Version(text.replace("_", "-")) == Version(str(version))
    except InvalidVersion:
        return False


def _cache_path(path: str, target: Installation) -> str:
    source = PurePosixPath(path)
    version = PurePosixPath(target.packages).parent.name.removeprefix("python").replace(".", "")
    return str(source.parent / "__pycache__" / f"{source.stem}.cpython-{version}.pyc")
