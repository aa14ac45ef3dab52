"""Writes the pages of docs/reference that follow from the code. Run it after a change of recipe, verbs or checks."""

from __future__ import annotations

import inspect
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import typer

from uenv_builder.checks import CHECKS
from uenv_builder.cli import app
from uenv_builder.core.component_reader import component_schema
from uenv_builder.core.contract_page import contract_page
from uenv_builder.core.recipe_reader import recipe_schema
from uenv_builder.core.rules.stories import chapter_names, load_chapter
from uenv_builder.core.systems import load_systems, load_uarchs
from uenv_builder.model import component as components
from uenv_builder.model import recipe as model
from uenv_builder.model import spack

REFERENCE = Path(__file__).parent / "reference"
_OWN = "uenv_builder."
VARIABLES = "Texts by name, for `${{ name }}` in this recipe and in those that extend it."
NOTE = "<!-- Written by docs/generate.py; edit the code instead. -->\n\n"


def recipe_page() -> str:
    """Every key of a recipe, section by section as they are named, with type, default and meaning."""
    schema = recipe_schema()
    lines = [
        NOTE + "# Recipe\n",
        "YAML, UTF-8, at most 1 MiB; no aliases. Every version is a text in quotes. `${{ name }}` in any text is the",
        "variable of that name. `uenv check --schema` prints the JSON Schema for editors.\n",
        "`extends:` names the folder or file of another recipe: mappings merge key by key, lists append (a list tagged",
        "`!replace` starts anew), a key set to `null` is removed, anything else replaces.\n",
        *_table(schema, model.Recipe, set(schema["anyOf"][1]["required"])),
    ]
    for name in _sections(schema, schema["$defs"]):
        section = schema["$defs"][name]
        owner = getattr(model, name, None) or getattr(spack, name)
        lines += [f"\n## {name}\n", inspect.getdoc(owner) or "", ""]
        lines += _table(section, owner, set(section.get("required", ())))
    return "\n".join(lines) + "\n"


def component_page() -> str:
    """Every key of a component.yaml."""
    schema = component_schema()
    lines = [
        NOTE + "# Component\n",
        "The file component.yaml of a folder below `components`; [how to build from source](../how-to/components.md)",
        "shows how it is used. YAML as in recipes, but without `extends:` and `variables:`.\n",
        *_table(schema, components.ComponentRecipe, set(schema["required"])),
    ]
    for name in _sections(schema, schema["$defs"]):
        section, owner = schema["$defs"][name], getattr(components, name)
        lines += [
            f"\n## {name}\n",
            inspect.getdoc(owner) or "",
            "",
            *_table(section, owner, set(section.get("required", ()))),
        ]
    return "\n".join(lines) + "\n"


def _sections(part: Any, definitions: dict[str, Any]) -> list[str]:
    """The sections that a part of the schema leads to, each before those that it names itself."""
    found: dict[str, None] = {}
    for node in part.get("properties", {}).values():
        for name in re.findall(r"#/\$defs/(\w+)", json.dumps(node)):
            found |= dict.fromkeys([name, *_sections(definitions[name], definitions)])
    return list(found)


def _table(section: dict[str, Any], owner: type, required: set[str]) -> list[str]:
    notes = {"variables": VARIABLES, **_notes(owner)}
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in section["properties"].items():
        default = "required" if key in required else _default(field)
        meaning = (field.get("description") or notes.get(key, "")).replace("|", "\\|")
        lines.append(f"| `{key}` | {_type(field)} | {default} | {meaning} |")
    return lines


def _default(field: dict[str, Any]) -> str:
    """The default as a recipe would say it; nothing where leaving the key out is not the same as any value."""
    if field.get("default") is None:
        return ""
    return "see there" if "$ref" in field else f"`{json.dumps(field['default'])}`"


def _notes(owner: type) -> dict[str, str]:
    """The strings below the fields of a class, as documentation tools read them."""
    notes, field = {}, ""
    source = "\n".join(inspect.getsource(part) for part in reversed(owner.__mro__) if part.__module__.startswith(_OWN))
    for line in source.splitlines():
        text = line.strip()
        if text.startswith('"""') and field:
            notes[field] = text.strip('"')
        field = text.split(":")[0] if ": " in text and not text.startswith(('"', "#")) else ""
    return notes


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    if kind == "object":
        values = next(iter(field.get("patternProperties", {}).values()), field.get("additionalProperties"))
        return f"mapping to {_type(values)}" if isinstance(values, dict) else "mapping"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(kind, kind)


def command_page() -> str:
    """What `--help` prints, verb by verb."""
    root = typer.main.get_command(app)
    context = root.make_context("uenv", [], resilient_parsing=True, terminal_width=100)
    lines = [NOTE + "# Command line\n", *_help("uenv", context)]
    for name, inner in _contexts(context, "uenv"):
        lines += _help(name, inner)
    return "\n".join(lines)


def _help(name: str, context: Any) -> list[str]:
    return [f"## {name}\n", "```", context.get_help().rstrip(), "```\n"]


def _contexts(group: Any, prefix: str) -> list[tuple[str, Any]]:
    found = []
    for name in group.command.list_commands(group):
        command = group.command.get_command(group, name)
        full = f"{prefix} {name}"
        context = command.make_context(name, [], parent=group, resilient_parsing=True, terminal_width=100)
        found += _contexts(context, full) if hasattr(command, "list_commands") else [(full, context)]
    return found


def checks_page() -> str:
    """The checks that recipes can name."""
    lines = [
        NOTE + "# Checks\n",
        "Every check also takes `required: false`, which keeps it from deciding the verdict.\n",
    ]
    for name, kind in CHECKS.items():
        always = " Every image gets it." if kind.always else ""
        lines += [f"## {name}\n", f"Proves that {kind.proves}.{always}\n"]
        lines += [f"- `{parameter}`: {meaning}" for parameter, meaning in kind.parameters.items()]
        lines += [""] if kind.parameters else []
    return "\n".join(lines)


def systems_page() -> str:
    """The systems and node types that targets name."""
    lines = [
        NOTE + "# Systems and node types\n",
        "| system | node types | network modes | description |",
        "|---|---|---|---|",
    ]
    for system in load_systems().values():
        modes, nodes = ", ".join(system.networks), ", ".join(system.uarchs)
        lines.append(f"| [`{system.name}`](systems/{system.name}.md) | {nodes} | {modes} | {system.description} |")
    lines += ["", "| node type | machine | processor | GPU |", "|---|---|---|---|"]
    for uarch in load_uarchs().values():
        lines.append(f"| `{uarch.name}` | {uarch.machine} | {uarch.cpu or ''} | {uarch.gpu or 'none'} |")
    return "\n".join(lines) + "\n"


def system_page(name: str) -> str:
    """The runtime contract of a system."""
    return NOTE + contract_page(load_systems()[name])


def rules_page() -> str:
    """All rules, and where each tells its story."""
    lines = [
        NOTE + "# Rules\n",
        "What `uenv check` looks for, by the id in the brackets of a finding; `uenv explain RULE` tells the same.",
        "A recipe accepts a warning with `accept: {RULE: the reason}`; errors cannot be accepted.\n",
        "| rule | severity | about |", "|---|---|---|",
    ]  # fmt: skip
    for chapter in chapter_names():
        for rule, story in load_chapter(chapter).stories.items():
            lines.append(f"| [`{rule}`](rules/{chapter}.md#{rule}) | {story.severity} | {_cell(story.title)} |")
    return "\n".join(lines) + "\n"


def chapter_page(name: str) -> str:
    """The stories of one chapter of rules."""
    lines = [NOTE + f"# Rules: {name}\n"]
    for rule, story in load_chapter(name).stories.items():
        lines += [
            f"## {rule}\n", f"**{story.severity}**: {story.title.strip()}\n", f"{story.why.strip()}\n",
            f"What to do: {story.remedy.strip()}\n", *(f"- source: {source}" for source in story.sources), "",
        ]  # fmt: skip
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {
    "recipe.md": recipe_page,
    "component.md": component_page,
    "command-line.md": command_page,
    "checks.md": checks_page,
    "systems.md": systems_page,
    **{f"systems/{name}.md": partial(system_page, name) for name in load_systems()},
    "rules.md": rules_page,
    **{f"rules/{name}.md": partial(chapter_page, name) for name in chapter_names()},
}


def main() -> None:
    """Write all pages into docs/reference, or into the folder that is given."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
