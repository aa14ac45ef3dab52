"""The spack.yaml of a recipe: one file that holds all settings, so that nothing of the machine or user joins in.

What it works around was observed with Spack 1.1 to 1.3: without a gcc among the packages Spack writes the compilers
that it finds into its own folder, which changes later results; settings of user and site join in unless `include` is
overridden; installed packages are reused where `reuse` is not switched off; and the path of the stage is found in
binaries, so it is the same everywhere.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from uenv_builder.core.digest import digest_of
from uenv_builder.model.errors import IncompatibleError
from uenv_builder.model.spack import SYSTEM, CompilerName, SpackEnvironment, SpackExternal, SpackSection, SpackView
from uenv_builder.model.system import SystemSpack

Document: TypeAlias = dict[str, Any]

ROOT = "/uenv"
"""A folder that is there in the sandbox alone; what Spack works with has the same paths on every machine."""
SPACK = f"{ROOT}/spack"
ENVIRONMENT = f"{ROOT}/env"
CACHE = f"{ROOT}/cache"
STAGE = f"{ROOT}/stage"
SOURCES = f"{ROOT}/sources"
BINARIES = f"{ROOT}/binaries"
REPOSITORIES = f"{ROOT}/repos"
CACHES = f"{ROOT}/caches"
OWN_SOURCES, OWN_BINARIES = "uenv-sources", "uenv-binaries"
"""Names of the mirrors that the builder fills itself."""
GROUPS_SINCE = (1, 2)
"""The first Spack whose environments have groups of specs that are solved one after the other (its NEWS.md)."""
_DEFAULT_SPECS: dict[CompilerName, str] = {"gcc": "+bootstrap", "nvhpc": "~mpi~blas~lapack", "llvm": "+clang ~gold"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpackRequest:
    """All that a spack.yaml is made from.

    `target` is the processor as Spack names it, `repositories` are the places of repo.yaml by name, `gcc` is the
    machine's own compiler, `version` is Spack's, in two numbers.
    """

    section: SpackSection
    mount: str
    target: str
    repositories: Mapping[str, str]
    system: SystemSpack
    gcc: SpackExternal
    version: tuple[int, int]

    @property
    def groups(self) -> bool:
        """Whether this Spack has groups of specs."""
        return self.version >= GROUPS_SINCE


def render_spack_file(request: SpackRequest) -> str:
    """The text of spack.yaml: the same request gives the same text. Raises as `spack_document` does."""
    text: str = yaml.safe_dump(spack_document(request), sort_keys=False, width=1000, allow_unicode=True)
    return text


def spack_document(request: SpackRequest) -> Document:
    """The content of spack.yaml; IncompatibleError for what this Spack, or this system, cannot do.

    A key that ends in a colon replaces what other files say, where the key alone would be merged with it.
    """
    section = request.section
    if not request.groups:
        _refuse_groups(request)
    concretizer: Document = {"reuse": False}
    document: Document = {
        "include:": [],
        "repos:": dict(request.repositories),
        "bootstrap": {"enable": False},
        "config": {
            "install_tree": {"root": request.mount},
            "build_stage": [STAGE],
            "source_cache": f"{CACHE}/sources",
        },
        "mirrors:": _mirrors(section),
        "concretizer": concretizer,
        "packages": _packages(request),
        "specs": [],
    }
    if request.groups:
        concretizer["concretization_cache"] = {"enable": False}
        document["specs"] = [*_compiler_groups(section), *_environment_groups(request)]
    else:
        [(name, environment)] = section.environments.items()
        override = _override(request, name, environment)
        concretizer |= override["concretizer"]
        document["config"] |= override["config"]
        document["packages"] = _merged(document["packages"], override.get("packages", {}))
        document["specs"] = _specs(request, environment)
    document["view"] = _views(request) or False
    return {"spack": document}


def asked_digest(request: SpackRequest) -> str:
    """The digest of all in the document that Spack's solver looks at."""
    document = spack_document(request)["spack"]
    return digest_of({key: value for key, value in document.items() if key not in {"view", "mirrors:"}})


def _refuse_groups(request: SpackRequest) -> None:
    section, version = request.section, ".".join(map(str, request.version))
    built = [name for name, compiler in section.compilers.items() if compiler.version != SYSTEM]
    if len(section.environments) > 1 or built:
        what = f"to build {built[0]} first" if built else "for several environments"
        raise IncompatibleError(
            f"Spack {version} has no groups of specs, which are needed {what}", rule="spack-version",
            hint="use Spack 1.2 or newer; with an older one, keep to one environment and `gcc: {version: system}`",
        )  # fmt: skip


def _mirrors(section: SpackSection) -> Document:
    caches = {
        name: {"url": cache_place(name, cache.url), "source": False, "binary": True, "signed": cache.signed}
        for name, cache in section.build_caches.items()
    }
    own: Document = {
        OWN_SOURCES: {"url": f"file://{SOURCES}", "source": True, "binary": False},
        OWN_BINARIES: {"url": f"file://{BINARIES}", "source": False, "binary": True, "signed": False},
    }
    return {**own, **caches}


def cache_place(name: str, url: str) -> str:
    """The URL of a build cache in the sandbox, where folders have another place."""
    return f"file://{CACHES}/{name}" if url.startswith("file://") else url


def _packages(request: SpackRequest) -> Document:
    section = request.section
    packages: Document = copy.deepcopy(dict(request.system.packages))
    externals = {**request.system.externals, **section.externals}
    for name, found in externals.items():
        if name == "gcc":
            continue
        packages[name] = _merged(packages.get(name, {}), {"externals": [_external(one) for one in found]})
    packages = _merged(packages, section.packages)
    system_gcc = section.compilers["gcc"].version == SYSTEM
    gcc: Document = {"externals": [_external(request.gcc)], **({"buildable": False} if system_gcc else {})}
    packages["gcc"] = {**packages.get("gcc", {}), **gcc}
    packages["all"] = _merged({"target": [request.target]}, packages.get("all", {}))
    return dict(sorted(packages.items()))


def _external(external: SpackExternal) -> Document:
    more = {"extra_attributes": external.extra_attributes} if external.extra_attributes else {}
    return {"spec": external.spec, "prefix": external.prefix, **more}


def _compiler_groups(section: SpackSection) -> list[Document]:
    groups = []
    for name, compiler in section.compilers.items():
        if compiler.version == SYSTEM:
            continue
        spec = f"{name}@{compiler.version} {compiler.spec or _DEFAULT_SPECS.get(name, '')}".strip()
        needs = ["gcc"] if name != "gcc" and section.compilers["gcc"].version != SYSTEM else []
        override: Document = {"concretizer": {"unify": "when_possible", "reuse": False}}
        if name == "gcc":
            override["packages"] = {"gcc": {"variants": ["build_type=Release +bootstrap +strip ~binutils"]}}
        groups.append(
            {
                "group": name, "explicit": False, **({"needs": needs} if needs else {}), "specs": [spec],
                "override": override,
            }
        )  # fmt: skip
    return sorted(groups, key=lambda group: group["group"] != "gcc")


def _environment_groups(request: SpackRequest) -> list[Document]:
    section, groups = request.section, []
    for name, environment in section.environments.items():
        needs = [one for one in environment.compilers if section.compilers[one].version != SYSTEM]
        groups.append(
            {
                "group": name, **({"needs": needs} if needs else {}), "specs": _specs(request, environment),
                "override": _override(request, name, environment),
            }
        )  # fmt: skip
    return groups


def _specs(request: SpackRequest, environment: SpackEnvironment) -> list[str]:
    network = environment.network
    if not network.mpi:
        return list(environment.specs)
    found = _NAME.match(network.mpi)
    further = request.system.mpi.get(found[0], ()) if found else ()
    return [*environment.specs, network.mpi, *(further if network.specs is None else network.specs)]


def _override(request: SpackRequest, name: str, environment: SpackEnvironment) -> Document:
    every: Document = {}
    prefer = environment.prefer
    if prefer is None:
        prefer = [_preferred_compiler(request.section, environment)] if request.groups else []
    if prefer:
        every["prefer"] = list(prefer)
    if environment.variants:
        every["variants"] = list(environment.variants)
    packages: Document = {"all": every} if every else {}
    if environment.network.mpi:
        packages["mpi"] = {"require": environment.network.mpi}
    for package in environment.system_packages:
        if package not in request.system.externals and package not in request.section.externals:
            raise IncompatibleError(
                f"environment {name} takes {package} from the machine, and nothing says where that is",
                rule="spack-externals",
                hint=f"add it: `spack: externals: {package}: [{{spec: {package}@VERSION, prefix: /usr}}]`",
            )  # fmt: skip
        packages[package] = {"buildable": False}
    packages = _merged(packages, environment.packages)
    concretizer = {"unify": environment.unify, "reuse": False, "duplicates": {"strategy": environment.duplicates}}
    override: Document = {"config": {"deprecated": environment.deprecated}, "concretizer": concretizer}
    return {**override, **({"packages": packages} if packages else {})}


def _preferred_compiler(section: SpackSection, environment: SpackEnvironment) -> str:
    first = environment.compilers[0]
    version = section.compilers[first].version
    # Spack calls these compilers by another name than the package that brings them.
    name = "oneapi" if first == "intel-oneapi-compilers" else first
    compiler = name if version == SYSTEM else f"{name}@{version}"
    return f"%[when=%c] c={compiler} %[when=%cxx] cxx={compiler} %[when=%fortran] fortran={compiler}"


def _views(request: SpackRequest) -> Document:
    views: Document = {}
    for name, environment in request.section.environments.items():
        for view_name, view in environment.views.items():
            group = {"group": name} if request.groups else {}
            views[view_name] = {"root": view_root(request.mount, view_name), **group, **_view(view)}
    return views


def _view(view: SpackView) -> Document:
    lists: dict[str, Sequence[str]] = {"select": view.select, "exclude": view.exclude}
    chosen: Document = {key: list(value) for key, value in lists.items() if value}
    return {"link": view.link, **chosen, **({"projections": dict(view.projections)} if view.projections else {})}


def view_root(mount: str, view: str) -> str:
    """The folder of a view in the image, as an absolute path."""
    return f"{mount}/env/{view}"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Document:
    """`above` over `below`, mapping by mapping; anything else replaces."""
    result: Document = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result
