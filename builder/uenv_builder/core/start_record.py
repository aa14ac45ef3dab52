"""Records of a start as text: a line for each file, in the order in which a program first reads them.

The first line is the format's name and version. Lines that begin with # are comments, empty ones are passed over. A
line is a path in the image, and, after a tab, the parts that are read where these are not all of the file:
`FROM-BEFORE`, in bytes, separated by blanks. What cannot stand in a line is written as in Python: a backslash and t, n,
r, another backslash, or x and two hexadecimal digits for a byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from uenv_builder.core.digest import Json
from uenv_builder.model.errors import Diagnostic, Position, RecipeError
from uenv_builder.model.start import Parts, StartFile, StartRecord

HEADER = "uenv-start 1"
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.)|$)")
_SPECIAL = {"\\": b"\\", "t": b"\t", "n": b"\n", "r": b"\r"}
_PART = re.compile(r"(\d{1,18})-(\d{1,18})")


def parse_start(content: bytes, name: str) -> StartRecord:
    """The record in `content`; raises RecipeError with every line that cannot be read, `name` is the file's.

    A path that comes again keeps its first place, and its parts are put together.
    """
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    if lines[0].strip() != HEADER:
        raise RecipeError(
            f'the first line is "{lines[0][:40]}" and must be "{HEADER}"', rule="start-invalid",
            position=Position(name, 1, 1), hint="record it anew with `uenv exec --profile-start FILE IMAGE`",
        )  # fmt: skip
    files: dict[str, Parts] = {}
    repeated: list[str] = []
    found: list[Diagnostic] = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            file = _read_line(line.rstrip("\r"))
        except ValueError as error:
            hint = "write PATH, or PATH, a tab and FROM-BEFORE in bytes; or remove the line"
            found.append(
                Diagnostic(rule="start-invalid", message=str(error), position=Position(name, number, 1), hint=hint)
            )
            continue
        if file.path in files:
            repeated.append(file.path)
            file = StartFile(file.path, _united(files[file.path], file.parts))
        files[file.path] = file.parts
    if found:
        raise RecipeError.collect(found)
    return StartRecord(tuple(StartFile(path, parts) for path, parts in files.items()), tuple(repeated))


def dump_start(files: Iterable[StartFile], comments: Iterable[str] = ()) -> bytes:
    """The text that `parse_start` reads; each of `comments` becomes one line."""
    lines = [HEADER, *(f"# {' '.join(text.split())}" for text in comments)]
    for file in files:
        parts = " ".join(f"{start}-{end}" for start, end in file.parts)
        lines.append(f"{_escape(file.path)}\t{parts}" if parts else _escape(file.path))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def start_document(record: StartRecord) -> Json:
    """What of a record decides the bytes of an image."""
    return [[_escape(file.path), *([start, end] for start, end in file.parts)] for file in record.files]


def _read_line(line: str) -> StartFile:
    written, tab, parts = line.partition("\t")
    path = _unescape(written)
    if path.startswith("/") or any(name in {"", ".", ".."} for name in path.split("/")) or "\0" in path:
        raise ValueError(f'"{written}" is no path in an image: it has no leading or double slash, no . and no ..')
    if tab and not parts.strip():
        raise ValueError(f'after the tab behind "{written}" there are no parts')
    return StartFile(path, _read_parts(parts))


def _read_parts(text: str) -> Parts:
    parts: list[tuple[int, int]] = []
    for word in text.split():
        match = _PART.fullmatch(word)
        if not match:
            raise ValueError(f'"{word}" is no part of a file: it must be FROM-BEFORE, in bytes')
        start, end = int(match[1]), int(match[2])
        if start >= end or (parts and start < parts[-1][1]):
            raise ValueError(f'the part "{word}" is empty, or not behind the one before it')
        parts.append((start, end))
    return tuple(parts)


def _united(first: Parts, second: Parts) -> Parts:
    if not first or not second:
        return ()
    united: list[tuple[int, int]] = []
    for start, end in sorted([*first, *second]):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(end, united[-1][1]))
        else:
            united.append((start, end))
    return tuple(united)


def _escape(path: str) -> str:
    text = path.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    text = "".join(f"\\x{ord(sign) - 0xDC00:02x}" if 0xDC80 <= ord(sign) <= 0xDCFF else sign for sign in text)
    if text[0] == "#" or text[0].isspace():
        return "".join(f"\\x{byte:02x}" for byte in text[0].encode()) + text[1:]
    return text


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        byte = bytes.fromhex(match[1]) if match[1] else _SPECIAL.get(match[2] or "")
        if byte is None:
            raise ValueError(f'"{match[0]}" in "{text}" stands for nothing')
        return byte.decode("latin-1") if byte < b"\x80" else chr(0xDC00 + byte[0])

    # Bytes that belong to one letter become that letter again.
    return _ESCAPE.sub(replace, text).encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
