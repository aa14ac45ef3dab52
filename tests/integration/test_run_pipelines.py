"""Every shell line of the generated pipelines, in order, on a real Slurm, with a registry and a repository."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen
from xml.etree import ElementTree as ET

import pytest
import yaml

from ci_jobs import github_scripts, gitlab_jobs, run_github_step, run_gitlab_job
from python_image import missing_for_image
from real_registry import docker_registry
from small_recipes import OfflineUenv, make_python_recipe
from uenv_builder.app.destinations import DESTINATIONS
from uenv_builder.cli import VERBS
from uenv_builder.sandboxes import SANDBOXES

USER, PASSWORD = "alice", "hunter2"
HTPASSWD = "alice:$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n"
TOOLS, BROKEN = (f"{name}-1.0-generic-x86_64-x86_64" for name in ("tools", "broken"))
REPOSITORY = "generic-x86_64/x86_64/tools/1.0"
SETUP = 'echo "set up: $UENV_CHANNEL"'


def publishing():
    """From here on a pipeline publishes; tests go no further where this version cannot."""
    missing = [f"publish --to {name}:" for name in {"registry"} - set(DESTINATIONS)] + sorted({"promote"} - set(VERBS))
    if missing:
        pytest.skip(f"all lines before publishing were run; there is no uenv {' and no uenv '.join(missing)} yet")


class Site:
    """A repository of recipes at a forge, and all that its runners see."""

    def __init__(self, place: Path, address: str, cluster: dict[str, str]):
        self.folder, self.address = place / "site", address
        (place / "bin").mkdir()
        (place / "tmp").mkdir()
        uenv = place / "bin/uenv"
        uenv.write_text(f'#!/bin/sh\nexec {sys.executable} -m uenv_builder.cli "$@"\n')
        uenv.chmod(0o755)
        (place / "config/uenv-builder").mkdir(parents=True)
        (place / "config/uenv-builder/config.toml").write_text(f'mirrors = ["{place / "mirror"}"]\n')
        make_python_recipe(self.folder / "recipes/tools/1.0", place / "mirror", "tools")
        make_python_recipe(
            self.folder / "recipes/broken/1.0", place / "mirror", "broken", checks="{imports: {modules: [nowhere]}}"
        )
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self.env = {
            **cluster, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "XDG_CONFIG_HOME": str(place / "config"),
            "HOME": str(place), "TMPDIR": str(place / "tmp"), "NO_COLOR": "1", "UENV_CHANNEL": "stable",
            "CI_PIPELINE_ID": "7",
            "DOCKER_AUTH_CONFIG": json.dumps({"auths": {address: {"auth": login}}}),
        }  # fmt: skip
        self.uenv = OfflineUenv(self.folder, place / "scratch/uenv-ci/store", place / "config")
        git(self.folder, "init", "--quiet", "--initial-branch=main")

    def commit(self):
        git(self.folder, "add", "recipes", "ci")
        git(self.folder, "commit", "--quiet", "--message=x")

    def tags(self, repository=REPOSITORY):
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        asked = Request(
            f"http://{self.address}/v2/ci/{repository}/tags/list", headers={"Authorization": f"Basic {login}"}
        )
        with urlopen(asked, timeout=20) as answer:
            return set(json.load(answer)["tags"])

    def plan(self):
        return self.uenv.ok("plan", "recipes/tools/1.0", "--on-target", "--id").stdout.strip()


def git(folder, *words):
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    if not shutil.which("docker-registry"):
        pytest.skip("not installed: docker-registry")
    with docker_registry(tmp_path_factory.mktemp("r") / "registry", htpasswd=HTPASSWD) as address:
        yield address


@pytest.fixture
def site(tmp_path, registry, cluster):
    if missing := missing_for_image():
        pytest.skip(f"not installed: {', '.join(missing)}")
    if problems := SANDBOXES["bwrap"]().problems(os.uname().machine):
        pytest.skip(problems[0].reason)
    return Site(tmp_path, registry, cluster)


def read_junit(path):
    return {case.get("name"): [child.tag for child in case] for case in ET.parse(path).iter("testcase")}


def test_a_pipeline_of_gitlab_from_check_to_promotion(site, tmp_path):
    site.uenv.ok("ci", "generate", "--for", "gitlab", "--setup", SETUP, "--output", "ci/gitlab.yml")
    site.commit()
    pipeline = gitlab_jobs((site.folder / "ci/gitlab.yml").read_text())
    env = {**site.env, "CSCS_REGISTRY_PATH": f"{site.address}/ci", "UENV_REGISTRY": f"{site.address}/ci"}

    def run(job, code=0, folder=site.folder, **more):
        ended = run_gitlab_job(job, folder, {**env, "SCRATCH": str(tmp_path / "scratch"), **more})
        assert ended.code == code, ended.said
        assert not list((tmp_path / "tmp").glob("tmp.*")), "credentials are left"
        return ended.said

    assert list(pipeline) == ["check", "changed", "promote"]
    said = run(pipeline["check"])
    assert said.startswith("set up: stable\n")
    assert set(read_junit(site.folder / "reports/check.xml")) == {"no findings"}
    assert json.loads((site.folder / "reports/check.sarif").read_text())["version"] == "2.1.0"

    run(pipeline["changed"])
    images = gitlab_jobs((site.folder / "images.yml").read_text())
    assert list(images) == [f"{verb} {name}" for name in (BROKEN, TOOLS) for verb in ("build", "test", "publish")]
    for name, code in ((TOOLS, 0), (BROKEN, 7)):
        shutil.rmtree(site.folder / "reports")
        run(images[f"build {name}"])
        run(images[f"test {name}"], code)
        ring = json.loads((site.folder / "reports/sockets/report.json").read_text())
        assert ring["results"][0]["measured"]["nodes"] == 2
        assert "sockets-ring" in read_junit(site.folder / "reports/sockets/report.xml")
        tested = read_junit(site.folder / "reports/image/report.xml")
        assert (["failure"] in tested.values()) == (code == 7)
    publishing()
    for name, code in ((TOOLS, 0), (BROKEN, 7)):
        run(images[f"publish {name}"], code)
    assert site.plan() in site.tags()

    # What is published is not built again; a test that failed keeps its recipe among those to be built.
    run(pipeline["changed"])
    assert list(gitlab_jobs((site.folder / "images.yml").read_text()))[::3] == [f"build {BROKEN}"]
    shutil.rmtree(site.folder / "recipes/broken")
    run(pipeline["changed"])
    nothing = gitlab_jobs((site.folder / "images.yml").read_text())
    assert list(nothing) == ["nothing to build"]
    run(nothing["nothing to build"])

    site.uenv.ok("ci", "generate", "--for", "gitlab", "--setup", SETUP, "--output", "ci/gitlab.yml")
    run(gitlab_jobs((site.folder / "ci/gitlab.yml").read_text())["promote"])
    assert {site.plan(), "stable"} <= site.tags()


def test_a_workflow_of_github_from_check_to_promotion(site, tmp_path):
    # A system of the site's own: its runner is a machine that submits.
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems/ours.yaml").write_text("extends: generic-x86_64\nname: ours\n")
    shutil.rmtree(site.folder / "recipes/broken")
    make_python_recipe(site.folder / "recipes/other/1.0", tmp_path / "mirror", "other", system="ours")
    env = {**site.env, "UENV_SYSTEM_PATH": str(tmp_path / "systems"), "UENV_REGISTRY": f"{site.address}/github"}
    env |= {"UENV_CACHE": str(tmp_path / "store"), "GITHUB_OUTPUT": str(tmp_path / "output"), "UENV_BASE": ""}
    site.uenv.ok("ci", "generate", "--for", "github", "--output", "ci/github.yml", "--setup", SETUP, **env)
    site.commit()
    text = (site.folder / "ci/github.yml").read_text()
    jobs = list(yaml.safe_load(text)["jobs"])
    assert jobs == ["check", "changed", "other-1_0-ours-x86_64", "tools-1_0-generic-x86_64-x86_64", "promote"]
    for job in jobs:
        for name, script in github_scripts(text, job).items():
            if name == "Publish":
                publishing()
            ended = run_github_step(script, site.folder, env)
            assert ended.code == 0, f"{job}, {name}: {ended.said}"
            if name == "Test":
                assert ("job " in ended.said and " is running on n" in ended.said) == (job.startswith("other"))
                shutil.rmtree(site.folder / "reports")
    assert (tmp_path / "output").read_text() == f'targets=["other-1.0-ours-x86_64", "{TOOLS}"]\n'
    (tmp_path / "output").unlink()
    assert run_github_step(github_scripts(text, "changed")["Find what is to be built"], site.folder, env).code == 0
    assert (tmp_path / "output").read_text() == "targets=[]\n"
