"""From a recipe, a chosen target and a lock to all that a build goes by: configuration, files, plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.recipes import LoadedRecipe, added_contents
from uenv_builder.core.environment import compose_environment
from uenv_builder.core.etc_files import etc_files
from uenv_builder.core.label import Label
from uenv_builder.core.planning import PlanInputs, make_plan
from uenv_builder.core.systems import SystemFiles, load_system, load_uarchs, system_names
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.images.squashfs.mksquashfs import squashfs_tool_version
from uenv_builder.model.errors import MissingToolError, RecipeError, UsageError
from uenv_builder.model.image import ImageConfig
from uenv_builder.model.lock import Lock
from uenv_builder.model.plan import Plan, StepKind
from uenv_builder.model.recipe import Recipe, Target
from uenv_builder.model.system import System, Uarch
from uenv_builder.system.layer_blob import compressor_version
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems

_LAYERS: tuple[StepKind, ...] = ("userland", "bytecode", "wheel", "files", "finish")


@dataclass(frozen=True, slots=True)
class Selection:
    """The target that a run is about, and the label of its image."""

    system: System
    uarch: Uarch
    label: Label


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


def select(
    loaded: LoadedRecipe,
    *,
    label: str | None = None,
    uarch: str | None = None,
    system: str | None = None,
    site: SystemFiles | None = None,
) -> Selection:
    """The target that label and options name, by default the recipe's first; raises UsageError where none fits.

    `site` are the site's own systems; None means those of the settings.
    """
    asked = Label.parse(label) if label else None
    uarch = uarch or (asked.uarch if asked else None)
    system = system or (asked.system if asked and asked.system != "*" else None)
    targets = loaded.recipe.targets
    fitting = [
        target for target in targets
        if (uarch is None or target.uarch == uarch) and (system is None or target.system == system)
    ]  # fmt: skip
    if not fitting:
        known = ", ".join(f"{target.system}%{target.uarch}" for target in targets)
        wanted = f"{system or '*'}%{uarch or '*'}"
        raise UsageError(f"{loaded.path}: has no target {wanted}", rule="no-target", hint=f"its targets: {known}")
    site = read_site_systems(load_settings().systems) if site is None else site
    return _selection(loaded, fitting[0], asked, site)


def _selection(loaded: LoadedRecipe, target: Target, asked: Label | None, site: SystemFiles) -> Selection:
    recipe = loaded.recipe
    position = loaded.evaluated.tree.position(("targets", recipe.targets.index(target)))
    systems, uarchs = system_names(site), load_uarchs()
    if target.system not in systems:
        hint = suggest(target.system, list(systems)) or f"known systems: {', '.join(systems)}"
        raise RecipeError(f'unknown system "{target.system}"', rule="unknown-system", position=position, hint=hint)
    if target.uarch not in uarchs:
        hint = suggest(target.uarch, list(uarchs)) or f"known node types: {', '.join(uarchs)}"
        raise RecipeError(f'unknown uarch "{target.uarch}"', rule="unknown-uarch", position=position, hint=hint)
    system = load_system(target.system, site)
    if target.uarch not in system.uarchs:
        message = f"{system.name} has no {target.uarch} nodes"
        hint = f"it has: {', '.join(system.uarchs)}"
        raise RecipeError(message, rule="system-uarch", position=position, hint=hint)
    if recipe.network not in system.networks:
        message = f"{system.name} cannot run network mode {recipe.network}"
        hint = f"its modes: {', '.join(system.networks)}"
        where = loaded.evaluated.tree.position(("network",))
        raise RecipeError(message, rule="network-mode", position=where, hint=hint)
    label = Label(
        name=(asked and asked.name) or recipe.name,
        version=(asked and asked.version) or recipe.version,
        tag=(asked and asked.tag) or "latest",
        system=target.system,
        uarch=target.uarch,
    )
    return Selection(system, uarchs[target.uarch], label)


def prepare(loaded: LoadedRecipe, selection: Selection, lock: Lock) -> Prepared:
    """Compose environment, generated files and plan; the same recipe, files and lock give the same plan anywhere."""
    contents, sources = added_contents(loaded)
    config = image_config(loaded.recipe, selection, lock)
    layer_tools = {"zstd": compressor_version()}
    inputs = PlanInputs(
        recipe=loaded.recipe,
        lock=lock,
        uarch=selection.uarch,
        config=config,
        added=contents,
        generated=etc_files(config),
        tools={**dict.fromkeys(_LAYERS, layer_tools), "squashfs": _squashfs_tools()},
    )
    return Prepared(loaded, selection, lock, inputs, make_plan(inputs), sources)


def _squashfs_tools() -> dict[str, str]:
    try:
        return {"writer": squashfs_tool_version()}
    except MissingToolError:
        return {"writer": "not installed"}


def image_config(recipe: Recipe, selection: Selection, lock: Lock) -> ImageConfig:
    """What both images carry beside their files."""
    python = lock.python.version if lock.python else None
    return ImageConfig(
        architecture=selection.uarch.oci,
        env=compose_environment(selection.system, recipe.network, recipe.env),
        workdir=recipe.workdir,
        entrypoint=tuple(recipe.entrypoint),
        cmd=("/bin/bash",) if any(deb.name == "bash" for deb in lock.userland.packages) else ("/bin/sh",),
        labels=_labels(recipe, selection, lock, python),
        created=lock.epoch,
    )


def _labels(recipe: Recipe, selection: Selection, lock: Lock, python: str | None) -> dict[str, str]:
    accelerator = lock.accelerator
    values = {
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.version": recipe.version,
        "org.opencontainers.image.description": recipe.description,
        "org.opencontainers.image.authors": ", ".join(recipe.maintainers),
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
