import pytest

from uenv_builder.core.recipe_reader import evaluate
from uenv_builder.core.yaml_tree import read_yaml
from uenv_builder.model.errors import RecipeError

GOOD = """\
name: tools
version: "1.0"
description: two small packages
kind: uenv
targets: [{system: generic-x86_64, uarch: x86_64}]
spack:
  repositories:
    builtin: {git: https://github.com/spack/spack-packages.git, commit: 5ece166daa3065a1b212fb93fe587fcb138e9004}
  compilers:
    gcc: {version: system}
  environments:
    tools:
      compilers: [gcc]
      specs: [bzip2, lz4]
      views:
        default: {link: roots, prefix_paths: {LD_LIBRARY_PATH: [lib, lib64]}, set: {A: b}}
"""


def findings(text):
    with pytest.raises(RecipeError) as raised:
        evaluate(read_yaml(text.encode(), "recipe.yaml"))
    return [
        (found.rule, found.position.line, found.position.column) for found in raised.value.diagnostics if found.position
    ]


def test_a_uenv_needs_no_base_and_has_defaults():
    recipe = evaluate(read_yaml(GOOD.encode(), "recipe.yaml")).recipe
    assert recipe.base.empty
    assert recipe.mount == "/user-environment"
    view = recipe.spack.environments["tools"].views["default"]
    assert (view.link, view.add_compilers, view.set) == ("roots", True, {"A": "b"})


def test_the_view_of_module_files_can_be_the_default():
    text = GOOD.replace("kind: uenv", "kind: uenv\ndefault_view: modules")
    assert findings(text) == [("view-unknown", 5, 15)]
    assert evaluate(read_yaml((text + "  modules: {}\n").encode(), "recipe.yaml")).recipe.default_view == "modules"


@pytest.mark.parametrize(
    ("old", "new", "rule", "line"),
    [
        ("kind: uenv", "kind: container", "missing-key", 1),
        ("kind: uenv", "kind: container", "kind", 6),
        ("kind: uenv", "kind: both", "missing-key", 1),
        ("kind: uenv", "kind: uenv\nbase: {debian: {suite: trixie}}", "kind", 5),
        ("kind: uenv", "kind: uenv\nmount: /usr", "mount-point", 5),
        ("kind: uenv", "kind: uenv\npython: {requirements: [numpy]}", "kind", 5),
        ("kind: uenv", "kind: uenv\nmount: /a+b", "mount-point", 5),
        ("kind: uenv", "kind: uenv\ndefault_view: nosuch", "view-unknown", 5),
        ("builtin:", "other:", "missing-key", 8),
        ("gcc: {version: system}", 'llvm: {version: "21"}', "missing-key", 10),
        ("gcc: {version: system}", "gcc: {version: system}\n    llvm: {version: system}", "spack-compiler", 11),
        ("[gcc]", "[gcc, llvm]", "spack-compiler", 13),
        ("specs: [bzip2, lz4]", "specs: []", "spack-empty", 13),
        ("default: {", "spack: {", "view-name", 16),
        ("set: {A: b}", "set: {A: b}, unset: [A]", "view-contradiction", 16),
        ("set: {A: b}", "set: {A-B: b}", "env-name", 16),
        ("set: {A: b}", "set: {A: '${@B@}', B: c}", "view-value", 16),
        ("set: {A: b}", "prepend: {PATH: [/a, '${@HOME']}", "view-value", 16),
        ("kind: uenv", "kind: uenv\nviews: {mine: {append: {A: ['${@no name@}']}}}", "view-value", 5),
        ("link: roots", "link: some", "wrong-value", 16),
        ("commit: 5ece166daa3065a1b212fb93fe587fcb138e9004", "commit: develop", "wrong-value", 8),
        (", commit: 5ece166daa3065a1b212fb93fe587fcb138e9004", "", "wrong-type", 8),
    ],
)
def test_what_contradicts_the_kind_is_named_at_its_place(old, new, rule, line):
    assert old in GOOD
    assert (rule, line) in [(found, at) for found, at, _ in findings(GOOD.replace(old, new))]


def test_views_of_two_environments_need_names_of_their_own():
    second = "    more: {compilers: [gcc], specs: [zstd], views: {default: {}}}\n"
    assert findings(GOOD + second) == [("view-twice", 17, 53)]


def test_a_ref_is_as_good_as_a_commit():
    text = GOOD.replace("commit: 5ece166daa3065a1b212fb93fe587fcb138e9004", "ref: releases/v2026.06")
    assert evaluate(read_yaml(text.encode(), "recipe.yaml")).recipe.spack.repositories["builtin"].commit is None
