"""A proxy on loopback, in front of a registry, that fails as it is told."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_DROPPED = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with the next requests (`times` of them) of `method` whose path has `path` in it, as a pattern.

    `status` is answered in the registry's place; `cut` bytes of the request's body reach the registry before both
    connections break; with `lose` the registry does all, and its answer breaks off; `wait` is in seconds.
    """

    method: str = ".*"
    path: str = ""
    times: int = 1
    skip: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    lose: bool = False
    wait: float = 0.0


class FaultyProxy:
    """Passes requests on to `upstream` (host:port), and remembers them as (method, path, bytes of the body)."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str, int]] = []
        self.before = lambda method, path: None
        self._lock = threading.Lock()
        self._server = _Listening(("127.0.0.1", 0), _Request)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def count(self, method: str, path: str = "") -> int:
        """How many such requests there were."""
        return len([1 for asked, at, _ in self.asked if asked == method and re.search(path, at)])

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    owner: FaultyProxy


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listening

    def log_message(self, *_):
        pass

    def serve(self):
        owner = self.server.owner
        length = int(self.headers.get("Content-Length") or 0)
        owner.asked.append((self.command, self.path, length))
        owner.before(self.command, self.path)
        fault = owner.fault(self.command, self.path) or Fault()
        time.sleep(fault.wait)
        if fault.status is not None:
            self.rfile.read(length)
            self.reply(fault.status, fault.headers, b'{"errors": [{"code": "X", "message": "told to fail"}]}')
            return
        self.forward(fault, length)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815

    def forward(self, fault, length):
        upstream = http.client.HTTPConnection(self.server.owner.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    upstream.putheader(name, value)
            upstream.endheaders()
            if fault.cut is not None:
                upstream.send(self.rfile.read(min(length, fault.cut)))
                time.sleep(0.05)
                self.reset()
                return
            while length > 0 and (part := self.rfile.read(min(length, 1 << 16))):
                upstream.send(part)
                length -= len(part)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _DROPPED]
        if self.command == "HEAD":
            headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        if fault.lose and (not content or self.command == "PUT"):
            self.reset()
            return
        self.reply(answer.status, dict(headers), content, lose=fault.lose)

    def reply(self, status, headers, content, *, lose=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if lose else content)
        if lose:
            self.reset()

    def reset(self):
        self.close_connection = True
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
            self.close_connection = True


@contextmanager
def proxy(upstream):
    running = FaultyProxy(upstream)
    try:
        yield running
    finally:
        running.close()
