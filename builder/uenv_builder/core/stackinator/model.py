"""A Stackinator recipe as it is meant, whichever of the format's three versions it is written in.

Fields and defaults are those of eth-cscs/stackinator db5e1de (versions 2 and 3) and its branch releases/v5 (version 1):
stackinator/schema and stackinator/recipe.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from uenv_builder.core.yaml_tree import YamlTree
from uenv_builder.model.errors import Diagnostic, Position

DEFAULT_MOUNT = "/user-environment"
Unify = Literal["true", "false", "when_possible"]
Link = Literal["roots", "all", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A git repository at a commit, branch or tag (None: whatever its default branch has), and a folder in it."""

    url: str
    commit: str | None
    path: str | None = None
    position: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A compiler: its specs, of which the first names it, and what all of them are built with or need."""

    specs: tuple[str, ...]
    requires: str | None = None
    position: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentView:
    """A view: which packages it links where, and what it does to variables (a `set` of None takes one away)."""

    link: Link = "roots"
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    projections: Mapping[str, str] = field(default_factory=dict)
    add_compilers: bool = True
    prefix_paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    set: Mapping[str, str | None] = field(default_factory=dict)
    prepend: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    append: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    position: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Specs that are solved together, with the compilers for them, the first of which builds what names none."""

    compilers: tuple[str, ...]
    specs: tuple[str, ...]
    unify: Unify = "true"
    duplicates: str = "minimal"
    variants: tuple[str, ...] = ()
    prefer: tuple[str, ...] | None = None
    mpi: str | None = None
    network_specs: tuple[str, ...] | None = None
    packages: tuple[str, ...] = ()
    """Packages of the system to be taken as they are."""
    deprecated: bool = False
    views: Mapping[str, EnvironmentView] = field(default_factory=dict)
    position: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackinatorRecipe:
    """All of a recipe. `format` is 1, 2 or 3; `package_repositories` are by name, in their order; `modules` and
    `packages` are the trees of the files of these names, where there are any. `unread` are keys that nothing reads.
    """

    format: int
    name: str
    description: str | None
    mount: str
    default_view: str | None
    cleanup: str
    modules_wanted: bool
    spack: Repository
    package_repositories: Mapping[str, Repository]
    compilers: Mapping[str, Compiler]
    environments: Mapping[str, Environment]
    modules: YamlTree | None = None
    packages: YamlTree | None = None
    unread: tuple[Diagnostic, ...] = ()
