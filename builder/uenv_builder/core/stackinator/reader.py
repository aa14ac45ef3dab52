"""From the files of a Stackinator recipe to what they mean, whichever version of the format they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from uenv_builder.core.stackinator.model import (
    DEFAULT_MOUNT,
    Compiler,
    Environment,
    EnvironmentView,
    Link,
    Repository,
    StackinatorRecipe,
    Unify,
)
from uenv_builder.core.stackinator.section import Section
from uenv_builder.core.yaml_tree import read_yaml
from uenv_builder.model.errors import Diagnostic, RecipeError

REQUIRED = ("config.yaml", "compilers.yaml", "environments.yaml")
OPTIONAL = ("modules.yaml", "packages.yaml")
_VERSIONS = ("1", "2", "3")
_DEFAULT_SPECS = {"gcc": "+bootstrap", "nvhpc": "~mpi~blas~lapack", "llvm": "+clang ~gold"}
"""What a compiler is built with where its `spec` is left out; of the others nothing."""
_COMPILERS = ("gcc", "nvhpc", "llvm", "llvm-amdgpu", "intel-oneapi-compilers")
_OLD_MPI = {
    "mpich": ("@4.1", "device=ch4 netmod=ofi +slurm"),
    "mvapich2": ("@3.0a", "+xpmem fabrics=ch4ofi ch4_max_vcis=4 process_managers=slurm"),
    "openmpi": ("@5", "+internal-pmix +legacylaunchers +orterunprefix fabrics=cma,ofi,xpmem schedulers=slurm"),
}
"""What version 1 adds to an MPI: its version where none is named, and its variants."""


def read_recipe(files: Mapping[str, bytes], folder: str) -> StackinatorRecipe:
    """The recipe whose YAML files are `files`, by their names; `folder` is what errors call their place.

    Raises RecipeError where a required file is missing, is no YAML, or has a value of a wrong kind.
    """
    trees = {name: read_yaml(files[name], f"{folder}/{name}") for name in (*REQUIRED, *OPTIONAL) if name in files}
    missing = [name for name in REQUIRED if name not in trees]
    if missing:
        raise RecipeError(
            f"{folder}: is no recipe of Stackinator: there is no {missing[0]}", rule="import-invalid",
            hint=f"name a folder with {', '.join(REQUIRED)}",
        )  # fmt: skip
    unread: list[Diagnostic] = []
    config = Section.root(trees["config.yaml"], unread)
    version = int(config.choice("version", _VERSIONS, "1"))
    compilers = Section.root(trees["compilers.yaml"], unread)
    environments = Section.root(trees["environments.yaml"], unread)
    spack = config.section("spack")
    recipe = StackinatorRecipe(
        format=version,
        name=config.required("name"),
        description=config.text("description"),
        mount=config.text("store") or DEFAULT_MOUNT,
        default_view=config.text("default-view"),
        cleanup=config.choice("cleanup", ("none", "runtime", "build"), "none"),
        modules_wanted=config.flag("modules", default="modules.yaml" in trees),
        spack=_repository(spack),
        package_repositories=_package_repositories(spack),
        compilers=_old_compilers(compilers) if version == 1 else _compilers(compilers),
        environments={name: _environment(section, version) for name, section in environments.sections()},
        modules=trees.get("modules.yaml"),
        packages=trees.get("packages.yaml"),
    )
    for section in (config, spack, compilers):
        section.finish()
    return replace(recipe, unread=tuple(unread))


def _repository(section: Section) -> Repository:
    return Repository(
        url=section.required("repo"), commit=section.text("commit"), path=section.text("path"),
        position=section.position,
    )  # fmt: skip


def _package_repositories(spack: Section) -> dict[str, Repository]:
    """By name: `builtin` where only one is named, and none for Spack before 1.0, which has its packages inside."""
    packages = spack.section("packages")
    if not packages.names():
        return {}
    if isinstance(packages.tree.value["spack"]["packages"].get("repo"), str):
        found = {"builtin": _repository(packages)}
        packages.finish()
        return found
    return {name: _repository(section) for name, section in packages.sections()}


def _compilers(section: Section) -> dict[str, Compiler]:
    found = {}
    for name in _COMPILERS:
        if not section.has(name):
            continue
        entry = section.section(name)
        version, spec = entry.required("version"), entry.text("spec")
        entry.finish()
        if version == "system":
            found[name] = Compiler(specs=(), position=entry.position)
            continue
        full = f"{name}@{version} {spec or _DEFAULT_SPECS.get(name, '')}".strip()
        found[name] = Compiler(specs=(full,), position=entry.position)
    if "gcc" not in found:
        section.required("gcc")
    return found


def _old_compilers(section: Section) -> dict[str, Compiler]:
    """Of version 1: `bootstrap` builds `gcc`, which builds what `llvm` names, be it llvm or nvhpc."""
    found = {}
    bootstrap = section.section("bootstrap")
    if section.has("bootstrap"):
        found["bootstrap"] = Compiler(specs=(bootstrap.required("spec"),), position=bootstrap.position)
        bootstrap.finish()
    for name in ("gcc", "llvm"):
        entry = section.section(name)
        if specs := entry.texts("specs"):
            found[name] = Compiler(specs=specs, requires=entry.text("requires"), position=entry.position)
            entry.finish()
    return found


def _environment(section: Section, version: int) -> Environment:
    mpi, network_specs = _old_mpi(section) if version == 1 else _network(section)
    duplicates = section.section("duplicates")
    views = section.section("views")
    prefer_given = section.has("prefer")
    environment = Environment(
        compilers=_old_toolchain(section) if version == 1 else section.texts("compiler"),
        specs=section.texts("specs"),
        unify=cast("Unify", section.choice("unify", ("true", "false", "when_possible"), "true")),
        duplicates=duplicates.choice("strategy", ("minimal", "full", "none"), "minimal"),
        variants=section.texts("variants"),
        prefer=section.texts("prefer") if prefer_given else None,
        mpi=mpi,
        network_specs=network_specs,
        packages=section.texts("packages"),
        deprecated=section.flag("deprecated", default=False),
        views={name: _view(view) for name, view in views.sections()},
        position=section.position,
    )
    if not environment.compilers:
        section.required("compiler")
    if not prefer_given:
        section.text("prefer")
    section.finish()
    return environment


def _network(section: Section) -> tuple[str | None, tuple[str, ...] | None]:
    network = section.section("network")
    specs = network.texts("specs") if network.has("specs") else None
    mpi = network.text("mpi")
    network.text("specs") if specs is None else None
    network.finish()
    return (mpi.strip() if mpi else None), specs


def _old_mpi(section: Section) -> tuple[str | None, tuple[str, ...] | None]:
    """`mpi: {spec, gpu}` of version 1, as the spec that it stands for."""
    mpi = section.section("mpi")
    spec, gpu = mpi.text("spec"), mpi.text("gpu")
    mpi.finish()
    if not spec:
        return None, None
    name, at, version = spec.strip().partition("@")
    default, options = _OLD_MPI.get(name, ("", ""))
    words = [
        f"{name}@{version}" if at else f"{name}{default}",
        options,
        f"+{gpu}" if gpu not in {None, "false"} else "",
    ]
    return " ".join(word for word in words if word), None


def _old_toolchain(section: Section) -> tuple[str, ...]:
    """`compiler: [{toolchain, spec}]` of version 1: the specs."""
    specs = []
    for item in section.items("compiler"):
        specs.append(item.required("spec"))
        item.text("toolchain")  # the list in compilers.yaml that the spec stands in
        item.finish()
    return tuple(specs)


def _view(section: Section) -> EnvironmentView:
    uenv = section.section("uenv")
    variables = uenv.section("env_vars")
    prefixes = uenv.section("prefix_paths")
    projections = section.section("projections")
    view = EnvironmentView(
        link=cast("Link", section.choice("link", ("roots", "all", "run"), "roots")),
        select=section.texts("select"),
        exclude=section.texts("exclude"),
        projections={name: projections.required(name) for name in projections.names()},
        add_compilers=uenv.flag("add_compilers", default=True),
        prefix_paths={name: prefixes.texts(name) for name in prefixes.names()},
        set=dict(variables.pairs("set")),
        prepend=_added(variables, "prepend_path"),
        append=_added(variables, "append_path"),
        position=section.position,
    )
    for part in (variables, uenv, section):
        part.finish()
    return view


def _added(variables: Section, key: str) -> dict[str, tuple[str, ...]]:
    """Several entries for one variable add up, in their order."""
    found: dict[str, tuple[str, ...]] = {}
    for name, folder in variables.pairs(key):
        if folder is None:
            variables.refuse(key, f"{name}: a folder is expected")
        found[name] = (*found.get(name, ()), folder)
    return found
