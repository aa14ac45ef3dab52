"""What users and sites bring along: a `uenv` command of the site's own further down PATH, and settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from uenv_command import Outcome, Uenv, refused

SYSTEM_PATH = "/usr/bin:/bin"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


SITE = "#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 37\n"
OURS = f"#!{sys.executable}\nimport sys\nfrom uenv_builder.cli import main\nsys.exit(main())\n"


def test_an_unknown_verb_without_a_site_command_names_ours(alone):
    outcome = alone.run("image", "ls", PATH=SYSTEM_PATH)
    refused(outcome, 2, "error[unknown-verb]", "image", "build", "check")
    assert outcome.stdout == ""


def test_a_mistyped_verb_is_guessed(alone):
    refused(alone.run("biuld", PATH=SYSTEM_PATH), 2, 'did you mean "build"?')


def test_the_sites_verbs_get_their_exact_arguments_and_the_exit_code_comes_back(alone):
    script(alone.folder / "site/uenv", SITE)
    words = ["image", "ls", "--json", "a b", "", "$HOME", "--", "-x"]
    outcome = alone.run(*words, PATH=f"{alone.folder}/site:{SYSTEM_PATH}")
    assert (outcome.code, outcome.stdout) == (37, "".join(f"<{word}>" for word in words))


def test_options_before_the_sites_verb_are_passed_on_too(alone):
    script(alone.folder / "site/uenv", SITE)
    outcome = alone.run("--no-color", "status", PATH=f"{alone.folder}/site:{SYSTEM_PATH}")
    assert (outcome.code, outcome.stdout) == (37, "<--no-color><status>")


def started(uenv: Uenv, program: Path, *words: str, path: str) -> Outcome:
    """As `uenv.run`, by a script of the user's PATH."""
    done = subprocess.run(
        [program, *words], env=uenv.environment(PATH=path), capture_output=True, text=True, check=False, timeout=60
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_other_copies_of_this_command_on_the_path_are_passed_by(alone):
    first, second = (script(alone.folder / name / "uenv", OURS) for name in ("first", "second"))
    site = script(alone.folder / "site/uenv", SITE)
    path = ":".join([*(str(file.parent) for file in (first, second, site)), SYSTEM_PATH])
    for program in (first, second):
        outcome = started(alone, program, "run", "x", path=path)
        assert (outcome.code, outcome.stdout) == (37, "<run><x>")
    without = f"{first.parent}:{second.parent}:{SYSTEM_PATH}"
    refused(started(alone, first, "run", "x", path=without), 2, "unknown-verb")


def test_a_wrapper_of_this_command_is_not_called_forever(alone):
    ours = script(alone.folder / "hidden/program", OURS)
    wrapper = script(alone.folder / "wrapper/uenv", f'#!/bin/sh\nexec {ours} "$@"\n')
    refused(started(alone, wrapper, "run", "x", path=f"{wrapper.parent}:{SYSTEM_PATH}"), 2, "unknown-verb")


def test_a_site_command_that_cannot_be_started_is_named(alone):
    site = script(alone.folder / "site/uenv", "#!/no/such/interpreter\n")
    refused(alone.run("run", "x", PATH=f"{site.parent}:{SYSTEM_PATH}"), 2, str(site))


def settings(uenv: Uenv, text: str) -> dict[str, str]:
    folder = uenv.folder / "config/uenv-builder"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(folder.parent)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('debian-miror = ["x"]', ['unknown key "debian-miror"', 'did you mean "debian-mirrors"?']),
        ('debian-mirrors = "x"', ['"debian-mirrors" must be an array of strings']),
        ("cache = 5", ['"cache" must be a string']),
        ("cache = ", ["not valid TOML"]),
        ("\n[section]\nx = 1", ['unknown key "section"', "known keys: "]),
    ],
)
def test_wrong_settings_end_with_2_and_name_their_file(alone, text, words):
    outcome = alone.run("cache", "info", **settings(alone, text))
    refused(outcome, 2, str(alone.folder / "config/uenv-builder/config.toml"), "error[settings]", *words)


def test_the_store_is_where_the_environment_says_then_where_the_settings_say(alone):
    place = settings(alone, f'cache = "{alone.folder}/from-settings"')
    assert alone.ok("cache", "info", "--json", **place).document["root"] == str(alone.cache)
    document = alone.ok("cache", "info", "--json", UENV_CACHE="", **place).document
    assert document["root"] == f"{alone.folder}/from-settings"
