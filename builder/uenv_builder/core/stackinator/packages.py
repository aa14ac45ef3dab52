"""packages.yaml of a Stackinator recipe: settings of packages, and packages that lie on the machine."""

from __future__ import annotations

from uenv_builder.core.digest import Document
from uenv_builder.core.stackinator.losses import Findings
from uenv_builder.core.yaml_tree import Path, Value, YamlTree
from uenv_builder.model.errors import RecipeError

_EXTERNAL_KEYS = {"spec", "prefix", "extra_attributes"}


def convert_packages(tree: YamlTree | None, findings: Findings) -> tuple[Document, Document]:
    """Settings by package, and externals by package; both empty without a file."""
    if tree is None:
        return {}, {}
    packages = tree.value.get("packages")
    if not isinstance(packages, dict):
        raise RecipeError(
            'the key "packages" is missing', rule="import-invalid", position=tree.position(()), hint="add `packages:`"
        )
    settings: Document = {}
    externals: Document = {}
    for name in packages:
        path: Path = ("packages", name)
        value = as_written(tree, path)
        if not isinstance(value, dict):
            raise RecipeError(
                f'"packages.{name}": a mapping is expected', rule="import-invalid", position=tree.position(path)
            )
        found = value.pop("externals", None)
        known = [_external(tree, (*path, "externals", at), one, findings) for at, one in enumerate(found or ())]
        if complete := [one for one in known if one is not None]:
            externals[name] = complete
        if value:
            settings[name] = value
    return settings, externals


def _external(tree: YamlTree, path: Path, value: Value, findings: Findings) -> Document | None:
    if not isinstance(value, dict) or "spec" not in value or "prefix" not in value:
        findings.loss(
            "an external has no spec or no prefix", at=tree.position(path), hint="name the folder that it lies in"
        )
        return None
    for key in sorted(set(value) - _EXTERNAL_KEYS):
        findings.loss(f'"{key}" of an external is not carried over', at=tree.position((*path, key)))
    return {key: text for key, text in value.items() if key in _EXTERNAL_KEYS}


def as_written(tree: YamlTree, path: Path) -> Value:
    """The value at `path` with numbers as the texts that they are written as: versions stay what they are."""
    value: Value = tree.value
    for part in path:
        value = value[part]
    if isinstance(value, dict):
        return {key: as_written(tree, (*path, key)) for key in value}
    if isinstance(value, list):
        return [as_written(tree, (*path, number)) for number in range(len(value))]
    return tree.texts[path] if isinstance(value, float) else value
