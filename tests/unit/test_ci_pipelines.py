"""Pipelines as text: valid for both forges, the same each time, each part on the right runner."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from ci_jobs import expand, gitlab_jobs
from uenv_builder.core.ci.changes import Seen, find_reason
from uenv_builder.core.ci.pipelines import PipelineRequest, quote, render_images, render_pipeline
from uenv_builder.core.ci.runners import github_labels, gitlab_nodes, load_runners
from uenv_builder.core.ci.targets import CiTarget, check_paths, check_targets
from uenv_builder.model.errors import UsageError
from uenv_builder.system.git_tree import is_no_commit
from uenv_builder.system.templates import load_template

SCHEMAS = {"gitlab": "vendor.gitlab-ci", "github": "vendor.github-workflows"}
SETUP = ['module load python; echo "set up: done" # 1', ". /opt/venv/bin/activate"]


def target(name="tools", system="daint", uarch="gh200", level="fabric"):
    return CiTarget(
        recipe=f"recipes/{name}/1.0", name=name, version="1.0", system=system, uarch=uarch, level=level
    )  # fmt: skip


TARGETS = [
    target(), target(system="clariden"), target("mpi", "generic-x86_64", "x86_64", "sockets"),
    target("plain", "ours", "x86_64", None), target("both", "generic-gh200", "gh200"),
]  # fmt: skip


def request(forge, targets=TARGETS, **more):
    return PipelineRequest(
        forge=forge, places=["recipes"], recipes=sorted({each.recipe for each in TARGETS}), targets=targets,
        uenv="./bin/uenv", setup=SETUP, watch=["builder/**"], output="ci/x.yml", **more,
    )  # fmt: skip


def pipeline(forge, targets=TARGETS):
    return render_pipeline(request(forge, targets), load_template(f"ci-{forge}.yml.j2"))


def images(targets=TARGETS):
    return render_images(request("gitlab", targets), load_template("ci-gitlab-images.yml.j2"))


def check_schema(text, forge, folder):
    """By the schemas that the forges publish, as check-jsonschema carries them."""
    (folder / "pipeline.yml").write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[forge], "pipeline.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("forge", "text"),
    [
        ("gitlab", pipeline("gitlab")), ("gitlab", images()), ("gitlab", images([])), ("github", pipeline("github")),
        ("gitlab", pipeline("gitlab", [])), ("github", pipeline("github", [])),
    ],
    ids=["gitlab", "gitlab-images", "gitlab-no-images", "github", "gitlab-no-recipes", "github-no-recipes"],
)  # fmt: skip
def test_pipelines_are_valid(forge, text, tmp_path):
    assert check_schema(text, forge, tmp_path)[0] == 0, check_schema(text, forge, tmp_path)
    assert text.endswith("\n")
    assert not re.search(r"[ \t]\n|\n\n\n", text)


def test_the_schemas_refuse_what_is_none(tmp_path):
    broken = pipeline("gitlab").replace("strategy: depend", "strategy: hope")
    assert check_schema(broken, "gitlab", tmp_path)[0] == 1
    assert check_schema(pipeline("github").replace("runs-on", "run-on"), "github", tmp_path)[0] == 1


def test_the_same_input_gives_the_same_bytes():
    assert pipeline("gitlab") == pipeline("gitlab")
    assert pipeline("github") == pipeline("github")


def test_each_target_runs_on_nodes_that_can_run_it():
    jobs = gitlab_jobs(images())
    found = {name: job.runners[-1] for name, job in jobs.items() if name.startswith("test ")}
    assert found == {
        "test tools-1.0-daint-gh200": ".baremetal-runner-daint-gh200",
        "test tools-1.0-clariden-gh200": ".baremetal-runner-clariden-gh200",
        "test mpi-1.0-generic-x86_64-x86_64": ".baremetal-runner-eiger-zen2",
        "test plain-1.0-ours-x86_64": ".baremetal-runner-ours-x86_64",
        "test both-1.0-generic-gh200-gh200": ".baremetal-runner-daint-gh200",
    }
    assert jobs["test tools-1.0-daint-gh200"].nodes == 2
    assert jobs["test plain-1.0-ours-x86_64"].nodes == jobs["build tools-1.0-daint-gh200"].nodes == 1
    assert gitlab_jobs(images([]))["nothing to build"].nodes is None


def test_every_runner_is_one_that_the_site_documents():
    facts = load_runners().gitlab
    clusters = {(cluster.system, cluster.uarch) for cluster in facts.clusters}
    assert {(cluster.system, cluster.uarch) for cluster in facts.stand_ins.values()} <= clusters
    assert gitlab_nodes(target(system="daint"), facts) == ".baremetal-runner-daint-gh200"


def test_lines_mean_in_yaml_what_they_are():
    for line in (
        *SETUP,
        "- x",
        "a: b",
        "'q'",
        '"',
        "x # y",
        "{a}",
        "@x",
        "exit $code",
        "it's",
        "tab\\t",
        "* a",
        "ü",
        "3",
    ):
        assert yaml.safe_load(f"- {quote(line)}") == [line]
    for text in (pipeline("gitlab"), images()):
        for job in gitlab_jobs(text).values():
            assert all(isinstance(line, str) for line in job.lines)
            if job.runners and job.name != "nothing to build":
                assert [line for line in SETUP if line in job.lines] == SETUP


def test_a_workflow_runs_strangers_code_on_no_machine_of_the_site():
    jobs = yaml.safe_load(pipeline("github"))["jobs"]
    own = {name: job for name, job in jobs.items() if "self-hosted" in job["runs-on"]}
    assert set(own) == {
        "tools-1_0-daint-gh200", "tools-1_0-clariden-gh200", "plain-1_0-ours-x86_64", "both-1_0-generic-gh200-gh200",
    }  # fmt: skip
    assert all("head.repo.full_name == github.repository" in job["if"] for job in own.values())
    assert jobs["mpi-1_0-generic-x86_64-x86_64"]["runs-on"] == ["ubuntu-22.04"]
    assert github_labels(target("a", "generic-aarch64", "aarch64"), load_runners().github) == ["ubuntu-22.04-arm"]
    assert set(jobs["promote"]["needs"]) == set(jobs) - {"promote"}


def test_only_machines_of_slurm_submit():
    jobs = yaml.safe_load(pipeline("github"))["jobs"]
    lines = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert lines["tools-1_0-daint-gh200"].count("--launcher slurm") == 3
    assert "--launcher" not in lines["mpi-1_0-generic-x86_64-x86_64"]
    assert "--nodes" not in lines["mpi-1_0-generic-x86_64-x86_64"]


def test_the_first_line_is_the_command_that_writes_it_again():
    for text in (pipeline("gitlab"), pipeline("github")):
        words = shlex.split(text.splitlines()[0].removeprefix("# Written by: "))
        assert words[:3] == ["uenv", "ci", "generate"]
        assert [words[number + 1] for number, word in enumerate(words) if word == "--setup"] == SETUP
        assert words[-2:] == ["--output", "ci/x.yml"]


def test_why_something_is_to_be_done():
    def reason(before=None, *, compared=True, has=None):
        seen = Seen(plan="p", checks="c", before=before, compared=compared)
        return find_reason(seen, None if has is None else lambda: has)

    assert [reason(), reason(("p", "c")), reason(("q", "c")), reason(("p", "d"))] == ["new", None, "plan", "checks"]
    assert reason(compared=False) == "new"
    assert [reason(compared=False, has=has) for has in (True, False)] == [None, "missing"]
    assert [reason(("q", "c"), has=has) for has in (True, False)] == [None, "plan"]
    # Other checks are run on the image that is there.
    assert [reason(("p", "d"), has=has) for has in (True, False)] == ["checks", "checks"]


def test_names_that_would_be_one():
    with pytest.raises(UsageError, match="are both"):
        check_targets([target(), CiTarget(recipe="r/x", name="tools", version="1.0", system="daint", uarch="gh200")])
    # GitHub's names of jobs know no dot.
    with pytest.raises(UsageError, match="another name or version"):
        check_targets([target(), CiTarget(recipe="r", name="tools", version="1_0", system="daint", uarch="gh200")])
    for folder in ("a b", "/abs", "../up", "-x", "a;b", "a/*"):
        with pytest.raises(UsageError, match="cannot be written"):
            check_paths([folder])


def test_commits_that_are_none():
    assert [is_no_commit(name) for name in ("", " ", "0" * 40, "0" * 64, "0" * 39, "main")] == [True] * 4 + [False] * 2


def test_variables_of_variables_are_replaced_as_gitlab_does():
    assert expand("$A/x-$B", {"A": "1"}) == "1/x-$B"
