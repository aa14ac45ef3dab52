"""An HTTP server on loopback that misbehaves as it is told, and remembers what it was asked."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import defaultdict, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one request is answered; the fields can be combined.

    `send` bytes of the body go out and then the connection ends (None: all of it), by a reset where `reset` says so;
    with `hold` it stays open and silent until the server's `release` is set, and then the rest goes out.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    send: int | None = None
    reset: bool = False
    hold: bool = False
    ranges: bool = True
    length: bool = True


class FaultyServer:
    """Serves `files` by path; the answers that were scripted for a path come first, one for each request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.scripts: dict[str, deque[Answer]] = defaultdict(deque)
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.heads: list[str] = []
        self.held = threading.Event()
        self.release = threading.Event()
        self._server = _Listening(("127.0.0.1", 0), _Request)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def url(self, path: str, *, user: str = "") -> str:
        """Where `path` is served."""
        return f"http://{user}127.0.0.1:{self._server.server_port}{path}"

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers of all requests for `path`, in their order."""
        return [asked for asked_path, asked in self.asked if asked_path == path]

    def close(self) -> None:
        """Let go of everything."""
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Listening(ThreadingHTTPServer):
    """The socket, which knows whose scripts its requests follow."""

    daemon_threads = True
    owner: FaultyServer


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listening

    def log_message(self, *_):
        pass

    def do_GET(self):
        owner = self.server.owner
        owner.asked.append((self.path, self.headers.get("Range")))
        owner.headers.append(dict(self.headers))
        script = owner.scripts[self.path]
        answer = script.popleft() if script else Answer()
        content = owner.files.get(self.path) if answer.content is None else answer.content
        if answer.status is None and content is None:
            answer = Answer(status=404)
        self.send_answer(answer, content or b"")

    def do_HEAD(self):
        owner = self.server.owner
        owner.heads.append(self.path)
        content = owner.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def send_answer(self, answer, content):
        status, headers, body = self.choose(answer, content)
        self.send_response(status)
        for name, value in {**headers, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header(*(("Content-Length", str(len(body))) if answer.length else ("Connection", "close")))
        self.end_headers()
        self.wfile.write(body[: answer.send])
        if answer.hold:
            self.server.owner.held.set()
            self.server.owner.release.wait(60)
            self.wfile.write(body[answer.send :])
        elif answer.send is not None or not answer.length:
            self.end(reset=answer.reset)

    def choose(self, answer, content):
        """Status, headers and body: a part of the content where a range was asked for and is not ignored."""
        status = answer.status or 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if status == 200 and asked and answer.ranges:
            begin = int(asked[1])
            if begin >= len(content):
                return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
            return 206, {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}, content[begin:]
        return status, {}, content if status in {200, 206} else b"no\n"

    def end(self, *, reset):
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # the client went away, or we closed
            self.close_connection = True

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            return


@contextmanager
def serving():
    """A server for the body."""
    server = FaultyServer()
    try:
        yield server
    finally:
        server.close()
