"""Mounts a build's squashfs with the kernel, and compares every file in it with the packages that the lock names.

    python tests/compare_mounted_image.py build/pytorch-2.14-gh200 [--downloads ~/.cache/uenv-builder/downloads]

Needs root. Nothing of uenv_builder is used: wheels are read with zipfile, Debian packages with python-debian. Each file
of a wheel has the sha256 of its RECORD, each file of a package the md5 of its md5sums; what neither names is counted by
what it is. Exit code 1 where something is missing or differs.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from debian.debfile import DebFile

DOWNLOADS = Path.home() / ".cache/uenv-builder/downloads"
Sums = dict[str, set[str]]


@dataclass
class Expected:
    """What the packages say, by path in the image: digests as hex; several where several packages bring a file."""

    sha256: Sums = field(default_factory=lambda: defaultdict(set))
    md5: Sums = field(default_factory=lambda: defaultdict(set))
    rewritten: set[str] = field(default_factory=set)
    """Files that an installer writes anew: scripts, whose first line names the interpreter; RECORD; conffiles."""


def read_wheel(wheel: zipfile.ZipFile, python: str, found: Expected) -> None:
    """Add what the wheel's RECORD says (binary distribution format, "The .dist-info directory")."""
    (name,) = [name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    for path, digest, _size in csv.reader(io.StringIO(wheel.read(name).decode())):
        place = place_of(path, python)
        if place.startswith("usr/local/bin/") or not digest:
            found.rewritten.add(place)
            continue
        kind, _, text = digest.partition("=")
        if kind != "sha256":
            raise SystemExit(f"{wheel.filename}: {path} has a {kind} only")
        found.sha256[place].add(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex())


def place_of(path: str, python: str) -> str:
    """Where Debian's local scheme has a file of a wheel."""
    packages = f"usr/local/lib/python{python}/dist-packages"
    match = re.fullmatch(r"([^/]+)-[^/-]+\.data/(\w+)/(.*)", path)
    if not match:
        return f"{packages}/{path}"
    scheme = {
        "purelib": packages, "platlib": packages, "data": "usr/local", "scripts": "usr/local/bin",
        "headers": f"usr/local/include/python{python}/{match[1]}",
    }  # fmt: skip
    return f"{scheme[match[2]]}/{match[3]}"


def read_package(path: Path, found: Expected) -> None:
    """Add what a Debian package's md5sums says; conffiles stand in another list, without sums."""
    package = DebFile(str(path))
    control = package.control
    if control.has_file("md5sums"):
        for name, digest in package.md5sums(encoding="utf-8").items():
            found.md5[merged(name)].add(digest)
    if control.has_file("conffiles"):
        names = control.get_content("conffiles", encoding="utf-8").split()
        found.rewritten.update(merged(name.lstrip("/")) for name in names)
    package.close()


def merged(name: str) -> str:
    """The path with /usr merged."""
    return (
        f"usr/{name}" if name.split("/", maxsplit=1)[0] in {"bin", "lib", "lib32", "lib64", "libx32", "sbin"} else name
    )


def read_packages(lock: dict, downloads: Path) -> Expected:
    """What all packages of the lock say."""
    found = Expected()

    def at(pin: dict) -> Path:
        path = downloads / pin["sha256"][:2] / pin["sha256"]
        if not path.is_file():
            raise SystemExit(f"{path}: is not there; it is {pin['name']} {pin['version']}")
        return path

    for pin in lock["userland"]["packages"]:
        read_package(at(pin), found)
    for pin in (lock.get("python") or {}).get("wheels", ()):
        with zipfile.ZipFile(at(pin)) as wheel:
            read_wheel(wheel, lock["python"]["version"], found)
    return found


def compare(root: Path, expected: Expected) -> tuple[Counter[str], list[str]]:
    """How many files were compared, by what; and what is wrong."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    seen: set[str] = set()
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        seen.add(name)
        if path.is_symlink() or not path.is_file():
            counts["folders and links"] += 1
            continue
        sha256, md5 = expected.sha256.get(name), expected.md5.get(name)
        if sha256 or md5:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256" if sha256 else "md5").hexdigest()
            counts["as in a wheel's RECORD" if sha256 else "as in a package's md5sums"] += 1
            if digest not in (sha256 or md5 or ()):
                wrong.append(f"{name}: is {digest} instead of {' or '.join(sorted(sha256 or md5 or ()))}")
        else:
            counts[kind_of(name, expected)] += 1
    missing = (expected.sha256.keys() | expected.md5.keys()) - seen
    return counts, [*wrong, *(f"{name}: is missing" for name in sorted(missing))]


def kind_of(name: str, expected: Expected) -> str:
    """What a file is that no package names."""
    if name in expected.rewritten:
        return "written by installers: scripts, RECORD, conffiles"
    if name.startswith("usr/local/bin/"):
        return "scripts of entry points"
    if name.endswith(".pyc"):
        return "byte code"
    if name.startswith("var/lib/dpkg/"):
        return "dpkg's database"
    if name.startswith("etc/"):
        return "files of /etc that are made"
    return f"other: {'.dist-info' if '.dist-info/' in name else name}"


def can_mount() -> bool:
    """Whether this process may mount through a loop device in a name space of its own."""
    if os.geteuid() != 0 or not shutil.which("losetup"):
        return False
    return all(
        subprocess.run(command, capture_output=True, check=False).returncode == 0
        for command in (["losetup", "-f"], ["unshare", "-m", "true"])
    )


def mount_and_compare(build: Path, downloads: Path) -> int:
    """In a mount namespace of our own: mount the image, compare, print; the exit code."""
    point = Path("/mnt")
    mounting = ["mount", "-t", "squashfs", "-o", "loop,ro", str(build / "image.squashfs"), str(point)]
    subprocess.run(mounting, check=True)
    lock = yaml.load((build / "lock.yaml").read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    counts, wrong = compare(point, read_packages(lock, downloads))
    print(json.dumps({"files": dict(sorted(counts.items())), "wrong": wrong}, indent=2))
    return 1 if wrong else 0


def main() -> int:
    """Start again in a mount namespace, where the work is done: whatever happens, nothing stays mounted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--downloads", type=Path, default=DOWNLOADS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return mount_and_compare(arguments.build, arguments.downloads)
    if not can_mount():
        parser.error("this needs root, and loop devices")
    again = ["unshare", "--mount", sys.executable, __file__, "--inside"]
    again += ["--downloads", str(arguments.downloads.resolve())]
    return subprocess.run([*again, str(arguments.build.resolve())], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
