"""Check of what wheels installed: every file that a RECORD lists is there with that digest and size.

RECORD is the CSV file that the binary distribution format (packaging.python.org, "Recording installed projects") puts
into each dist-info folder: path relative to the folder above, algorithm=digest in URL-safe base64 without padding,
size.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.checks.image_tree import ImageTree
from uenv_builder.model.image import INSTALLER
from uenv_builder.model.report import CheckResult

_MAX_LINES = 25
_STRONG_ALGORITHMS = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One line of a RECORD: absolute path in the image, digest as `algorithm=value` and size in bytes if given."""

    path: str
    digest: str
    size: int | None


def check_records(tree: ImageTree) -> CheckResult:
    """wheel-record: see the module; byte code without a digest may be missing, since installers list it in advance."""
    records = find_records(tree)
    if not records:
        return CheckResult(check="wheel-record", outcome="skipped", reason="no wheel is installed in the image")
    listed = [line for lines in records.values() for line in lines]
    # Hashing lets go of the interpreter's lock.
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        wrong = [problem for problem in pool.map(lambda line: _compare(tree, line), listed) if problem]
    return CheckResult(
        check="wheel-record",
        outcome="failed" if wrong else "passed",
        reason=f"{len(wrong)} files differ from what their wheels installed" if wrong else "",
        measured={
            "wheels": len(records),
            "files": len(listed),
            "hashed_bytes": sum(line.size or 0 for line in listed if line.digest),
        },
        details=tuple(wrong[:_MAX_LINES]),
    )


def find_records(tree: ImageTree) -> dict[str, list[Recorded]]:
    """The lines of each RECORD by its path; without those that a wheel carries inside a package that it vendors.

    Such a RECORD is an ordinary file of its wheel, listed with a digest, and speaks of an installation elsewhere. What
    pip and others installed in a base image, and what its makers then did to it, is theirs.
    """
    paths = [path for path, _ in tree.files() if path.endswith(".dist-info/RECORD") and _is_ours(tree, path)]
    records = {path: list(read_record(tree, path)) for path in paths}
    carried = {line.path for path, lines in records.items() for line in lines if line.digest and line.path != path}
    return {path: lines for path, lines in records.items() if path not in carried}


def _is_ours(tree: ImageTree, record: str) -> bool:
    installer = tree.resolve(f"{posixpath.dirname(record)}/INSTALLER")
    return installer is None or Path(tree.outside(installer)).read_bytes().strip() == INSTALLER.encode()


def read_record(tree: ImageTree, path: str) -> Iterator[Recorded]:
    """The lines of the RECORD at `path`."""
    site = posixpath.dirname(posixpath.dirname(path))
    with Path(tree.outside(path)).open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            if row:
                name, digest, size = (*row, "", "")[:3]
                yield Recorded(posixpath.normpath(posixpath.join(site, name)), digest, int(size) if size else None)


def _compare(tree: ImageTree, line: Recorded) -> str | None:
    """What is wrong with the file, None if nothing is."""
    real = tree.resolve(line.path)
    if real is None:
        is_byte_code = line.path.endswith(".pyc") and not line.digest
        return None if is_byte_code else f"{line.path}: is missing"
    with Path(tree.outside(real)).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if line.size is not None and size != line.size:
            return f"{line.path}: has {size} bytes, RECORD says {line.size}"
        if not line.digest:
            return None
        algorithm, _, expected = line.digest.partition("=")
        if algorithm not in _STRONG_ALGORITHMS:
            return f"{line.path}: RECORD has a digest by {algorithm}, which proves nothing"
        digest = hashlib.file_digest(file, algorithm).digest()
    found = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return None if found == expected.rstrip("=") else f"{line.path}: has {algorithm} {found}, RECORD says {expected}"
