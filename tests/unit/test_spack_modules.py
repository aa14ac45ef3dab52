"""Module files of a uenv: their settings for Spack, and the view that leads to them."""

from __future__ import annotations

import pytest
import yaml
from test_uenv_meta import ACTIVATION, DAINT, MOUNT, applied, uenv_recipe

from uenv_builder.core.spack_modules import module_kinds, modules_file, refresh_words, without_time
from uenv_builder.core.spack_view import uenv_document


def recipe(settings):
    made = uenv_recipe(default={})
    return made.model_copy(update={"spack": made.spack.model_copy(update={"modules": settings})})


@pytest.mark.parametrize(
    ("default", "kinds"),
    [
        ({}, ("tcl",)),
        ({"enable": ["lmod"]}, ("lmod",)),
        ({"enable": ["lmod"], "roots": {"tcl": "/x", "lmod": "/y"}}, ("tcl", "lmod")),
    ],
)
def test_module_files_lie_below_the_mount_point(default, kinds):
    inspections = {"bin": ["PATH"]}
    own = {**default, "arch_folder": True, "tcl": {"hash_length": 0}}
    settings = {"default": own, "prefix_inspections": inspections}
    assert module_kinds(settings) == kinds
    written = yaml.safe_load(modules_file(recipe(settings), settings))["modules"]
    assert written["default"]["roots"] == dict.fromkeys(kinds, f"{MOUNT}/modules")
    assert (written["default"]["enable"], written["default"]["arch_folder"]) == (list(kinds), False)
    assert written["default"]["tcl"] == {"hash_length": 0}
    assert written["prefix_inspections"] == inspections
    assert settings["default"]["arch_folder"] is True, "what the recipe says stays as it is"


def test_spack_is_told_to_write_them_in_a_scope_of_their_own():
    assert refresh_words("tcl", "/scope", "/env")[:4] == ["-C", "/scope", "-e", "/env"]


def test_a_view_leads_to_them():
    found = uenv_document(DAINT, recipe({}), {"default": ACTIVATION})
    assert applied(found, {"MODULEPATH": "/opt/modules"}, "modules")["MODULEPATH"] == f"{MOUNT}/modules:/opt/modules"
    assert "modules" not in uenv_document(DAINT, recipe(None), {"default": ACTIVATION})["views"]


def test_when_they_were_written_is_left_out():
    head = b"#%Module1.0\n## Module file created by spack (https://example.org) on 2026-11-24 04:33:16.714684\n##\n"
    assert without_time(head) == b"#%Module1.0\n## Module file created by spack (https://example.org)\n##\n"
    lua = b"-- -*- lua -*-\n-- Module file created by spack (x) on 2026-11-24 04:33:16.714684\n"
    assert without_time(lua) == b"-- -*- lua -*-\n-- Module file created by spack (x)\n"
    assert without_time(b"setenv DAY {on 2026-11-24 04:33:16}\n") == b"setenv DAY {on 2026-11-24 04:33:16}\n"
