import pytest

from uenv_builder.core.requirement_chain import (
    Chain,
    Link,
    Wish,
    find_chains,
    find_debs,
    link_debs,
    link_wheels,
    marker_environment,
    read_wish,
    recipe_wishes,
)
from uenv_builder.model.recipe import Recipe

ON_GH200 = marker_environment("3.13", "aarch64")


def wish(name, text=None, number=0):
    return Wish(name, text or name, ("python", "requirements", number))


def link(by, name):
    return Link(by, name, name)


def shape(chains):
    """Each chain as the names that it goes over."""
    return [[chain.wish.name, *(one.name for one in chain.links)] for chain in chains]


def pairs(links):
    return sorted((one.by, one.name) for one in links)


def test_what_the_recipe_asks_for_itself_is_a_chain_without_links():
    assert find_chains("a", [wish("a")], []) == (Chain(wish("a")),)


def test_each_package_that_asks_is_told_by_its_shortest_chain_the_shortest_first():
    links = [link("a", "b"), link("a", "c"), link("c", "d"), link("d", "e"), link("b", "e"), link("d", "b")]
    assert shape(find_chains("b", [wish("a")], links)) == [["a", "b"], ["a", "c", "d", "b"]]
    assert shape(find_chains("e", [wish("a")], links)) == [["a", "b", "e"], ["a", "c", "d", "e"]]


def test_a_wish_comes_before_those_who_ask_too():
    assert shape(find_chains("b", [wish("a"), wish("b")], [link("a", "b")])) == [["b"], ["a", "b"]]


def test_circles_end():
    links = [link("a", "b"), link("b", "a"), link("b", "b"), link("b", "c")]
    assert shape(find_chains("c", [wish("a")], links)) == [["a", "b", "c"]]
    assert shape(find_chains("a", [wish("a")], links)) == [["a"]]


def test_who_asks_only_because_of_the_package_itself_is_no_reason_for_it():
    assert find_chains("a", [wish("z")], [link("a", "b"), link("b", "a")]) == ()


def test_a_package_that_nobody_wishes_for_asks_for_nothing():
    assert find_chains("b", [wish("a")], [link("orphan", "b")]) == ()


@pytest.mark.parametrize(
    ("text", "name", "extras"),
    [
        ("numpy>=2,<3", "numpy", set()),
        ("Typing_Extensions", "typing-extensions", set()),
        ("vllm[Run_AI]==0.9", "vllm", {"run-ai"}),
    ],
)
def test_requirements_of_a_recipe_are_read(text, name, extras):
    found = read_wish(text, ("python", "requirements", 3))
    assert (found.name, found.text, found.at, found.extras) == (name, text, ("python", "requirements", 3), extras)


def test_what_is_no_requirement_is_no_wish():
    assert read_wish("two words", ()) is None


def test_a_recipe_asks_for_its_pinned_torch_and_its_requirements():
    recipe = Recipe.model_validate(
        {
            "name": "mine", "version": "1.0", "description": "for a test",
            "targets": [{"system": "daint", "uarch": "gh200"}], "base": {"debian": {"suite": "trixie"}},
            "pins": {"pytorch": "2.14.1", "nccl": "2.30.7"}, "python": {"requirements": ["numpy", "no requirement !"]},
        }
    )  # fmt: skip
    found = [(one.name, one.text, one.at) for one in recipe_wishes(recipe)]
    assert found == [
        ("torch", "torch==2.14.1", ("pins", "pytorch")), ("numpy", "numpy", ("python", "requirements", 0)),
    ]  # fmt: skip


def test_markers_are_those_of_the_target_and_not_of_this_machine():
    metadata = {
        "a": [
            'arm>1; platform_machine == "aarch64"', 'intel; platform_machine == "x86_64"', 'windows; os_name == "nt"',
            'new; python_version >= "3.13"', 'old; python_version < "3.13"', 'linux; sys_platform == "linux"',
        ]
    }  # fmt: skip
    found = link_wheels([wish("a")], metadata, ON_GH200)
    assert pairs(found) == [("a", "arm"), ("a", "linux"), ("a", "new")]
    assert {one.text for one in found if one.name == "arm"} == {'arm>1; platform_machine == "aarch64"'}
    other = link_wheels([wish("a")], metadata, marker_environment("3.11", "x86_64"))
    assert pairs(other) == [("a", "intel"), ("a", "linux"), ("a", "old")]


def test_what_an_extra_asks_for_counts_where_somebody_asks_for_the_extra():
    metadata = {
        "torch": ['cuda-toolkit[CudaRT,nvrtc]==13.0.3; platform_system == "Linux"'],
        "cuda-toolkit": [
            'nvidia-cuda-runtime==13.0.96.*; sys_platform == "linux" and extra == "cudart"',
            'nvidia-cufft; extra == "cufft"', 'base; extra == ""',
        ],
    }  # fmt: skip
    found = link_wheels([wish("torch")], metadata, ON_GH200)
    assert pairs(found) == [
        ("cuda-toolkit", "base"),
        ("cuda-toolkit", "nvidia-cuda-runtime"),
        ("torch", "cuda-toolkit"),
    ]


def test_an_extra_that_is_asked_for_later_is_not_lost():
    metadata = {"a": ["b", "c"], "c": ["b[x]"], "b": ['late; extra == "x"', "always"]}
    assert ("b", "late") in pairs(link_wheels([wish("a")], metadata, ON_GH200))


def test_an_extra_of_the_recipe_itself_counts():
    metadata = {"b": ['more; extra == "x"']}
    asked = Wish("b", "b[x]", (), frozenset({"x"}))
    assert pairs(link_wheels([asked], metadata, ON_GH200)) == [("b", "more")]
    assert link_wheels([wish("b")], metadata, ON_GH200) == ()


def test_lines_that_cannot_be_read_and_names_of_all_spellings():
    metadata = {"a": ["what is this?!", "Typing_Extensions (>=4)", "b>=1 ;  python_version\n>= '3'"]}
    assert pairs(link_wheels([wish("a")], metadata, ON_GH200)) == [("a", "b"), ("a", "typing-extensions")]


def test_wheels_that_ask_for_each_other_end():
    metadata = {"a": ["b[x]"], "b": ["a", 'a[y]; extra == "x"']}
    assert pairs(set(link_wheels([wish("a")], metadata, ON_GH200))) == [("a", "b"), ("b", "a"), ("b", "a")]


def test_dependencies_of_debian_packages_are_read_from_both_fields():
    stanzas = {
        "bash": {"Depends": "base-files (>= 2.1.12), debianutils", "Pre-Depends": "libc6 (>= 2.38)"},
        "libc6": {"Depends": "libgcc-s1", "Recommends": "libidn2-0"},
    }
    names = {"bash", "libc6", "base-files", "libgcc-s1", "libidn2-0"}
    found = link_debs(stanzas, names)
    assert pairs(found) == [("bash", "base-files"), ("bash", "libc6"), ("libc6", "libgcc-s1")]
    assert Link("bash", "base-files", "base-files (>= 2.1.12)") in found


def test_alternatives_and_architectures_of_a_dependency():
    stanzas = {"a": {"Depends": "python3:any,\n mawk | gawk | original-awk"}}
    assert pairs(link_debs(stanzas, {"a", "python3", "gawk"})) == [("a", "gawk"), ("a", "python3")]


def test_a_name_that_packages_provide_leads_to_these():
    stanzas = {
        "a": {"Depends": "awk, libssl3 (>= 3)"},
        "mawk": {"Provides": "awk, other"},
        "libssl3t64": {"Provides": "libssl3 (= 3.5)"},
    }
    assert pairs(link_debs(stanzas, set(stanzas))) == [("a", "libssl3t64"), ("a", "mawk")]


def test_a_package_never_asks_for_itself():
    assert link_debs({"a": {"Depends": "b", "Provides": "b"}}, {"a"}) == ()


@pytest.mark.parametrize(
    ("word", "expected"),
    [("mawk", ("mawk",)), ("mawk=1.3.4", ("mawk",)), ("awk", ("mawk",)), ("python3", ())],
)
def test_words_of_a_recipes_list_mean_packages(word, expected):
    assert find_debs(word, {"mawk": {"Provides": "awk"}}, {"mawk"}) == expected
