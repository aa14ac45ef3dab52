"""component.yaml as people write it, and what a recipe chooses from it."""

import pytest

from uenv_builder.core.component_choice import choose_components, run_packages
from uenv_builder.core.component_reader import component_schema, read_component
from uenv_builder.core.recipe_reader import COMPONENT_FORMS, FORMS, evaluate
from uenv_builder.core.yaml_tree import read_yaml
from uenv_builder.model.errors import RecipeError

SHA = "0" * 64
COMPONENT = f"""\
name: NAME
description: A component
run_packages: [lib-of-NAME]
options:
  color:
    description: What color it has
    default: red
    values: [red, green]
  extra: {{description: More words, default: ""}}
versions:
  "2.0":
    sources:
      - archive: ["https://example.org/NAME-2.0.tar.gz", "https://example.com/NAME-2.0.tar.gz"]
        sha256: "{SHA}"
  "1.0":
    sources:
      - git: [https://example.org/NAME.git]
        commit: {"a1" * 20}
    patches: [patches/one.patch]
"""
RECIPE = """\
name: demo
version: "1.0"
description: A demonstration
targets:
  - {system: generic-x86_64, uarch: x86_64}
base: {debian: {suite: trixie}}
"""


def read(text, name="tool"):
    return read_component(text.encode(), f"components/{name}/component.yaml", folder=name)


def component(name, **changes):
    text = COMPONENT.replace("NAME", name)
    for key, value in changes.items():
        text += f"{key}: {value}\n"
    return read(text, name)


def only(call, *arguments):
    with pytest.raises(RecipeError) as caught:
        call(*arguments)
    (finding,) = caught.value.diagnostics
    return finding


def choose(recipe, *components):
    known = {entry.recipe.name: entry for entry in components}
    return choose_components(evaluate(read_yaml((RECIPE + recipe).encode(), "recipe.yaml")), known.get).chosen


def test_a_component_is_read_with_its_defaults():
    tool = component("tool").recipe
    assert list(tool.versions) == ["2.0", "1.0"]
    assert tool.versions["2.0"].sources[0].strip is None
    assert tool.cross
    assert tool.prefix == "/usr/local"


def test_all_patterns_have_words():
    def patterns(node):
        if isinstance(node, dict):
            found = [node["pattern"]] if isinstance(node.get("pattern"), str) else []
            keys = list(node.get("patternProperties", {}))
            return [*found, *keys, *(item for child in node.values() for item in patterns(child))]
        return [item for child in node for item in patterns(child)] if isinstance(node, list) else []

    used = set(patterns(component_schema()))
    assert set(COMPONENT_FORMS) <= used <= set(COMPONENT_FORMS) | set(FORMS)


@pytest.mark.parametrize(
    ("before", "after", "rule", "line", "words"),
    [
        ("name: tool", "name: toll", "component", 1, "called"),
        ("default: red", "default: rde", "component", 7, "none of its values"),
        ("run_packages", "runpackages", "unknown-key", 3, "runpackages"),
        (f'sha256: "{SHA}"', 'sha256: "12"', "wrong-value", 14, "sha256"),
        (f'sha256: "{SHA}"', "folder: x", "wrong-type", 13, "pinned by `sha256`"),
        ("git: [https", "debian: pool/main/t/tool/tool.tar.xz\n        git: [https", "wrong-type", 17, "exactly one"),
        ("[patches/one.patch]", "[../one.patch]", "component", 19, "goes up"),
        ("commit: a1a1", "commit: a1", "wrong-value", 18, "commit"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_at_its_place(before, after, rule, line, words):
    text = COMPONENT.replace("NAME", "tool")
    assert before in text
    finding = only(read, text.replace(before, after))
    assert (finding.rule, finding.position.line) == (rule, line)
    assert words in finding.message


def test_versions_and_options_default_and_can_be_chosen():
    (first,) = choose("components: {tool: {}}\n", component("tool"))
    assert (first.version, first.options) == ("2.0", {"color": "red", "extra": ""})
    (second,) = choose('components: {tool: {version: "1.0", options: {color: green}}}\n', component("tool"))
    assert (second.version, second.options["color"]) == ("1.0", "green")
    assert second.source.patches == ["patches/one.patch"]


def test_needs_come_first_and_once():
    parts = [component("base"), component("tool", needs="{components: [base]}"),
             component("top", needs="{components: ['tool>=2', base]}")]  # fmt: skip
    chosen = choose("components: {top: {}, base: {}}\n", *parts)
    assert [entry.name for entry in chosen] == ["base", "tool", "top"]
    assert chosen[2].needs == ("tool", "base")
    assert run_packages(chosen) == ("lib-of-base", "lib-of-tool", "lib-of-top")


def test_what_a_component_provides_serves():
    parts = [component("openthing", provides="[thing]"), component("user", needs="{components: [thing]}")]
    assert choose("components: {user: {}, openthing: {}}\n", *parts)[1].needs == ("openthing",)
    assert "which no component is" in only(choose, "components: {user: {}}\n", *parts).message


def test_a_pin_asks_for_its_component_and_decides_its_version():
    fabric = component("libfabric")
    (chosen,) = choose('pins: {libfabric: "1.0"}\n', fabric)
    assert chosen.version == "1.0"
    assert choose('pins: {libfabric: "1.0"}\n') == ()
    needing = component("aws-ofi-nccl", needs="{components: [libfabric]}")
    recipe = evaluate(read_yaml((RECIPE + 'pins: {libfabric: "9.0"}\ncomponents: {aws-ofi-nccl: {}}\n').encode(), "r"))
    choice = choose_components(recipe, {"libfabric": fabric, "aws-ofi-nccl": needing}.get)
    assert choice.chosen == ()
    assert [finding.rule for finding in choice.unavailable] == ["no-component"]
    assert "has no version 9.0" in choice.unavailable[0].message
    finding = only(choose, 'pins: {libfabric: "1.0"}\ncomponents: {libfabric: {version: "2.0"}}\n', fabric)
    assert "keep one" in finding.hint


@pytest.mark.parametrize(
    ("recipe", "line", "words"),
    [
        ("components: {toll: {}}\n", 7, 'no component "toll"'),
        ('components: {tool: {version: "3.0"}}\n', 7, "no version 3.0"),
        ("components: {tool: {options: {colour: red}}}\n", 7, "no option colour"),
        ("components: {tool: {options: {color: blue}}}\n", 7, 'cannot be "blue"'),
        ("components: {tool: {options: {extra: $(id)}}}\n", 7, 'cannot be "$(id)"'),
    ],
)
def test_what_a_recipe_cannot_choose(recipe, line, words):
    finding = only(choose, recipe, component("tool"))
    assert finding.position.line == line
    assert words in finding.message


def test_circles_and_versions_that_do_not_fit():
    first, second = (
        component("first", needs="{components: [second]}"),
        component("second", needs="{components: [first]}"),
    )
    assert "first -> second -> first" in only(choose, "components: {first: {}}\n", first, second).message
    picky = component("picky", needs="{components: ['tool>=2']}")
    finding = only(choose, 'components: {tool: {version: "1.0"}, picky: {}}\n', component("tool"), picky)
    assert "picky needs tool>=2" in finding.message
