"""The views of a uenv: what its meta/env.json does to the environment of whoever starts it.

uenv reads `views.NAME.env.values` with the two tables `list` (search paths: set, prepend, append, unset) and `scalar`
(a text, or null to unset). Both have to be there, and a name must not be in both: the scalar would win
(eth-cscs/uenv 5af9df7, version 9.2: src/uenv/meta.cpp and src/util/envvars.cpp).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from uenv_builder.core.environment import DEFAULT_PATH, VARIABLE_NAME, compose_environment
from uenv_builder.core.uenv_meta import EXPANSION_HINT, expansion_problem, read_env_json
from uenv_builder.model.errors import RecipeError
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.section import View
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


def uenv_views(
    system: System, network: NetworkMode, recipe: Recipe, activations: Mapping[str, View] | None = None
) -> dict[str, View]:
    """All views by name: `default`, those of the recipe, and those in `activations`, which Spack has made.

    Each has the system's contract below, over it what its activation does, and over that its own changes in the recipe.
    A view of the recipe, or one of Spack (core/spack_view.py), named `default` takes that one's place. Raises
    RecipeError for a name that is taken or none, and a value that would come out differently from time to time.
    """
    made = activations or {}
    base = contract_view(system, network, recipe)
    views = {DEFAULT: base}
    for name in dict.fromkeys([*made, *recipe.views]):
        _refuse_name(name)
        view = layered(base, made[name]) if name in made else base
        views[name] = layered(view, recipe.views[name]) if name in recipe.views else view
    for name, view in views.items():
        _refuse_values(name, view)
    return views


def _refuse_name(name: str) -> None:
    if name in _RESERVED:
        raise RecipeError(
            f'a view of a uenv cannot be named "{name}"', rule="view-name",
            hint="choose another name: uenvs have views of their own with this one",
        )  # fmt: skip


def _refuse_values(view_name: str, view: View) -> None:
    """Raise RecipeError for names that the uenv command drops, and for `${@NAME@}` that it cannot fill in for certain:
    it goes through the variables of a view in no order.
    """
    changed = {*view.set, *view.prepend, *view.append, *view.unset}
    for name in sorted(changed):
        if not VARIABLE_NAME.match(name):
            raise refused_value(name, f'in view "{view_name}": it is no name of an environment variable')
        texts = [view.set.get(name, ""), *view.prepend.get(name, ()), *view.append.get(name, ())]
        for text in texts:
            if problem := expansion_problem(name, text, changed):
                raise refused_value(name, f'in view "{view_name}": {problem}')


def refused_value(name: str, reason: str) -> RecipeError:
    """The error for a variable of a view that the uenv command would not set as it is written."""
    return RecipeError(f"{name}: {reason}", rule="view-value", hint=EXPANSION_HINT)


def view_values(view: View) -> Values:
    """The `values` of a view's `env` in meta/env.json, sorted by name."""
    lists: dict[str, list[Change]] = {}
    names = {*view.set, *view.prepend, *view.append, *view.unset}
    paths = {name for name in names if name in SEARCH_PATHS or name in view.prepend or name in view.append}
    for name in sorted(paths):
        lists[name] = list(_changes(view, name))
    scalars: dict[str, str | None] = {name: view.set.get(name) for name in sorted(names - paths)}
    return {"list": lists, "scalar": scalars}


def env_document(
    name: str, mount: str, views: Mapping[str, View], *, description: str = "", default: str = DEFAULT
) -> dict[str, object]:
    """The content of meta/env.json: `name` of the uenv, the absolute path where it is mounted, its views, and which of
    them is taken where none is named. It was read again and found to be what the uenv command takes.
    """
    document = _env_document(name, mount, views, description=description, default=default)
    read_env_json(json.dumps(document))
    return document


def _env_document(
    name: str, mount: str, views: Mapping[str, View], *, description: str, default: str
) -> dict[str, object]:
    return {
        "name": name,
        "description": description,
        "mount": mount,
        "default-view": default,
        "views": {
            view_name: {"description": view.description, "env": {"version": 1, "values": view_values(view)}}
            for view_name, view in views.items()
        },
    }


def layered(base: View, own: View) -> View:
    """`own` over `base`: its folders stand first, and what it sets or takes away is not touched by `base`."""
    values = {name: value for name, value in base.set.items() if name not in own.unset} | own.set
    unset = {name for name in [*base.unset, *own.unset] if name not in own.set}
    replaced = {*own.set, *own.unset}
    prepend = {name: folders for name, folders in base.prepend.items() if name not in replaced}
    append = {name: folders for name, folders in base.append.items() if name not in replaced}
    for name, folders in own.prepend.items():
        prepend[name] = list(dict.fromkeys([*folders, *prepend.get(name, [])]))
    for name, folders in own.append.items():
        append[name] = list(dict.fromkeys([*append.get(name, []), *folders]))
    return View(
        description=own.description or base.description, set=dict(sorted(values.items())),
        prepend=dict(sorted(prepend.items())), append=dict(sorted(append.items())), unset=sorted(unset),
    )  # fmt: skip


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
        yield {"op": "prepend", "value": _folders(view.prepend[name])}
    if name in view.append:
        yield {"op": "append", "value": _folders(view.append[name])}


def _folders(values: list[str]) -> list[str]:
    """Folder by folder, whoever wrote several into one text."""
    return [folder for value in values for folder in value.split(":") if folder]
