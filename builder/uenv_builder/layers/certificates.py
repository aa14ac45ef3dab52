"""The CA certificates that the image trusts, as update-ca-certificates(8) would lay them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from uenv_builder.layers.made_entries import make_file, make_folder, make_link
from uenv_builder.layers.subject_hash import subject_hash
from uenv_builder.model.entry import Entry

CERTIFICATES = "usr/share/ca-certificates/"
_STORE = "etc/ssl/certs"
_CONFIGURATION = """\
# The certificates below /usr/share/ca-certificates that update-ca-certificates(8) puts into /etc/ssl/certs.
# A line that begins with ! takes one out.
"""
_NAMES = str.maketrans({" ": "_", ",": "_", "(": "=", ")": "="})


def certificate_entries(files: Mapping[str, bytes]) -> Iterator[Entry]:
    """/etc/ca-certificates.conf and /etc/ssl/certs for the `.crt` files among `files` (contents by path), all trusted.

    The folder holds a link for each certificate, OpenSSL's hash links to these, and the bundle of all, in the order of
    their paths. Nothing at all if there are no certificates.
    """
    certificates = {
        path: files[path] for path in sorted(files) if path.startswith(CERTIFICATES) and path.endswith(".crt")
    }  # fmt: skip
    if not certificates:
        return
    lines = [f"{path.removeprefix(CERTIFICATES)}\n" for path in certificates]
    yield make_file("etc/ca-certificates.conf", _CONFIGURATION + "".join(lines))
    yield make_folder("usr/local/share/ca-certificates")
    yield make_folder(_STORE)
    yield make_file(f"{_STORE}/ca-certificates.crt", b"".join(map(_with_line_end, certificates.values())))
    links = {path.rpartition("/")[2].removesuffix(".crt").translate(_NAMES) + ".pem": path for path in certificates}
    for name, path in links.items():
        yield make_link(f"{_STORE}/{name}", f"/{path}")
    yield from _hash_links({name: certificates[path] for name, path in sorted(links.items())})


def _with_line_end(content: bytes) -> bytes:
    return content if content.endswith(b"\n") else content + b"\n"


def _hash_links(certificates: Mapping[str, bytes]) -> Iterator[Entry]:
    taken: dict[str, set[bytes]] = {}
    for name, content in certificates.items():
        digits = subject_hash(content)
        same = taken.setdefault(digits, set()) if digits else {content}
        if content not in same:
            yield make_link(f"{_STORE}/{digits}.{len(same)}", name)
            same.add(content)
