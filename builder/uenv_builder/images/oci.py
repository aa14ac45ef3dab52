"""The OCI image: layers, config and manifest as an image layout in a folder (OCI image specification 1.0).

skopeo, podman, buildah and umoci read it as `oci:FOLDER:REFERENCE`. JSON is written in one way only, with sorted keys
and no spaces: the digests follow from the content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.image import ImageConfig, Layer
from uenv_builder.system.files import link_or_copy, replace_folder

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_VARIANTS = {"arm64": "v8"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OciImage:
    """An image layout that was written: digests as 64 hex digits, `size` the bytes of all blobs, each counted once."""

    manifest_digest: str
    config_digest: str
    size: int


def write_oci_layout(
    layers: Sequence[Layer],
    config: ImageConfig,
    folder: Path,
    *,
    reference: str,
    place: Callable[[Path, Path], None] = link_or_copy,
) -> OciImage:
    """Write `layers`, lowest first, and `config` as an image layout at `folder`, which is replaced if it exists.

    `reference` is the image's name in the layout's index. `place` brings a layer's blob to its new path; blobs are not
    read, so their hashes are not verified here (every reader of the layout does). Raises BuildError where the history
    does not have a line for each layer, and where the layout cannot be written; `folder` is then as it was before.
    """
    if config.history and len(config.history) != len(layers):
        raise BuildError(f"the image has {len(layers)} layers, but a history of {len(config.history)} lines")
    with replace_folder(folder) as new:
        return _fill(new, layers, config, reference, place)


def read_oci_layout(folder: Path) -> tuple[Json, Json]:
    """The manifest and the config of the one image in the layout at `folder`, their digests verified.

    Layers are compared by size, not by hash. Raises LockError, rule `hash-mismatch`, for a layout that is damaged.
    """
    try:
        if json.loads((folder / "oci-layout").read_bytes()) != _LAYOUT:
            raise ValueError(f"oci-layout is not {_LAYOUT}")
        (descriptor,) = json.loads((folder / "index.json").read_bytes())["manifests"]
        manifest = _read_blob(folder, descriptor)
        config = _read_blob(folder, manifest["config"])
        for layer in manifest["layers"]:
            found = _blob(folder, _hex(layer)).stat().st_size
            if found != layer["size"]:
                raise ValueError(f"layer {layer['digest']} has {found} bytes instead of {layer['size']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(
            f"{folder}: the OCI layout is damaged: {error}", rule="hash-mismatch", hint="build the image again"
        ) from error
    return manifest, config


def _fill(
    folder: Path, layers: Sequence[Layer], config: ImageConfig, reference: str, place: Callable[[Path, Path], None]
) -> OciImage:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    blobs = {layer.digest: layer for layer in layers}
    for digest, layer in blobs.items():
        place(layer.blob, _blob(folder, digest))
    config_descriptor = _write_blob(folder, _CONFIG_TYPE, _config(layers, config))
    manifest: Json = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": config_descriptor,
        "layers": [_descriptor(_LAYER_TYPE, layer.digest, layer.size) for layer in layers],
        "annotations": {**config.labels, "org.opencontainers.image.created": _time(config)},
    }
    descriptor = _write_blob(folder, _MANIFEST_TYPE, manifest)
    named = descriptor | {
        "annotations": {"org.opencontainers.image.ref.name": reference},
        "platform": _platform(config),
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [named]}
    (folder / "index.json").write_bytes(_canonical(index))
    (folder / "oci-layout").write_bytes(_canonical(_LAYOUT))
    size = sum(layer.size for layer in blobs.values()) + config_descriptor["size"] + descriptor["size"]
    return OciImage(_hex(descriptor), _hex(config_descriptor), size)


def _config(layers: Sequence[Layer], config: ImageConfig) -> Json:
    runs: Json = {
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "WorkingDir": config.workdir,
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Labels": config.labels,
    }
    created = _time(config)
    return {
        **_platform(config),
        "created": created,
        "config": {key: value for key, value in runs.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [{"created": created, "created_by": line} for line in config.history],
    }


def _platform(config: ImageConfig) -> Json:
    platform = {"architecture": config.architecture, "os": "linux"}
    if config.architecture in _VARIANTS:
        platform["variant"] = _VARIANTS[config.architecture]
    return platform


def _time(config: ImageConfig) -> str:
    return datetime.fromtimestamp(config.created, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _descriptor(media_type: str, digest: str, size: int) -> Json:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _hex(descriptor: Json) -> str:
    digest: str = descriptor["digest"]
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{digest!r} is no sha256")
    return digest.removeprefix("sha256:")


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest


def _write_blob(folder: Path, media_type: str, document: Json) -> Json:
    content = _canonical(document)
    digest = hashlib.sha256(content).hexdigest()
    _blob(folder, digest).write_bytes(content)
    return _descriptor(media_type, digest, len(content))


def _read_blob(folder: Path, descriptor: Json) -> Json:
    digest = _hex(descriptor)
    content = _blob(folder, digest).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"the blob {digest} has another hash")
    document: Json = json.loads(content)
    return document
