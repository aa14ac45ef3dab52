"""A mirror on loopback that holds some of its files back until they are let go: builds wait as long as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class HeldMirror:
    """Serves the folder `root`; what has been asked for and is held counts in `waiting`."""

    root: Path
    url: str = ""
    held: dict[str, threading.Event] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    gone: bool = False
    """Whether what was held is answered with 404 when it is let go."""

    def hold(self, sha256: str) -> None:
        self.held[sha256] = threading.Event()

    def let_go(self) -> None:
        for event in self.held.values():
            event.set()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, mirror, *args, **kwargs):
        self.mirror = mirror
        super().__init__(*args, directory=str(mirror.root), **kwargs)

    def do_GET(self):
        sha256 = self.path.rpartition("/")[2]
        if event := self.mirror.held.get(sha256):
            self.mirror.waiting.append(sha256)
            event.wait(120)
            if self.mirror.gone:
                self.send_error(404)
                return
        try:
            super().do_GET()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Of whoever was killed while it waited."""


@contextmanager
def held_mirror(root: Path) -> Iterator[HeldMirror]:
    mirror = HeldMirror(root)
    with _Server(("127.0.0.1", 0), partial(_Handler, mirror)) as server:
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield mirror
        finally:
            mirror.let_go()
            server.shutdown()
            thread.join()
