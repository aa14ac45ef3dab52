"""Recording what a command reads of an image when it starts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from uenv_builder.app.outputs import BuiltImage
from uenv_builder.core.start_record import dump_start
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.start_reads import start_files
from uenv_builder.model.start import StartFile
from uenv_builder.sandboxes import Command, Recording, Sandbox
from uenv_builder.system.files import explained, write_beside
from uenv_builder.system.page_cache import drop_cached


def record_start(build: BuiltImage, sandbox: Sandbox, command: Command, file: Path) -> int:
    """Run `command` in the build's image from nothing in memory, and write what it reads to `file`.

    Returns the command's exit code; where that is not 0, nothing is written. Raises BuildError.
    """
    with explained(build.image):
        left = drop_cached(build.image)
    if left:
        _say(f"{left / 1e6:.1f} MB of the image stay in memory, since somebody uses it: the time is not a cold start's")
    recording = sandbox.record(build.image, command)
    if recording.returncode:
        _say(f"the command ended with {recording.returncode}: nothing is recorded")
        return recording.returncode
    with open_squashfs(build.image) as image:
        files = start_files(image, [(read.start, read.length) for read in recording.reads], set(recording.files))
        size = image.size
    summary = summarize(recording, files, size)
    comments = [f"{build.manifest['label']}: {shlex.join(command.argv)}", summary]
    with write_beside(file) as out:
        out.write(dump_start(files, comments))
    _say(f"{summary}; written to {file}")
    return 0


def summarize(recording: Recording, files: Sequence[StartFile], size: int) -> str:
    """One line: how many files, how much of an image of `size` bytes, in how long."""
    count = sum(read.length for read in recording.reads)
    return (
        f"{len(files)} files, {count / 1e6:.1f} MB of {size / 1e6:.1f} MB in {len(recording.reads)} reads, "
        f"{recording.seconds:.2f} s while recording"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"uenv: {text}\n")
