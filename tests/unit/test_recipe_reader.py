"""Recipes as people get them wrong: each finding names its place, its reason and a remedy."""

import re

import pytest

from uenv_builder.core.recipe_reader import editor_schema, evaluate, merge_trees, recipe_schema
from uenv_builder.core.yaml_tree import MAX_BYTES, read_yaml
from uenv_builder.model.errors import RecipeError

GOOD = """\
name: demo
version: "1.0"
description: A demonstration
targets:
  - {system: generic-x86_64, uarch: x86_64}
base:
  debian:
    suite: trixie
    packages: [python3]
pins:
  python: "3.13"
"""


def read(text: str):
    return evaluate(read_yaml(text.encode(), "recipe.yaml"))


def findings(text: str | bytes):
    content = text.encode() if isinstance(text, str) else text
    with pytest.raises(RecipeError) as caught:
        evaluate(read_yaml(content, "recipe.yaml"))
    return caught.value.diagnostics


def only(text: str | bytes):
    (finding,) = findings(text)
    return finding


def at(finding):
    return (finding.position.line, finding.position.column)


def test_a_good_recipe_is_read_with_defaults():
    recipe = read(GOOD).recipe
    assert recipe.name == "demo"
    assert recipe.base.debian.pockets == ["-updates", "-security"]
    assert recipe.network == "none"


def test_versions_stay_texts():
    assert read(GOOD.replace('"3.13"', '"3.10"')).recipe.pins.python == "3.10"


def test_a_version_written_as_a_number_is_refused_at_its_place():
    finding = only(GOOD.replace('"3.13"', "3.10"))
    assert finding.rule == "wrong-type"
    assert at(finding) == (11, 11)
    assert "3.10" in finding.message
    assert '"3.10"' in finding.hint


def test_unknown_key_is_named_with_the_closest_known_one():
    finding = only(GOOD + "netwrok: image\n")
    assert finding.rule == "unknown-key"
    assert at(finding) == (12, 1)
    assert finding.hint == 'did you mean "network"?'


def test_unknown_key_in_a_section_suggests_keys_of_that_section():
    finding = only(GOOD.replace("    suite:", "    siute: x\n    suite:"))
    assert at(finding) == (8, 5)
    assert finding.hint == 'did you mean "suite"?'


def test_missing_keys_are_all_reported_at_once():
    rules = {(finding.rule, finding.message) for finding in findings("name: demo\nextra: 1\n")}
    assert {rule for rule, _ in rules} == {"missing-key", "unknown-key"}
    assert sum(rule == "missing-key" for rule, _ in rules) == 4


def test_duplicate_key():
    finding = only(GOOD + "name: other\n")
    assert (finding.rule, at(finding)) == ("duplicate-key", (12, 1))
    assert "line 1" in finding.message


def test_a_wrong_choice_suggests_the_right_one():
    finding = only(GOOD + "network: hook-artefact\n")
    assert finding.hint == 'did you mean "hook-artifact"?'
    assert at(finding) == (12, 10)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("- a\n- b\n", "not-a-mapping"),
        ("just text\n", "not-a-mapping"),
        ("name: [unclosed\n", "yaml-syntax"),
        ("name:\n\tversion: 1\n", "yaml-syntax"),
        ("name: &a demo\nversion: *a\n", "alias"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "alias"),
        ("name: " + "[" * 100 + "]" * 100, "too-deep"),
        ("name: !!python/object:os.system x\n", "yaml-tag"),
        ("name: !custom x\n", "yaml-tag"),
        ("? [a, b]\n: c\n", "yaml-key"),
    ],
)
def test_what_is_not_a_recipe(text, rule):
    assert only(text).rule == rule


def test_tabs_have_a_hint():
    assert "spaces" in only("name:\n\tversion: 1\n").hint


def test_not_utf8():
    finding = only(b"name: demo\nversion: \xff\xfe\n")
    assert (finding.rule, finding.position.line) == ("not-utf8", 2)


def test_too_large():
    assert only(b"#" * (MAX_BYTES + 1)).rule == "too-large"


def test_variables_are_filled_in_everywhere():
    text = GOOD.replace('"3.13"', "${{ py }}").replace("[python3]", '["python${{py}}"]') + 'variables: {py: "3.13"}\n'
    recipe = read(text).recipe
    assert recipe.pins.python == "3.13"
    assert recipe.base.debian.packages == ["python3.13"]


def test_unknown_variable():
    finding = only(GOOD.replace("A demonstration", "${{ pyton }}") + 'variables: {python: "3"}\n')
    assert finding.rule == "unknown-variable"
    assert at(finding) == (3, 14)
    assert finding.hint == 'did you mean "python"?'


def test_a_bad_requirement_and_a_torch_that_is_pinned_twice():
    text = GOOD + '  pytorch: "2.14.1"\npython:\n  requirements:\n    - "numpy ==== 2"\n    - torch\n'
    assert [(finding.rule, at(finding)[0]) for finding in findings(text)] == [("requirement", 15), ("pinned-twice", 16)]


def merged(base: str, own: str):
    return merge_trees(read_yaml(base.encode(), "base.yaml"), read_yaml(own.encode(), "own.yaml"))


def test_extends_merges_mappings_appends_lists_and_removes_with_null():
    own = "name: mine\nbase: {debian: {packages: [python3, git]}}\npins: {python: null}\nenv: {A: b}\n"
    tree = merged(GOOD, own)
    recipe = evaluate(tree).recipe
    assert recipe.name == "mine"
    assert recipe.base.debian.packages == ["python3", "git"]
    assert recipe.base.debian.suite == "trixie"
    assert recipe.pins.python is None
    assert tree.position(("base", "debian", "packages", 1)).file == "own.yaml"
    assert tree.position(("base", "debian", "packages", 0)).file == "base.yaml"


def test_extends_replaces_a_list_that_says_so():
    tree = merged(GOOD, "base: {debian: {packages: !replace [git]}}\n")
    assert evaluate(tree).recipe.base.debian.packages == ["git"]


def test_an_error_in_the_extended_recipe_points_there():
    tree = merged(GOOD + "netwrok: image\n", "name: mine\n")
    with pytest.raises(RecipeError) as caught:
        evaluate(tree)
    assert str(caught.value.diagnostics[0].position) == "base.yaml:12:1"


def test_the_schema_accepts_what_the_reader_accepts_and_names_every_key():
    schema = recipe_schema()
    assert {"extends", "variables", "name", "targets"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    assert schema["anyOf"][0] == {"required": ["extends"]}


def test_editors_accept_an_expression_wherever_a_text_may_stand():
    def nodes(node):
        if isinstance(node, dict):
            yield node
        for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from nodes(below)

    found = [node for node in nodes(editor_schema()) if isinstance(node.get("pattern"), str)]
    assert len(found) > 10
    assert all(re.search(node["pattern"], "${{ torch }}") for node in found)
    assert not all(re.search(node["pattern"], "no such text ;") for node in found)
    enums = [node for node in nodes(editor_schema()) if "enum" in node and node.get("type") == "string"]
    beside = [node["anyOf"][1] for node in nodes(editor_schema()) if node.get("anyOf", [None])[0] in enums]
    assert enums
    assert len(beside) == len(enums)
