"""The command, killed before its n-th change of the file system; n is $UENV_TEST_DIE_AT. With 0 it lives, and writes
into the file $UENV_TEST_COUNT how many changes there were."""

import atexit
import itertools
import os
import signal
import sys
from pathlib import Path

CHANGES = {
    "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "os.utime",
    "fcntl.flock", "shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def die_at(wanted: int) -> None:
    numbers = itertools.count(1)

    def hook(event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & WRITING
        if (writes or event in CHANGES) and next(numbers) == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    if not wanted:
        atexit.register(lambda: Path(os.environ["UENV_TEST_COUNT"]).write_text(str(next(numbers) - 1)))


if __name__ == "__main__":
    die_at(int(os.environ["UENV_TEST_DIE_AT"]))
    from uenv_builder.cli import main

    main()
