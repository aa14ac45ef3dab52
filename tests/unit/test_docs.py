"""The documentation: written pages follow the code, links lead somewhere, and commands exist."""

import importlib.util
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

from uenv_builder.app.recipes import find_recipe
from uenv_builder.cli import app
from uenv_builder.core.recipe_reader import recipe_schema
from uenv_builder.system.settings import _KEYS
from uenv_command import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SITE_VERBS = {"image", "repo", "start", "run", "status"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@cache
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def verbs():
    """The options of each verb, by its words: ("cache", "gc")."""
    root = typer.main.get_command(app)
    found = {}

    def walk(group, words):
        context = typer.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            found[*words, name] = {option for parameter in command.params for option in parameter.opts} | {
                "--help",
                "-h",
            }
            if hasattr(command, "list_commands"):
                walk(command, (*words, name))

    walk(root, ())
    return found


def fences(page, *languages):
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page):
    """The arguments of `uenv` in a page: lines of its shell fences (after $, where there is one), and code."""
    text = page.read_text(encoding="utf-8")
    lines = []
    for fence in fences(page, "sh", "console"):
        shown = [line for line in fence.splitlines() if not re.match(r"\s*#", line)]
        if any(line.startswith("$ ") for line in shown):
            shown = [line[2:] for line in shown if line.startswith("$ ")]
        lines += shown
    lines += re.findall(r"`((?:\./ci/)?uenv [^`]*)`", FENCE.sub("", text))
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and words[0].rpartition("/")[2] == "uenv" and len(words) > 1:
            yield words[1:]


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(generate().PAGES))
def test_written_pages_are_what_the_code_says(name):
    written = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    assert written == generate().PAGES[name](), "run docs/generate.py and commit what it writes"


def test_every_key_of_a_recipe_has_a_meaning():
    rows = [line.split(" | ") for line in generate().recipe_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


def test_every_section_of_the_schema_is_in_the_page():
    page = generate().recipe_page()
    for name in recipe_schema()["$defs"]:
        assert page.count(f"\n## {name}\n") == 1


@each_page
def test_links_lead_to_pages_and_headings_that_exist(page):
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


def test_every_page_can_be_reached_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
        ahead += [page.parent / target for target in targets if target and not re.match(r"\w+:", target)]
    lost = [page.relative_to(ROOT).as_posix() for page in PAGES if page.resolve() not in seen]
    assert lost == []


@each_page
def test_commands_use_verbs_and_options_that_exist(page):
    for words in commands(page):
        if words[0] in SITE_VERBS or words[0].startswith("-"):
            continue
        verb = tuple(words[:2]) if tuple(words[:2]) in verbs() else (words[0],)
        if words[0] == "VERB":
            continue
        assert verb in verbs(), f"{page.name}: uenv {' '.join(words)}"
        own = words[len(verb) : words.index("--")] if "--" in words else words[len(verb) :]
        for word in own:
            if word.startswith("-"):
                assert word.partition("=")[0] in verbs()[verb], f"{page.name}: uenv {' '.join(words)}"


def test_pages_with_commands_are_read():
    assert len(list(commands(ROOT / "README.md"))) >= 8
    assert len(list(commands(ROOT / "docs/tutorial/first-environment.md"))) >= 8


@each_page
def test_recipes_that_commands_name_exist(page):
    for words in commands(page):
        if words[0] in {"build", "check", "lock", "plan", "render"} and len(words) > 1 and not words[1].startswith("-"):
            name = words[1].removeprefix("recipes/")
            if name.partition("/")[0] in {"pytorch", "python-mpi"}:
                assert find_recipe(name).is_file()


@each_page
def test_examples_of_settings_and_recipes_are_well_formed(page):
    for text in fences(page, "toml"):
        assert set(tomllib.loads(text)) <= set(_KEYS), page.name
    for text in fences(page, "yaml"):
        assert yaml.safe_load(text), page.name


@each_page
def test_pages_hold_no_path_of_the_machine_they_were_written_on(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(root|work|tmp|home)/", text)
    assert str(Path.home()) not in text
