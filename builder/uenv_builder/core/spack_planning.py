"""The steps of a uenv: what Spack installs, and what the image says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from uenv_builder.core.digest import Json, digest_of
from uenv_builder.core.plan_steps import make_step
from uenv_builder.core.spack_modules import modules_file

if TYPE_CHECKING:
    from uenv_builder.core.planning import PlanInputs
    from uenv_builder.model.plan import Step
    from uenv_builder.model.spack_lock import LockedSpack


def uenv_steps(inputs: PlanInputs, locked: LockedSpack) -> list[Step]:
    """The layers of a uenv, the lowest first; the image's root is the mount point."""
    installed = make_step(inputs.tools, "spack", f"Spack {locked.version}, {len(locked.built)} packages", {
        "spack": [locked.version, locked.commit],
        "repositories": [_repository(one.model_dump(mode="json")) for one in locked.repositories],
        "spack.lock": locked.lockfile,
        "spack.yaml": inputs.spack_file,
        "cleanup": inputs.recipe.spack.cleanup if inputs.recipe.spack else "none",
        "epoch": inputs.lock.epoch,
        **_modules(inputs),
    })  # fmt: skip
    return [installed, _meta(inputs, installed)]


def _modules(inputs: PlanInputs) -> dict[str, Json]:
    settings = inputs.recipe.spack.modules if inputs.recipe.spack else None
    return {} if settings is None else {"modules.yaml": modules_file(inputs.recipe, settings)}


def _repository(document: Mapping[str, Json]) -> Json:
    # Where it comes from does not matter.
    return {key: value for key, value in document.items() if key not in {"git", "folder"}}


def _meta(inputs: PlanInputs, installed: Step) -> Step:
    recipe = inputs.recipe
    options: Json = {
        "name": recipe.name,
        "description": recipe.description,
        "mount": recipe.mount,
        "default": recipe.default_view,
        "network": recipe.network,
        "env": dict(recipe.env),
        "views": {name: view.model_dump(mode="json") for name, view in recipe.views.items()},
        "spack-views": {
            name: view.model_dump(mode="json")
            for environment in (recipe.spack.environments.values() if recipe.spack else ())
            for name, view in environment.views.items()
        },
        "modules": list(_modules(inputs)),
        "contract": inputs.system.model_dump(mode="json", include={"variables", "networks"}) if inputs.system else None,
        "generated": {path: digest_of(text) for path, (text, _) in inputs.generated.items()},
        "epoch": inputs.lock.epoch,
    }
    return make_step(inputs.tools, "uenv-meta", "views and metadata", options, (installed,))


def checkout_id(commit: str) -> str:
    """The id of the files of a commit in the store."""
    return digest_of(["checkout", 1, commit])
