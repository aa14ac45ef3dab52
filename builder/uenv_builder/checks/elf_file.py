"""What the dynamic loader reads of an ELF file: machine, type, and the names and folders in its dynamic section.

Layout and constants are those of the System V ABI's ELF-64 format (elf(5), <elf.h>). Reading is by mmap, so that of a
library of a gigabyte only a few pages are touched.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

_MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_LITTLE_ENDIAN_64 = (2, 1)
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH, _DT_FLAGS_1 = 0, 1, 5, 14, 15, 29, 0x6FFFFFFB
_DF_1_NODEFLIB = 0x800

MACHINES = {"aarch64": 183, "x86_64": 62}
_MACHINE_NAMES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 190: "CUDA", 224: "AMD GPU", 247: "BPF"}
ACCELERATOR_MACHINES = frozenset({190, 224, 247})
"""CUDA, AMD GPU and BPF: code that the processor never runs."""
RELOCATABLE, EXECUTABLE, SHARED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class ElfFile:
    """One ELF file. Folders in `rpath` and `runpath` are as written, $ORIGIN and all; None where the tag is missing."""

    machine: int
    kind: int
    dynamic: bool = False
    needed: tuple[str, ...] = ()
    soname: str | None = None
    rpath: tuple[str, ...] | None = None
    runpath: tuple[str, ...] | None = None
    no_default_folders: bool = False

    @property
    def machine_name(self) -> str:
        """The machine as people call it."""
        return _MACHINE_NAMES.get(self.machine, f"ELF machine {self.machine}")


def read_elf(path: str) -> ElfFile | None:
    """The ELF file at `path`, None if it is another kind of file or is cut off before its headers end.

    Of files that are not 64-bit little-endian only machine and type are read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        header = os.read(descriptor, _HEADER.size)
        if header[:4] != _MAGIC or len(header) < 52:
            return None
        if (header[4], header[5]) != _LITTLE_ENDIAN_64:
            order = "<" if header[5] == 1 else ">"
            kind, machine = struct.unpack_from(f"{order}HH", header, 16)
            return ElfFile(machine, kind)
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            return _read_64(content)
    except struct.error:
        return None
    finally:
        os.close(descriptor)


def _read_64(content: mmap.mmap) -> ElfFile:
    _, kind, machine, _, _, table, _, _, _, size, count, _, _, _ = _HEADER.unpack_from(content)
    segments = [_SEGMENT.unpack_from(content, table + size * number) for number in range(count)]
    dynamic = next((segment for segment in segments if segment[0] == _PT_DYNAMIC), None)
    # A file of debugging symbols keeps the segments' headers without their content.
    if dynamic is None or dynamic[5] == 0 or dynamic[2] + dynamic[5] > len(content):
        return ElfFile(machine, kind)
    tags = _read_tags(content, dynamic[2], dynamic[5])
    loads = [(segment[3], segment[2], segment[5]) for segment in segments if segment[0] == _PT_LOAD]
    strings = _offset(loads, next((value for tag, value in tags if tag == _DT_STRTAB), 0))
    if strings is None:
        return ElfFile(machine, kind)

    def texts(wanted: int) -> list[str]:
        return [_text(content, strings + value) for tag, value in tags if tag == wanted]

    rpath, runpath = texts(_DT_RPATH), texts(_DT_RUNPATH)
    return ElfFile(
        machine=machine,
        kind=kind,
        dynamic=True,
        needed=tuple(texts(_DT_NEEDED)),
        soname=next(iter(texts(_DT_SONAME)), None),
        rpath=_folders(rpath),
        runpath=_folders(runpath),
        no_default_folders=any(tag == _DT_FLAGS_1 and value & _DF_1_NODEFLIB for tag, value in tags),
    )


def _read_tags(content: mmap.mmap, start: int, size: int) -> list[tuple[int, int]]:
    tags: list[tuple[int, int]] = []
    for offset in range(start, start + size - _DYNAMIC.size + 1, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(content, offset)
        if tag == _DT_NULL:
            break
        tags.append((tag, value))
    return tags


def _offset(loads: list[tuple[int, int, int]], address: int) -> int | None:
    """Where in the file the memory address lies, by the loadable segments (address, offset, size in the file)."""
    return next((address - start + offset for start, offset, size in loads if start <= address < start + size), None)


def _text(content: mmap.mmap, offset: int) -> str:
    end = content.find(b"\0", offset)
    return content[offset:end].decode(errors="surrogateescape")


def _folders(values: list[str]) -> tuple[str, ...] | None:
    return tuple(values[0].split(":")) if values else None
