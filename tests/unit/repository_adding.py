"""Adds a build to uenv repositories, killed at another step each time, for tests: BUILD FOLDER.

The process that adds to FOLDER/1 is killed (SIGKILL) at its first call that changes a file or that SQLite is asked to
run, that of FOLDER/2 at the second one, until one comes to its end. Prints how many were killed.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path

from uenv_builder.app.destinations import publish
from uenv_builder.app.publishing import prepare_publication
from uenv_builder.app.session import Session

_WATCHED = {"os.rename", "os.link", "os.mkdir", "os.chmod", "os.remove", "sqlite3.connect"}
_CONNECT = sqlite3.connect


class Steps:
    left = 0

    @classmethod
    def count(cls) -> None:
        cls.left -= 1
        if cls.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Connection(sqlite3.Connection):
    def execute(self, *arguments):
        Steps.count()
        return super().execute(*arguments)


def watch(event: str, arguments) -> None:
    if event in _WATCHED or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
        Steps.count()


def survives(publication, repository: Path, step: int) -> bool:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    Steps.left = step
    sqlite3.connect = lambda *arguments, **named: _CONNECT(*arguments, factory=Connection, **named)
    sys.addaudithook(watch)
    publish(Session(), publication, [f"repo:{repository}"])
    os._exit(0)


def main() -> None:
    publication = prepare_publication(Path(sys.argv[1]), label=None, untested=None, move=False)
    step = 1
    while not survives(publication, Path(sys.argv[2], str(step)), step):
        step += 1
    sys.stdout.write(f"{step - 1}\n")


main()
