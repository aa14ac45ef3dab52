"""What a recipe of one kind needs and what it cannot have: a container's base, a uenv's Spack and views."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from uenv_builder.core.environment import VARIABLE_NAME
from uenv_builder.core.uenv_meta import EXPANSION_HINT, expansion_problem
from uenv_builder.core.yaml_tree import Path, YamlTree, suggest
from uenv_builder.model.errors import Diagnostic
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.section import View
from uenv_builder.model.spack import BUILTIN, SYSTEM, SpackEnvironment, SpackSection, SpackView

RESERVED_VIEWS = frozenset({"modules", "spack"})
"""Views of this name are what other makers of uenvs add (eth-cscs/stackinator, stackinator/etc/envvars.py)."""
_MOUNT = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\Z")
"""Paths in labels and mount lists of the uenv command have no other characters (eth-cscs/uenv, src/uenv/parse.cpp)."""
_SYSTEM_FOLDERS = frozenset(
    {"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "usr", "var"}
)
DEFAULT_VIEW = "default"
MODULES_VIEW = "modules"
"""The view that recipes with `spack: modules` have."""


@dataclass(frozen=True, slots=True)
class _Wrong:
    """An error, and the path in the recipe's tree that it is about."""

    rule: str
    at: Path
    message: str
    hint: str


_NO_BASE = _Wrong("missing-key", ("base",), 'the key "base" is missing', "add `base:`")


def kind_errors(recipe: Recipe, tree: YamlTree) -> list[Diagnostic]:
    """All that contradicts the recipe's kind, or within its Spack section, each at its place."""
    found = list(_parts(recipe))
    if recipe.kind != "container":
        found += _mount(recipe)
    if recipe.spack:
        found += _spack(recipe.spack)
        found += _views(recipe, recipe.spack)
    return [_diagnostic(wrong, tree) for wrong in found]


def missing_base(value: Mapping[str, object], tree: YamlTree) -> list[Diagnostic]:
    """That a recipe with other errors lacks a base."""
    return [] if value.get("kind") == "uenv" or "base" in value else [_diagnostic(_NO_BASE, tree)]


def _diagnostic(wrong: _Wrong, tree: YamlTree) -> Diagnostic:
    at_key = wrong.rule in {"kind", "view-name", "view-twice", "env-name"}
    position = tree.key_position(wrong.at) if at_key else tree.position(wrong.at)
    return Diagnostic(rule=wrong.rule, message=wrong.message, position=position, hint=wrong.hint)


def _parts(recipe: Recipe) -> Iterator[_Wrong]:
    if recipe.kind == "uenv":
        if not recipe.base.empty:
            yield _Wrong(
                "kind", ("base",), "a uenv has no base: it is mounted into the machine's own file system",
                "remove `base:`, or write `kind: both` for a container image beside the uenv",
            )  # fmt: skip
        if recipe.components:
            yield _Wrong(
                "kind", ("components",), "components are compiled on a userland of packages, and a uenv has none",
                "have Spack install it (`spack: environments`), or write `kind: both`",
            )  # fmt: skip
        if recipe.python.requirements or recipe.pins.pytorch:
            yield _Wrong(
                "kind", ("python",) if recipe.python.requirements else ("pins",),
                "wheels are not installed into a uenv", "name Spack's packages, such as py-numpy, under `specs:`",
            )  # fmt: skip
    elif recipe.base.empty:
        yield _NO_BASE
    if recipe.kind == "container" and recipe.spack:
        yield _Wrong(
            "kind", ("spack",), "what Spack installs is part of a uenv, and the recipe's kind is container",
            "write `kind: uenv`, or `kind: both` for a container image with the same software",
        )  # fmt: skip
    if recipe.kind != "container" and not recipe.spack:
        hint = f"add `spack:`, which kind {recipe.kind} needs"
        yield _Wrong("missing-key", ("spack",), 'the key "spack" is missing', hint)


def _mount(recipe: Recipe) -> Iterator[_Wrong]:
    first = recipe.mount.split("/")[1]
    if not _MOUNT.match(recipe.mount) or first in _SYSTEM_FOLDERS:
        reason = (
            "hides a folder of the machine" if first in _SYSTEM_FOLDERS else "is no path that the uenv command takes"
        )
        yield _Wrong(
            "mount-point", ("mount",), f"{recipe.mount} {reason}",
            "nodes of Alps have /user-environment and /user-tools; letters, digits, _ . and - may be in its name",
        )  # fmt: skip


def _spack(spack: SpackSection) -> Iterator[_Wrong]:
    if BUILTIN not in spack.repositories:
        yield _Wrong(
            "missing-key", ("spack", "repositories"), f'the key "spack.repositories.{BUILTIN}" is missing',
            f"add `{BUILTIN}:` with the repository and the commit of spack-packages",
        )  # fmt: skip
    if "gcc" not in spack.compilers:
        yield _Wrong(
            "missing-key", ("spack", "compilers"), 'the key "spack.compilers.gcc" is missing',
            f'add `gcc: {{version: "14.2.0"}}`, or `gcc: {{version: {SYSTEM}}}`; the other compilers are built with it',
        )  # fmt: skip
    for compiler, chosen in spack.compilers.items():
        if chosen.version == SYSTEM and compiler != "gcc":
            yield _Wrong(
                "spack-compiler", ("spack", "compilers", compiler, "version"),
                f"{compiler} cannot be the system's: only gcc can", f"give the version of {compiler} that Spack builds",
            )  # fmt: skip
    for name, environment in spack.environments.items():
        yield from _environment(name, environment, spack)
    for package in spack.externals:
        if "externals" in spack.packages.get(package, {}):
            yield _Wrong(
                "spack-externals", ("spack", "externals", package),
                f"{package} has externals here and below `packages: {package}`", "keep one of the two lists",
            )  # fmt: skip


def _environment(name: str, environment: SpackEnvironment, spack: SpackSection) -> Iterator[_Wrong]:
    here = ("spack", "environments", name)
    for number, compiler in enumerate(environment.compilers):
        if compiler not in spack.compilers:
            known = ", ".join(spack.compilers)
            yield _Wrong(
                "spack-compiler", (*here, "compilers", number), f"{compiler} is not below `spack: compilers`",
                suggest(compiler, list(spack.compilers)) or f"add it there, or choose of: {known}",
            )  # fmt: skip
    if not environment.specs and not environment.network.mpi:
        hint = "add `specs:`, or remove the environment"
        yield _Wrong("spack-empty", here, f"environment {name} asks for nothing", hint)


def _views(recipe: Recipe, spack: SpackSection) -> Iterator[_Wrong]:
    taken: dict[str, str] = {}
    for name, environment in spack.environments.items():
        for view, settings in environment.views.items():
            here = ("spack", "environments", name, "views", view)
            if view in RESERVED_VIEWS:
                yield _Wrong(
                    "view-name", here, f'a view of a uenv cannot be named "{view}"',
                    "choose another name: uenvs have views of their own with this one",
                )  # fmt: skip
            if view in taken:
                yield _Wrong(
                    "view-twice", here, f'environment {taken[view]} has a view "{view}", too',
                    "give each view a name of its own: all lie in one folder",
                )  # fmt: skip
            taken.setdefault(view, name)
            yield from _variables(settings, here)
    for view, changes in recipe.views.items() if recipe.kind != "container" else ():
        yield from _values(changes, ("views", view))
    made = [MODULES_VIEW] if spack.modules is not None else []
    known = dict.fromkeys([*taken, *recipe.views, DEFAULT_VIEW, *made])
    if recipe.default_view and recipe.default_view not in known:
        yield _Wrong(
            "view-unknown", ("default_view",), f'there is no view "{recipe.default_view}"',
            suggest(recipe.default_view, list(known)) or f"its views: {', '.join(known)}",
        )  # fmt: skip


def _values(view: View, here: Path) -> Iterator[_Wrong]:
    """Values that the uenv command would fill in otherwise than they are meant."""
    changed = {*view.set, *view.prepend, *view.append, *view.unset}
    texts: list[tuple[Path, str, str]] = [(("set", name), name, text) for name, text in view.set.items()]
    for section, added in (("prepend", view.prepend), ("append", view.append)):
        texts += [((section, name, at), name, text) for name, found in added.items() for at, text in enumerate(found)]
    for path, name, text in texts:
        if problem := expansion_problem(name, text, changed):
            yield _Wrong("view-value", (*here, *path), f"{name}: {problem}", EXPANSION_HINT)


def _variables(view: SpackView, here: Path) -> Iterator[_Wrong]:
    yield from _values(view, here)
    sections: dict[str, list[str]] = {
        "set": [*view.set], "prepend": [*view.prepend], "append": [*view.append], "prefix_paths": [*view.prefix_paths],
    }  # fmt: skip
    for section, names in sections.items():
        for name in names:
            if not VARIABLE_NAME.match(name):
                yield _Wrong(
                    "env-name", (*here, section, name), f'"{name}" is no name of an environment variable',
                    "names are made of letters, digits and _, and do not start with a digit",
                )  # fmt: skip
    for number, name in enumerate(view.unset):
        if name in view.set:
            yield _Wrong(
                "view-contradiction", (*here, "unset", number), f"{name} is set and removed by the same view",
                "keep one of the two",
            )  # fmt: skip
