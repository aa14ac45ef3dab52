"""What the comparison ran on and with, and what it lacks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import uv
import zstandard

from .processes import CommandError, output_of

_PACKAGES = {
    "dpkg-deb": "dpkg", "mksquashfs": "squashfs-tools", "unsquashfs": "squashfs-tools", "zstd": "zstd", "tar": "tar",
}  # fmt: skip
_ROOT_ONLY = {"buildah": "buildah", "mount": "mount"}


def missing_tools(*, buildah: bool) -> list[str]:
    """What has to be installed first, in sentences with the remedy."""
    wanted = {**_PACKAGES, **(_ROOT_ONLY if buildah else {})}
    packages = sorted({package for tool, package in wanted.items() if shutil.which(tool) is None})
    found = [f"missing: {', '.join(packages)}; install them: apt-get install {' '.join(packages)}"] if packages else []
    if buildah and os.geteuid() != 0:
        found.append("buildah's containers are mounted here, which needs root: run as root, or with --no-buildah")
    if buildah and _run_quietly([sys.executable, "-m", "pip", "--version"]) is None:
        found.append(f"missing: pip; install it: {uv.find_uv_bin()} pip install --python {sys.executable} pip")
    return found


def describe_machine(folder: Path) -> dict[str, str]:
    """Processor, cores, memory, kernel, file system of `folder`, and the version of each tool."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{_total_memory() / 2**30:.0f} GiB",
        "system": _system(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": _file_system(folder),
        **_versions(),
    }


def builder_commit(checkout: Path) -> str:
    """What of the builder was measured: version and commit."""
    commit = _run_quietly(["git", "-C", checkout, "describe", "--always", "--dirty", "--abbrev=10"]) or "no commit"
    return f"{version('uenv-builder')} ({commit.strip()})"


def _versions() -> dict[str, str]:
    commands: dict[str, list[object]] = {
        "mksquashfs": ["mksquashfs", "-version"], "zstd": ["zstd", "--version"], "tar": ["tar", "--version"],
        "dpkg-deb": ["dpkg-deb", "--version"], "buildah": ["buildah", "--version"],
        "uv": [uv.find_uv_bin(), "--version"], "pip": [sys.executable, "-m", "pip", "--version"],
    }  # fmt: skip
    found = {}
    for name, command in commands.items():
        text = _run_quietly(command) or ""
        number = re.search(r"\d+(\.\d+)+", text)
        found[name] = number[0] if number else "not installed"
    found["Python of the builder"] = platform.python_version()
    found["libzstd of the builder"] = ".".join(map(str, zstandard.ZSTD_VERSION))
    found["isal"] = version("isal")
    return found


def _run_quietly(command: list[object]) -> str | None:
    try:
        return output_of(command)
    except (CommandError, OSError):
        return None


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _file_system(folder: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, place, kind, *_ = line.split(" ")
        if folder.is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]
