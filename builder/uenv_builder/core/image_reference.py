"""Names of images in registries as recipes write them: `registry/repository:tag@sha256:...`, Docker Hub filled in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from uenv_builder.core.edf.image import parse_reference
from uenv_builder.model.errors import RecipeError

DOCKER_HUB = "docker.io"
"""The registry of names without one; their first part alone means `library/`."""

_HUB_NAMES = {"", DOCKER_HUB, "index.docker.io", "registry-1.docker.io"}
# OCI distribution specification 1.1, "Pulling manifests": names and tags.
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SCHEME = re.compile(r"[a-z-]+://?")
_EXAMPLE = "registry.example/name:tag@sha256:..."


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image in a registry, with nothing left open; `digest` is 64 hex digits, and empty where none is given.

    `registry` is a host with an optional port; `tag` is `latest` where neither tag nor digest is given.
    """

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def manifest(self) -> str:
        """What its manifest is asked for by: the digest if there is one, which then decides alone, else the tag."""
        return f"sha256:{self.digest}" if self.digest else self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{f'@sha256:{self.digest}' if self.digest else ''}"


def read_image_reference(text: str) -> ImageReference:
    """The image that `text` names; RecipeError, rule `image-reference`, where it names none in a registry."""
    if (scheme := _SCHEME.match(text)) is not None:
        raise _refusal(text, f"{scheme[0]!r} is no part of an image's name", f"write {text[scheme.end() :]}")
    found = parse_reference(text)
    if found is None:
        raise _refusal(text, "it names no image of a registry", f"write {_EXAMPLE}, the name in lower case")
    if found.mark == "#":
        raise _refusal(text, "the registry ends with '/', not with '#'", f"write {text.replace('#', '/', 1)}")
    if not _REPOSITORY.fullmatch(found.name):
        raise _refusal(text, f"registries take no name like {found.name!r}", f"write {_EXAMPLE}")
    if found.tag and not _TAG.fullmatch(found.tag):
        raise _refusal(text, "its tag is longer than 128 characters", "copy the tag from the registry")
    registry, repository = found.host.lower(), found.name
    if registry in _HUB_NAMES:
        registry = DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    tag = found.tag or ("" if found.digest else "latest")
    return ImageReference(registry, repository, tag, found.digest)


def _refusal(text: str, reason: str, hint: str) -> RecipeError:
    return RecipeError(f'"{text}" cannot be a base image: {reason}', rule="image-reference", hint=hint)
