"""An image of a registry as the userland: what it is today, for the lock, and its layers, for the build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uenv_builder.core.artefacts import BasePart, artefact_of, base_layers
from uenv_builder.core.image_reference import ImageReference, RegistryAccess, read_image_reference
from uenv_builder.model.errors import IncompatibleError, UenvError
from uenv_builder.model.lock import LockedBase, LockedBaseLayer
from uenv_builder.model.system import Architecture
from uenv_builder.sources.oci_registry import Manifest, Registries
from uenv_builder.system.download import Download
from uenv_builder.system.registry_login import INDEX_TYPES, MANIFEST_TYPES, Json

LAYER_TYPES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
)
_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_VARIANTS: dict[Architecture, tuple[str, ...]] = {"amd64": ("", "v1"), "arm64": ("", "v8")}
"""The variants that run on every processor of an architecture; most images name none."""
_DIGEST = re.compile("sha256:([0-9a-f]{64})")
_DEEPEST_INDEX = 3


def resolve_base(reference: str, architecture: Architecture, registries: Registries) -> LockedBase:
    """What `reference` (registry/name:tag@sha256:...) means for `architecture`; a digest, where given, decides alone.

    Raises RecipeError for what is no reference, IncompatibleError (rule `base-architecture`) where the image is for
    other architectures, or (`base-image`) is none that can be unpacked, and what `Registries.read_manifest` raises.
    """
    image = read_image_reference(reference)
    first = registries.read_manifest(image, image.manifest)
    manifest = _find_manifest(registries, image, first, architecture)
    with _reading(image):
        descriptor = manifest.document["config"]
        _check_type(image, descriptor.get("mediaType"), _CONFIG_TYPES, "config")
        config = registries.read_config(image, _digest(descriptor))
        _check_architecture(image, config, architecture)
        runs = config.get("config") or {}
        return LockedBase(
            reference=reference, architecture=architecture,
            index_digest=None if manifest is first else first.digest,
            manifest_digest=manifest.digest, manifest_size=manifest.size,
            config_digest=_digest(descriptor), config_size=descriptor["size"],
            layers=tuple(_read_layers(image, manifest.document, config)),
            env=dict(_pair(text) for text in runs.get("Env") or () if "=" in text),
            working_dir=runs.get("WorkingDir") or "",
            entrypoint=tuple(runs.get("Entrypoint") or ()), cmd=tuple(runs.get("Cmd") or ()),
            created=_seconds(config.get("created")),
        )  # fmt: skip


def part_urls(part: BasePart, access: RegistryAccess) -> list[str]:
    """Where a part of a base image is served, the best place first."""
    image = read_image_reference(part.reference)
    return [place.url(part.kind, f"sha256:{part.sha256}") for place in access.places(image)]


def fetch_base(base: LockedBase, registries: Registries) -> tuple[Path, ...]:
    """The blobs of the layers of `base`, from the lowest up, fetched where they are missing. Raises what
    `Downloader.fetch_all` raises, with remedies for images.
    """
    downloads = [
        Download(
            name=artefact_of(part).name, sha256=part.sha256, size=part.size, urls=part_urls(part, registries.access)
        )
        for part in base_layers(base)
    ]
    try:
        paths = registries.fetch_all(downloads)
    except UenvError as error:
        hint = f"check the network, and `skopeo inspect docker://{base.reference}`; lock again if the image is gone"
        raise type(error).collect(
            finding if finding.rule == "offline" else replace(finding, hint=hint) for finding in error.diagnostics
        ) from error
    return tuple(paths[layer.digest] for layer in base.layers)


def _find_manifest(
    registries: Registries, image: ImageReference, found: Manifest, architecture: Architecture
) -> Manifest:
    """The manifest of `architecture`: `found` itself, or the one that it lists as an index."""
    for _ in range(_DEEPEST_INDEX):
        if found.media_type not in INDEX_TYPES:
            break
        with _reading(image):
            digest = _digest(_choose(image, found.document["manifests"], architecture))
        found = registries.read_manifest(image, f"sha256:{digest}")
    _check_type(image, found.media_type, MANIFEST_TYPES, "manifest")
    return found


def _choose(image: ImageReference, manifests: Sequence[Json], architecture: Architecture) -> Json:
    offered = []
    for descriptor in manifests:
        platform = descriptor.get("platform") or {}
        system, found = platform.get("os", ""), platform.get("architecture", "")
        variant = platform.get("variant", "")
        if (system, found) == ("linux", architecture) and variant in _VARIANTS[architecture]:
            return descriptor
        if system not in {"", "unknown"}:  # those without are signatures and the like
            offered.append("/".join(part for part in (system, found, variant) if part))
    raise _other_architecture(image, architecture, offered)


def _check_architecture(image: ImageReference, config: Json, architecture: Architecture) -> None:
    found = (config.get("os", "linux"), config.get("architecture"))
    if found != ("linux", architecture) or config.get("variant", "") not in _VARIANTS[architecture]:
        parts = (*found, config.get("variant"))
        raise _other_architecture(image, architecture, ["/".join(str(part) for part in parts if part)])


def _other_architecture(image: ImageReference, architecture: Architecture, offered: Iterable[str]) -> UenvError:
    shown = ", ".join(dict.fromkeys(offered)) or "no architecture that it names"
    return IncompatibleError(
        f"{image} is for {shown}, and linux/{architecture} is needed", rule="base-architecture",
        hint=f"choose a tag or a digest that has linux/{architecture}; "
        f"`skopeo inspect --raw docker://{image.name}:TAG` lists what a tag has",
    )  # fmt: skip


def _read_layers(image: ImageReference, manifest: Json, config: Json) -> Iterator[LockedBaseLayer]:
    layers, diff_ids = manifest["layers"], config["rootfs"]["diff_ids"]
    if len(layers) != len(diff_ids):
        raise _unusable(image, f"its manifest has {len(layers)} layers, and its config has {len(diff_ids)}")
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        _check_type(image, layer.get("mediaType"), LAYER_TYPES, "layer")
        yield LockedBaseLayer(
            digest=_digest(layer), size=layer["size"], media_type=layer["mediaType"],
            diff_id=_digest({"digest": diff_id}),
        )  # fmt: skip


def _check_type(image: ImageReference, found: object, known: Sequence[str], what: str) -> None:
    if found not in known:
        raise _unusable(image, f"its {what} is of the type {found}")


def _digest(descriptor: Mapping[str, Any]) -> str:
    match = _DIGEST.fullmatch(descriptor["digest"])
    if match is None:
        raise ValueError(f"{descriptor['digest']!r} is no sha256")
    return match[1]


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _seconds(created: object) -> int:
    try:
        time = datetime.fromisoformat(str(created))
    except ValueError:
        return 0
    return max(0, int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()))


@contextmanager
def _reading(image: ImageReference) -> Iterator[None]:
    """Turn what is missing or of the wrong type in an image's documents into an error about the image."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unusable(image, f"its documents are not as the specification says: {error!r:.200}") from error


def _unusable(image: ImageReference, reason: str) -> UenvError:
    return IncompatibleError(
        f"{image} cannot be a base: {reason}", rule="base-image",
        hint="name a container image in a current format; `skopeo copy --format oci` converts old ones",
    )  # fmt: skip
