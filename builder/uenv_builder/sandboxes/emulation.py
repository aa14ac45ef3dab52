"""Code of another machine under qemu-user: what has to be registered with the kernel for it to run.

The kernel's binfmt_misc hands a file whose first bytes fit a pattern to an interpreter. Since Linux 6.7 a user
namespace can have a binfmt_misc of its own (kernel, Documentation/admin-guide/binfmt-misc.rst), so that neither root
nor any change of the machine is needed.
"""

from __future__ import annotations

import platform
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.model.errors import MissingToolError
from uenv_builder.system.process import install_hint

# e_machine values of the ELF specification's processor supplements.
ELF_MACHINES = {"aarch64": 183, "x86_64": 62}
_ELF_EXECUTABLE, _ELF_SHARED = 2, 3
_PT_INTERP = 3
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True, slots=True)
class Emulation:
    """How code of `machine` runs here: the emulator, and the rule to register (None: the kernel has one already)."""

    machine: str
    interpreter: str
    rule: str | None


def is_foreign(machine: str) -> bool:
    """Whether this machine's processor does not run code of `machine` by itself."""
    return machine != platform.machine()


def find_emulation(machine: str, registry: Path = Path("/proc/sys/fs/binfmt_misc")) -> Emulation:
    """The emulation of `machine`; raises MissingToolError where no static qemu-user is on PATH.

    `registry` is the folder where the kernel shows its rules.
    """
    if existing := _registered(machine, registry):
        return Emulation(machine, existing, None)
    interpreter = find_static_qemu(machine)
    return Emulation(machine, interpreter, binfmt_rule(machine, interpreter))


def find_static_qemu(machine: str) -> str:
    """The path of a static qemu-user for `machine`: inside an image there are no libraries of this machine."""
    for name in (f"qemu-{machine}-static", f"qemu-{machine}"):
        path = shutil.which(name)
        if path and _is_static(Path(path)):
            return path
    hint = f"{install_hint(f'qemu-{machine}')} (Debian 13 and newer: apt-get install qemu-user)"
    raise MissingToolError(f"code of {machine} needs a static qemu-{machine}, and none is on PATH", hint=hint)


def binfmt_rule(machine: str, interpreter: str) -> str:
    r"""The line for binfmt_misc's register file: every byte as \xHH, so that no separator is met by accident.

    The flags: F opens the interpreter now, before the root changes; P keeps the program's own argv[0].
    """
    magic, mask = _pattern(machine)
    return f":uenv-{machine}:M::{_escape(magic)}:{_escape(mask)}:{interpreter}:FP"


def _pattern(machine: str) -> tuple[bytes, bytes]:
    """The first 20 bytes of an executable of `machine`, and which of their bits count (ELF-64 object file format).

    Both executable types fit (2 and 3: the lowest bit does not count); the ABI byte may be System V's or GNU's (0, 3).
    """
    ident = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    magic = ident + struct.pack("<HH", _ELF_EXECUTABLE, ELF_MACHINES[machine])
    mask = bytes([255] * 7 + [0xFC] + [0] * 8) + struct.pack("<HH", 0xFFFE, 0xFFFF)
    return magic, mask


def _escape(value: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in value)


def _registered(machine: str, registry: Path) -> str | None:
    """The interpreter of an enabled rule that fits `machine` and works inside any root (flag F)."""
    header = _pattern(machine)[0]
    rules = sorted(registry.iterdir()) if registry.is_dir() else []
    for file in rules:
        if file.name in {"register", "status"}:
            continue
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        rule = dict(line.partition(" ")[::2] for line in lines[1:])
        magic, mask = bytes.fromhex(rule.get("magic", "")), bytes.fromhex(rule.get("mask", ""))
        if lines[:1] == ["enabled"] and "F" in rule.get("flags:", "") and _fits(header, magic, mask):
            return rule["interpreter"]
    return None


def _fits(header: bytes, magic: bytes, mask: bytes) -> bool:
    if not magic or len(magic) > len(header):
        return False
    counted = mask or b"\xff" * len(magic)
    return all((have ^ want) & bits == 0 for have, want, bits in zip(header, magic, counted, strict=False))


def _is_static(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or header[:5] != b"\x7fELF\x02":
            return False
        fields = _HEADER.unpack(header)
        file.seek(fields[5])
        table = file.read(fields[9] * fields[10])
    kinds = [_PROGRAM_HEADER.unpack_from(table, fields[9] * number)[0] for number in range(fields[10])]
    return _PT_INTERP not in kinds
