"""What lies in registries beside images: descriptors, and artifacts that refer to an image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
"""Of the config of an artifact that needs none: OCI image specification 1.1, manifest.md."""

TITLE = "org.opencontainers.image.title"
"""The annotation with a file's name."""
CREATED = "org.opencontainers.image.created"

REPORT_ARTIFACT = "application/vnd.uenv-builder.report.v1"
"""A test report: report.json and report.xml."""
BUILD_ARTIFACT = "application/vnd.uenv-builder.build.v1"
"""What is known of a build without its image: manifest.json, lock.yaml and the list of its files."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a registry calls a thing by: its media type, digest (`sha256:` and 64 hex digits) and size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact, by its name and media type."""

    name: str
    media_type: str
    content: bytes
    annotations: dict[str, str] = field(default_factory=dict)
    """More that its descriptor says, beside its name."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """An artifact that refers to an image: its own manifest, its type, and its annotations."""

    manifest: Descriptor
    artifact_type: str
    annotations: dict[str, str] = field(default_factory=dict)


def digest_of_bytes(content: bytes) -> str:
    """As descriptors have it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
