"""A small registry in memory, with the referrers API of the OCI distribution specification 1.1."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"


class MadeRegistry:
    """`referrers` and `pieces` say whether it has that API and takes blobs in pieces; `largest` and `smallest` are
    bytes of a piece, `page` is how many tags it lists at once.
    """

    def __init__(self, *, referrers=True, pieces=True, largest=None, smallest=None, page=1000):
        self.referrers, self.pieces, self.largest, self.smallest, self.page = referrers, pieces, largest, smallest, page
        self.blobs = defaultdict(dict)
        self.manifests = defaultdict(dict)
        self.tags = defaultdict(dict)
        self.uploads = {}
        self.ranges = []
        self.lock = threading.RLock()
        self._server = _Listening(("127.0.0.1", 0), _Request)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def address(self):
        return f"127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    owner: MadeRegistry


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listening

    def log_message(self, *_):
        pass

    def serve(self):
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.owner = self.server.owner
        match = re.fullmatch(r"/v2/(.+?)/(manifests|blobs/uploads|blobs|referrers|tags)/([^/]*)", parts.path)
        if not match:
            self.reply(404)
            return
        self.name = match[1]
        kind = match[2].replace("blobs/uploads", "uploads")
        method = "get" if self.command == "HEAD" else self.command.lower()
        getattr(self, f"{method}_{kind}", lambda _: self.reply(405))(match[3])

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def get_blobs(self, digest):
        content = self.owner.blobs[self.name].get(digest)
        self.reply(404) if content is None else self.reply(200, content)

    def post_uploads(self, _):
        self.body()
        owner = self.owner
        content = owner.blobs[self.query.get("from")].get(self.query.get("mount"))
        if content is not None:
            owner.blobs[self.name][self.query["mount"]] = content
            self.reply(201)
            return
        upload = uuid.uuid4().hex
        owner.uploads[upload] = bytearray()
        smallest = {"OCI-Chunk-Min-Length": str(owner.smallest)} if owner.smallest else {}
        self.reply(202, Location=f"/v2/{self.name}/blobs/uploads/{upload}", **smallest)

    def patch_uploads(self, upload):
        owner, length = self.owner, int(self.headers["Content-Length"])
        if not owner.pieces or (owner.largest and length > owner.largest) or upload not in owner.uploads:
            self.body()
            self.reply(404 if upload not in owner.uploads else 413 if owner.largest else 405)
            return
        received = owner.uploads[upload]
        owner.ranges.append(self.headers["Content-Range"])
        if int(self.headers["Content-Range"].partition("-")[0]) != len(received):
            self.body()
            self.reply(416, Range=f"0-{max(0, len(received) - 1)}")
            return
        while length > 0 and (part := self.rfile.read1(min(length, 1 << 16))):
            received += part
            length -= len(part)
        if length == 0:
            self.reply(202, Location=self.path, Range=f"0-{len(received) - 1}")

    def get_uploads(self, upload):
        received = self.owner.uploads.get(upload)
        if received is None:
            self.reply(404)
        else:
            self.reply(204, Location=self.path, Range=f"0-{max(0, len(received) - 1)}")

    def put_uploads(self, upload):
        content = bytes(self.owner.uploads.pop(upload, b"")) + self.body()
        if digest_of(content) != self.query["digest"]:
            self.reply(400)
            return
        self.owner.blobs[self.name][self.query["digest"]] = content
        self.reply(201)

    def delete_uploads(self, upload):
        self.owner.uploads.pop(upload, None)
        self.reply(204)

    def get_manifests(self, reference):
        digest = self.owner.tags[self.name].get(reference, reference)
        found = self.owner.manifests[self.name].get(digest)
        if found is None:
            self.reply(404)
        else:
            self.reply(200, found[1], **{"Content-Type": found[0], "Docker-Content-Digest": digest})

    def put_manifests(self, reference):
        content, owner = self.body(), self.owner
        document, digest = json.loads(content), digest_of(content)
        named = [document["config"], *document["layers"]] if "config" in document else []
        if any(item["digest"] not in owner.blobs[self.name] for item in named):
            self.reply(404)
            return
        with owner.lock:
            owner.manifests[self.name][digest] = (self.headers["Content-Type"], content)
            if reference != digest:
                owner.tags[self.name][reference] = digest
        subject = document.get("subject", {}).get("digest")
        more = {"OCI-Subject": subject} if subject and owner.referrers else {}
        self.reply(201, **{"Docker-Content-Digest": digest, **more})

    def get_referrers(self, digest):
        if not self.owner.referrers:
            self.reply(404)
            return
        listed = []
        for own, (media_type, content) in list(self.owner.manifests[self.name].items()):
            document = json.loads(content)
            if document.get("subject", {}).get("digest") == digest:
                listed.append({"mediaType": media_type, "digest": own, "size": len(content),
                               "artifactType": document["artifactType"],
                               "annotations": document.get("annotations", {})})  # fmt: skip
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
        self.reply(200, json.dumps(index).encode(), **{"Content-Type": INDEX})

    def get_tags(self, _):
        tags = sorted(self.owner.tags[self.name])
        if not self.owner.manifests[self.name]:
            self.reply(404)
            return
        later = [tag for tag in tags if tag > self.query.get("last", "")]
        shown = later[: self.owner.page]
        link = f'</v2/{self.name}/tags/list?last={shown[-1]}>; rel="next"' if len(later) > len(shown) else None
        self.reply(200, json.dumps({"name": self.name, "tags": shown}).encode(), **({"Link": link} if link else {}))

    def reply(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

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
def made_registry(**features):
    running = MadeRegistry(**features)
    try:
        yield running
    finally:
        running.close()
