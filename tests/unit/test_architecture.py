"""The arrows between packages: cli -> app -> families -> system -> core -> model, and one import of subprocess."""

import ast
import re
from pathlib import Path

import pytest

import uenv_builder

ROOT = Path(uenv_builder.__file__).parent
FAMILIES = {"sources", "layers", "images", "sandboxes", "launchers", "checks", "publishers"}
ALLOWED = {
    "model": {"model"},
    "core": {"core", "model", "knowledge"},
    "knowledge": set(),
    "system": {"system", "core", "model"},
    **{family: {family, "system", "core", "model", "knowledge"} for family in FAMILIES},
    "app": {"app", "core", "model", "system", *FAMILIES},
    "commands": {"commands", "app", "core", "model", "system"},
    "cli.py": {"commands", "app", "core", "model", "system"},
}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_one_way(path):
    place = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        match = re.match(r"uenv_builder\.(\w+)", name)
        if match and match[1] != "__version__":
            assert match[1] in ALLOWED[place], f"{path.relative_to(ROOT)} imports {name}"


def test_one_module_starts_programs():
    users = {str(path.relative_to(ROOT)) for path in MODULES if "subprocess" in set(imports(path))}
    assert users == {"system/process.py"}


def test_no_module_ends_the_process_or_prints():
    for path in MODULES:
        if path.name == "cli.py" or "inside" in path.parts or path.name == "compile_sources.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", path
