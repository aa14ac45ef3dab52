"""From a recipe of Stackinator to the tree of a recipe.yaml that builds the same image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from uenv_builder.core.digest import Document
from uenv_builder.core.spack_modules import VIEW as MODULES_VIEW
from uenv_builder.core.spack_modules import module_kinds
from uenv_builder.core.stackinator.losses import Findings
from uenv_builder.core.stackinator.model import Compiler, Environment, EnvironmentView, Repository, StackinatorRecipe
from uenv_builder.core.stackinator.packages import as_written, convert_packages

OWN_REPOSITORY = "recipe"
"""The name of the package repository that a recipe brings in its folder `repo`."""
OWN_REPOSITORY_FOLDER = f"spack_repo/{OWN_REPOSITORY}"
"""Where it lies in the imported recipe: Spack imports its packages by this path."""
EXTRA = "extra"
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_ABBREVIATED = re.compile(r"[0-9a-f]{7,39}\Z")
_OLD_SPACK = re.compile(r"(releases/)?v?0\.\d+")
_COMPILER_SPEC = re.compile(r"(?P<name>[a-z][a-z0-9-]*)@=?(?P<version>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<rest>.*)\Z")
_SPEC_NAME = re.compile(r"[a-z][a-z0-9-]*")
_SUBSTITUTION = re.compile(r"\$@(\w+)@")
_OLD_PACKAGES = "var/spack/repos/builtin"
_DEFAULT_SPECS = {"gcc": "+bootstrap", "nvhpc": "~mpi~blas~lapack", "llvm": "+clang ~gold"}
_RESERVED_VIEWS = {"modules", "spack"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the imported recipe is called, and what it is for: a Stackinator recipe does not say."""

    version: str
    system: str
    uarch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFiles:
    """What lies beside a recipe's YAML files: whether it has packages of its own, paths below `extra` (and which of
    them can be run), and hooks.
    """

    own_packages: bool = False
    extra: tuple[str, ...] = ()
    programs: frozenset[str] = frozenset()
    hooks: tuple[str, ...] = ()


def convert(recipe: StackinatorRecipe, files: RecipeFiles, target: Target, findings: Findings) -> Document:
    """The tree of the recipe.yaml; what it lacks is told to `findings`."""
    findings.found.extend(recipe.unread)
    document = {
        "name": recipe.name,
        "version": target.version,
        "description": recipe.description or f"{recipe.name}, imported from a recipe of Stackinator",
        "targets": [{"system": target.system, "uarch": target.uarch}],
        "kind": "uenv",
        "mount": recipe.mount,
        "default_view": _default_view(recipe, findings),
        "spack": _spack(recipe, files, findings),
        "files": _extra_files(files),
    }
    _tell_hooks(files, findings)
    return _without_empty(document)


def _spack(recipe: StackinatorRecipe, files: RecipeFiles, findings: Findings) -> Document:
    repositories = {OWN_REPOSITORY: {"folder": OWN_REPOSITORY_FOLDER}} if files.own_packages else {}
    for name, repository in recipe.package_repositories.items():
        repositories[name] = _git(repository, findings)
    _tell_old_spack(recipe, repositories, findings)
    settings, externals = convert_packages(recipe.packages, findings)
    return _without_empty(
        {
            "checkout": _git(recipe.spack, findings),
            "repositories": repositories,
            "compilers": _compilers(recipe, findings),
            "environments": {
                name: _environment(recipe, name, described, findings) for name, described in recipe.environments.items()
            },
            "packages": settings,
            "externals": externals,
            "modules": _modules(recipe),
            "cleanup": recipe.cleanup if recipe.cleanup != "none" else None,
        }
    )


def _modules(recipe: StackinatorRecipe) -> Document | None:
    """What modules.yaml says, without the folder: that is the same in every image."""
    if recipe.modules is None or not recipe.modules_wanted:
        return None
    found = as_written(recipe.modules, ("modules",)) if "modules" in recipe.modules.value else {}
    default = dict(found.get("default") or {})
    kinds = module_kinds(found)
    default.pop("roots", None)
    default.pop("arch_folder", None)
    return {**found, "default": {"enable": list(kinds), **default}}


def _git(repository: Repository, findings: Findings) -> Document:
    commit = repository.commit
    if commit is None:
        findings.note(
            f"{repository.url} has no commit: its branch develop is taken, and the lock holds what that was",
            at=repository.position,
        )
        commit = "develop"
    elif _ABBREVIATED.match(commit):
        findings.loss(
            f"{repository.url}: the commit {commit} is abbreviated, and cannot be fetched by that",
            at=repository.position, hint=f"write its whole id into the imported recipe: git rev-parse {commit}",
        )  # fmt: skip
    return _without_empty({
        "git": repository.url, "commit" if _COMMIT.match(commit) else "ref": commit, "path": repository.path
    })  # fmt: skip


def _tell_old_spack(recipe: StackinatorRecipe, repositories: Document, findings: Findings) -> None:
    """Version 1 drives Spack before 1.0, whose packages lie in Spack's own repository."""
    if recipe.package_repositories:
        return
    repositories["builtin"] = {**_git(recipe.spack, Findings()), "path": _OLD_PACKAGES}
    commit = recipe.spack.commit or "develop"
    if recipe.format == 1 or _OLD_SPACK.match(commit):
        findings.loss(
            f"Spack {commit} is older than 1.0, whose packages are in its own repository: 1.0 or newer is needed",
            at=recipe.spack.position,
            hint="name a newer Spack and spack-packages in `spack:` of the imported recipe, and look over the specs",
        )


def _compilers(recipe: StackinatorRecipe, findings: Findings) -> Document:
    if recipe.format > 1:
        return {name: _compiler(name, compiler) for name, compiler in recipe.compilers.items()}
    found: Document = {}
    for name, compiler in recipe.compilers.items():
        if name == "bootstrap":
            findings.note(
                f"the first compiler, {compiler.specs[0]}, is not named: gcc builds itself", at=compiler.position
            )
            continue
        for spec in compiler.specs:
            _add_old_compiler(spec, compiler, found, findings)
    return found


def _compiler(name: str, compiler: Compiler) -> Document:
    if not compiler.specs:
        return {"version": "system"}
    version, _, variants = compiler.specs[0].partition("@")[2].partition(" ")
    return _without_empty({"version": version, "spec": variants if variants != _DEFAULT_SPECS.get(name, "") else None})


def _add_old_compiler(spec: str, compiler: Compiler, found: Document, findings: Findings) -> None:
    match = _COMPILER_SPEC.match(spec.strip())
    if match is None or match["name"] in found:
        reason = "has no version" if match is None else f"is a second {match['name']}"
        findings.loss(
            f"the compiler {spec} {reason}", at=compiler.position, hint="add it to `spack: compilers` by hand"
        )
        return
    found[match["name"]] = _without_empty({"version": match["version"], "spec": match["rest"].strip()})


def _environment(recipe: StackinatorRecipe, name: str, environment: Environment, findings: Findings) -> Document:
    compilers = [_named(spec) for spec in environment.compilers]
    system_packages = list(environment.packages)
    if system_packages and recipe.format == 3:
        findings.note(f"{name}: `packages` means nothing in version 3, and is left out", at=environment.position)
        system_packages = []
    network = _without_empty({"mpi": environment.mpi})
    if environment.network_specs is not None:
        network["specs"] = list(environment.network_specs)
    strategy = environment.duplicates
    return _without_empty({
        "compilers": list(dict.fromkeys(compilers)),
        "specs": list(environment.specs),
        "unify": {"true": None, "false": False}.get(environment.unify, environment.unify),
        "duplicates": strategy if strategy != "minimal" else None,
        "variants": list(environment.variants),
        "prefer": None if environment.prefer is None else list(environment.prefer),
        "network": network,
        "system_packages": system_packages,
        "deprecated": environment.deprecated or None,
        "views": {
            view: _view(recipe, view, described, findings) for view, described in environment.views.items()
            if not _is_reserved(view, described, findings)
        },
    }, keep=("views",) if environment.views else ())  # fmt: skip


def _named(spec: str) -> str:
    match = _SPEC_NAME.match(spec.strip())
    return match[0] if match else spec


def _is_reserved(name: str, view: EnvironmentView, findings: Findings) -> bool:
    if name in _RESERVED_VIEWS:
        findings.loss(
            f"the view {name} has the name of one that uenvs have themselves", at=view.position,
            hint="add it to the imported recipe under another name",
        )  # fmt: skip
    return name in _RESERVED_VIEWS


def _view(recipe: StackinatorRecipe, name: str, view: EnvironmentView, findings: Findings) -> Document:
    known = {"mount": recipe.mount, "view_name": name, "view_path": f"{recipe.mount}/env/{name}"}

    def filled(text: str) -> str:
        for wanted in _SUBSTITUTION.findall(text):
            if wanted not in known:
                findings.loss(f"view {name}: nothing is known for $@{wanted}@ in {text}", at=view.position)
        return _SUBSTITUTION.sub(lambda match: known.get(match[1], match[0]), text)

    return _without_empty({
        "link": view.link if view.link != "roots" else None,
        "select": list(view.select),
        "exclude": list(view.exclude),
        "projections": dict(view.projections),
        "add_compilers": None if view.add_compilers else False,
        "prefix_paths": {variable: list(folders) for variable, folders in view.prefix_paths.items()},
        "set": {variable: filled(text) for variable, text in view.set.items() if text is not None},
        "prepend": {variable: [filled(text) for text in folders] for variable, folders in view.prepend.items()},
        "append": {variable: [filled(text) for text in folders] for variable, folders in view.append.items()},
        "unset": [variable for variable, text in view.set.items() if text is None],
    })  # fmt: skip


def _default_view(recipe: StackinatorRecipe, findings: Findings) -> str | None:
    wanted = recipe.default_view
    views = [view for environment in recipe.environments.values() for view in environment.views]
    views += [MODULES_VIEW] if _modules(recipe) is not None else []
    if wanted is not None and wanted not in views:
        findings.loss(
            f"the default view {wanted} is none of the recipe's own views", hint=f"its views: {', '.join(views)}"
        )
        return None
    return wanted


def _extra_files(files: RecipeFiles) -> list[Document]:
    """What goes to meta/extra: the folder as a whole, or file by file where some of it are programs."""
    if not files.extra:
        return []
    if not files.programs:
        return [{"source": EXTRA, "path": f"/meta/{EXTRA}/"}]
    return [
        _without_empty({
            "source": f"{EXTRA}/{path}", "path": f"/meta/{EXTRA}/{path}",
            "mode": "0755" if path in files.programs else None,
        })
        for path in files.extra
    ]  # fmt: skip


def _tell_hooks(files: RecipeFiles, findings: Findings) -> None:
    for hook in files.hooks:
        findings.loss(
            f"{hook} is not carried over: what a program changes while an image is built cannot be locked",
            hint="write what it does as a package, a file under `files:`, or a component of the imported recipe",
        )


def _without_empty(document: Mapping[str, object], keep: tuple[str, ...] = ()) -> Document:
    return {
        key: value
        for key, value in document.items()
        if key in keep or (value is not None and value not in ([], {}, ""))
    }
