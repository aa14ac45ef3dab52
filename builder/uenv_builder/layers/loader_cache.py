"""/etc/ld.so.cache written without ldconfig: the table in which glibc's loader finds shared libraries by their name.

The format is that of glibc since 2.32, "glibc-ld.so.cache1.1", as sysdeps/generic/dl-cache.h of its sources defines it;
it holds libraries for every processor of the machine, not those of glibc-hwcaps folders.
"""

from __future__ import annotations

import fnmatch
import functools
import posixpath
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from uenv_builder.layers.safe_paths import merge_usr
from uenv_builder.model.errors import BuildError
from uenv_builder.model.system import Machine

_MAGIC = b"glibc-ld.so.cache1.1"
_LITTLE_ENDIAN = 2
_HEADER = struct.Struct("<20sIIB3xI12x")  # magic, entries, bytes of strings, byte order, offset of extensions (none)
_ENTRY = struct.Struct("<iIIIQ")  # flags, offset of the name, offset of the path, unused, hwcap
_FLAGS: dict[Machine, int] = {"x86_64": 0x0303, "aarch64": 0x0A03}
"""FLAG_ELF_LIBC6 with FLAG_X8664_LIB64 or FLAG_AARCH64_LIB64."""
_ELF_MACHINES: dict[Machine, str] = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_CONF = "/etc/ld.so.conf"
_TRUSTED = ("/lib/aarch64-linux-gnu", "/lib/x86_64-linux-gnu", "/lib", "/usr/lib")
_MAX_INCLUDES = 1000


@dataclass(frozen=True, slots=True, order=True)
class SharedLibrary:
    """What the loader finds when it is asked for `soname`: the file at `path`, absolute as seen inside the image."""

    soname: str
    path: str


def write_loader_cache(libraries: Iterable[SharedLibrary], *, machine: Machine) -> bytes:
    """The content of /etc/ld.so.cache for `libraries`.

    Where several have one name the loader takes the first of them, so they come in the order of the search folders; the
    order of different names does not matter.
    """
    ordered = sorted(
        libraries, key=lambda library: _comparable(library.soname.encode()), reverse=True
    )  # keeps the order of equals
    strings = _Strings(_HEADER.size + len(ordered) * _ENTRY.size)
    entries = [_pack_entry(library, strings, _FLAGS[machine]) for library in ordered]
    header = _HEADER.pack(_MAGIC, len(entries), strings.size, _LITTLE_ENDIAN, 0)
    return b"".join([header, *entries, *strings.parts])


def _pack_entry(library: SharedLibrary, strings: _Strings, flags: int) -> bytes:
    value = strings.add(library.path)
    if library.path.endswith(f"/{library.soname}"):  # one string serves both
        key = value + len(library.path.encode()) - len(library.soname.encode())
    else:
        key = strings.add(library.soname)
    return _ENTRY.pack(flags, key, value, 0, 0)


class _Strings:
    """The strings behind the entries, each once; offsets count from the start of the file, where `start` bytes are."""

    def __init__(self, start: int) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self._start = start
        self._offsets: dict[str, int] = {}

    def add(self, text: str) -> int:
        """The offset of `text`."""
        if text not in self._offsets:
            self._offsets[text] = self._start + self.size
            encoded = text.encode() + b"\0"
            self.parts.append(encoded)
            self.size += len(encoded)
        return self._offsets[text]


def _compare(left: bytes, right: bytes) -> int:
    """The order in which the loader searches (_dl_cache_libcmp): runs of digits count as numbers, and after all else.

    The loader computes the numbers in 32 bits with wrap-around, and so does this.
    """
    at, to = 0, 0
    while at < len(left):
        if _is_digit(left, at) and _is_digit(right, to):
            (first, at), (second, to) = _number(left, at), _number(right, to)
            if first != second:
                return _wrap(first - second)
        elif _is_digit(left, at) or _is_digit(right, to):
            return 1 if _is_digit(left, at) else -1
        elif left[at : at + 1] != right[to : to + 1]:
            return left[at] - (right[to] if to < len(right) else 0)
        else:
            at, to = at + 1, to + 1
    return -1 if to < len(right) else 0


def _is_digit(text: bytes, at: int) -> bool:
    return text[at : at + 1].isdigit()


def _number(text: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    value = 0
    while _is_digit(text, at):
        value = _wrap(value * 10 + text[at] - ord("0"))
        at += 1
    return value, at


def _wrap(number: int) -> int:
    return (number + 2**31) % 2**32 - 2**31


_comparable = functools.cmp_to_key(_compare)


def search_folders(ld_so_conf: Mapping[str, bytes]) -> list[str]:
    """The folders that ldconfig would look into, in their order: those of /etc/ld.so.conf, then the trusted ones.

    `ld_so_conf` has the contents of /etc/ld.so.conf and of all files that it may include, by absolute path. The trusted
    folders are those that are built into Debian's ldconfig. Each folder comes once, as it is named with merged /usr:
    /usr/lib for /lib. Raises BuildError for files that include each other.
    """
    folders = [*_configured(ld_so_conf), *_TRUSTED]
    return list(dict.fromkeys(f"/{merge_usr(posixpath.normpath(folder).lstrip('/'))}" for folder in folders))


def _configured(files: Mapping[str, bytes]) -> Iterator[str]:
    pending = [(_CONF, files.get(_CONF, b""))]
    for _ in range(_MAX_INCLUDES):
        if not pending:
            return
        path, content = pending.pop(0)
        lines = content.decode(errors="surrogateescape").splitlines()
        for number, line in enumerate(lines):
            words = line.partition("#")[0].split()
            if words[:1] == ["include"]:
                rest = (path, "\n".join(lines[number + 1 :]).encode(errors="surrogateescape"))
                pending = [*_included(files, path, words[1:]), rest, *pending]
                break
            if words[:1] != ["hwcap"]:  # a word that older releases of ldconfig knew
                yield from (folder for folder in words[:1] if folder.startswith("/"))
    raise BuildError("the files that /etc/ld.so.conf includes include each other", rule="loader-configuration",
                     hint="look at the include lines in /etc/ld.so.conf.d")  # fmt: skip


def _included(files: Mapping[str, bytes], path: str, patterns: list[str]) -> Iterator[tuple[str, bytes]]:
    for pattern in patterns:
        full = posixpath.join(posixpath.dirname(path), pattern)
        names = sorted(name for name in files if name.count("/") == full.count("/") and fnmatch.fnmatchcase(name, full))
        yield from ((name, files[name]) for name in names)


def soname_of(content: BinaryIO, *, machine: Machine | None = None) -> str | None:
    """The DT_SONAME of the ELF file in `content`, which can seek.

    None for another kind of file, one that has no such name, and one for another machine than `machine` (any 64-bit one
    by default). A file that is cut off counts as another kind.
    """
    try:
        elf = ELFFile(content)
        if elf.elfclass != 64 or (machine and elf["e_machine"] != _ELF_MACHINES[machine]) or elf["e_type"] != "ET_DYN":
            return None
        for segment in elf.iter_segments("PT_DYNAMIC"):
            if isinstance(segment, DynamicSegment):
                for tag in segment.iter_tags("DT_SONAME"):
                    return str(getattr(tag, "soname", "")) or None
    except (ELFError, ValueError, KeyError, AttributeError, UnicodeDecodeError):
        return None
    return None
