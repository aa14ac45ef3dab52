"""The hash of a certificate's subject by which OpenSSL finds it in a folder (X509_NAME_hash; openssl-rehash(1))."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END", re.DOTALL)
_SEQUENCE, _SET, _VERSION, _UTF8 = 0x30, 0x31, 0xA0, 0x0C
_SPACES = re.compile(rb"[ \t\n\v\f\r]+")
_ENCODINGS = {_UTF8: "utf-8", 0x13: "latin-1", 0x14: "latin-1", 0x16: "latin-1", 0x1A: "latin-1",
              0x1C: "utf-32-be", 0x1E: "utf-16-be"}  # fmt: skip
"""How each of ASN.1's string types is encoded: UTF8, Printable, T61, IA5, Visible, Universal, BMP."""
_SUBJECT_PLACE = 4  # after serial number, signature algorithm, issuer and validity (RFC 5280, 4.1)


def subject_hash(pem: bytes) -> str | None:
    """Eight hex digits for the one certificate in `pem`; None where there is none, several, or one that is broken."""
    found = _PEM.findall(pem)
    if len(found) != 1:
        return None
    try:
        (_, certificate), *_ = _read(base64.b64decode(found[0]))
        (_, signed), *_ = _read(certificate)
        fields = [content for tag, content in _read(signed) if tag != _VERSION]
        name = b"".join(_canonical_rdn(rdn) for _, rdn in _read(fields[_SUBJECT_PLACE]))
    except (binascii.Error, IndexError, ValueError):
        return None
    return hashlib.sha1(name, usedforsecurity=False).digest()[3::-1].hex()


def _canonical_rdn(rdn: bytes) -> bytes:
    return _write(_SET, b"".join(sorted(_write(_SEQUENCE, _canonical_attribute(part)) for _, part in _read(rdn))))


def _canonical_attribute(attribute: bytes) -> bytes:
    """Type and value; text as UTF-8 in lower case (of ASCII), without spaces at its ends, single ones within."""
    (kind, identifier), (tag, value) = _read(attribute)
    if tag in _ENCODINGS:
        text = value.decode(_ENCODINGS[tag]).encode()
        tag, value = _UTF8, _SPACES.sub(b" ", text).strip(b" ").lower()
    return _write(kind, identifier) + _write(tag, value)


def _read(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements, tag and content, that `content` is made of (DER)."""
    at = 0
    while at < len(content):
        tag, length = content[at], content[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(content[at : at + count], "big")
            at += count
        if at + length > len(content):
            raise ValueError("the element is cut off")
        yield tag, content[at : at + length]
        at += length


def _write(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + content
