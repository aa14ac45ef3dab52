"""The command as users start it, without network: verbs, exit codes, documents on standard output, remedies."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from uenv_builder import __version__
from uenv_command import ROOT, Uenv, refused

SMALL = str(ROOT / "recipes/python-mpi/1.0")
VERBS = ["build", "check", "explain", "lock", "plan", "render", "test", "exec", "inspect", "doctor", "new"]
CACHE_VERBS = ["info", "verify", "gc"]
CI_VERBS = ["generate", "changed"]


@pytest.fixture
def small(alone) -> Path:
    """A copy of the small recipe with its locks, as `python-mpi` in the current folder."""
    return Path(shutil.copytree(SMALL, alone.folder / "python-mpi"))


@pytest.mark.parametrize(
    "words",
    [[verb] for verb in VERBS] + [["cache", verb] for verb in CACHE_VERBS] + [["ci", verb] for verb in CI_VERBS],
    ids=" ".join,
)
def test_each_verb_explains_itself_with_an_example(alone, words):
    shown = alone.ok(*words, "--help").stdout
    assert "Usage: uenv" in shown
    assert re.search(rf"Examples?: +uenv {' '.join(words)}\b", " ".join(shown.split())), shown


def test_help_lists_the_verbs_and_no_arguments_shows_it(alone):
    shown = alone.ok("--help").stdout
    for verb in [*VERBS, "cache"]:
        assert re.search(rf"^ +{verb} ", shown, re.MULTILINE), verb
    assert "Exit codes" in shown
    without = alone.run()
    assert without.code in {0, 2}
    assert "Usage: uenv" in without.stdout + without.stderr
    assert alone.ok("-h").stdout == shown


def test_version_is_that_of_the_package(alone):
    assert alone.ok("--version").stdout == f"uenv-builder {__version__}\n"


@pytest.mark.parametrize("words", [["check", "--no-such-option"], ["check"], ["plan"], ["build", SMALL, "--jobs", "0"]])
def test_a_wrong_command_line_ends_with_2(alone, words):
    refused(alone.run(*words), 2)


@pytest.mark.parametrize("recipe", ["python-mpi/1.0", "pytorch/2.14"])
def test_the_recipes_of_this_repository_are_accepted(alone, recipe):
    outcome = alone.ok("check", str(ROOT / "recipes" / recipe), "--json")
    assert set(outcome.document) == {"recipe", "targets", "locked", "diagnostics"}
    assert not [entry for entry in outcome.document["diagnostics"] if entry["severity"] == "error"]
    assert outcome.document["targets"]


def test_a_recipe_is_found_by_folder_file_and_name(alone, small):
    for name in ("python-mpi", "python-mpi/recipe.yaml", str(small)):
        assert alone.ok("check", name, "--json").document["recipe"].endswith("python-mpi/recipe.yaml")
    (alone.folder / "elsewhere").mkdir()
    elsewhere = Uenv(alone.folder / "elsewhere", alone.cache)
    assert elsewhere.ok("check", "python-mpi").stdout.split(": ok")[0].endswith("python-mpi/1.0/recipe.yaml")
    assert elsewhere.ok("check", "python-mpi/1.0").code == 0


def test_errors_of_a_recipe_are_one_document_on_stdout_and_lines_on_stderr(alone, small):
    path = small / "recipe.yaml"
    path.write_text(path.read_text().replace("suite:", "siute:"))
    outcome = alone.run("check", "python-mpi", "--json")
    refused(outcome, 3, "python-mpi/recipe.yaml:", "error[unknown-key]", 'hint: did you mean "suite"?')
    finding = next(entry for entry in outcome.document["diagnostics"] if entry["rule"] == "unknown-key")
    line = path.read_text().split("siute:")[0].count("\n") + 1
    assert finding == {
        "severity": "error", "rule": "unknown-key", "message": 'unknown key "base.debian.siute"',
        "hint": 'did you mean "suite"?', "source": None, "file": "python-mpi/recipe.yaml", "line": line, "column": 5,
    }  # fmt: skip
    plain = alone.run("check", "python-mpi")
    assert (plain.code, plain.stdout, plain.stderr) == (3, "", outcome.stderr)


def test_several_files_are_checked_at_once_and_the_worst_decides(alone, small):
    other = Path(shutil.copytree(small, alone.folder / "other"))
    (alone.folder / "job.sbatch").write_text("#!/bin/sh\n#SBATCH --nodes=1\nsrun true\n")
    names = ("python-mpi", "job.sbatch", "other")
    good = alone.ok("check", *names)
    assert [line.partition(": ok")[0] for line in good.stdout.splitlines()] == [
        "python-mpi/recipe.yaml", "job.sbatch", "other/recipe.yaml",
    ]  # fmt: skip
    (other / "recipe.yaml").write_text((other / "recipe.yaml").read_text().replace("suite:", "siute:"))
    outcome = alone.run("check", *names, "--json")
    refused(outcome, 3, "other/recipe.yaml:", "error[unknown-key]")
    assert [set(one) - {"diagnostics", "targets", "locked"} for one in outcome.document["checked"]] == [
        {"recipe"}, {"batch_script"}, {"recipe"},
    ]  # fmt: skip
    suites = ET.fromstring(alone.run("check", *names, "--format", "junit").stdout)
    assert [(suite.get("name"), int(suite.get("failures")) > 0) for suite in suites] == [
        ("python-mpi/recipe.yaml", False), ("job.sbatch", False), ("other/recipe.yaml", True),
    ]  # fmt: skip
    [run] = json.loads(alone.run("check", *names, "--format", "sarif").stdout)["runs"]
    assert "other/recipe.yaml" in json.dumps(run["results"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", ["there is no recipe.yaml", "uenv new"]),
        ("no/such/folder", ["no such folder or file", "known recipes: "]),
        ("pytorhc", ['did you mean "pytorch"?']),
        ("python-mpi/1.1", ['did you mean "python-mpi/1.0"?']),
    ],
)
def test_a_recipe_that_is_not_there_ends_with_2_and_a_remedy(alone, name, words):
    (alone.folder / "empty").mkdir()
    refused(alone.run("check", name), 2, "hint: ", *words)


def test_a_new_recipe_is_accepted_and_never_overwritten(alone):
    shown = alone.ok("new", "mine/1.0").stdout
    assert shown == "mine/1.0/recipe.yaml\n"
    assert ": ok (" in alone.ok("check", "mine/1.0").stdout
    text = (alone.folder / "mine/1.0/recipe.yaml").read_text()
    refused(alone.run("new", "mine/1.0"), 2, "exists already")
    assert (alone.folder / "mine/1.0/recipe.yaml").read_text() == text


def test_a_new_recipe_is_for_the_system_that_was_asked_for(alone):
    alone.ok("new", "big", "--system", "daint")
    assert alone.ok("check", "big", "--json").document["targets"] == ["daint%gh200"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["bad name"], "pytorch/2.14"),
        (["mine", "--system", "diant"], '"daint"'),
        (["mine", "--system", "daint", "--uarch", "x86_64"], "gh200"),
    ],
)
def test_a_new_recipe_that_could_not_be_used_is_not_written(alone, words, hint):
    refused(alone.run("new", *words), 2, hint)
    assert not list(alone.folder.iterdir())


def test_the_schema_is_one_document(alone):
    schema = alone.ok("check", "--schema").document
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"name", "extends", "targets"} <= set(schema["properties"])


@pytest.mark.parametrize(
    "verb", [["plan"], ["render"], ["lock", "--check"], ["build", "--locked"], ["build", "--offline"]], ids=" ".join
)
def test_without_a_lock_the_command_that_writes_it_is_named(alone, small, verb):
    (small / "x86_64.lock.yaml").unlink()
    outcome = alone.run(*verb, "python-mpi", "--json", "--uarch", "x86_64")
    refused(outcome, 5, "error[lock-missing]", "uenv lock python-mpi --uarch x86_64")
    assert outcome.document["diagnostics"][0]["rule"] == "lock-missing"
    assert not (alone.folder / "build").exists()


def test_a_lock_is_stale_when_the_recipe_asks_for_something_else_and_only_then(alone, small):
    path = small / "recipe.yaml"
    text = path.read_text()
    path.write_text(text + "env: {OMP_NUM_THREADS: '4'}\nedf: {mounts: [/scratch]}\n")
    assert len(alone.ok("lock", "python-mpi", "--check", "--json").document["locks"]) == 2
    path.write_text(text.replace("    - numpy\n", "    - numpy\n    - packaging\n"))
    assert path.read_text() != text
    for words in (["lock", "--check"], ["build", "--locked"], ["plan"]):
        refused(alone.run(*words, "python-mpi"), 5, "error[lock-stale]", "uenv lock python-mpi --uarch x86_64")


DAMAGES = {
    "cut short": lambda text: text[: len(text) // 2],
    "merge conflict": lambda text: text.replace("epoch:", "<<<<<<< ours\nepoch:", 1),
    "hash of the wrong form": lambda text: re.sub(r"sha256: [0-9a-f]{64}", "sha256: 123", text, count=1),
    "unknown format": lambda text: text.replace("lock-format: 1", "lock-format: 99"),
    "empty": lambda text: "",
    "not UTF-8": lambda text: text.replace("python-mpi", "python-mpi\udcff", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lock_ends_with_5(alone, small, damage):
    path = small / "x86_64.lock.yaml"
    path.write_bytes(DAMAGES[damage](path.read_text()).encode(errors="surrogateescape"))
    refused(alone.run("plan", "python-mpi"), 5, "x86_64.lock.yaml", "error[lock-invalid]", "hint: ")


@pytest.mark.parametrize("recipe", ["python-mpi/1.0", "pytorch/2.14"])
def test_a_plan_depends_on_the_recipe_and_its_lock_alone(alone, tmp_path, recipe):
    first = alone.ok("plan", str(ROOT / "recipes" / recipe), "--json").stdout
    copied = tmp_path / "elsewhere/copy"
    shutil.copytree(ROOT / "recipes" / recipe, copied)
    other = Uenv(copied.parent, tmp_path / "other-store")
    assert other.ok("plan", "copy", "--json", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7").stdout == first
    document = json.loads(first)
    assert not any(step["stored"] for step in document["steps"])
    assert len({step["id"] for step in document["steps"]}) == len(document["steps"])
    assert not tmp_path.joinpath("other-store").exists()


def test_the_id_of_a_plan_alone_and_as_the_targets_own_machine_has_it(alone):
    """A component that is compiled by a cross compiler is another step than one that is compiled there."""
    recipe = str(ROOT / "recipes/pytorch/2.14-slingshot")
    ids = {words: alone.ok("plan", recipe, *words, "--id").stdout for words in ((), ("--on-target",))}
    assert all(re.fullmatch("[0-9a-f]{64}\n", found) for found in ids.values())
    assert alone.ok("plan", recipe, "--json").document["id"] == ids[()].strip()
    assert (ids[()] == ids["--on-target",]) == (os.uname().machine == "aarch64")


def test_a_label_picks_the_target_and_names_the_image(alone):
    label = "python-mpi/1.0:x@generic-aarch64%aarch64"
    assert alone.ok("plan", "python-mpi", label, "--json").document["label"] == label
    by_option = alone.ok("plan", "python-mpi", "--uarch", "aarch64", "--json").document
    assert by_option["label"] == "python-mpi/1.0:latest@generic-aarch64%aarch64"
    assert "plan " in alone.ok("plan", "python-mpi", label).stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["python-mpi/1.0:x@@y"], "pytorch/2.14:v1@daint%gh200"),
        (["a b"], "pytorch/2.14:v1@daint%gh200"),
        (["python-mpi/1.0@daint%gh200"], "generic-x86_64%x86_64"),
        (["python-mpi/1.0%gh2000"], "generic-x86_64%x86_64"),
        (["--uarch", "gh200"], "generic-x86_64%x86_64"),
        (["--system", "daint"], "generic-x86_64%x86_64"),
    ],
)
def test_a_label_without_a_target_ends_with_2_and_names_those_there_are(alone, words, hint):
    refused(alone.run("plan", "python-mpi", *words), 2, hint)


@pytest.mark.parametrize("recipe", ["python-mpi", "pytorch"])
def test_what_users_select_is_written_and_is_valid(alone, recipe):
    alone.ok("render", recipe, "--output", "user files")
    folder = alone.folder / "user files"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {f"edf/{recipe}.toml", f"edf/{recipe}.sarus.toml", "sbatch.sh"}
    for name in names - {"sbatch.sh"}:
        assert tomllib.loads((folder / name).read_text())["image"]
    subprocess.run(["bash", "-n", folder / "sbatch.sh"], check=True)
    assert os.access(folder / "sbatch.sh", os.X_OK)
    printed = alone.ok("render", recipe, "--json").document["files"]
    assert printed == {name: (folder / name).read_text() for name in names}
    assert all(text in alone.ok("render", recipe).stdout for text in printed.values())


@pytest.mark.parametrize(
    "image", ["/capstor/x y.squashfs", '/a"b.squashfs', "/a\nb.squashfs", "/$(id).squashfs", "relative.squashfs"]
)
def test_an_images_place_is_written_so_that_it_stays_one_text_or_refused(alone, image):
    outcome = alone.run("render", "python-mpi", "--image", image, "--json")
    if outcome.code:
        refused(outcome, 2, "error[edf-image]", "hint: ")
    else:
        text = outcome.document["files"]["edf/python-mpi.toml"]
        assert tomllib.loads(text)["image"] == image
        assert "$(" not in image


def test_offline_with_an_empty_store_names_all_missing_files_at_once(alone, small):
    outcome = alone.run("build", "python-mpi", "--uarch", "x86_64", "--locked", "--offline", "--json")
    refused(outcome, 9, "--offline")
    text = (small / "x86_64.lock.yaml").read_text()
    files = re.findall(r"^ *file: (\S+)$", text, re.MULTILINE)
    assert len(files) >= 3
    for name in [*files, "base-files ", "bash ", "python3 "]:
        assert name in outcome.stderr, name
    assert {finding["rule"] for finding in outcome.document["diagnostics"]} == {"offline"}
    assert not (alone.folder / "build/python-mpi-1.0-x86_64").exists()


def test_an_output_folder_that_is_no_build_is_refused_before_anything_is_done(alone, small):
    (alone.folder / "home").mkdir()
    (alone.folder / "home/thesis.tex").write_text("x")
    outcome = alone.run("build", "python-mpi", "--locked", "--offline", "--output", "home")
    refused(outcome, 2, "is not a build")


def test_an_empty_store_is_sound_and_has_nothing_to_remove(alone):
    info = alone.ok("cache", "info", "--json").document
    assert info.pop("root") == str(alone.cache)
    assert set(info.values()) == {0}
    assert alone.ok("cache", "verify", "--json").document == {"damaged": []}
    collected = alone.ok("cache", "gc", "--json").document
    assert [collected[key] for key in ("removed", "freed_bytes", "busy", "entries")] == [0, 0, False, []]
    assert "sound" in alone.ok("cache", "verify").stdout
    assert "removed 0" in alone.ok("cache", "gc", "--max-size", "1.5G", "--older-than", "3").stdout
    refused(alone.run("cache", "gc", "--max-size", "much"), 2, "50G")


@pytest.mark.parametrize("words", [["--older-than", "-1"], ["--max-size", "-1G"]])
def test_a_limit_below_nothing_is_refused(alone, words):
    refused(alone.run("cache", "gc", *words), 2)


def test_doctor_says_what_is_missing_and_how_to_get_it(alone):
    outcome = alone.run("doctor", "--json")
    findings = outcome.document["findings"]
    assert outcome.code == (0 if all(finding["ok"] for finding in findings) else 6)
    assert {"apt-get", "gpgv", "store"} <= {finding["subject"] for finding in findings}
    assert all(finding["remedy"] for finding in findings if not finding["ok"])
    bare = alone.run("doctor", "--json", PATH=str(alone.folder))
    missing = {finding["subject"]: finding for finding in bare.document["findings"] if not finding["ok"]}
    assert bare.code == 6
    assert "install" in missing["apt-get"]["remedy"] + missing["gpgv"]["remedy"]


def test_no_escape_codes_where_nobody_looks(alone, small):
    for words in (["check", "nothing"], ["build", "python-mpi", "--locked", "--offline"], ["plan", "python-mpi"], []):
        outcome = alone.run(*words, NO_COLOR="", TERM="xterm-256color")
        assert "\x1b" not in outcome.stdout + outcome.stderr, words


@pytest.mark.parametrize("words", [["check", "nothing"], ["plan", "python-mpi"], ["--help"]], ids=" ".join)
def test_no_colours_on_a_terminal_where_the_user_wants_none(alone, words):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        alone.command(*words), cwd=alone.folder, env=alone.environment(TERM="xterm-256color"), stdin=theirs,
        stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # Linux says so at the end of what a terminal had to show
            pass
    os.close(ours)
    assert process.returncode in {0, 2}
    assert shown
    assert not re.search(rb"\x1b\[(3|4|9|10)[0-9;]*m", shown)


@pytest.mark.parametrize("verb", ["inspect", "exec", "test"])
@pytest.mark.parametrize("path", ["nothing", "file", "folder", "damaged"])
def test_what_is_no_build_ends_with_2(alone, verb, path):
    (alone.folder / "file").write_text("x")
    (alone.folder / "folder").mkdir()
    (alone.folder / "damaged").mkdir()
    (alone.folder / "damaged/manifest.json").write_text('{"format": 1, "un')
    refused(alone.run(verb, path), 2, path, "hint: ")


@pytest.mark.parametrize("verb", ["inspect", "exec", "test"])
def test_a_manifest_of_another_form_ends_with_2(alone, verb):
    (alone.folder / "other").mkdir()
    for text, word in (("[]", "manifest.json"), ('{"format": 99}', "manifest.json"), ('{"format": 1}', "not a whole")):
        (alone.folder / "other/manifest.json").write_text(text)
        refused(alone.run(verb, "other"), 2, word, "hint: ")
