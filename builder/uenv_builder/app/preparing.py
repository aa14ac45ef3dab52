"""From a recipe, a chosen target and a lock to all that a build goes by: configuration, files, plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.component_scripts import plan_sources
from uenv_builder.app.recipes import LoadedRecipe, added_contents
from uenv_builder.app.selection import Selection
from uenv_builder.app.spack_locking import locked_request, recipe_files
from uenv_builder.app.start_files import read_start
from uenv_builder.core.environment import base_environment, compose_environment
from uenv_builder.core.etc_files import etc_files
from uenv_builder.core.planning import PlanInputs, make_plan
from uenv_builder.core.spack_file import render_spack_file
from uenv_builder.images.squashfs.version import linker_version
from uenv_builder.model.image import ImageConfig, SquashfsOptions
from uenv_builder.model.lock import Lock
from uenv_builder.model.plan import Plan, StepKind
from uenv_builder.model.recipe import Recipe
from uenv_builder.system.layer_blob import compressor_version

_LAYERS: tuple[StepKind, ...] = (
    "userland", "base-layer", "bytecode", "wheel", "build-packages", "component", "debug-symbols", "files", "loader",
    "finish", "spack", "uenv-meta",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a build goes by; `sources` says where each added file is read from, by its path in the image."""

    loaded: LoadedRecipe
    selection: Selection
    lock: Lock
    inputs: PlanInputs
    plan: Plan
    sources: Mapping[str, Path]

    @property
    def recipe(self) -> Recipe:
        """The evaluated recipe."""
        return self.loaded.recipe


def prepare(loaded: LoadedRecipe, selection: Selection, lock: Lock, *, machine: str | None = None) -> Prepared:
    """Compose environment, generated files and plan; the same recipe, files and lock give the same plan anywhere, but
    for components that are compiled: their steps name the `machine` that does it (None: this one).
    """
    contents, sources = added_contents(loaded)
    config = image_config(loaded.recipe, selection, lock)
    options = squashfs_options(loaded.recipe)
    layer_tools = {"zstd": compressor_version(level=options.level, block_size=options.block_size)}
    spack_file = ""
    if lock.spack:
        spack_file = render_spack_file(locked_request(loaded, selection.uarch, lock.spack))
    inputs = PlanInputs(
        recipe=loaded.recipe,
        lock=lock,
        uarch=selection.uarch,
        config=config,
        added=contents,
        generated=recipe_files(loaded, selection.uarch, lock, spack_file) if lock.spack else etc_files(config),
        spack_file=spack_file,
        system=selection.system if lock.spack else None,
        components=plan_sources(loaded, selection.uarch, lock, machine=machine),
        start=read_start(loaded, selection.uarch.name),
        tools={**dict.fromkeys(_LAYERS, layer_tools), "squashfs": {"writer": linker_version()}},
    )
    return Prepared(loaded, selection, lock, inputs, make_plan(inputs), sources)


def squashfs_options(recipe: Recipe) -> SquashfsOptions:
    """How layers, and with them the squashfs, are compressed."""
    output = recipe.outputs.squashfs
    return SquashfsOptions(level=output.level, block_size=output.block_size_kib * 1024)


def image_config(recipe: Recipe, selection: Selection, lock: Lock) -> ImageConfig:
    """What both images carry beside their files."""
    python = lock.python.version if lock.python else None
    return ImageConfig(
        architecture=selection.uarch.oci,
        env=compose_environment(selection.system, recipe.network, recipe.env, base=base_environment(recipe, lock)),
        workdir=_workdir(recipe, lock),
        entrypoint=_entrypoint(recipe, lock),
        cmd=(_shell(lock),),
        labels=_labels(recipe, selection, lock, python),
        created=lock.epoch,
    )


def _workdir(recipe: Recipe, lock: Lock) -> str:
    own = "workdir" in recipe.model_fields_set
    return lock.base.working_dir or recipe.workdir if lock.base and not own else recipe.workdir


def _entrypoint(recipe: Recipe, lock: Lock) -> tuple[str, ...]:
    own = "entrypoint" in recipe.model_fields_set
    return lock.base.entrypoint if lock.base and not own else tuple(recipe.entrypoint)


def _shell(lock: Lock) -> str:
    if lock.base:
        return lock.base.contents.shell
    return "/bin/bash" if any(deb.name == "bash" for deb in lock.debs) else "/bin/sh"


def _labels(recipe: Recipe, selection: Selection, lock: Lock, python: str | None) -> dict[str, str]:
    accelerator = lock.accelerator
    values = {
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.version": recipe.version,
        "org.opencontainers.image.description": recipe.description,
        "org.opencontainers.image.authors": ", ".join(recipe.maintainers),
        "org.opencontainers.image.base.name": lock.base.name if lock.base else None,
        "org.opencontainers.image.base.digest": f"sha256:{lock.base.manifest_digest}" if lock.base else None,
        "uenv.system": selection.system.name,
        "uenv.uarch": selection.uarch.name,
        "uenv.network": recipe.network,
        "uenv.version.python": python,
        "uenv.version.cuda": accelerator.cuda if accelerator else None,
        "uenv.version.cudnn": accelerator.cudnn if accelerator else None,
        "uenv.version.nccl": accelerator.nccl if accelerator else None,
        "uenv.version.torch": accelerator.torch if accelerator else None,
    }
    return {key: value for key, value in values.items() if value}
