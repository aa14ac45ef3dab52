"""meta/env.json: what is written, and what the site's uenv command makes of it, by our own reader of its rules."""

from __future__ import annotations

import json

import pytest
from golden_files import check_golden
from hypothesis import given
from hypothesis import strategies as st

from uenv_builder.core.spack_view import activation_view, uenv_document
from uenv_builder.core.systems import load_systems
from uenv_builder.core.uenv_meta import apply_views, read_env_json
from uenv_builder.core.uenv_view import env_document, uenv_views, view_values
from uenv_builder.model.errors import BuildError, RecipeError
from uenv_builder.model.recipe import Recipe, View

DAINT = load_systems()["daint"]
MOUNT = "/user-environment"
DEFAULT = f"{MOUNT}/env/default"
ACTIVATION = {
    "PATH": f"{DEFAULT}/bin:/usr/local/bin:/usr/bin:/bin", "CMAKE_PREFIX_PATH": DEFAULT, "CUDA_HOME": f"{MOUNT}/cuda",
    "MANPATH": f"{DEFAULT}/share/man:", "PERL5LIB": f"{DEFAULT}/lib/perl5:/home/me/perl5", "SPACK_ENV": "/build/env",
    "XDG_DATA_DIRS": f"{MOUNT}-other/share:{DEFAULT}/share", "PS1": "[env] $", "PYTHONHOME": None,
}  # fmt: skip


def recipe(views=None, **fields):
    return Recipe.model_validate({
        "name": "tools", "version": "1", "description": "a few tools", "network": "image",
        "targets": [{"system": "daint", "uarch": "gh200"}], "base": {"debian": {"suite": "trixie"}},
        "views": views or {}, **fields,
    })  # fmt: skip


def document(views=None, activations=None, **fields):
    made = uenv_views(DAINT, "image", recipe(views, **fields), activations)
    return env_document("tools", MOUNT, made, description="a few tools")


def applied(found, environment, *names):
    return apply_views(read_env_json(json.dumps(found)), names or ("default",), environment)


def test_the_whole_document():
    views = {
        "default": {"description": "all of it", "prepend": {"LD_LIBRARY_PATH": [f"{DEFAULT}/lib:{DEFAULT}/lib64"]}},
        "plain": {
            "description": "without Python", "set": {"DATA": "${@HOME@}/data", "NCCL_CROSS_NIC": "1"},
            "append": {"MANPATH": ["/usr/share/man"]}, "unset": ["PYTHONPATH", "NCCL_NET"],
        },
    }  # fmt: skip
    found = document(views, {"default": activation_view(ACTIVATION, MOUNT)}, env={"TOOLS": "1"})
    check_golden("uenv/env.json", json.dumps(found, indent=2) + "\n")


def test_a_spack_view_adds_its_own_folders_and_no_others():
    view = activation_view(ACTIVATION, MOUNT)
    assert view.prepend == {
        "CMAKE_PREFIX_PATH": [DEFAULT], "MANPATH": [f"{DEFAULT}/share/man"], "PATH": [f"{DEFAULT}/bin"],
        "PERL5LIB": [f"{DEFAULT}/lib/perl5"], "XDG_DATA_DIRS": [f"{DEFAULT}/share"],
    }  # fmt: skip
    assert view.set == {"CUDA_HOME": f"{MOUNT}/cuda"}
    assert view.unset == ["PYTHONHOME"]


def test_a_view_of_spack_that_the_recipe_does_not_name_is_there_too():
    found = document({}, {"develop": activation_view({"PATH": f"{MOUNT}/env/develop/bin"}, MOUNT)})
    assert list(found["views"]) == ["default", "develop"]
    assert applied(found, {"PATH": "/bin"}, "develop")["PATH"] == f"{MOUNT}/env/develop/bin:/bin"


def test_the_recipe_has_the_last_word_over_spack_and_the_contract():
    activation = activation_view({"CUDA_HOME": "/a", "PATH": f"{DEFAULT}/bin", "GONE": "x"}, MOUNT)
    views = {
        "default": {"set": {"CUDA_HOME": "/b", "NCCL_NET": "mine"}, "unset": ["GONE"], "prepend": {"PATH": ["/c"]}}
    }
    inside = applied(document(views, {"default": activation}), {"PATH": "/bin", "GONE": "y"})
    assert (inside["CUDA_HOME"], inside["NCCL_NET"]) == ("/b", "mine")
    assert inside["PATH"] == f"/c:{DEFAULT}/bin:/bin"
    assert "GONE" not in inside
    assert inside["NCCL_PROTO"] == "^LL128", "of the contract"


@pytest.mark.parametrize("name", ["modules", "spack"])
def test_reserved_names(name):
    with pytest.raises(RecipeError, match=f'cannot be named "{name}"'):
        document({}, {name: View()})


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ({"set": {"MY VAR": "x"}}, "no name of an environment variable"),
        ({"set": {"A": "${@B@}/x", "B": "y"}}, r"\$\{@B@\} is changed by the view"),
        ({"set": {"A": "${@HOME@}/${@"}}, "is not closed"),
        ({"prepend": {"A": ["${@no name@}"]}}, "names no environment variable"),
    ],
)
def test_values_that_would_not_come_out_as_written(view, reason):
    with pytest.raises(RecipeError, match=reason):
        document({"v": view})


def test_a_value_of_spack_that_would_be_filled_in():
    with pytest.raises(RecipeError, match="would fill in"):
        activation_view({"A": "${@HOME@}"}, MOUNT)


def view(lists=None, scalars=None, **fields):
    return {"env": {"values": {"list": lists or {}, "scalar": scalars or {}}}, **fields}


def meta(**fields):
    return {"name": "n", "mount": "/m", "views": {"v": view()}, **fields}


@pytest.mark.parametrize(
    ("changes", "current", "expected"),
    [
        ([("prepend", ["/a", "/b"])], "/c", "/a:/b:/c"),
        ([("append", ["/a", "/c"])], "/c:/d", "/c:/d:/a"),
        ([("prepend", ["/a"])], None, "/a"),
        ([("prepend", ["/a"])], "::/a:", "/a"),
        ([("set", [])], "/c", ""),
        ([("unset", [])], "/c", None),
        ([("unset", []), ("append", ["/a"])], "/c", "/a"),
        ([("append", ["/a"]), ("unset", [])], "/c", None),
        ([("prepend", ["${@HOME@}/bin", "$HOME/bin"])], "/c", "/home/me/bin:$HOME/bin:/c"),
        ([("append", ["${@NOWHERE@}/x"])], "/c", "/c:/x"),
    ],
)
def test_search_paths_change_as_the_uenv_command_changes_them(changes, current, expected):
    lists = {"LIST": [{"op": op, "value": value} for op, value in changes]}
    environment = {"HOME": "/home/me"} | ({} if current is None else {"LIST": current})
    inside = applied(meta(views={"v": view(lists)}), environment, "v")
    assert inside.get("LIST") == expected
    assert inside["UENV_VIEW"] == "/m:n:v"


def test_other_variables_are_set_filled_in_and_taken_away():
    scalars = {"A": "${@HOME@}/x${@HOME@}", "B": "$HOME ${HOME}", "C": None, "D": "${@D@}:more"}
    inside = applied(meta(views={"v": view({}, scalars)}), {"HOME": "/h", "C": "c", "D": "d"}, "v")
    assert (inside["A"], inside["B"], inside["D"]) == ("/h/x/h", "$HOME ${HOME}", "d:more")
    assert "C" not in inside


def test_of_several_views_lists_add_up_and_the_last_value_holds():
    first = view({"P": [{"op": "prepend", "value": ["/1"]}]}, {"A": "1", "B": "1"})
    second = view({"P": [{"op": "prepend", "value": ["/2"]}]}, {"A": "2"})
    inside = applied(meta(views={"one": first, "two": second}), {"P": "/0"}, "one", "two")
    assert (inside["P"], inside["A"], inside["B"]) == ("/2:/1:/0", "2", "1")
    assert inside["UENV_VIEW"] == "/m:n:one,/m:n:two"


def test_a_view_that_is_not_there():
    with pytest.raises(BuildError, match='n has no view "w"') as raised:
        applied(meta(), {}, "w")
    assert "its views: v" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no JSON"),
        ("[]", r"the document: is \[\], and an object is expected"),
        (meta(mount=None), "mount: is missing"),
        (meta(mount="user-environment"), "is no absolute path"),
        (meta(name=None), "name: is missing"),
        (meta(views=[]), "views: is"),
        (meta(views={"v": {"description": "no env"}}), r"views\.v\.env: is missing"),
        (meta(views={"v": {"env": {}}}), r"views\.v\.env\.values: is missing"),
        (meta(views={"v": {"env": {"values": {"list": {}}}}}), r"values\.scalar: is missing"),
        (meta(views={"v": {"env": {"values": {"scalar": {}}}}}), r"values\.list: is missing"),
        (meta(views={"v": view(description=None)}), "description: is missing"),
        (meta(views={"v": view({}, {"A": 1})}), "A: is 1, and a string is expected"),
        (meta(views={"v": view({"A": [{"op": "set", "value": "/a"}]})}), "an array is expected"),
        (meta(views={"v": view({"A": [{"op": "add", "value": []}]})}), "would be taken for unset"),
        (meta(views={"v": view({"A": []})}), "has no change in it"),
        (meta(views={"v": view({"A": [{"op": "set", "value": []}]}, {"A": "x"})}), "the scalar would win"),
        (meta(views={"v": view({}, {"1A": "x"})}), "no name of an environment variable"),
        (meta(**{"default-view": "w"}), 'there is no view "w"'),
    ],
)
def test_what_the_uenv_command_would_refuse_or_drop(text, reason):
    with pytest.raises(BuildError, match=reason):
        read_env_json(text if isinstance(text, str) else json.dumps(text))


def uenv_recipe(**views):
    environment = {"compilers": ["gcc"], "specs": ["lz4"], "views": views}
    spack = {
        "repositories": {"builtin": {"git": "https://example.org/p.git", "ref": "develop"}},
        "compilers": {"gcc": {"version": "14.2"}}, "environments": {"one": environment},
    }  # fmt: skip
    fields = recipe().model_dump(exclude={"base", "spack"}, exclude_defaults=True)
    return Recipe.model_validate({**fields, "kind": "uenv", "spack": spack, "mount": MOUNT})


def test_views_of_spack_with_what_the_recipe_says_of_them():
    made = uenv_recipe(
        default={
            "prefix_paths": {"LD_LIBRARY_PATH": ["lib", "lib64"]}, "set": {"CUDA_HOME": "/mine"},
            "prepend": {"PATH": ["/opt/site/bin"]}, "unset": ["PYTHONPATH"],
        },
        develop={},
    )  # fmt: skip
    made = made.model_copy(update={"default_view": "develop"})
    activations = {"default": {**ACTIVATION, "PYTHONPATH": f"{DEFAULT}/python"}, "develop": {"PATH": f"{MOUNT}/d:/bin"}}
    found = uenv_document(DAINT, made, activations, has_folder=lambda path: not path.endswith("lib64"))
    inside = applied(found, {"PATH": "/bin", "PYTHONPATH": "/mine"})
    assert inside["LD_LIBRARY_PATH"] == f"{DEFAULT}/lib"
    assert inside["PATH"] == f"/opt/site/bin:{DEFAULT}/bin:/bin"
    assert inside["CUDA_HOME"] == "/mine"
    assert "PYTHONPATH" not in inside
    assert inside["NCCL_NET"] == "AWS Libfabric", "of the contract"
    assert (found["default-view"], found["mount"]) == ("develop", MOUNT)
    assert applied(found, {"PATH": "/bin"}, "develop")["PATH"] == f"{MOUNT}/d:/bin"


def test_a_virtual_environment_is_in_front_of_every_view():
    found = uenv_document(DAINT, uenv_recipe(default={}), {"default": ACTIVATION}, venv=f"{MOUNT}/venv")
    inside = applied(found, {"PATH": "/bin", "PYTHONPATH": "/mine", "PYTHONHOME": "/mine"})
    assert inside["PATH"] == f"{MOUNT}/venv/bin:{DEFAULT}/bin:/bin"
    assert inside["VIRTUAL_ENV"] == f"{MOUNT}/venv"
    assert {"PYTHONPATH", "PYTHONHOME"} & set(inside) == set()


NAMES = st.sampled_from(["PATH", "MANPATH", "A", "B", "NCCL_NET"])
FOLDERS = st.lists(st.sampled_from(["/a", "/b:/c", "/d", "", "/a"]), max_size=3)
VIEWS = st.builds(
    View, set=st.dictionaries(NAMES, st.sampled_from(["", "x", "/a:/b"])), prepend=st.dictionaries(NAMES, FOLDERS),
    append=st.dictionaries(NAMES, FOLDERS), unset=st.lists(NAMES, unique=True),
)  # fmt: skip


@given(VIEWS)
def test_whatever_a_recipe_says_is_written_as_the_uenv_command_reads_it(made):
    values = view_values(made)
    assert not set(values["list"]) & set(values["scalar"])
    env = {"values": json.loads(json.dumps(values))}
    inside = applied({"name": "n", "mount": "/m", "views": {"v": {"env": env}}}, {"PATH": "/bin", "A": "old"}, "v")
    for name, value in made.set.items():
        if not {name} & {*made.prepend, *made.append} and name in values["scalar"]:
            assert inside[name] == value
    for name, folders in made.prepend.items():
        wanted = list(dict.fromkeys(part for folder in folders for part in folder.split(":") if part))
        assert inside.get(name, "").split(":")[: len(wanted)] == wanted or not wanted
