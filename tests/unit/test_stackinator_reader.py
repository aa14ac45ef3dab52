"""Recipes of Stackinator are read for what they mean, in all three versions, with places in errors."""

from __future__ import annotations

import pytest

from made_stackinator import V1, V2
from uenv_builder.core.stackinator.reader import read_recipe
from uenv_builder.model.errors import RecipeError


def read(files, **changed):
    texts = {name: text for name, text in files.items() if "/" not in name}
    texts |= {f"{name}.yaml": text for name, text in changed.items()}
    return read_recipe({name: text.encode() for name, text in texts.items() if text is not None}, "r")


def test_a_recipe_of_version_2():
    recipe = read(V2)
    assert (recipe.format, recipe.name, recipe.mount, recipe.default_view) == (
        2,
        "tools",
        "/user-environment",
        "default",
    )
    assert (recipe.spack.url, recipe.spack.commit) == ("https://example.org/spack.git", "v1.1.1")
    assert recipe.package_repositories["builtin"].commit == "0123456789abcdef0123456789abcdef01234567"
    assert recipe.compilers["gcc"].specs == ("gcc@14.2 +bootstrap",)
    assert recipe.compilers["llvm"].specs == ("llvm@21.1.4 +clang ~gold targets=aarch64",)
    [environment] = recipe.environments.values()
    assert environment.compilers == ("gcc", "llvm")
    assert (environment.unify, environment.duplicates) == ("when_possible", "full")
    assert environment.specs == ("zlib-ng", "python@3.10", "hdf5 +mpi")
    assert (environment.mpi, environment.network_specs) == ("cray-mpich@9.0 +cuda", ("libfabric@2.2 fabrics=cxi",))
    assert environment.prefer is None
    view = environment.views["default"]
    assert view.set == {"CUDA_HOME": "$@view_path@", "PYTHONPATH": None, "DATA": "${@HOME@}/data"}
    assert view.prepend == {"PATH": ("$@mount@/tools/bin", "/opt/site/bin")}
    assert view.prefix_paths == {"LD_LIBRARY_PATH": ("lib", "lib64")}
    assert environment.views["develop"].link == "roots"
    assert recipe.unread == ()


def test_a_recipe_of_version_1():
    recipe = read(V1)
    assert (recipe.format, recipe.mount, recipe.modules_wanted) == (1, "/user-environment", False)
    assert recipe.package_repositories == {}
    assert {name: compiler.specs for name, compiler in recipe.compilers.items()} == {
        "bootstrap": ("gcc@12.3",), "gcc": ("gcc@13.2",), "llvm": ("nvhpc@24.5",)
    }  # fmt: skip
    environment = recipe.environments["gnu"]
    assert environment.compilers == ("gcc", "nvhpc")
    assert environment.mpi == "cray-mpich@8.1 +cuda"
    assert environment.packages == ("perl", "m4")


def test_version_3_with_named_repositories_and_the_systems_compiler():
    config = V2["config.yaml"].replace("version: 2", "version: 3")
    one = """\
  packages:
    builtin: {repo: https://example.org/p.git}
    own: {repo: https://example.org/o.git, path: x}
"""
    config = config[: config.index("  packages:")] + one
    recipe = read(V2, config=config, compilers='gcc: {version: "system"}\n')
    assert list(recipe.package_repositories) == ["builtin", "own"]
    assert (recipe.package_repositories["own"].path, recipe.package_repositories["own"].commit) == ("x", None)
    assert recipe.compilers["gcc"].specs == ()


@pytest.mark.parametrize("mpi", ["null", "false"])
def test_version_1_without_mpi(mpi):
    text = V1["environments.yaml"].replace("{spec: cray-mpich@8.1, gpu: cuda}", mpi)
    assert read(V1, environments=text).environments["gnu"].mpi is None


def test_versions_stay_as_they_are_written():
    recipe = read(V2, compilers="gcc: {version: 14}\nllvm: {version: 3.10}\n")
    assert recipe.compilers["gcc"].specs == ("gcc@14 +bootstrap",)
    assert recipe.compilers["llvm"].specs == ("llvm@3.10 +clang ~gold",)


def test_a_key_that_nothing_reads_is_told_with_its_place():
    text = V2["environments.yaml"].replace("  unify:", "  unfiy: true\n  unify:").replace("link: roots", "lnik: all")
    found = [str(finding).splitlines()[0] for finding in read(V2, environments=text).unread]
    assert found[0].startswith('r/environments.yaml:17:7: warning[import-unknown-key]: the key "lnik"')
    assert found[1].startswith('r/environments.yaml:3:3: warning[import-unknown-key]: the key "unfiy"')


@pytest.mark.parametrize(
    ("name", "old", "new", "place", "reason"),
    [
        ("config", "name: tools\n", "", "config.yaml:1:1", 'the key "name" is missing'),
        ("config", "version: 2", "version: 4", "config.yaml:5:10", '"4" is none of 1, 2, 3'),
        ("config", "  repo: https://example.org/spack.git\n", "", "config.yaml:6:1", 'the key "repo" is missing'),
        ("environments", "compiler: [gcc, llvm]", "compiler: gcc", "environments.yaml:2:13", "a list is expected"),
        ("environments", "  compiler: [gcc, llvm]\n", "", "environments.yaml:1:1", 'the key "compiler" is missing'),
        ("environments", "when_possible", "sometimes", "environments.yaml:3:10", "is none of true, false"),
        ("environments", "link: roots", "link: [roots]", "environments.yaml:16:13", "a text is expected"),
        ("environments", "  - PATH: /opt/site/bin", "  - PATH: {a: b}", "", "is expected as item 2"),
        ("compilers", "gcc:\n", "clang:\n", "compilers.yaml:1:1", 'the key "gcc" is missing'),
    ],
)
def test_what_stackinator_would_refuse(name, old, new, place, reason):
    assert old in V2[f"{name}.yaml"]
    with pytest.raises(RecipeError, match="error") as raised:
        read(V2, **{name: V2[f"{name}.yaml"].replace(old, new, 1)})
    assert reason in str(raised.value)
    assert place in str(raised.value)


def test_a_folder_without_a_file():
    with pytest.raises(RecipeError, match=r"there is no compilers\.yaml"):
        read(V2, compilers=None)
