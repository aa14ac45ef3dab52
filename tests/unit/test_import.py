"""`uenv import`: what a recipe of Stackinator becomes, what is lost of it, and `uenv build` on one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from golden_files import check_golden

from made_stackinator import V1, V2, write_recipe
from uenv_builder.app import stackinator_building
from uenv_builder.app.importing import import_recipe
from uenv_builder.app.recipes import find_recipe, is_stackinator_recipe, load_recipe
from uenv_builder.model.errors import IncompatibleError, RecipeError, UsageError
from uenv_builder.system.events import Remembering, Silent


def imported(tmp_path, files, *, label="tools/2.0@daint%gh200", **changed):
    source = write_recipe(tmp_path / "source", files, **changed)
    result = import_recipe(source, tmp_path / "out", label=label)
    return result, yaml.safe_load(result.recipe.read_text())


def messages(result):
    return [finding.message for finding in result.losses]


def test_a_whole_recipe(tmp_path):
    result, _ = imported(tmp_path, V2)
    assert messages(result) == []
    assert result.exit_code == 0
    check_golden("uenv/imported.yaml", result.recipe.read_text())


def test_the_imported_recipe_means_what_the_other_one_meant(tmp_path):
    result, _ = imported(tmp_path, V2)
    recipe = load_recipe(result.recipe).recipe
    spack = recipe.spack
    assert (recipe.kind, recipe.mount, recipe.default_view) == ("uenv", "/user-environment", "default")
    assert (spack.compilers["gcc"].version, spack.compilers["gcc"].spec) == ("14.2", "")
    assert spack.compilers["llvm"].spec == "+clang ~gold targets=aarch64"
    environment = spack.environments["tools-env"]
    assert (environment.unify, environment.duplicates) == ("when_possible", "full")
    assert environment.network.specs == ["libfabric@2.2 fabrics=cxi"]
    view = environment.views["default"]
    assert view.set == {"CUDA_HOME": "/user-environment/env/default", "DATA": "${@HOME@}/data"}
    assert (view.prepend, view.unset) == ({"PATH": ["/user-environment/tools/bin", "/opt/site/bin"]}, ["PYTHONPATH"])
    assert environment.views["develop"].link == "roots"
    assert spack.packages == {"hdf5": {"require": ["@1.14:"]}}
    assert spack.modules["default"]["enable"] == ["tcl"]
    assert spack.modules["default"]["tcl"]["projections"] == {"all": "{name}/{version}"}


def test_without_module_files(tmp_path):
    config = V2["config.yaml"] + "modules: false\n"
    for changed in ({"modules": None}, {"config": config}):
        result, document = imported(tmp_path / str(len(changed)) / next(iter(changed)), V2, **changed)
        assert messages(result) == []
        assert "modules" not in document["spack"]


def test_packages_extra_and_other_files_come_along(tmp_path):
    write_recipe(tmp_path / "source", {"README.md": "read me\n", "scripts/run.sh": "#!/bin/sh\n"})
    result, document = imported(tmp_path, V2)
    folder = result.recipe.parent
    repository = folder / "spack_repo/recipe"
    assert (repository / "packages/mine/package.py").read_text() == "class Mine:\n    pass\n"
    assert yaml.safe_load((repository / "repo.yaml").read_text())["repo"]["namespace"] == "recipe"
    assert list(document["spack"]["repositories"]) == ["recipe", "builtin"]
    assert document["files"] == [{"source": "extra", "path": "/meta/extra/"}]
    assert (folder / "extra/reframe.yaml").is_file()
    assert (folder / "README.md").is_file()
    assert (folder / "scripts/run.sh").is_file()
    assert not (folder / "config.yaml").exists()


def test_programs_among_the_extra_files_stay_programs(tmp_path):
    write_recipe(tmp_path / "source", {"extra/bin/check.sh": "#!/bin/sh\n"})
    (tmp_path / "source/extra/bin/check.sh").chmod(0o755)
    _, document = imported(tmp_path, V2)
    assert document["files"] == [
        {"source": "extra/bin/check.sh", "path": "/meta/extra/bin/check.sh", "mode": "0755"},
        {"source": "extra/reframe.yaml", "path": "/meta/extra/reframe.yaml"},
    ]


def test_version_1_lacks_a_newer_spack(tmp_path):
    result, document = imported(tmp_path, V1, label="old/1.0@daint%gh200")
    assert messages(result) == [
        "Spack releases/v0.23 is older than 1.0, whose packages are in its own repository: 1.0 or newer is needed"
    ]
    assert result.exit_code == 4
    assert document["spack"]["compilers"] == {"gcc": {"version": "13.2"}, "nvhpc": {"version": "24.5"}}
    environment = document["spack"]["environments"]["gnu"]
    assert environment["compilers"] == ["gcc", "nvhpc"]
    assert environment["network"] == {"mpi": "cray-mpich@8.1 +cuda"}
    assert environment["system_packages"] == ["perl", "m4"]


def test_what_cannot_be_carried_over_is_named_with_its_place(tmp_path):
    write_recipe(tmp_path / "source", {"pre-install": "#!/bin/sh\ncurl x\n", "post-install": "#!/bin/sh\n"})
    config = V2["config.yaml"].replace("default-view: default", "default-view: spack").replace("v1.1.1", "13b711f")
    environments = V2["environments.yaml"].replace("    develop:", "    modules:").replace("$@mount@", "$@prefix@")
    packages = (
        "packages:\n  slurm:\n    buildable: false\n    externals:\n    - {spec: slurm@25.05, modules: [slurm]}\n"
    )
    result, document = imported(tmp_path, V2, config=config, environments=environments, packages=packages)
    text = "\n".join(map(str, result.losses))
    for part in (
        "config.yaml:6:1: warning[import-lost]: https://example.org/spack.git: the commit 13b711f is abbreviated",
        "the view modules has the name of one that uenvs have themselves", "nothing is known for $@prefix@",
        "the default view spack is none", "pre-install is not carried over", "post-install is not carried over",
        "packages.yaml:5:7: warning[import-lost]: an external has no spec or no prefix",
    ):  # fmt: skip
        assert part in text, text
    assert "default_view" not in document
    assert list(document["spack"]["environments"]["tools-env"]["views"]) == ["default"]


def test_externals_of_the_machine(tmp_path):
    packages = "packages:\n  slurm:\n    buildable: false\n    externals:\n    - {spec: slurm@25.10, prefix: /usr}\n"
    result, document = imported(tmp_path, V2, packages=packages)
    assert messages(result) == []
    assert document["spack"]["packages"] == {"slurm": {"buildable": False}}
    assert document["spack"]["externals"] == {"slurm": [{"spec": "slurm@25.10", "prefix": "/usr"}]}


def test_a_branch_is_noted_and_named(tmp_path):
    config = V2["config.yaml"].replace("  commit: v1.1.1\n", "  commit: null\n")
    result, document = imported(tmp_path, V2, config=config)
    assert document["spack"]["checkout"]["ref"] == "develop"
    assert (result.exit_code, [finding.rule for finding in result.findings]) == (0, ["import-changed"])


@pytest.mark.parametrize(
    ("place", "label", "expected"),
    [
        ("tools/2.1/gh200", None, ("2.1", "generic-gh200", "gh200")),
        ("tools/v2/mc", None, ("v2", "generic-x86_64", "x86_64")),
        ("tools", None, ("1.0", "generic-x86_64", "x86_64")),
        ("tools/2.1/gh200", "tools/3@clariden", ("3", "clariden", "gh200")),
        ("tools/2.1/x86_64", "tools/3%gh200", ("3", "generic-gh200", "gh200")),
    ],
)
def test_what_a_recipe_is_for(tmp_path, place, label, expected):
    source = write_recipe(tmp_path / place, V2)
    target = import_recipe(source, tmp_path / "out", label=label).target
    assert (target.version, target.system, target.uarch) == expected


@pytest.mark.parametrize(
    ("label", "reason"), [("t/1@daitn", 'did you mean "daint"'), ("t/1%mi300", "no system with mi300 nodes is known")]
)
def test_targets_that_are_not_known(tmp_path, label, reason):
    with pytest.raises(UsageError, match="known") as raised:
        imported(tmp_path, V2, label=label)
    assert reason in str(raised.value)


def test_a_recipe_that_is_there_is_not_replaced(tmp_path):
    imported(tmp_path, V2)
    (tmp_path / "out/recipe.yaml").write_text("mine: true\n")
    with pytest.raises(UsageError, match="exists already"):
        imported(tmp_path, V2)
    assert (tmp_path / "out/recipe.yaml").read_text() == "mine: true\n"


def test_nothing_is_written_where_the_recipe_is_not_valid(tmp_path):
    environments = V2["environments.yaml"].replace("specs:\n  - zlib-ng", "specs:\n  - ' '")
    with pytest.raises(RecipeError):
        imported(tmp_path, V2, environments=environments)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path):
    source = write_recipe(tmp_path / "source", V1)
    command = [sys.executable, "-m", "uenv_builder.cli", "import", str(source), "old/1.0@daint%gh200", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4, done.stderr
    document = json.loads(done.stdout)
    assert (document["recipe"], document["complete"]) == ("old/1.0/recipe.yaml", False)
    assert "warning[import-lost]: Spack releases/v0.23 is older" in done.stderr
    assert (tmp_path / "old/1.0/recipe.yaml").is_file()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path


def to_build(folder, label="tools/2.0@daint%gh200", listener=None):
    return stackinator_building.recipe_to_build(
        str(folder), label, own=folder / "uenv", listener=listener or Silent()
    )  # fmt: skip


def test_build_imports_what_can_be_carried_over(here):
    source = write_recipe(here / "source", V2)
    assert is_stackinator_recipe(source)
    listener = Remembering(Silent())
    place = to_build(source, listener=listener)
    assert load_recipe(find_recipe(place)).recipe.version == "2.0"
    assert "is a recipe of Stackinator: imported as" in listener.notes[0]
    (here / place / "gh200.lock.yaml").write_text("the lock\n")
    assert to_build(source) == place
    assert (here / place / "gh200.lock.yaml").read_text() == "the lock\n"


def test_build_passes_on_what_cannot_be(here, monkeypatch):
    source = write_recipe(here / "source", V1)
    asked = []
    site = here / "site/uenv"
    monkeypatch.setattr(stackinator_building, "find_site_command", lambda own: site)
    monkeypatch.setattr(stackinator_building, "pass_on", lambda *words, **named: asked.append(words))
    listener = Remembering(Silent())
    to_build(source, listener=listener)
    assert asked == [("build", ["build", str(source), "tools/2.0@daint%gh200"])]
    assert "is older than 1.0" in listener.notes[0]
    with pytest.raises(UsageError, match="the site's command needs a label"):
        to_build(source, label=None)


def test_build_without_a_site_command_says_what_is_lost(here):
    source = write_recipe(here / "source", V1)
    with pytest.raises(IncompatibleError, match="1 part of this recipe cannot be carried over"):
        to_build(source)


def test_a_recipe_of_ours_is_not_imported(here):
    source = write_recipe(here / "source", {**V2, "recipe.yaml": "name: x\n"})
    assert not is_stackinator_recipe(source)
