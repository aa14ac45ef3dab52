"""Tar as the builder writes it: the same entries give the same bytes, whatever wrote the archive that they came from.

The formats are those of POSIX pax: a ustar header wherever its fields suffice, an extended header before it otherwise.
A header follows from the entry alone: a reader who knows the entry can compare the header instead of parsing it.
"""

from __future__ import annotations

from typing import Protocol

from uenv_builder.model.entry import EntryKind

BLOCK = 512
END = bytes(2 * BLOCK)
"""What closes a tar stream."""

_NAME, _PREFIX, _LINK = 100, 155, 100
_MAX_ID, _MAX_SIZE = 0o7777777, 0o77777777777
_TYPES: dict[EntryKind, bytes] = {"file": b"0", "hardlink": b"1", "symlink": b"2", "dir": b"5"}


class Described(Protocol):
    """What a header says; the fields of `Entry` and of `IndexEntry`."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> EntryKind: ...  # noqa: D102
    @property
    def mode(self) -> int: ...  # noqa: D102
    @property
    def mtime(self) -> int: ...  # noqa: D102
    @property
    def uid(self) -> int: ...  # noqa: D102
    @property
    def gid(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def target(self) -> str: ...  # noqa: D102


def tar_header(entry: Described) -> bytes:
    """Everything that stands before the content of `entry`: one or more blocks of 512 bytes.

    Owners are numbers only: user and group names would depend on the machine that reads them.
    """
    path = f"{entry.path}/" if entry.kind == "dir" else entry.path
    extended: dict[str, str] = {}
    split = _split_name(path)
    if split is None:
        extended["path"] = path
    if len(entry.target) > _LINK or not entry.target.isascii():
        extended["linkpath"] = entry.target
    numbers = {"uid": (entry.uid, _MAX_ID), "gid": (entry.gid, _MAX_ID), "size": (entry.size, _MAX_SIZE)}
    extended |= {name: str(value) for name, (value, most) in numbers.items() if value > most}
    fitting = {name: value if value <= most else 0 for name, (value, most) in numbers.items()}
    prefix, name = split or (b"", _shortened(path))
    header = _block(
        prefix=prefix, name=name, mode=entry.mode, uid=fitting["uid"], gid=fitting["gid"], size=fitting["size"],
        mtime=entry.mtime, kind=_TYPES[entry.kind], link=_shortened(entry.target),
    )  # fmt: skip
    return _extended_header(extended) + header if extended else header


def padding(size: int) -> bytes:
    """The zeros that fill the last block of a content of `size` bytes."""
    return bytes(-size % BLOCK)


def _split_name(path: str) -> tuple[bytes, bytes] | None:
    """`path` as ustar's prefix and name fields, or None if it does not fit them."""
    if not path.isascii():
        return None
    raw = path.encode("ascii")
    if len(raw) <= _NAME:
        return b"", raw
    cut = raw.find(b"/", len(raw) - _NAME - 1)
    if 0 < cut <= _PREFIX and cut + 1 < len(raw):
        return raw[:cut], raw[cut + 1 :]
    return None


def _shortened(text: str) -> bytes:
    return text.encode("ascii", "replace")[:_NAME]


def _extended_header(records: dict[str, str]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    header = _block(
        prefix=b"", name=b"PaxHeader", mode=0o644, uid=0, gid=0, size=len(body), mtime=0, kind=b"x", link=b""
    )  # fmt: skip
    return header + body + padding(len(body))


def _record(key: str, value: str) -> bytes:
    """One pax record: its own length in decimal digits, the digits included, then `key=value` and a line feed."""
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _block(
    *, prefix: bytes, name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes
) -> bytes:
    fields = (
        name.ljust(_NAME, b"\0"), b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime),
        b" " * 8, kind, link.ljust(_LINK, b"\0"), b"ustar\x0000", bytes(80), prefix.ljust(_PREFIX, b"\0"), bytes(12),
    )  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
