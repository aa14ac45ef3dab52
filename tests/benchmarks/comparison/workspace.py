"""The temporary folder that everything happens in: at its end nothing is mounted, nothing runs and nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from .processes import kill_running, run


@contextmanager
def workspace(parent: Path | None) -> Iterator[Path]:
    """A new folder below `parent`; also after SIGINT, SIGTERM and SIGHUP all is released and removed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="uenv-comparison-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second one shall not leave half of it there
        kill_running()
        release_mounts(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def release_mounts(folder: Path) -> None:
    """Unmount everything below `folder`, what was mounted last first."""
    for place in reversed(_mounts_below(folder)):
        done = subprocess.run(["umount", place], check=False, capture_output=True)
        if done.returncode:
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    places = [line.split(" ")[1].encode().decode("unicode_escape") for line in lines]
    return [place for place in places if place.startswith(f"{folder}/")]


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """A squashfs, read only at `place`: by the kernel for root, else by squashfuse."""
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        run(["mount", "-t", "squashfs", "-o", "loop,ro", image, place])
        leave = ["umount", place]
    else:
        run(["squashfuse", image, place])
        leave = ["fusermount", "-u", place]
    try:
        yield place
    finally:
        run(leave)


def remove(*paths: Path) -> None:
    """Remove files and folders that may be there."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """What is left on the folder's file system."""
    return shutil.disk_usage(folder).free
