from __future__ import annotations

from pathlib import Path

import pytest

from uenv_builder.model.errors import BuildError
from uenv_builder.system.resources import _find_folder, resource_folder
from uenv_builder.system.templates import load_template, read_template

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_checkout_s_folders_come_before_copies(tmp_path):
    package = tmp_path / "builder" / "uenv_builder"
    for folder in (package / "templates", tmp_path / "templates"):
        folder.mkdir(parents=True)
    assert _find_folder(package, "templates") == package / "templates", "no checkout: there is no pyproject.toml"
    (tmp_path / "pyproject.toml").write_text("")
    assert _find_folder(package, "templates") == tmp_path / "templates"


def test_a_missing_folder_is_an_incomplete_installation(tmp_path):
    with pytest.raises(BuildError, match="folder recipes of uenv-builder is missing"):
        _find_folder(tmp_path / "lib" / "uenv_builder", "recipes")


def test_this_checkout_is_found():
    assert resource_folder("templates") == CHECKOUT / "templates"


def test_errors_of_templates_name_file_and_line(tmp_path):
    (tmp_path / "a.j2").write_text("one\n{% if x %}\ntwo\n{% endif %}\n{{ missing }}\n")
    (tmp_path / "b.j2").write_text("one\n{% if x }\n")
    (tmp_path / "c.j2").write_text('one\n{% include "b.j2" %}\n')
    (tmp_path / "d.j2").write_text("{{ x }}\n")
    with pytest.raises(BuildError, match=r"a\.j2:5: 'missing' is undefined"):
        read_template(tmp_path, "a.j2").render(x=True)
    with pytest.raises(BuildError, match=r"b\.j2:2: "):
        read_template(tmp_path, "b.j2")
    with pytest.raises(BuildError, match=r"\.j2:2: "):
        read_template(tmp_path, "c.j2").render()
    assert read_template(tmp_path, "d.j2").render(x="<&>") == "<&>\n"
    with pytest.raises(BuildError, match="there is no template"):
        load_template("nothing.j2")
