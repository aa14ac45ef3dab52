"""Debian packages made in memory, good and evil ones."""

import gzip
import io
import lzma
import tarfile
from pathlib import Path

import zstandard

COMPRESSORS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def member(name: str, content: bytes = b"", **attributes) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar archive; `attributes` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o644, 1_600_000_000
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar_of(members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def ar_of(parts: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, content in parts.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def make_deb(
    path: Path,
    *members,
    fields: dict[str, str] | None = None,
    scripts: dict[str, str] | None = None,
    suffix: str = ".xz",
    data: bytes | None = None,
) -> Path:
    """Write a package called after `path`; `fields` of its control stanza replace the usual ones."""
    stanza = {"Package": path.stem, "Version": "1.0", "Architecture": "amd64", "Maintainer": "A <a@example.org>"}
    stanza |= {"Installed-Size": "10", "Description": "made for a test\n of packages"} | (fields or {})
    text = "".join(f"{key}: {value}\n" for key, value in stanza.items())
    control = tar_of([folder("./"), member("./control", text.encode())]
                     + [member(f"./{name}", body.encode()) for name, body in (scripts or {}).items()])  # fmt: skip
    content = tar_of([folder("./"), *members]) if data is None else data
    compress = COMPRESSORS[suffix]
    parts = {"debian-binary": b"2.0\n", f"control.tar{suffix}": compress(control)}
    path.write_bytes(ar_of(parts | {f"data.tar{suffix}": compress(content)}))
    return path
