"""What can be had from here before anything is fetched: which servers answer, and what the mirrors have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from uenv_builder.system.mirrors import local_folder
from uenv_builder.system.threads import run_in_threads
from uenv_builder.system.transfer import REQUEST_ERRORS, is_unreachable
from uenv_builder.system.urls import public

_LIMIT = 10.0
"""Seconds after which who has not answered counts as out of reach: looking up a name knows no limit of its own."""
_TIMEOUTS = (5.0, 10.0)  # seconds to connect, and for the answer
_QUESTIONS = 8
"""Files that one mirror is asked for at once."""


def find_unreachable(urls: Iterable[str]) -> set[str]:
    """Those of `urls` whose server cannot be connected to; what it answers does not matter. Takes ten seconds at most.

    What is no URL of http or https counts as reachable, be it there or not.
    """
    by_server: dict[str, set[str]] = {}
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"}:
            by_server.setdefault(f"{parts.scheme}://{parts.netloc}/", set()).add(url)
    silent = set(by_server)

    def call(server: str) -> None:
        if _answers(server):
            silent.discard(server)

    threads = [threading.Thread(target=call, args=(server,), daemon=True) for server in by_server]
    deadline = time.monotonic() + _LIMIT
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {url for server in tuple(silent) for url in by_server[server]}


def _answers(server: str) -> bool:
    try:
        requests.head(server, timeout=_TIMEOUTS, allow_redirects=False).close()
    except (*REQUEST_ERRORS, ValueError) as error:
        return not is_unreachable(error)
    return True


def find_in_mirrors(roots: Sequence[str], wanted: Mapping[str, int | None], note: Callable[[str], None]) -> set[str]:
    """Those of the places in `wanted` that a mirror says that it has, in the size given there; nothing is read of them.

    A mirror that cannot be reached is told to `note`, once.
    """
    away = find_unreachable(roots)
    found: set[str] = set()
    for root in roots:
        if root in away:
            note(f"the mirror {public(root)} cannot be reached; going on without it")
            continue
        left = {place: size for place, size in wanted.items() if place not in found}
        folder = local_folder(root)
        if folder is None:
            found |= _find_on_server(root, left)
        else:
            found |= {place for place, size in left.items() if _is_there(folder / place, size)}
    return found


def _is_there(path: Path, size: int | None) -> bool:
    if path.suffix == ".bundle" and path.with_suffix(".git").is_dir():
        return True
    try:
        return path.stat().st_size == size or size is None
    except OSError:
        return False


def _find_on_server(root: str, wanted: Mapping[str, int | None]) -> set[str]:
    found: set[str] = set()
    local, stopped = threading.local(), threading.Event()

    def ask(place: str, size: int | None) -> None:
        if stopped.is_set():
            return
        if not hasattr(local, "session"):
            local.session = requests.Session()  # one is not for several threads at once
        if _has(local.session, f"{root}/{place}", size):
            found.add(place)

    run_in_threads([partial(ask, *item) for item in wanted.items()], jobs=_QUESTIONS, stop=stopped.set)
    return found


def _has(session: requests.Session, url: str, size: int | None) -> bool:
    headers = {"Accept-Encoding": "identity"}
    try:
        with session.head(url, timeout=_TIMEOUTS, allow_redirects=True, headers=headers) as answer:
            length = answer.headers.get("Content-Length")
            return answer.ok and (size is None or length in {None, str(size)})
    except (*REQUEST_ERRORS, ValueError):
        return False
