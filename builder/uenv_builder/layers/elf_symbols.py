"""Which of a component's files hold symbols to take out, and what must not stand in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

_ELF, _ARCHIVE = b"\x7fELF", b"!<arch>\n"


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """An ELF file or static library: its path below the root, its build id in hexadecimal (or None) and its RUNPATH."""

    path: str
    kind: str
    """`linked` for programs and shared libraries, `archive` for static libraries and single objects."""
    build_id: str | None = None
    runpath: tuple[str, ...] = ()


def linked_files(root: Path) -> Iterator[LinkedFile]:
    """The files below `root` that a linker or compiler wrote, sorted by path; hard links once."""
    seen: set[tuple[int, int]] = set()
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with path.open("rb") as file:
            magic = file.read(8)
        name = str(path.relative_to(root))
        if magic.startswith(_ELF) and (found := _read_elf(path, name)):
            yield found
        elif magic == _ARCHIVE:
            yield LinkedFile(name, "archive")


def _read_elf(path: Path, name: str) -> LinkedFile | None:
    with path.open("rb") as file:
        try:
            elf = ELFFile(file)
            if elf.header.e_type not in {"ET_EXEC", "ET_DYN"}:
                return LinkedFile(name, "archive")
            notes = (note for section in elf.iter_sections() if isinstance(section, NoteSection)
                     for note in section.iter_notes())  # fmt: skip
            build_id = next((str(note["n_desc"]) for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"), None)
            tags = [tag for section in elf.iter_sections() if isinstance(section, DynamicSection)
                    for tag in section.iter_tags()]  # fmt: skip
        except ELFError:
            return None
    paths = [getattr(tag, "runpath", "") or getattr(tag, "rpath", "") for tag in tags]
    return LinkedFile(name, "linked", build_id, tuple(folder for text in paths for folder in text.split(":") if folder))
