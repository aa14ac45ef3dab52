"""An image of a registry as the userland: what it is today, for the lock, its layers, for the build, and its leaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from uenv_builder.core.image_reference import ImageReference, read_image_reference
from uenv_builder.model.errors import IncompatibleError, LockError, UenvError
from uenv_builder.model.lock import ByteCount, Sha256
from uenv_builder.sources.oci_registry import INDEX_TYPES, MANIFEST_TYPES, Json, Manifest, Registries
from uenv_builder.system.download import Download

Architecture = Literal["amd64", "arm64"]

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
_PATH_LEAKS = (
    (
        re.compile(r"(?P<what>opt/hpcx[^/]*)"),
        "HPC-X brings an Open MPI on UCX, which does not know Slingshot, and NCCL plugins for other networks",
    ),
    (
        re.compile(r"(?P<what>opt/amazon/(?:efa|[^/]*ofi-nccl))"),
        "it is made for Amazon's network: NCCL or the loader may take it instead of what is made for Slingshot",
    ),
    (
        re.compile(r"(?P<what>(?!.*/nvidia/nccl/lib/).*(?<![^/])libnccl\.so)[^/]*"),
        "it is a second NCCL beside the one of torch's wheel, and every program but torch loads it",
    ),
    (
        re.compile(r"(?P<what>.*(?<![^/])libnccl-(?:net|tuner)[^/]*\.so)[^/]*"),
        "it is a plugin that NCCL may load instead of the one for Slingshot",
    ),
    (re.compile(r"(?P<what>etc/ld\.so\.preload)"), "the loader puts what it names into every program"),
)
"""What is harmful wherever it is found: by its path in the image, and why. `what` and all that begins so goes."""
_VARIABLE_LEAKS = {
    "LD_PRELOAD": "the loader puts it into every program",
    "NCCL_NET_PLUGIN": "NCCL then tries that plugin only, and not the one for Slingshot",
    "NCCL_TUNER_PLUGIN": "NCCL then takes its choices from that plugin, which is made for other networks",
    "PIP_CONSTRAINT": "pip then holds what users install to the versions that it lists",
}
_DIGEST = re.compile("sha256:([0-9a-f]{64})")
_DEEPEST_INDEX = 3


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class LockedBaseLayer(_Frozen):
    """One layer of a base image; `digest` and `size` (bytes) are the blob's, `diff_id` is that of the tar in it."""

    digest: Sha256
    size: ByteCount
    media_type: str
    diff_id: Sha256


class LockedBase(_Frozen):
    """An image of a registry for one architecture. Digests are 64 hex digits, layers are listed from the lowest up."""

    reference: str
    """As the recipe names it."""
    architecture: Architecture
    index_digest: Sha256 | None
    """Of the index of all architectures; None where the reference is that of one architecture's manifest."""
    manifest_digest: Sha256
    manifest_size: ByteCount
    config_digest: Sha256
    config_size: ByteCount
    layers: tuple[LockedBaseLayer, ...]
    env: dict[str, str]
    working_dir: str
    """Empty where the image names none."""
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    created: int
    """When the image was made, in seconds since 1970 (UTC); 0 where it does not say."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that a base would leave in every job, and the entries of `remove:` and `unset:` that take it out."""

    what: str
    """An absolute path of the image, or a variable with its value."""
    harm: str
    remove: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


def find_leaks(paths: Iterable[str], env: Mapping[str, str]) -> tuple[Leak, ...]:
    """What an image with `paths` (all of it, as in `Entry`) and `env` would leave in every job, each with its remedy.

    Unlike the rules about known images, this looks at what is really there. An image without it gives nothing.
    """
    found: dict[str, Leak] = {}
    for path in sorted(paths):
        for pattern, harm in _PATH_LEAKS:
            match = pattern.fullmatch(path)
            if match is not None and not any(path.startswith(f"{leak.what[1:]}/") for leak in found.values()):
                remedy = f"/{match['what']}{'*' if match['what'].endswith('.so') else ''}"
                found.setdefault(remedy, Leak(f"/{path}", harm, remove=(remedy,)))
    variables = [
        Leak(f"{name}={env[name]}", harm, unset=(name,)) for name, harm in _VARIABLE_LEAKS.items() if env.get(name)
    ]
    return (*found.values(), *variables)


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


def base_downloads(base: LockedBase, registries: Registries, *, folders: Sequence[Path] = ()) -> list[Download]:
    """How to fetch the layers of `base`, each once; `folders` hold artefacts by sha256, and are asked first."""
    image = read_image_reference(base.reference)
    layers = {layer.digest: layer for layer in base.layers}
    return [_download(image, layer, registries, folders) for layer in layers.values()]


def fetch_base(base: LockedBase, registries: Registries, *, folders: Sequence[Path] = ()) -> tuple[Path, ...]:
    """The blobs of the layers of `base` in the store, from the lowest up, fetched where they are missing or damaged.

    Raises what `Downloader.fetch_all` raises, with remedies for images.
    """
    downloads = base_downloads(base, registries, folders=folders)
    for download in downloads:
        if registries.store.has_download(download.sha256, download.size):
            try:
                registries.store.verified_download(download.sha256, download.size)
            except LockError as error:
                registries.listener.note(error.diagnostics[0].message)
    try:
        paths = registries.fetch_all(downloads)
    except UenvError as error:
        hint = f"check the network, and `skopeo inspect docker://{base.reference}`; lock again if the image is gone"
        raise type(error).collect(
            finding if finding.rule == "offline" else replace(finding, hint=hint) for finding in error.diagnostics
        ) from error
    return tuple(paths[layer.digest] for layer in base.layers)


def _download(
    image: ImageReference, layer: LockedBaseLayer, registries: Registries, folders: Sequence[Path]
) -> Download:
    files = [folder.expanduser() / layer.digest[:2] / layer.digest for folder in folders]
    urls = [
        *(file.resolve().as_uri() for file in files if file.is_file()),
        *(place.url("blobs", f"sha256:{layer.digest}") for place in registries.access.places(image)),
    ]
    return Download(name=f"{image.name} {layer.digest[:12]}", sha256=layer.digest, size=layer.size, urls=urls)


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
