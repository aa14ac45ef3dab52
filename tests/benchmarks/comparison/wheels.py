"""Wheels that are made for a case: newer versions of published ones, and large ones out of their files."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import random
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .payload import Payload, Pin, keep_download

_PIECE = 64 << 20
WHEEL_BYTES = 500_000_000
"""What one made wheel unpacks to, about: as many bytes as a large part of CUDA has."""


def bump(payload: Payload, pin: Pin, number: int, scratch: Path) -> Pin:
    """A newer version of a wheel among the downloads: new metadata, and one more module; the rest is as it was.

    The other members keep their compressed bytes: only the zip's directory is written anew.
    """
    name, version, rest = str(pin["file"]).split("-", 2)
    newer = f"{version}{'.' if '+' in version else '+'}bumped{number}"
    file = scratch / f"{name}-{newer}-{rest}"
    shutil.copyfile(payload.download(pin), file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        _rename_dist_info(archive, f"{name}-{version}.dist-info", f"{name}-{newer}.dist-info", newer)
    return keep_download(payload, file, str(pin["name"]), newer)


def _rename_dist_info(archive: zipfile.ZipFile, old: str, new: str, version: str) -> None:
    moved = {info.filename: archive.read(info) for info in archive.infolist() if info.filename.startswith(f"{old}/")}
    for name in moved:
        archive.filelist.remove(archive.NameToInfo.pop(name))
    rows = [row for row in csv.reader(moved.pop(f"{old}/RECORD").decode().splitlines()) if row[0] not in moved]
    rows = [row for row in rows if not row[0].startswith(f"{old}/RECORD")]
    metadata = moved[f"{old}/METADATA"].decode().split("\n")
    place = next(number for number, line in enumerate(metadata) if line.lower().startswith("version:"))
    moved[f"{old}/METADATA"] = "\n".join([*metadata[:place], f"Version: {version}", *metadata[place + 1 :]]).encode()
    files = {f"{new}{name[len(old) :]}": content for name, content in moved.items()}
    files[f"bumped_{new.partition('-')[0].lower()}.py"] = f'VERSION = "{version}"\n'.encode()
    for name, content in files.items():
        archive.writestr(name, content)
        rows.append(_row(name, content))
    archive.writestr(f"{new}/RECORD", _record(rows, new))


def _row(name: str, content: bytes) -> list[str]:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return [name, f"sha256={digest}", str(len(content))]


def _record(rows: Sequence[Sequence[str]], dist_info: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*rows, [f"{dist_info}/RECORD", "", ""]])
    return text.getvalue()


def make_wheels(payload: Payload, count: int, size: int, scratch: Path, *, jobs: int) -> list[Pin]:
    """So many wheels among the downloads, each of which unpacks to `size` bytes or a little more.

    They hold the files of the payload's own wheels in a mixed order, again and again, each with a number of its own
    in front, so that they compress as these do and no two are equal. Of a file, the first 64 MiB are taken.
    """
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda number: _make_wheel(payload, number, size, scratch), range(count)))


def _make_wheel(payload: Payload, number: int, total: int, scratch: Path) -> Pin:
    name, rows = f"growth{number}", []
    file, dist_info = scratch / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        left = total
        for place, (path, content) in enumerate(_contents(payload, number)):
            part = _mark(number * 10**6 + place) + content
            left -= len(part)
            archive.writestr(member := f"{name}/d{place // 500}/{place}_{path.rpartition('/')[2]}", part)
            rows.append(_row(member, part))
            if left <= 0:
                break
        for path, text in {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: comparison\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }.items():
            archive.writestr(f"{dist_info}/{path}", text)
            rows.append(_row(f"{dist_info}/{path}", text.encode()))
        archive.writestr(f"{dist_info}/RECORD", _record(rows, dist_info))
    return keep_download(payload, file, name, "1.0")


def _mark(number: int) -> bytes:
    return f"# {number:>60}\n".encode()


def _contents(payload: Payload, seed: int) -> Iterator[tuple[str, bytes]]:
    archives = [zipfile.ZipFile(payload.download(pin)) for pin in payload.wheels]
    try:
        members = [(archive, info) for archive in archives for info in archive.infolist() if info.file_size]
        random.Random(seed).shuffle(members)
        while True:
            for archive, info in members:
                with archive.open(info) as stream:
                    yield info.filename, stream.read(_PIECE)
    finally:
        for archive in archives:
            archive.close()
