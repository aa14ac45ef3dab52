"""Digests of documents: sha256 over canonical JSON, so that order and layout of the source do not matter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
Document: TypeAlias = "dict[str, Any]"
"""A JSON object on its way to a file or to standard output."""


def canonical_json(document: Json) -> str:
    """`document` as JSON with sorted keys, no spaces and no escapes beyond ASCII's needs."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(document: Json) -> str:
    """The sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()
