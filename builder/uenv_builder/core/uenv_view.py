"""The views of a uenv: what its meta/env.json does to the environment of whoever starts it.

uenv reads `views.NAME.env.values` with the two tables `list` (search paths: set, prepend, append, unset) and `scalar`
(a text, or null to unset). Both have to be there, and a name must not be in both: the scalar would win
(eth-cscs/uenv 5af9df7, version 9.2: src/uenv/meta.cpp and src/util/envvars.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from uenv_builder.core.environment import DEFAULT_PATH, compose_environment
from uenv_builder.model.errors import RecipeError
from uenv_builder.model.recipe import Recipe, View
from uenv_builder.model.system import NetworkMode, System

Change: TypeAlias = dict[str, str | list[str]]
Values: TypeAlias = dict[str, dict[str, list[Change]] | dict[str, str | None]]

DEFAULT = "default"
SEARCH_PATHS = frozenset({
    "ACLOCAL_PATH", "CMAKE_PREFIX_PATH", "CPATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "MANPATH", "MODULEPATH", "PATH",
    "PKG_CONFIG_PATH", "PYTHONPATH",
})  # fmt: skip
"""Variables that are lists of folders wherever they are set: a view adds to them, or sets them part by part."""
_RESERVED = {"modules", "spack"}
_CONTAINERS_ONLY = ("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")


def contract_view(system: System, network: NetworkMode, recipe: Recipe) -> View:
    """The contract of `system` in the mode `network`, and over it the variables of `recipe`, as changes to a session.

    A uenv adds to what the machine has: an image's PATH and LANG are left out, and search paths that the recipe sets go
    in front. Variables that the contract forbids in this mode are taken away, unless the recipe sets them. Raises
    IncompatibleError where the system has no such mode.
    """
    compose_environment(system, network, {})  # refuses a mode that the system does not have
    contract = {name: value for name, value in system.env.get(network, {}).items() if name not in _CONTAINERS_ONLY}
    values = {name: value for name, value in (contract | recipe.env).items() if name not in SEARCH_PATHS}
    forbidden = [name for name, variable in system.variables.items() if network in variable.unset]
    return View(
        description=recipe.description,
        set=dict(sorted(values.items())),
        prepend={name: _added_folders(recipe.env[name]) for name in sorted(SEARCH_PATHS & set(recipe.env))},
        unset=sorted(name for name in forbidden if name not in values),
    )


def uenv_views(system: System, network: NetworkMode, recipe: Recipe) -> dict[str, View]:
    """All views by name: `default`, and those of the recipe, each with its own changes over the default's.

    A view of the recipe named `default` takes that one's place. Raises RecipeError for a name that is taken.
    """
    base = contract_view(system, network, recipe)
    for name in recipe.views:
        if name in _RESERVED:
            raise RecipeError(
                f'a view of a uenv cannot be named "{name}"', rule="view-name",
                hint="choose another name: uenvs have views of their own with this one",
            )  # fmt: skip
    return {DEFAULT: base, **{name: _over(base, view) for name, view in recipe.views.items()}}


def view_values(view: View) -> Values:
    """The `values` of a view's `env` in meta/env.json, sorted by name."""
    lists: dict[str, list[Change]] = {}
    names = {*view.set, *view.prepend, *view.append, *view.unset}
    paths = {name for name in names if name in SEARCH_PATHS or name in view.prepend or name in view.append}
    for name in sorted(paths):
        lists[name] = list(_changes(view, name))
    scalars: dict[str, str | None] = {name: view.set.get(name) for name in sorted(names - paths)}
    return {"list": lists, "scalar": scalars}


def env_document(name: str, mount: str, views: dict[str, View], *, description: str = "") -> dict[str, object]:
    """The content of meta/env.json: `name` of the uenv, the absolute path where it is mounted, and its views."""
    return {
        "name": name,
        "description": description,
        "mount": mount,
        "default-view": DEFAULT,
        "views": {
            view_name: {"description": view.description, "env": {"version": 1, "values": view_values(view)}}
            for view_name, view in views.items()
        },
    }


def _over(base: View, own: View) -> View:
    values = {name: value for name, value in base.set.items() if name not in own.unset} | own.set
    unset = {name for name in [*base.unset, *own.unset] if name not in own.set}
    prepend = {name: folders for name, folders in base.prepend.items() if name not in {*own.set, *own.unset}}
    for name, folders in own.prepend.items():
        prepend[name] = list(dict.fromkeys([*folders, *prepend.get(name, [])]))
    changes = {"set": dict(sorted(values.items())), "prepend": dict(sorted(prepend.items())), "unset": sorted(unset)}
    return own.model_copy(update=changes)


def _added_folders(value: str) -> list[str]:
    return [folder for folder in value.split(":") if folder and folder not in DEFAULT_PATH]


def _changes(view: View, name: str) -> Iterator[Change]:
    # uenv goes through them in order, so what replaces the whole comes first.
    added = name in view.prepend or name in view.append
    if name in view.set:
        yield {"op": "set", "value": [part for part in view.set[name].split(":") if part]}
    elif name in view.unset:
        yield {"op": "set" if added else "unset", "value": []}
    if name in view.prepend:
        yield {"op": "prepend", "value": list(view.prepend[name])}
    if name in view.append:
        yield {"op": "append", "value": list(view.append[name])}
