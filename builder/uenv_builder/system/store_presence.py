"""This process as a user of a store, for as long as any of its threads works with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from uenv_builder.model.errors import BuildError
from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.files import lock_file
from uenv_builder.system.store_entries import References
from uenv_builder.system.store_users import POLL, gate, list_users, readers, write_user

BEAT = 30.0
"""Seconds between two signs of life."""


class Presence:
    """This process as a user of the store at `root`, however many of its threads use it, and however deep they nest."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._count = 0
        self._file: Path | None = None
        self._references: References | None = None
        self._listener: Listener = Silent()
        self._departed = threading.Event()
        self._held = ExitStack()

    @property
    def name(self) -> str:
        """The name under which others know this process, or "" where it is no user, or one that may not write."""
        return self._file.stem if self._file else ""

    def enter(self, references: References | None, listener: Listener) -> bool:
        """Be a user from now on: of everything with None, else of these, too. Says whether it can write, and is new.

        `listener` hears of clean-ups that are waited for, until the process is no user any more.
        """
        with self._lock:
            new = self._count == 0
            if new:
                self._listener = listener
                self._arrive(references)
            elif references is not None:
                self.refer(references)
            self._count += 1
            return new and self._file is not None

    def refer(self, references: References) -> None:
        """Use these, too: they are safe once this returns. Who is no user yet has nothing to announce."""
        with self._lock:
            known = self._references
            if self._file is None or known is None or references <= known:
                return
            self._references = known | references
            self._announce()

    def leave(self) -> None:
        """As often as `enter`; with the last, be no user any more."""
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._departed.set()
                self._withdraw()
                self._held.close()

    def _arrive(self, references: References | None) -> None:
        self._references = references
        try:
            self._announce()
        except BaseException as error:
            self._withdraw()
            if not isinstance(error, BuildError) or not self._may_only_read(error):
                raise
            self._held.enter_context(_reading(readers(self._root)))
            return
        self._departed = threading.Event()
        threading.Thread(target=self._beat, args=(self._departed,), name="store-user", daemon=True).start()

    def _may_only_read(self, error: BuildError) -> bool:
        return error.diagnostics[0].rule == "no-permission" and self._root.is_dir()

    def _withdraw(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()
        self._file = None

    def _announce(self) -> None:
        def waiting() -> None:
            self._listener.note(f"waiting for a clean-up of {self._root}")

        with lock_file(gate(self._root), shared=True, waiting=waiting):
            self._file = write_user(self._root, "build", self._references)
            with contextlib.suppress(OSError):
                readers(self._root).touch()
        # Where hosts do not see each other's locks, a clean-up may be at work in spite of the gate.
        told = False
        while found := [user for user in list_users(self._root)[0] if user.role == "clean-up"]:
            if not told:
                self._listener.note(f"waiting for a clean-up of {self._root} by {found[0]}")
            told = True
            time.sleep(POLL)

    def _beat(self, departed: threading.Event) -> None:
        while not departed.wait(BEAT):
            file = self._file
            try:
                if file is not None:
                    os.utime(file)
            except FileNotFoundError:
                # Taken for dead. What it had not finished is gone; what comes now shall be safe.
                with self._lock, contextlib.suppress(BuildError):
                    if self._file is not None:
                        self._announce()
            except OSError:
                continue


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Hold a shared lock on a file that may only be read; without one where there is none."""
    with ExitStack() as stack:
        with contextlib.suppress(OSError):
            fcntl.flock(stack.enter_context(path.open("rb")), fcntl.LOCK_SH)
        yield


_presences: dict[tuple[int, Path], Presence] = {}
_presences_lock = threading.Lock()


def presence_in(root: Path) -> Presence:
    """This process's one presence in the store at `root`."""
    with _presences_lock:
        return _presences.setdefault((os.getpid(), root), Presence(root))
