"""The program that watches a command's reads of an image: a process of its own, since only it sees what is mounted.

Started as `python -m uenv_builder.sandboxes.recorder IMAGE FOLDER RESULT COMMAND...` in a mount namespace where COMMAND
mounts IMAGE at FOLDER and goes on to what is to be watched. It serves IMAGE meanwhile, and writes what it saw to RESULT
as JSON; its exit code is the command's.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

from uenv_builder.sandboxes.served_file import ServedFile
from uenv_builder.system.page_cache import cached_pages
from uenv_builder.system.process import start

_SETUP_FAILED = 125


def main() -> None:
    """Watch, write the result, and end as the command ends."""
    image, folder, result, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, lambda *_: None)  # the command has it from the terminal, and decides
    try:
        served = ServedFile(Path(image))
    except OSError as error:
        sys.stderr.write(f"uenv-sandbox: the reads of the image cannot be watched: {error.strerror}\n")
        sys.exit(_SETUP_FAILED)
    started = time.monotonic()
    code = start(command, stdin=None).wait()
    ended = time.monotonic()
    reads = list(served.reads)
    document = {"seconds": ended - started, "reads": reads, "files": _read_files(folder)}
    Path(result).write_text(json.dumps(document), encoding="ascii")
    sys.exit(code if code >= 0 else 128 - code)


def _read_files(root: str) -> list[str]:
    """The files below `root` of which anything is in memory, by their paths from there, names in order.

    The image was mounted for the command, so it was the command that read them.
    """
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118  (tens of thousands)
            if _is_cached(path):
                found.append(os.path.relpath(path, root))
    return found


def _is_cached(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # a symbolic link, or a file that cannot be read: nobody has
        return False
    try:
        status = os.fstat(fd)
        return stat.S_ISREG(status.st_mode) and 1 in cached_pages(fd, status.st_size)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
