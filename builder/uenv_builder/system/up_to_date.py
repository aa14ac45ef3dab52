"""Whether a build that was found up to date is so still, told from stamps of files, before anything slow is imported.

A build that found nothing to do leaves a record: what it printed, and the stamps of all that it went by. The next one
with the same arguments, folder and environment says the same again if every stamp is as it was. As for make, git and
ninja, a stamp is size, time of change and inode; contents are not read. Nothing is recorded where something changed
while the build looked at it, or shortly before.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from uenv_builder import __version__

_BEGAN = time.time_ns()
_MARGIN = 2_000_000_000
"""Nanoseconds before the process began in which a change counts as one of now: clocks of file servers differ."""
_RECORDS = 100
"""How many are kept."""
_VARIABLES = ("UENV_", "XDG_", "PIP_", "UV_", "PYTHON", "HOME")
"""How the names begin of variables that a build may go by."""
_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a build that had nothing to do said: on standard output, and as remarks on standard error."""

    output: str
    notes: tuple[str, ...]

    def tell(self) -> None:
        """Say it again."""
        for note in self.notes:
            mark = "" if sys.stderr.isatty() else f"[{(time.time_ns() - _BEGAN) / 1e9:7.1f} s] "
            sys.stderr.write(f"{mark}{note}\n")
        sys.stdout.write(self.output)


def find_answer(arguments: Sequence[str]) -> Answer | None:
    """What the same command said before, if nothing that it went by has changed; None where that is not known."""
    try:
        document = json.loads(_record(arguments).read_bytes())
        watched, listed = document["watched"], document["listed"]
        if any(_stamp(path)[0] != seen for path, seen in watched.items()):
            return None
        if any(_list_folders(path) != seen for path, seen in listed.items()):
            return None
        return Answer(document["output"], tuple(document["notes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def keep_answer(
    arguments: Sequence[str], answer: Answer, *,
    sources: Iterable[Path], results: Iterable[Path], listed: Iterable[Path],
) -> None:  # fmt: skip
    """Record `answer` for as long as nothing changes: neither `sources` and `results`, which are files, and folders for
    the files directly in them, nor which folders there are in `listed`. What is missing has to stay so.

    Where it cannot be written, and where sources changed too late to know which state was read, nothing is kept.
    """
    stamps: dict[str, str] = {}
    for paths, latest in ((sources, _BEGAN - _MARGIN), (results, _BEGAN)):
        for path in paths:
            stamp, newest = _stamp(path)
            if newest >= latest:
                return
            stamps[os.path.abspath(path)] = stamp  # noqa: PTH100  (links stay links)
    document = {
        "watched": stamps,
        "listed": {os.path.abspath(path): _list_folders(path) for path in listed},  # noqa: PTH100
        "output": answer.output,
        "notes": answer.notes,
    }
    record = _record(arguments)
    new = record.with_name(f".{record.name}.{os.getpid()}")
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(document), encoding="utf-8")
        new.replace(record)
        for old in sorted(record.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)[:-_RECORDS]:
            old.unlink()


def _record(arguments: Sequence[str]) -> Path:
    """Where the record for these arguments, asked for here, lies."""
    environment = sorted((name, value) for name, value in os.environ.items() if name.startswith(_VARIABLES))
    question = [__version__, sys.version, sys.prefix, str(Path.cwd()), list(arguments), environment]
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    store = os.environ.get("UENV_CACHE") or f"{caches}/uenv-builder"
    name = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:32]
    return Path(store).expanduser() / "up-to-date" / f"{name}.json"


def _stamp(path: str | Path) -> tuple[str, int]:
    """What tells a change of the file, or of a file directly in the folder, and the time (ns) of the newest change."""
    try:
        own = os.stat(path)  # noqa: PTH116  (a third of the time of a Path's)
        if not stat.S_ISDIR(own.st_mode):
            return f"{own.st_size} {own.st_mtime_ns} {own.st_ino}", own.st_mtime_ns
        rows, newest = [], own.st_mtime_ns
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    rows.append(f"{entry.name}/")
                    continue
                found = entry.stat()
                rows.append(f"{entry.name} {found.st_size} {found.st_mtime_ns} {found.st_ino}")
                newest = max(newest, found.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING, 0
    return hashlib.sha256("\n".join(sorted(rows)).encode("utf-8", "surrogateescape")).hexdigest(), newest


def _list_folders(path: str | Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return [_MISSING]
