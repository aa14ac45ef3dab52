"""Environment definition files (EDF): what users give to srun to get the container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tomlkit
from tomlkit.items import Array, Table

from uenv_builder.core.edf.engine import ENGINES, FLAG_SEPARATORS, FOREIGN_ANNOTATIONS, OPTIONS, Dialect
from uenv_builder.core.edf.image import is_image_path, parse_reference
from uenv_builder.core.edf.rules import Mount, parse_mount
from uenv_builder.model.errors import IncompatibleError, UsageError
from uenv_builder.model.recipe import EdfSection
from uenv_builder.model.system import NetworkMode, System

__all__ = ["Dialect", "EdfRequest", "engine_option", "render_edf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfRequest:
    """What an EDF is written from.

    `label` and `content` (the id of its topmost layer) say which image it is. `image` is a squashfs by an absolute
    path, which may begin with `${VARIABLE}/` (Container Engine only), or a registry reference. `entrypoint` is true
    where the image has one.
    """

    label: str
    content: str
    dialect: Dialect
    image: str
    system: System
    network: NetworkMode
    settings: EdfSection
    entrypoint: bool = False


def engine_option(dialect: Dialect) -> str:
    """The option of srun that takes an EDF, or its name in the search path."""
    return OPTIONS[dialect]


def render_edf(request: EdfRequest) -> str:
    """The EDF's text (TOML); the same request gives the same text.

    Raises UsageError for an image that the engine cannot take, and IncompatibleError for settings that it cannot do.
    """
    _check_image(request.image, request.dialect)
    settings = request.settings
    document = tomlkit.document()
    for line in _header(request):
        document.add(tomlkit.comment(line))
    document.add(tomlkit.nl())
    if settings.base_environment:
        document.add("base_environment", _array(settings.base_environment))
    document.add("image", tomlkit.string(request.image))
    if settings.mounts:
        document.add("mounts", _array([_mount(parse_mount(text), request.dialect) for text in settings.mounts]))
    if request.dialect == "sarus" and request.system.sarus_devices:
        document.add("devices", _array(request.system.sarus_devices))
    if settings.workdir is not None:
        document.add("workdir", tomlkit.string(settings.workdir))
    # The engines' defaults differ. A stack inside the image may set itself up in its entrypoint.
    document.add("entrypoint", tomlkit.item(request.entrypoint or request.network == "image"))
    document.add("writable", tomlkit.item(settings.writable))
    if settings.env:
        document.add("env", _table({(name,): value for name, value in settings.env.items()}))
    annotations = _annotations(request)
    if annotations:
        document.add("annotations", _table({tuple(key.split(".")): value for key, value in annotations.items()}))
    return tomlkit.dumps(document)


def _header(request: EdfRequest) -> list[str]:
    option = OPTIONS[request.dialect]
    return [
        f"{request.label} for {ENGINES[request.dialect]} on {request.system.name}, network mode {request.network}",
        f"Written by uenv-builder from its recipe, content {request.content[:16]}: change the recipe, not this file.",
        f"Use it with srun, in a job script too: srun {option}=FILE COMMAND (never #SBATCH {option}).",
    ]


def _check_image(image: str, dialect: Dialect) -> None:
    for sign in ("$(", "`"):
        if sign in image:
            raise UsageError(
                f'the image\'s place "{image}" holds {sign}',
                rule="edf-image", hint="engines fill in ${NAME} and run nothing: choose another place",
            )  # fmt: skip
    if is_image_path(image):
        if dialect == "sarus":
            raise UsageError(
                f"Sarus Suite takes images from a registry only, and {image} is a path",
                rule="edf-image", hint="publish the OCI image and name it by its registry reference",
            )  # fmt: skip
        return
    reference = parse_reference(image)
    if reference is None:
        raise UsageError(
            f'"{image}" is neither an absolute path nor a registry reference',
            rule="edf-image",
            hint="for example /scratch/image.squashfs, ${SCRATCH}/image.squashfs or registry.example/pytorch:2.14",
        )
    if dialect == "sarus" and reference.mark == "#":
        raise UsageError(
            f'Sarus Suite does not read the "#" in {image}', rule="edf-image", hint="write / behind the registry"
        )


def _mount(mount: Mount, dialect: Dialect) -> str:
    """With source and target always written out: Sarus Suite reads no mount without a target."""
    if dialect == "sarus" and "sqsh" in mount.flags:
        raise IncompatibleError(
            f"Sarus Suite cannot mount the squashfs {mount.source}",
            rule="edf-mount", hint="leave the mount out of the recipe, or write no EDF for Sarus Suite",
        )  # fmt: skip
    flags = FLAG_SEPARATORS[dialect].join(mount.flags)
    return f"{mount.source}:{mount.target}{f':{flags}' if flags else ''}"


def _annotations(request: EdfRequest) -> dict[str, str]:
    system = request.system
    contract = system.annotations if request.dialect == "ce" else system.sarus_annotations
    merged = {**contract.get(request.network, {}), **request.settings.annotations}
    return {key: merged[key] for key in sorted(merged) if not key.startswith(FOREIGN_ANNOTATIONS[request.dialect])}


def _array(values: list[str] | tuple[str, ...]) -> Array:
    array = tomlkit.array()
    array.extend(values)
    return array.multiline(multiline=len(values) > 1)


def _table(values: Mapping[tuple[str, ...], str]) -> Table:
    table = tomlkit.table()
    for path, value in values.items():
        table.append(tomlkit.key(path if len(path) > 1 else path[0]), tomlkit.string(value))
    return table
