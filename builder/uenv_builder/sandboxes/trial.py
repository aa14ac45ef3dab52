"""The smallest image that can show whether a machine runs images: one program of a few instructions, in a squashfs.

Both are written here byte by byte, so that the trial needs neither a compiler nor mksquashfs nor the network. The
squashfs says of itself that it is compressed with zstd, as the builder's images are, so that a kernel without zstd
refuses it; its few blocks are stored as they are, which the format allows (kernel,
Documentation/filesystems/squashfs.rst).
"""

from __future__ import annotations

import struct

from uenv_builder.sandboxes.emulation import ELF_MACHINES

EXIT_CODE = 42
PROGRAM = "/trial"

# exit(42) by the kernel's system call tables.
# aarch64: mov x0, #42; mov x8, #93; svc #0. x86_64: mov edi, 42; mov eax, 60; syscall.
_INSTRUCTIONS = {
    "aarch64": struct.pack("<III", 0xD2800540, 0xD2800BA8, 0xD4000001),
    "x86_64": b"\xbf\x2a\x00\x00\x00\xb8\x3c\x00\x00\x00\x0f\x05",
}
_LOAD_ADDRESS = 0x400000
_ZSTD = 6
_BLOCK_LOG = 17
_UNCOMPRESSED_METADATA = 0x8000
_UNCOMPRESSED_BLOCK = 1 << 24
_NONE = 0xFFFFFFFFFFFFFFFF
_FLAGS = 0x0001 | 0x0002 | 0x0010 | 0x0200
"""Inodes and data not compressed, no fragments, no xattrs."""
_FOLDERS = ("dev", "proc", "run", "tmp")
_DIRECTORY, _FILE = 1, 2


def trial_program(machine: str) -> bytes:
    """A static ELF executable of `machine` that ends with EXIT_CODE."""
    code = _INSTRUCTIONS[machine]
    size = 64 + 56 + len(code)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    entry = _LOAD_ADDRESS + 64 + 56
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, ELF_MACHINES[machine], 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x1000)
    return header + segment + code


def trial_image(machine: str) -> bytes:
    """A squashfs image with `trial_program` at PROGRAM and the folders that a sandbox mounts on."""
    program = trial_program(machine)
    inodes, root_offset, names = _trees(program)
    inode_table = 96 + len(program)
    directory_table = inode_table + 2 + len(inodes)
    id_block = directory_table + 2 + len(names)
    id_table = id_block + 2 + 4
    used = id_table + 8
    superblock = struct.pack(
        "<IIIIIHHHHHHQQQQQQQQ", 0x73717368, len(_FOLDERS) + 2, 0, 1 << _BLOCK_LOG, 0, _ZSTD, _BLOCK_LOG, _FLAGS, 1, 4,
        0, root_offset, used, id_table, _NONE, inode_table, directory_table, _NONE, _NONE,
    )  # fmt: skip
    blocks = _metadata(inodes) + _metadata(names) + _metadata(struct.pack("<I", 0)) + struct.pack("<Q", id_block)
    image = superblock + program + blocks
    return image.ljust(4096, b"\0")


def _metadata(content: bytes) -> bytes:
    return struct.pack("<H", _UNCOMPRESSED_METADATA | len(content)) + content


def _trees(program: bytes) -> tuple[bytes, int, bytes]:
    """The inode table, the root's offset in it, and the directory table.

    Inodes are numbered from 1 in the order of the names; the root is the last. A folder's size is its listing's plus 3.
    """
    children = sorted([*_FOLDERS, PROGRAM.lstrip("/")])
    root_number = len(children) + 1
    inodes, entries = b"", b""
    for number, name in enumerate(children, start=1):
        kind = _DIRECTORY if name in _FOLDERS else _FILE
        encoded = name.encode()
        entries += struct.pack("<HhHH", len(inodes), number - 1, kind, len(encoded) - 1) + encoded
        if kind == _DIRECTORY:
            inodes += struct.pack("<HHHHIIIIHHI", kind, 0o755, 0, 0, 0, number, 0, 2, 3, 0, root_number)
        else:
            inodes += struct.pack("<HHHHIIIIII", kind, 0o755, 0, 0, 0, number, 96, 0xFFFFFFFF, 0, len(program))
            inodes += struct.pack("<I", _UNCOMPRESSED_BLOCK | len(program))
    names = struct.pack("<III", len(children) - 1, 0, 1) + entries
    links, size, parent = 2 + len(_FOLDERS), len(names) + 3, root_number + 1
    root = struct.pack("<HHHHIIIIHHI", _DIRECTORY, 0o755, 0, 0, 0, root_number, 0, links, size, 0, parent)
    return inodes + root, len(inodes), names
