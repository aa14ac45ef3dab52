"""Images of registries: their names as recipes write them (`registry/repository:tag@sha256:...`), and who has them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from uenv_builder.core.edf.image import parse_reference
from uenv_builder.model.errors import RecipeError, UsageError

DOCKER_HUB = "docker.io"
"""The registry of names without one; their first part alone means `library/`."""

HUB_HOST = "registry-1.docker.io"
"""The host that serves Docker Hub's images."""

_HUB_NAMES = {"", DOCKER_HUB, "index.docker.io", HUB_HOST}
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


@dataclass(frozen=True, slots=True)
class Place:
    """One repository of one registry, as its API has it."""

    scheme: str
    host: str
    repository: str

    def url(self, kind: str, reference: str) -> str:
        """Where a blob or manifest (`kind`: blobs, manifests) is served; `reference` is a tag or sha256:..."""
        return f"{self.scheme}://{self.host}/v2/{self.repository}/{kind}/{reference}"

    def __str__(self) -> str:
        return f"{DOCKER_HUB if self.host == HUB_HOST else self.host}/{self.repository}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """How this machine reaches registries.

    `mirrors` says by the beginning of an image's name (whole parts of it, such as `docker.io` or `quay.io/project`)
    what stands in its place at a mirror, which is asked before the registry itself. `insecure` are hosts, with their
    port if they have one, that are spoken to by http, as loopback addresses always are. `auth_files` are the files with
    credentials; None for those of the user.
    """

    mirrors: Mapping[str, str] = field(default_factory=dict)
    insecure: frozenset[str] = frozenset()
    auth_files: tuple[Path, ...] | None = None

    def places(self, image: ImageReference) -> tuple[Place, ...]:
        """Where `image` is asked for: its mirror if there is one, then its registry. UsageError for a bad mirror."""
        fitting = [prefix for prefix in self.mirrors if f"{image.name}/".startswith(f"{prefix.rstrip('/')}/")]
        names = [image.name]
        if fitting:
            prefix = max(fitting, key=len)
            mirror = self.mirrors[prefix].rstrip("/")
            if "://" in mirror or not mirror:
                raise UsageError(
                    f"the mirror of {prefix} is {mirror!r}", rule="registry-mirror",
                    hint="write HOST[:PORT][/PATH] without a scheme; name hosts that need http as insecure",
                )  # fmt: skip
            names.insert(0, mirror + image.name[len(prefix.rstrip("/")) :])
        return tuple(self._place(name) for name in names)

    def allows(self, url: str) -> bool:
        """Whether what `url` says may be believed: https, or http where that is allowed."""
        parts = urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and self._by_http(parts.netloc.rpartition("@")[2]))

    def _place(self, name: str) -> Place:
        host, _, repository = name.partition("/")
        scheme = "http" if self._by_http(host) else "https"
        return Place(scheme, HUB_HOST if host == DOCKER_HUB else host, repository)

    def _by_http(self, host: str) -> bool:
        return host in self.insecure or is_loopback(host)


def read_registry_mirrors(entries: Iterable[str]) -> dict[str, str]:
    """The mirrors of settings, written NAME=MIRROR, as `RegistryAccess` wants them. Raises UsageError."""
    mirrors = {}
    for entry in entries:
        name, separator, mirror = (part.strip() for part in entry.partition("="))
        if not (name and separator and mirror):
            raise UsageError(
                f'the settings\' registry-mirrors has "{entry}"', rule="registry-mirror",
                hint='write NAME=MIRROR, such as "docker.io=mirror.example/hub"',
            )  # fmt: skip
        mirrors[name] = mirror
    return mirrors


def is_loopback(host: str) -> bool:
    """Whether `host`, which may have a port, is this machine itself."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


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
