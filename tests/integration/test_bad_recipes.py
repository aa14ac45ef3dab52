"""Recipes as people and attackers get them wrong, given to `uenv check`: exit code 3, place, reason and remedy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from uenv_builder import cli
from uenv_builder.core.recipe_reader import FORMS, recipe_schema
from uenv_command import Outcome

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
HERE = GOOD.count("\n") + 1
"""The line that text after GOOD begins in."""


@dataclass(frozen=True)
class Uenv:
    """The command inside this process: test_command_line.py starts it as users do, at a second each."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        shown = self.capture.readouterr()
        return Outcome(ended.value.code, shown.out, shown.err)


@pytest.fixture
def uenv(tmp_path, capsys, monkeypatch) -> Uenv:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Uenv(tmp_path, capsys)


def check(uenv: Uenv, content: str | bytes) -> Outcome:
    """What `uenv check --json` says about a recipe in a folder of its own."""
    folder = uenv.folder / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return uenv.run("check", "mine", "--json")


def errors(uenv: Uenv, content: str | bytes):
    """All errors, after checks of what holds for each: exit code, form of the document, place, remedy on stderr."""
    outcome = check(uenv, content)
    assert outcome.code == 3, outcome.stderr
    assert "Traceback" not in outcome.stderr
    found = [finding for finding in outcome.document["diagnostics"] if finding["severity"] == "error"]
    assert found
    for finding in found:
        assert set(finding) == {"severity", "rule", "message", "hint", "source", "file", "line", "column"}
        assert finding["file"].endswith("recipe.yaml"), finding
        assert finding["line"] >= 1, finding
        assert finding["column"] >= 1, finding
        assert f"{finding['file']}:{finding['line']}:{finding['column']}: error[{finding['rule']}]: " in outcome.stderr
    return found


def only(uenv: Uenv, content: str | bytes):
    """The one error, which must have a hint."""
    (finding,) = errors(uenv, content)
    assert finding["hint"], finding
    return finding


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"

TEXTS = {
    "empty": (b"", "empty", (1, 1), "uenv new"),
    "only a comment": (b"# nothing\n", "empty", (1, 1), "uenv new"),
    "a list": (b"- a\n- b\n", "not-a-mapping", (1, 1), "uenv new"),
    "not YAML": (b"name: [unclosed\nversion: x\n", "yaml-syntax", (2, 8), ""),
    "ten megabytes": (b"name: " + b"x" * 10_000_000, "too-large", (1, 1), "files:"),
    "an alias bomb": (BOMB.encode(), "alias", (2, 8), "variables"),
    "tabs": (b"base:\n\tdebian: x\n", "yaml-syntax", (2, 1), "tabs"),
    "a key twice": (GOOD.encode() + b"name: other\n", "duplicate-key", (HERE, 1), "keep one"),
    "not UTF-8": (GOOD.encode() + b"env: {A: \xff}\n", "not-utf8", (HERE, 1), "UTF-8"),
    "two documents": (GOOD.encode() + b"---\n" + GOOD.encode(), "yaml-syntax", (HERE, 1), ""),
    "nested deeply": (b"env: " + b"[" * 5000, "too-deep", (1, 37), ""),
    "an object of Python": (b"name: !!python/object/apply:os.system [x]\n", "yaml-tag", (1, 7), "!replace"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_recipe_is_refused_at_its_place(uenv, name):
    content, rule, place, hint = TEXTS[name]
    finding = only(uenv, content)
    assert finding["rule"] == rule
    assert (finding["line"], finding["column"]) == place
    assert hint in finding["hint"]


VALUES = {
    "version as a number": (('"3.13"', "3.10"), "wrong-type", (11, 11), '"3.10"'),
    "unknown key": (("suite:", "siute:"), "unknown-key", (8, 5), 'did you mean "suite"?'),
    "unknown system": (("generic-x86_64", "generic-x86-64"), "unknown-system", (5, 5), '"generic-x86_64"?'),
    "unknown uarch": (("uarch: x86_64", "uarch: gh2000"), "unknown-uarch", (5, 5), 'did you mean "gh200"?'),
    "uarch of another system": (("uarch: x86_64", "uarch: gh200"), "system-uarch", (5, 5), "it has: x86_64"),
    "name that leaves its folder": (("name: demo", "name: ../../etc"), "wrong-value", (1, 7), "demo"),
    "no targets": (("  - {system: generic-x86_64, uarch: x86_64}", "  []"), "wrong-value", (5, 3), ""),
    "packages as text": (("[python3]", "python3"), "wrong-type", (9, 15), "in brackets"),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_a_wrong_value_is_refused_at_its_place(uenv, name):
    (old, new), rule, place, hint = VALUES[name]
    assert old in GOOD
    found = errors(uenv, GOOD.replace(old, new))
    finding = next(entry for entry in found if entry["rule"] == rule)
    assert (finding["line"], finding["column"]) == place
    assert hint in (finding["hint"] or ""), finding


ADDED = {
    "network mode of another system": ("network: image\n", "network-mode", (HERE, 10), "its modes: none"),
    "unknown network mode": ("network: imgae\n", "wrong-value", (HERE, 10), 'did you mean "image"?'),
    "unknown check": ("checks:\n  import: {}\n", "unknown-check", (HERE + 1, 3), 'did you mean "imports"?'),
    "unknown parameter of a check": (
        "checks:\n  imports:\n    moduls: [a]\n", "unknown-key", (HERE + 2, 5), 'did you mean "modules"?'),
    "unknown variable": (
        'variables: {tool: "1"}\nenv: {A: "${{ tolo }}"}\n', "unknown-variable", (HERE + 1, 10), '"tool"?'),
    "no requirement": ('python:\n  requirements: ["numpy >> 2"]\n', "requirement", (HERE + 1, 18), "numpy=="),
    "option as requirement": (
        'python:\n  requirements: ["--index-url=x"]\n', "requirement", (HERE + 1, 18), "PEP 508"),
    "mount without a source": ('edf:\n  mounts: [":/data"]\n', "edf-mount", (HERE + 1, 12), "/capstor"),
    "mount with too many parts": ('edf:\n  mounts: ["/a:/b:ro:x"]\n', "edf-mount", (HERE + 1, 12), "/capstor"),
    "mount with an unknown flag": ('edf:\n  mounts: ["/a:/b:rwo"]\n', "edf-mount", (HERE + 1, 12), ""),
    "mount of a relative folder": ('edf:\n  mounts: ["a:/b"]\n', "edf-mount", (HERE + 1, 12), "begin it with /"),
    "mount over the image": ('edf:\n  mounts: ["/a:/usr"]\n', "edf-mount", (HERE + 1, 12), "another place"),
    "section of the wrong kind": ("env: [a]\n", "wrong-type", (HERE, 6), "key: value"),
    "number in quotes": ('outputs: {squashfs: {level: "3"}}\n', "wrong-type", (HERE, 29), "without quotes"),
    "number out of range": ("outputs: {squashfs: {level: 23}}\n", "wrong-type", (HERE, 29), "--schema"),
    "name of a view": ("views:\n  a b: {}\n", "wrong-value", (HERE + 1, 3), "letters"),
    "relative folder": ("workdir: here\n", "wrong-value", (HERE, 10), "/opt/tool"),
    "mount that runs a command": ('edf:\n  mounts: ["/a$(id):/b"]\n', "edf-expansion", (HERE + 1, 12), "${NAME}"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_a_wrong_section_is_refused_at_its_place(uenv, name):
    text, rule, place, hint = ADDED[name]
    found = errors(uenv, GOOD + text)
    finding = next(entry for entry in found if entry["rule"] == rule)
    assert (finding["line"], finding["column"]) == place
    assert finding["hint"]
    assert hint in finding["hint"]


def test_every_pattern_of_a_recipe_has_words():
    def patterns(schema):
        if isinstance(schema, dict):
            yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
            yield from (found for value in schema.values() for found in patterns(value))
        elif isinstance(schema, list):
            yield from (found for value in schema for found in patterns(value))

    assert set(patterns(recipe_schema())) == set(FORMS)


VARIABLES = {
    "line end": (r'GOOD: "a\nLD_PRELOAD=/tmp/x.so"', "env-control"),
    "carriage return": (r'GOOD: "a\rb"', "env-control"),
    "NUL": (r'GOOD: "a\0b"', "env-control"),
    "escape": (r'GOOD: "\e[31m"', "env-control"),
    "command": ("GOOD: $(id)", "env-expansion"),
    "backquotes": ('GOOD: "`id`"', "env-expansion"),
    "variable of the host": ("GOOD: ${HOME}/x", "env-expansion"),
    "quotes": ("GOOD: '\"quoted\"'", "env-quotes"),
    "blanks": ('GOOD: " padded "', "env-blank"),
    "name with a blank": ('"A B": x', "env-name"),
    "name with a line end": (r'"A\nB": x', "env-name"),
    "name with an equals sign": ('"A=B": x', "env-name"),
    "name with a command": ("$(id): x", "env-name"),
    "name of enroot": ("ENROOT_ROOTFS_WRITABLE: yes please", "env-reserved"),
    "PATH without a shell": ("PATH: /opt/tool/bin", "env-path"),
    "PATH with the current folder": ('PATH: "/usr/bin::/bin"', "env-path"),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_an_environment_variable_that_engines_would_read_differently_is_refused(uenv, name):
    line, rule = VARIABLES[name]
    finding = only(uenv, f"{GOOD}env:\n  FIRST: fine\n  {line}\n")
    assert finding["rule"] == rule
    assert (finding["line"], finding["column"]) == (HERE + 2, 3)


@pytest.mark.parametrize("name", ["line end", "NUL", "escape", "name with a line end"])
def test_what_is_refused_reaches_the_terminal_in_a_safe_form(uenv, name):
    outcome = check(uenv, f"{GOOD}env:\n  {VARIABLES[name][0]}\n")
    assert not set(outcome.stderr) & {"\0", "\x1b", "\r"}
    assert "\nB" not in outcome.stderr


def test_a_system_without_such_nodes_and_a_mode_that_it_lacks_are_both_named(uenv):
    text = GOOD.replace("{system: generic-x86_64, uarch: x86_64}", "{system: daint, uarch: x86_64}")
    finding = only(uenv, text)
    assert finding["rule"] == "system-uarch"
    assert "daint" in finding["message"]


def test_all_errors_are_reported_together(uenv):
    text = GOOD.replace('"3.13"', "3.13").replace("suite:", "siute:") + "network: nnoe\nextra: 1\n"
    rules = [finding["rule"] for finding in errors(uenv, text)]
    assert sorted(rules) == ["missing-key", "unknown-key", "unknown-key", "wrong-type", "wrong-value"]


def test_all_errors_beyond_the_form_are_reported_together(uenv):
    text = GOOD.replace("generic-x86_64", "generic-x86") + (
        'env: {A: $(id), B: " x"}\nchecks:\n  import: {}\nedf:\n  mounts: ["a"]\nfiles:\n'
        "  - {source: ../x, path: /x}\n  - {source: missing, path: /y}\n"
    )
    rules = {finding["rule"] for finding in errors(uenv, text)}
    assert rules == {
        "unknown-system", "env-expansion", "env-blank", "unknown-check", "edf-mount", "file-source"
    }  # fmt: skip


@pytest.fixture
def added(uenv):
    """A recipe folder with some files to add, and a secret outside of it."""
    folder = uenv.folder / "mine"
    (folder / "tree").mkdir(parents=True)
    (folder / "motd").write_text("hello\n")
    (folder / "tree/deep").write_text("x")
    (uenv.folder / "secret").write_text("secret")
    (folder / "link").symlink_to("../secret")
    (folder / "loop").symlink_to("loop")
    (folder / "linked").mkdir()
    (folder / "linked/inner").symlink_to("../../secret")
    (folder / "looped").mkdir()
    (folder / "looped/inner").symlink_to("inner")
    (folder / "indirect").mkdir()
    (folder / "indirect/inner").symlink_to("../tree")
    os.mkfifo(folder / "pipe")
    return uenv


@pytest.mark.parametrize(
    ("source", "path", "rule"),
    [
        ("../secret", "/x", "file-source"),
        ("tree/../../secret", "/x", "file-source"),
        ("/etc/passwd", "/x", "file-source"),
        ("link", "/x", "file-source"),
        ("linked", "/x/", "file-source"),
        ("linked/inner", "/x", "file-source"),
        ("loop", "/x", "file-source"),
        ("looped", "/x/", "file-source"),
        ("indirect", "/x/", "file-source"),
        ("pipe", "/x", "file-source"),
        ("missing", "/x", "file-source"),
        ("motd/below", "/x", "file-source"),
        ("motd", "/../etc/x", "file-path"),
        ("motd", "/etc/", "file-path"),
        ("tree", "/opt/tree", "file-path"),
    ],
)
def test_an_added_file_stays_in_the_recipe_and_goes_to_a_plain_place(added, source, path, rule):
    first = "files:\n  - source: motd\n    path: /etc/motd\n"
    finding = only(added, f"{GOOD}{first}  - source: {source}\n    path: {path}\n")
    assert finding["rule"] == rule
    assert (finding["line"], finding["column"]) == (HERE + 3, 5)


def test_added_files_are_accepted_where_they_lie_in_the_recipe(added):
    files = "files:\n  - {source: motd, path: /etc/motd}\n  - {source: tree, path: /opt/tree/}\n"
    assert check(added, GOOD + files).code == 0


def recipe(uenv: Uenv, name: str, text: str) -> None:
    (uenv.folder / name).mkdir()
    (uenv.folder / name / "recipe.yaml").write_text(text)


@pytest.mark.parametrize(("base", "rule"), [("../none", "extends"), ("", "wrong-type"), ("[a, b]", "wrong-type")])
def test_extends_names_another_recipe(uenv, base, rule):
    finding = only(uenv, f"extends: {base}\nname: mine\n")
    assert finding["rule"] == rule
    assert finding["line"] == 1


@pytest.mark.parametrize("base", [".", "../other"])
def test_a_circle_of_extends_is_named_with_its_members(uenv, base):
    recipe(uenv, "other", "extends: ../mine\n")
    finding = only(uenv, f"name: x\nextends: {base}\n")
    assert finding["rule"] == "extends-cycle"
    assert "mine/recipe.yaml -> " in finding["message"]


@pytest.mark.parametrize(("levels", "code"), [(10, 0), (11, 3)])
def test_extends_goes_ten_recipes_deep(uenv, levels, code):
    for number in range(levels - 1):
        below = f"extends: ../level{number + 1}\n" if number < levels - 2 else GOOD
        recipe(uenv, f"level{number}", below)
    outcome = check(uenv, "extends: ../level0\n")
    assert outcome.code == code, outcome.stderr
    if code:
        (finding,) = outcome.document["diagnostics"]
        assert finding["rule"] == "extends"
        assert finding["line"] == 1
        assert finding["hint"]


def test_an_error_in_an_extended_recipe_points_at_its_file(uenv):
    recipe(uenv, "base", GOOD.replace("suite:", "siute:"))
    found = errors(uenv, "extends: ../base\n")
    places = {finding["rule"]: finding["file"] for finding in found}
    assert places["unknown-key"] == "mine/../base/recipe.yaml"
