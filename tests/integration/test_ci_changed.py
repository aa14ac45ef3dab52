"""What a pipeline has to do, told from a real git repository; and pipelines that are kept in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from real_registry import docker_registry
from small_recipes import OfflineUenv, make_small_recipes
from uenv_builder.app.lock_files import read_lock
from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.lock_file import dump_lock, recipe_digest
from uenv_builder.core.systems import load_uarchs
from uenv_command import ROOT, Uenv, refused

ALPHA, BETA = (f"{name}-1.0-generic-x86_64-x86_64" for name in ("alpha", "beta"))


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    return make_small_recipes(tmp_path_factory.mktemp("small"), size=4000)


@pytest.fixture
def site(recipes, tmp_path):
    """A repository with two recipes and one commit, and the command in it."""
    shutil.copytree(recipes.alpha.parent, tmp_path / "site/recipes")
    uenv = OfflineUenv(tmp_path / "site", tmp_path / "store", recipes.config)
    git(uenv, "init", "--quiet", "--initial-branch=main")
    commit(uenv)
    return uenv


def git(uenv, *words):
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words]
    return subprocess.run(command, cwd=uenv.folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(uenv):
    git(uenv, "add", "--all")
    git(uenv, "commit", "--quiet", "--message=x", "--allow-empty")


def change(uenv, name, old, new, *, lock=True):
    """Edit a recipe, and let its lock say that it fits, as locking it again would."""
    path = uenv.folder / "recipes" / name / "recipe.yaml"
    path.write_text(path.read_text().replace(old, new))
    if lock:
        loaded, uarch = load_recipe(path), load_uarchs()["x86_64"]
        found = read_lock(loaded, uarch)
        named = found.recipe.model_copy(update={"digest": recipe_digest(loaded.recipe, uarch)})
        loaded.lock_path("x86_64").write_text(dump_lock(found.model_copy(update={"recipe": named})))


def changed(uenv, *words):
    document = uenv.ok("ci", "changed", "--json", *words).document
    return {entry["id"]: entry["reason"] for entry in document["targets"]}


def test_without_a_commit_to_compare_with_all_is_new(site):
    assert changed(site) == {ALPHA: "new", BETA: "new"}
    for nothing in ("", "0" * 40, "0" * 64):
        assert changed(site, "--base", nothing) == {ALPHA: "new", BETA: "new"}
    assert json.loads(site.ok("ci", "changed", "--ids").stdout) == [ALPHA, BETA]
    assert site.ok("ci", "changed").stdout.splitlines()[0] == f"{ALPHA}: is new, or had no lock that fits"


def test_a_recipe_whose_plan_changed_and_none_whose_text_alone_did(site):
    before = git(site, "status", "--porcelain", "--ignored")
    assert changed(site, "--base", "HEAD") == {}
    change(site, "alpha", "description: Shares", "# words for people\ndescription: Shares")
    assert changed(site, "--base", "HEAD") == {}
    change(site, "alpha", "DEMO: alpha", "DEMO: other")
    assert changed(site, "--base", "HEAD") == {ALPHA: "plan"}
    git(site, "checkout", "--quiet", "--", ".")
    # The repository, its index and its work tree are as they were.
    assert git(site, "status", "--porcelain", "--ignored") == before
    assert git(site, "worktree", "list").count("\n") == 0


def test_checks_that_changed_are_run_though_the_image_is_the_same(site):
    change(site, "beta", "checks: {}", "checks: {imports: {modules: [json]}}")
    assert changed(site, "--base", "HEAD") == {BETA: "checks"}


def test_a_branch_is_compared_with_where_it_left_the_other(site):
    git(site, "switch", "--quiet", "--create", "mine")
    change(site, "alpha", "DEMO: alpha", "DEMO: mine")
    commit(site)
    git(site, "switch", "--quiet", "main")
    change(site, "beta", "DEMO: beta", "DEMO: theirs")
    commit(site)
    git(site, "switch", "--quiet", "mine")
    assert changed(site, "--base", "main") == {ALPHA: "plan"}


def test_a_recipe_that_is_new_or_was_moved_or_broken(site):
    folder = site.folder / "recipes"
    (folder / "alpha").rename(folder / "moved")
    assert changed(site, "--base", "HEAD") == {}
    shutil.copytree(folder / "moved", folder / "gamma")
    change(site, "gamma", "name: alpha", "name: gamma")
    assert list(changed(site, "--base", "HEAD")) == ["gamma-1.0-generic-x86_64-x86_64"]
    commit(site)
    (folder / "beta/recipe.yaml").write_text("name: [")
    commit(site)
    git(site, "checkout", "--quiet", "HEAD~2", "--", "recipes/beta")
    assert changed(site, "--base", "HEAD") == {BETA: "new"}


def test_what_cannot_be_told_is_refused(site, tmp_path):
    refused(
        site.run("ci", "changed", "--base", "nowhere"), 2, "error[base-unknown]", "git does not know", "fetch-depth"
    )
    refused(site.run("ci", "changed", "--base", "--all"), 2, "error[base-unknown]")
    git(site, "switch", "--quiet", "--orphan", "island")
    commit(site)
    git(site, "checkout", "--quiet", "main", "--", "recipes")
    refused(site.run("ci", "changed", "--base", "main"), 2, "error[base-unknown]", "no commit in common")
    refused(site.run("ci", "changed", "--recipes", "none"), 2, "there is no recipe.yaml")
    refused(site.run("ci", "changed", "--registry", "registry.example.org/x"), 2, "is no destination")
    change(site, "alpha", "requirements: [", "requirements: [more, ", lock=False)
    refused(site.run("ci", "changed"), 5, "lock.yaml: is stale")
    elsewhere = Uenv(tmp_path, tmp_path / "store")
    shutil.copytree(site.folder / "recipes/beta", tmp_path / "recipes/beta")
    refused(elsewhere.run("ci", "changed", "--base", "HEAD"), 2, "recipes: is in no git repository: fatal: not a git")


def test_a_recipe_that_cannot_be_built_or_published_is_left_out_and_told(site):
    change(site, "alpha", "checks: {}", "outputs: {oci: false}")
    found = site.ok("ci", "changed", "--json").document
    assert [entry["id"] for entry in found["targets"]] == [BETA]
    assert found["left_out"] == ["recipes/alpha generic-x86_64%x86_64: makes no OCI image, and is left out"]
    change(site, "alpha", "outputs: {oci: false}", "checks: {}")
    (site.folder / "recipes/beta/x86_64.lock.yaml").unlink()
    outcome = site.ok("ci", "changed", "--json")
    assert [entry["id"] for entry in outcome.document["targets"]] == [ALPHA]
    assert "recipes/beta generic-x86_64%x86_64: has no lock, and is left out" in outcome.stderr


@pytest.mark.skipif(not (shutil.which("docker-registry") and shutil.which("skopeo")), reason="not installed")
def test_what_the_registry_has_is_not_built_again(site, tmp_path):
    site.ok("build", "recipes/alpha", "--locked", "--offline", "--no-test")
    plan = site.ok("plan", "recipes/alpha", "--on-target", "--id").stdout.strip()
    with docker_registry(tmp_path / "registry") as address:
        words = ("--registry", f"registry:{address}/site/")
        assert changed(site, *words) == {ALPHA: "missing", BETA: "missing"}
        place = f"docker://{address}/site/generic-x86_64/x86_64/alpha/1.0:{plan}"
        copy = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            "oci:build/alpha-1.0-x86_64/oci",
            place,
        ]
        subprocess.run(copy, cwd=site.folder, check=True, capture_output=True)
        assert changed(site, *words) == {BETA: "missing"}
        # A branch that only changes a published recipe has nothing to build; one of its own has.
        assert changed(site, *words, "--base", "HEAD") == {}
        change(site, "alpha", "DEMO: alpha", "DEMO: other")
        assert changed(site, *words, "--base", "HEAD") == {ALPHA: "plan"}
        change(site, "alpha", "DEMO: other", "DEMO: alpha")
        change(site, "alpha", "checks: {}", "checks: {imports: {modules: [json]}}")
        assert changed(site, *words, "--base", "HEAD") == {ALPHA: "checks"}


@pytest.mark.parametrize("forge", ["gitlab", "github"])
def test_a_pipeline_in_git_that_is_not_what_would_be_written_fails(site, forge):
    file = site.folder / "ci/pipeline.yml"
    words = ("ci", "generate", "--for", forge, "--output", "ci/pipeline.yml")
    refused(site.run(*words, "--check"), 5, "error[pipeline-stale]", "there is no such file")
    assert site.ok(*words).stdout == "ci/pipeline.yml: written\n"
    text = file.read_text()
    assert site.ok(*words).stdout == "ci/pipeline.yml: is up to date\n"
    site.ok(*words, "--check")
    # The command that writes it again stands in its first line.
    assert text.startswith(f"# Written by: uenv ci generate --for {forge} --recipes recipes --output ci/pipeline.yml\n")
    assert site.ok("ci", "generate", "--for", forge).stdout.splitlines()[1:] == [
        line for line in text.splitlines()[1:] if '"ci/pipeline.yml"' not in line
    ]
    file.write_text(text.replace("--locked", "").replace("--check", ""))
    refused(site.run(*words, "--check"), 5, "ci/pipeline.yml: is not what would be written", "    +", "    -")
    (site.folder / "recipes/beta").rename(site.folder / "recipes/delta")
    file.write_text(text)
    refused(site.run(*words, "--check"), 5, "recipes/delta")
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--check",), "--check compares with a file"),
        (("--output", "/x.yml"), "means nothing to a pipeline"),
        (("--recipes", "../site/recipes"), "means nothing to a pipeline"),
        (("--setup", "a\nb"), "is no line of a pipeline"),
        (("--command", " "), "is no line of a pipeline"),
        (("--only", "nothing.json"), "is not what `uenv ci changed --json` writes"),
    ],
)
def test_pipelines_that_cannot_be_written(site, words, said):
    refused(site.run("ci", "generate", "--for", "gitlab", *words), 2, said)


def test_recipes_that_would_be_one_job(site):
    shutil.copytree(site.folder / "recipes/beta", site.folder / "recipes/copy")
    refused(site.run("ci", "changed"), 2, "recipes/beta and recipes/copy are both beta/1.0 for generic-x86_64")
    shutil.rmtree(site.folder / "recipes/copy")
    (site.folder / "recipes/beta").rename(site.folder / "recipes/a b")
    refused(site.run("ci", "generate", "--for", "github"), 2, "recipes/a b: cannot be written into a pipeline")


def test_targets_of_another_state_are_refused(site):
    (site.folder / "changed.json").write_text(json.dumps({"targets": [{"id": "gone-1"}]}))
    outcome = site.run("ci", "generate", "--for", "gitlab", "--only", "changed.json")
    refused(outcome, 2, "names gone-1, which is no target here")
    (site.folder / "changed.json").write_text('{"targets": [{"id": "' + ALPHA + '"}]}')
    refused(site.run("ci", "generate", "--for", "github", "--only", "changed.json"), 2, "--only is for --for gitlab")


@pytest.mark.parametrize("name", ["gitlab", "github"])
def test_the_pipelines_of_this_repository_are_up_to_date(name, tmp_path):
    first = (ROOT / f"ci/{name}.yml").read_text().splitlines()[0]
    words = first.removeprefix("# Written by: uenv ").replace("'", "").split()
    Uenv(ROOT, tmp_path).ok(*words, "--check")
    assert Path(words[-1]) == Path(f"ci/{name}.yml")
