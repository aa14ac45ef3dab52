"""Module files for what Spack has installed: the settings, the words that have Spack write them, and their text.

The settings have a scope of their own: within spack.yaml, their `prefix_inspections` would change what activating a
view does, too (observed with Spack 1.3).
"""

from __future__ import annotations

import copy
import re
from typing import cast

import yaml

from uenv_builder.core.digest import Document
from uenv_builder.core.recipe_kind import MODULES_VIEW
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.section import View
from uenv_builder.model.spack import Settings

VIEW = MODULES_VIEW
"""The view that has users find the module files; also the folder that they lie in, below the mount point."""
FILE = "modules.yaml"
KINDS = ("tcl", "lmod")
_MADE_AT = re.compile(rb"(?m)^(?P<sign>##|--) (?P<what>Module file created by spack.*) on \d{4}-\d\d-\d\d [0-9:.]+$")


def modules_root(recipe: Recipe) -> str:
    """Where the module files are on a node, absolute."""
    return f"{recipe.mount}/{VIEW}"


def modules_view(recipe: Recipe) -> View:
    """What the view of module files does."""
    return View(description="module files", prepend={"MODULEPATH": [modules_root(recipe)]})


def module_kinds(settings: Settings) -> tuple[str, ...]:
    """Which kinds of module files are written: those that have a root, else those that are enabled, else tcl."""
    default = cast("Document", settings.get("default") or {})
    named = default.get("roots") or default.get("enable") or ["tcl"]
    return tuple(kind for kind in KINDS if kind in named)


def modules_file(recipe: Recipe, settings: Settings) -> str:
    """The text of modules.yaml: the settings, with module files below the mount point and no folder by processor."""
    made = copy.deepcopy(settings)
    default = cast("Document", made.setdefault("default", {}))
    kinds = module_kinds(settings)
    default |= {"enable": list(kinds), "roots": dict.fromkeys(kinds, modules_root(recipe)), "arch_folder": False}
    text: str = yaml.safe_dump({"modules": made}, sort_keys=False, width=1000, allow_unicode=True)
    return text


def refresh_words(kind: str, scope: str, environment: str) -> list[str]:
    """The words after `spack` that write all module files of a kind; `scope` is the folder of modules.yaml."""
    return ["-C", scope, "-e", environment, "module", kind, "refresh", "--delete-tree", "-y"]


def without_time(content: bytes) -> bytes:
    """A module file without the time at which Spack wrote it: the same packages give the same bytes."""
    return _MADE_AT.sub(rb"\g<sign> \g<what>", content)
