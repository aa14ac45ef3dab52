"""Recordings of what a command reads of an image: the program that makes one, and its result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from uenv_builder.sandboxes.interface import Read, Recording


def recorder_command(image: Path, folder: Path, result: Path) -> list[str]:
    """What to put before a command that mounts `image` at `folder`: what it reads is then written to `result`."""
    return [sys.executable, "-m", "uenv_builder.sandboxes.recorder", str(image), str(folder), str(result)]


def read_recording(result: Path, returncode: int) -> Recording:
    """The recording that lies at `result`, of a command that ended with `returncode`."""
    document = json.loads(result.read_text(encoding="ascii"))
    return Recording(
        returncode=returncode,
        seconds=document["seconds"],
        reads=[Read(*read) for read in document["reads"]],
        files=document["files"],
    )
