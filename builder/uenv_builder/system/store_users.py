"""Who works with a store at this moment, and with what of it.

    users/HOST-PID-abcdef.json    who a process is and what it refers to; touched twice a minute while it works
    locks/in-use                  the gate: held by a clean-up as long as it removes, shared by users while they arrive
    locks/readers                 shared by users that may not write, as long as they work

A user announces what it refers to before it looks for it, and a clean-up says that it is there before it looks for
users: whichever comes second sees the other. So neither needs a lock to be safe from the other, only a file system on
which a new file is seen by who lists its folder later. The gate makes the common case quick, and spares the waiting.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from uenv_builder.model.errors import BuildError
from uenv_builder.system.files import TEMPORARY, explained, lock_file
from uenv_builder.system.store_entries import References
from uenv_builder.system.store_process import SILENCE, SILENCE_OF_CLEAN_UP, Process, lives, process_mark, this_process

_BEAT = 10.0
"""Seconds between two signs of life of a clean-up."""
_PATIENCE = 10.0
"""Seconds for which a clean-up waits for the gate: users hold it for moments, another clean-up for longer."""
POLL = 0.1
"""Seconds between two looks."""

Role = Literal["build", "clean-up"]


@dataclass(frozen=True, slots=True)
class User:
    """A process at work; `references` None: it may use anything. `process` None: its file could not be read."""

    name: str
    role: Role
    process: Process | None
    references: References | None
    seen: float

    def __str__(self) -> str:
        return f"{self.process.host}, process {self.process.pid}" if self.process else self.name


def users_folder(root: Path) -> Path:
    """Where users announce themselves."""
    return root / "users"


def list_users(root: Path) -> tuple[list[User], list[User]]:
    """Those that live, and those that are dead but have not been tidied away."""
    users = [_read_user(path) for path in _user_files(root)]
    now = _clock(root)
    limits: dict[Role, float] = {"build": SILENCE, "clean-up": SILENCE_OF_CLEAN_UP}
    living = [user for user in users if user and lives(user.process, now - user.seen, limits[user.role])]
    return living, [user for user in users if user and user not in living]


def _user_files(root: Path) -> list[Path]:
    try:
        names = os.listdir(users_folder(root))  # noqa: PTH208  (a fresh listing, and no more)
    except FileNotFoundError:
        return []
    return [users_folder(root) / name for name in sorted(names) if name.endswith(".json") and name[0] != "."]


def _read_user(path: Path) -> User | None:
    """None where it has gone since it was listed."""
    try:
        seen = path.stat().st_mtime
        document = json.loads(path.read_bytes())
        named = document["references"]
        references = None if named is None else References.of(named["steps"], named["downloads"])
        role: Role = "clean-up" if document["role"] == "clean-up" else "build"
        return User(path.stem, role, Process(**document["process"]), references, seen)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return User(path.stem, "build", None, None, seen)


def _clock(root: Path) -> float:
    """The time as the store's file system has it: on a network one, its server's clock sets the files' times."""
    stamps = [path for path in _user_files(root) if path.stem.endswith(_suffix())]
    for stamp in stamps:
        with contextlib.suppress(OSError):
            os.utime(stamp)
            return stamp.stat().st_mtime
    return time.time()


def _suffix() -> str:
    return f"-{os.getpid()}-{_TOKEN}"


_TOKEN = secrets.token_hex(4)
"""Tells this process from others with its number on hosts with its host's name."""


def write_user(root: Path, role: Role, references: References | None) -> Path:
    """Announce this process; the file that does. Raises BuildError."""
    here = this_process()
    path = users_folder(root) / f"{role[0]}-{here.host[:40]}{_suffix()}.json"
    named = (
        None if references is None else {"steps": sorted(references.steps), "downloads": sorted(references.downloads)}
    )
    document = {"role": role, "process": asdict(here), "references": named}
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{TEMPORARY}{process_mark()}-{_TOKEN}")
        try:
            # Not brought to the disk: whoever crashes is no user any more.
            new.write_text(json.dumps(document), encoding="utf-8")
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    return path


@contextmanager
def lock_now(path: Path) -> Iterator[bool]:
    """Hold the lock on `path` if nobody else does, and say so; on a file system without locks, nobody else does.

    Nor does anybody where there is no space to make the file: who makes room must not need any.
    """

    def refuse() -> None:
        raise _HeldError

    with ExitStack() as stack:
        ours = True
        try:
            stack.enter_context(lock_file(path, waiting=refuse))
        except _HeldError:
            ours = False
        except BuildError as error:
            if error.diagnostics[0].rule != "no-space":
                raise
        yield ours


class _HeldError(Exception):
    """Somebody else holds the lock."""


def gate(root: Path) -> Path:
    """The lock that a clean-up holds while it removes what is in its place."""
    return root / "locks" / "in-use"


def readers(root: Path) -> Path:
    """The lock that users share that may not announce themselves."""
    return root / "locks" / "readers"


@dataclass
class Turn:
    """A clean-up's turn: `users` are there, and no others arrive before it ends, or has stood still for too long."""

    users: list[User]
    file: Path | None
    beaten: float = field(default_factory=time.monotonic)

    def goes_on(self) -> bool:
        """Whether it is still our turn; to be asked before each removal. Gives signs of life."""
        silence = time.monotonic() - self.beaten
        if silence > SILENCE_OF_CLEAN_UP / 2:
            return False
        if silence > _BEAT:
            try:
                if self.file is not None:
                    os.utime(self.file)
            except OSError:
                return False
            self.beaten = time.monotonic()
        return True


@contextmanager
def cleaning_up(root: Path) -> Iterator[Turn | None]:
    """Keep users from arriving while the body runs; None where it is not our turn.

    It is not while another clean-up is at work, or somebody who may only read.
    """
    with ExitStack() as stack:
        if not _wait_for(lambda: stack.enter_context(lock_now(gate(root)))):
            yield None
            return
        unread = stack.enter_context(lock_now(readers(root)))
        file = stack.enter_context(_announced_clean_up(root))
        others = [user for user in list_users(root)[0] if file is None or user.name != file.stem]
        alone = unread and all(user.role != "clean-up" for user in others)
        yield Turn(others, file) if alone else None


@contextmanager
def _announced_clean_up(root: Path) -> Iterator[Path | None]:
    try:
        file = write_user(root, "clean-up", None)
    except BuildError as error:
        # On a full disk the gate alone has to do: who makes room must not need any.
        if error.diagnostics[0].rule != "no-space":
            raise
        yield None
        return
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _wait_for(attempt: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not attempt():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def unfinished_prefix(step_id: str, owner: str) -> str:
    """How the name of an unfinished result begins: whose it is can be read from it."""
    return f"{TEMPORARY}{step_id}-{owner}-"


def owner_of(name: str) -> str:
    """The user that an unfinished result's name tells, "" where it tells none."""
    return name.removeprefix(TEMPORARY).partition("-")[2].rpartition("-")[0]
