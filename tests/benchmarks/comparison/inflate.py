"""Inflates packages and wheels and throws the result away: python inflate.py FILE... (wheels by ISA-L)."""

from __future__ import annotations

import subprocess
import sys
import zipfile
import zlib

from isal import isal_zlib

_CHUNK = 1 << 20


def inflate_wheel(path: str) -> None:
    """Every member, to its end."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                if info.compress_type == zipfile.ZIP_DEFLATED:
                    member._decompressor = isal_zlib.decompressobj(-zlib.MAX_WBITS)
                while member.read(_CHUNK):
                    pass


for name in sys.argv[1:]:
    if zipfile.is_zipfile(name):
        inflate_wheel(name)
    else:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", name], check=True, stdout=subprocess.DEVNULL)
