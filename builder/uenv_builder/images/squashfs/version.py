"""Which linker this is."""

from __future__ import annotations

import zstandard

_FORMAT = 1  # raise it whenever the same layers give another image


def linker_version() -> str:
    """What a squashfs's bytes depend on besides its layers and options: part of the step's identity."""
    return f"squashfs linker {_FORMAT}, zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"
