"""The views that Spack makes for a uenv: what activating them does, and meta/env.json of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from uenv_builder.core import spack_modules
from uenv_builder.core.digest import Document
from uenv_builder.core.uenv_meta import OPENING
from uenv_builder.core.uenv_view import DEFAULT, SEARCH_PATHS, env_document, layered, refused_value, uenv_views
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.section import View
from uenv_builder.model.spack import SpackView
from uenv_builder.model.system import System

Activation = Mapping[str, str | None]
"""Variables that activating a view sets, with their values; None: it takes them away."""
_LIST_ENDINGS = ("PATH", "PATHS", "_DIRS", "LIB")


def view_folder(recipe: Recipe, name: str) -> str:
    """Where the view `name` of a uenv lies on a node, absolute."""
    return f"{recipe.mount}/env/{name}"


def uenv_document(
    system: System, recipe: Recipe, activations: Mapping[str, Activation], *,
    has_folder: Callable[[str], bool] = lambda _: True, venv: str | None = None,
) -> Document:  # fmt: skip
    """The content of meta/env.json of the recipe's uenv, on `system`.

    `activations` are by the views' names, and `has_folder` says of an absolute path below the mount point whether the
    image has it: folders of `prefix_paths` that it has not are left out. `venv` is the absolute path of a virtual
    environment in the image, which all views then have in front. Raises RecipeError as `uenv_views`.
    """
    made = spack_views(recipe, activations, has_folder=has_folder, venv=venv)
    views = uenv_views(system, recipe.network, recipe, made)
    if recipe.spack and recipe.spack.modules is not None:
        views[spack_modules.VIEW] = spack_modules.modules_view(recipe)
    return env_document(
        recipe.name, recipe.mount, views, description=recipe.description, default=recipe.default_view or DEFAULT
    )


def _venv_view(venv: str) -> View:
    """As its activation script does it; a PYTHONPATH or PYTHONHOME of the session would hide its packages."""
    return View(set={"VIRTUAL_ENV": venv}, prepend={"PATH": [f"{venv}/bin"]}, unset=["PYTHONHOME", "PYTHONPATH"])


def spack_views(
    recipe: Recipe, activations: Mapping[str, Activation], *, has_folder: Callable[[str], bool] = lambda _: True,
    venv: str | None = None,
) -> dict[str, View]:  # fmt: skip
    """The views of the recipe's Spack section, by name: what activating one does, over that the folders of
    `prefix_paths` and the virtual environment, and over that what the recipe says of its variables.
    """
    found = {}
    for environment in recipe.spack.environments.values() if recipe.spack else ():
        for name, view in environment.views.items():
            made = activation_view(activations.get(name, {}), recipe.mount, description=view.description)
            made = layered(made, View(prepend=_prefixes(recipe, name, view, has_folder)))
            made = layered(made, _venv_view(venv)) if venv is not None else made
            found[name] = layered(made, view)
    return found


def _prefixes(
    recipe: Recipe, name: str, view: SpackView, has_folder: Callable[[str], bool]
) -> dict[str, list[str]]:  # fmt: skip
    place = view_folder(recipe, name)
    folders = {
        variable: [f"{place}/{folder.strip('/')}" for folder in below] for variable, below in view.prefix_paths.items()
    }
    present = {variable: [folder for folder in below if has_folder(folder)] for variable, below in folders.items()}
    return {variable: below for variable, below in present.items() if below}


def activation_view(activation: Mapping[str, str | None], mount: str, *, description: str = "") -> View:
    """What activating a Spack view does, as changes to a session: `activation` has the variables that `spack env
    activate --with-view V --sh` sets, with their values (None: it unsets them).

    Spack prints whole values, with what its caller had in them: of search paths only folders below `mount` are kept.
    Variables of Spack's own are left out. Raises RecipeError for a value that the uenv command would fill in.
    """
    values, prepend, unset = {}, {}, []
    for name, value in sorted(activation.items()):
        if name.startswith(("SPACK_", "__")) or name == "PS1":
            continue
        if value is None:
            unset.append(name)
        elif OPENING in value:
            raise refused_value(name, f"Spack gives it the value {value}, and the uenv command would fill in {OPENING}")
        elif _is_list(name, value):
            prepend[name] = [folder for folder in value.split(":") if f"{folder}/".startswith(f"{mount}/")]
        else:
            values[name] = value
    return View(
        description=description, set=values, unset=unset,
        prepend={name: folders for name, folders in prepend.items() if folders},
    )  # fmt: skip


def _is_list(name: str, value: str) -> bool:
    parts = value.split(":")
    return name in SEARCH_PATHS or (
        name.endswith(_LIST_ENDINGS) and all(part.startswith("/") for part in parts if part)
    )
