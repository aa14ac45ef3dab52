"""`uenv import`: a recipe of Stackinator becomes one of this project, in a folder of its own."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from uenv_builder.core.digest import Document
from uenv_builder.core.finding_formats import to_document
from uenv_builder.core.label import Label
from uenv_builder.core.recipe_reader import evaluate
from uenv_builder.core.stackinator.conversion import (
    EXTRA,
    OWN_REPOSITORY,
    OWN_REPOSITORY_FOLDER,
    RecipeFiles,
    Target,
    convert,
)
from uenv_builder.core.stackinator.losses import Findings
from uenv_builder.core.stackinator.reader import OPTIONAL, REQUIRED, read_recipe
from uenv_builder.core.systems import load_systems
from uenv_builder.core.yaml_tree import read_yaml, suggest
from uenv_builder.model.errors import Diagnostic, IncompatibleError, UsageError
from uenv_builder.system.files import replace_folder, write_text
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems

RECIPE = "recipe.yaml"
_HOOKS = ("pre-install", "post-install")
_PACKAGES = "repo/packages"
_TAKEN = {*REQUIRED, *OPTIONAL, *_HOOKS, "repo", EXTRA}
_KEPT = ("*.lock.yaml", "*.spack.lock", "*.start.txt")
"""What lies beside a recipe for a node type, and outlives a new import."""
_VERSION = re.compile(r"v?[0-9]+(\.[0-9A-Za-z]+)*\Z")
_REPOSITORY_FILE = f"repo:\n  namespace: {OWN_REPOSITORY}\n  api: v2.0\n"
_DEFAULT_UARCH = "x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An imported recipe: where it is, what it is for, and what was found on the way."""

    recipe: Path
    target: Target
    findings: tuple[Diagnostic, ...]
    losses: tuple[Diagnostic, ...]

    @property
    def exit_code(self) -> int:
        """0, or 4 where something was not carried over."""
        return IncompatibleError.exit_code if self.losses else 0

    def document(self) -> Document:
        """For --json."""
        target = self.target
        return {
            "recipe": str(self.recipe), "version": target.version, "system": target.system, "uarch": target.uarch,
            "complete": not self.losses, "findings": [to_document(finding) for finding in self.findings],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        lost = f"{len(self.losses)} of its parts are not" if self.losses else "all of it is"
        return [f"{self.recipe}: imported for {self.target.system}%{self.target.uarch}; {lost} carried over"]


def import_recipe(
    folder: Path, output: Path | None = None, *, label: str | None = None, system: str | None = None,
    uarch: str | None = None, replace: bool = False,
) -> Imported:  # fmt: skip
    """Write the recipe of `folder` to `output` (default: NAME/VERSION) whole, never over another recipe unless it shall
    be replaced.

    Name, version, system and node type are those of `label` and options; by default, version and node type are what the
    folders around the recipe are called. Raises RecipeError where the recipe is not valid, UsageError for a folder
    that is there already, or a target that is not known.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder", hint="name the folder that config.yaml lies in")
    files = {name: (folder / name).read_bytes() for name in (*REQUIRED, *OPTIONAL) if (folder / name).is_file()}
    recipe = read_recipe(files, str(folder))
    asked = Label.parse(label) if label else Label(name=recipe.name)
    target = _target(folder, asked, system, uarch)
    findings = Findings()
    document = convert(recipe, _files_of(folder), target, findings)
    document["name"] = asked.name or recipe.name
    place = output or Path(document["name"]) / target.version
    if not replace and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{place}: exists already", hint="choose another folder with --output, or remove it first")
    text = _written(document, folder)
    evaluate(read_yaml(text.encode(), str(place / RECIPE)))
    _write(place, text, folder)
    return Imported(
        recipe=place / RECIPE, target=target, findings=tuple(findings.found), losses=findings.losses
    )  # fmt: skip


def _target(folder: Path, label: Label, system: str | None, uarch: str | None) -> Target:
    """What is asked for, else what the folders around the recipe are called, else a generic x86_64 machine."""
    place = folder.resolve()
    names = [place.name, place.parent.name, place.parent.parent.name]
    systems = load_systems(read_site_systems(load_settings().systems))
    system = system or (label.system if label.system != "*" else None)
    if system is not None and system not in systems:
        hint = suggest(system, list(systems)) or f"known systems: {', '.join(systems)}"
        raise UsageError(f'unknown system "{system}"', rule="unknown-system", hint=hint)
    uarch = uarch or label.uarch
    if uarch is None:
        known = list(systems[system].uarchs) if system else [name for one in systems.values() for name in one.uarchs]
        uarch = next((name for name in names if name in known), known[0] if system else _DEFAULT_UARCH)
    fitting = [name for name, one in systems.items() if uarch in one.uarchs and system in {None, name}]
    if not fitting:
        raise UsageError(
            f"no system {system or ''} with {uarch} nodes is known".replace("  ", " "), rule="no-target",
            hint="name one that docs/reference/systems.md lists with --system, or add the site's own",
        )  # fmt: skip
    generic = [name for name in fitting if name.startswith("generic")]
    version = label.version or next((name for name in names if _VERSION.match(name)), "1.0")
    return Target(version=version, system=[*generic, *fitting][0], uarch=uarch)


def _files_of(folder: Path) -> RecipeFiles:
    extra = sorted(path for path in (folder / EXTRA).rglob("*") if path.is_file())
    return RecipeFiles(
        own_packages=(folder / _PACKAGES).is_dir(),
        extra=tuple(path.relative_to(folder / EXTRA).as_posix() for path in extra),
        programs=frozenset(
            path.relative_to(folder / EXTRA).as_posix() for path in extra if path.stat().st_mode & 0o100
        ),
        hooks=tuple(name for name in _HOOKS if (folder / name).is_file()),
    )  # fmt: skip


def _written(document: Document, folder: Path) -> str:
    head = f"# Imported from {folder.resolve().name}, a recipe of Stackinator.\n"
    text: str = yaml.safe_dump(document, sort_keys=False, width=4096, allow_unicode=True, default_flow_style=False)
    return head + text


def _write(place: Path, text: str, folder: Path) -> None:
    with replace_folder(place) as new:
        for pattern in _KEPT:
            for kept in place.glob(pattern):
                shutil.copy2(kept, new / kept.name)
        write_text(new / RECIPE, text)
        if (folder / _PACKAGES).is_dir():
            target = new / OWN_REPOSITORY_FOLDER
            shutil.copytree(folder / _PACKAGES, target / "packages")
            write_text(target / "repo.yaml", _REPOSITORY_FILE)
        for path in sorted(folder.iterdir()):
            if path.name == EXTRA or path.name not in {*_TAKEN, ".git"}:
                _copy(path, new / path.name)


def _copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target, symlinks=True)
    elif path.is_file():
        shutil.copy2(path, target)
