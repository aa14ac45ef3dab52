"""`uenv build --launcher slurm` on a real Slurm: arrays that build, and all ways in which some of them do not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from held_mirror import held_mirror
from slurm_cluster import OWN, can_mount, running_cluster
from small_recipes import OfflineUenv, make_broken_recipe, make_small_recipes
from uenv_builder.core.lock_file import parse_lock
from uenv_command import ROOT, refused


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    return make_small_recipes(tmp_path_factory.mktemp("recipes"), size=20_000)


@pytest.fixture(scope="module")
def broken(recipes, tmp_path_factory):
    return make_broken_recipe(tmp_path_factory.mktemp("broken"), recipes.mirror)


@pytest.fixture
def mirror(recipes):
    with held_mirror(recipes.mirror) as found:
        yield found


@pytest.fixture
def alone(tmp_path, mirror):
    """The command in a folder and with a store of its own, which gets all from the mirror that can hold files back."""
    return command_in(tmp_path, mirror)


def command_in(place, mirror):
    config = place / "config/uenv-builder"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(f'mirrors = ["{mirror.url}"]\n')
    (place / "here").mkdir()
    return OfflineUenv(place / "here", place / "store", place / "config")


@pytest.fixture(scope="module", autouse=True)
def out_of_time(cluster, recipes, tmp_path_factory):
    """A job that Slurm ends for its time, which it looks at twice in a minute only: begun first, looked at last."""
    with held_mirror(recipes.mirror) as mirror:
        uenv = command_in(tmp_path_factory.mktemp("late"), mirror)
        started = Started(uenv, cluster, mirror, recipes.beta, recipes.beta, more=["--partition=slow"])
        ask(cluster, "scontrol", "update", f"JobId={started.job}", "EndTime=now")
        yield started
        started.end()


def words(*recipes, more=()):
    options = ["--launcher=slurm", "--locked", "--offline", "--no-test", "--json", "--report=job"]
    return ["build", *map(str, recipes), *options, *more]


def own_wheel(recipe):
    """The sha256 of the wheel that no other recipe has."""
    path = recipe / "x86_64.lock.yaml"
    lock = parse_lock(path.read_text(), str(path))
    return next(wheel.sha256 for wheel in lock.python.wheels if wheel.name == f"own-{recipe.name}")


def ends(document):
    return {end["label"].partition("/")[0]: end for end in document["builds"]}


def ask(cluster, *command):
    return subprocess.run(command, env={**os.environ, **cluster}, capture_output=True, text=True, check=True).stdout


def wait_for(holds, said=str):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)


class Started:
    """The command at work, with one build that waits for its wheel until it is let go, and others that are done."""

    def __init__(self, uenv, cluster, mirror, held, *recipes, more=()):
        mirror.hold(own_wheel(held))
        self.mirror, self.cluster, self.folder = mirror, cluster, uenv.folder / "job"
        self.log = uenv.folder / "said"
        self.process = subprocess.Popen(
            uenv.command(*words(*recipes, more=more)), env=uenv.environment(**cluster), stdout=subprocess.PIPE,
            stderr=self.log.open("w"), text=True, stdin=subprocess.DEVNULL, cwd=uenv.folder,
        )  # fmt: skip
        done = [number for number, recipe in enumerate(recipes) if recipe != held]
        self.held = recipes.index(held)
        wait_for(lambda: mirror.waiting, self.said)
        wait_for(lambda: all((self.folder / f"{number}/exit-code").exists() for number in done), self.said)

    @property
    def job(self):
        return json.loads((self.folder / "job.json").read_text())["job"]

    @property
    def task(self):
        return f"{self.job}_{self.held}"

    def node(self):
        return ask(self.cluster, "squeue", "-h", "-r", "-j", self.task, "-o", "%N").strip()

    def said(self):
        return "".join(path.read_text() for path in [self.log, *sorted(self.folder.glob("*/slurm.log"))])

    def finish(self):
        out, _ = self.process.communicate(timeout=100)
        return self.process.returncode, json.loads(out) if out else None

    def end(self):
        self.mirror.let_go()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        if (self.folder / "job.json").exists() and self.job:
            ask(self.cluster, "scancel", self.job)


@pytest.fixture
def begin(alone, cluster, mirror):
    found = []

    def start(held, *recipes, more=()):
        found.append(Started(alone, cluster, mirror, held, *recipes, more=more))
        return found[-1]

    yield start
    for started in found:
        started.end()


def put_back(cluster, node):
    def is_usable():
        subprocess.run(
            ["scontrol", "update", f"NodeName={node}", "State=RESUME"], env={**os.environ, **cluster},
            capture_output=True, check=False,
        )  # fmt: skip
        return ask(cluster, "sinfo", "-h", "-n", node, "-p", "all", "-o", "%t").strip() == "idle"

    wait_for(is_usable)


def test_recipes_of_a_folder_are_built_as_one_array_just_as_they_are_here(recipes, alone, cluster):
    built = alone.ok(*words(recipes.alpha.parent, more=["--system=generic-x86_64"]), **cluster).document
    found = ends(built)
    assert {name: (end["outcome"], end["state"]) for name, end in found.items()} == {
        "alpha": ("built", "COMPLETED"), "beta": ("built", "COMPLETED"),
    }  # fmt: skip
    assert {end["nodes"] for end in found.values()} <= {"n1", "n2"}
    here = recipes.uenv(alone.folder / "other", alone.folder / "other-store")
    for name, end in found.items():
        one = here.ok(
            "build", str(recipes.alpha.parent / name), "--locked", "--offline", "--no-test", "--json"
        ).document
        there = json.loads(Path(end["folder"], "manifest.json").read_text())
        assert there["squashfs"]["sha256"] == one["manifest"]["squashfs"]["sha256"]
        assert hashlib.sha256(Path(end["folder"], "image.squashfs").read_bytes()).hexdigest() in str(there)
    # The result of a job that has ended long ago can be collected again, and nothing is left in the store.
    assert alone.ok("build", "--resume", "job", "--json", **cluster).document == built
    assert list((alone.cache / "shared").iterdir()) == []


def test_a_recipe_with_its_label_becomes_an_image_of_that_name(recipes, alone, cluster):
    label = "first/2.0:v3@generic-x86_64%x86_64"
    outcome = alone.ok(*words(recipes.alpha, label, recipes.beta, more=["--quiet"]), **cluster)
    assert [end["label"] for end in outcome.document["builds"]] == [label, "beta/1.0:latest@generic-x86_64%x86_64"]
    assert (alone.folder / "build/first-2.0-x86_64/image.squashfs").is_file()


def test_one_of_three_recipes_fails_and_the_others_are_built(recipes, broken, alone, cluster):
    options = [word for word in words(recipes.alpha, broken, recipes.beta) if word != "--json"]
    outcome = alone.run(*options, **cluster)
    assert outcome.code == 6, outcome.stderr
    *lines, last = outcome.stdout.splitlines()
    assert [line.partition("/")[0] for line in lines if line.count(": built,")] == ["alpha", "beta"]
    failed = next(line for line in lines if line.startswith("gamma/"))
    assert "failed (exit 6): [" in failed
    assert "own_gamma" in failed
    assert last.startswith("2 of 3 built by job ")
    again = alone.run("build", "--resume", "job", "--json", **cluster)
    assert (again.code, ends(again.document)["gamma"]["outcome"]) == (6, "failed")


def test_a_build_whose_process_is_killed_blames_no_recipe(begin, recipes):
    started = begin(recipes.beta, recipes.alpha, recipes.beta)
    output = str(started.folder.parent / "build/beta-1.0-x86_64")
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*") if writes(path, output)]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    code, document = started.finish()
    found = ends(document)
    assert (code, found["alpha"]["outcome"], found["beta"]["outcome"]) == (8, "built", "inconclusive")
    assert found["beta"]["reason"] == "the build was killed (exit code 137)"


def writes(process, output):
    try:
        return output.encode() in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


@pytest.mark.parametrize("fails", [False, True])
def test_a_node_that_is_drained_in_the_middle(begin, cluster, recipes, fails):
    started = begin(recipes.beta, recipes.alpha, recipes.beta)
    node = started.node()
    ask(cluster, "scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=fan")
    try:
        started.mirror.gone = fails
        started.mirror.let_go()
        code, document = started.finish()
    finally:
        put_back(cluster, node)
    found = ends(document)
    assert found["alpha"]["outcome"] == "built"
    if fails:
        assert (code, found["beta"]["outcome"]) == (8, "inconclusive")
        assert f"a node was taken out of use: {node} (drain" in found["beta"]["reason"]
    else:
        assert (code, found["beta"]["outcome"]) == (0, "built")


def test_a_node_that_fails_in_the_middle(begin, cluster, recipes):
    started = begin(recipes.beta, recipes.alpha, recipes.beta)
    node = started.node()
    ask(cluster, "scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=fan")
    try:
        code, document = started.finish()
    finally:
        put_back(cluster, node)
    found = ends(document)
    assert (code, found["alpha"]["outcome"], found["beta"]["outcome"]) == (8, "built", "inconclusive")
    assert f"a node failed (Slurm: NODE_FAIL, nodes {node}" in found["beta"]["reason"]
    assert "--exclude=NODE" in found["beta"]["hint"]


def test_one_task_that_somebody_cancels(begin, cluster, recipes):
    started = begin(recipes.beta, recipes.alpha, recipes.beta)
    ask(cluster, "scancel", started.task)
    code, document = started.finish()
    found = ends(document)
    assert (code, found["alpha"]["outcome"]) == (8, "built")
    assert "the job was cancelled (Slurm: CANCELLED" in found["beta"]["reason"]


def test_an_interrupt_cancels_all_builds(begin, cluster, recipes):
    started = begin(recipes.beta, recipes.beta, recipes.alpha)
    started.process.send_signal(signal.SIGINT)
    code, _ = started.finish()
    assert code == 130
    states = ("squeue", "-h", "-r", "-t", "all", "-j", started.task, "-o", "%T")
    wait_for(lambda: "CANCELLED" in ask(cluster, *states))
    assert "is cancelled with all of its builds" in started.said()


def test_what_is_killed_goes_on_and_is_collected_by_another(begin, alone, cluster, recipes):
    started = begin(recipes.beta, recipes.alpha, recipes.beta)
    started.process.kill()
    started.process.wait()
    refused(alone.run("test", "--resume", started.job, **cluster), 2, "is a job of uenv build", "uenv build --resume")
    started.mirror.let_go()
    outcome = alone.ok("build", "--resume", started.job, "--json", **cluster)
    assert {end["outcome"] for end in outcome.document["builds"]} == {"built"}
    assert outcome.document["folder"] == str(started.folder)


def test_a_submitter_that_dies_before_it_knows_the_number(begin, alone, cluster, recipes):
    started = begin(recipes.beta, recipes.alpha, recipes.beta)
    started.process.kill()
    started.process.wait()
    job, record = started.job, started.folder / "job.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "job": None}))
    started.mirror.let_go()
    outcome = alone.ok("build", "--resume", "job", "--json", **cluster)
    assert (outcome.document["job"], {end["outcome"] for end in outcome.document["builds"]}) == (job, {"built"})


def test_jobs_that_slurm_refuses_and_jobs_that_never_begin(recipes, alone, cluster):
    outcome = alone.run(*words(recipes.alpha, more=["--partition=none"]), **cluster)
    refused(outcome, 8, "error[inconclusive]: Slurm refuses the job", "partition")
    assert list((alone.cache / "shared").iterdir()) == []
    late = words(recipes.alpha, more=["--report=late", "--slurm-option=--begin=now+1hour", "--wait=4"])
    refused(alone.run(*late, **cluster), 8, "did not begin within 4 s (Slurm: BeginTime), and was cancelled")


def test_what_makes_no_sense_is_told_before_anything_is_submitted(recipes, broken, alone, cluster, tmp_path):
    refused(alone.run("build", str(recipes.alpha), "--time=5"), 2, "options of a job are for --launcher slurm")
    refused(alone.run("build", "a", "b", "c"), 2, "--launcher slurm builds several recipes")
    refused(alone.run("build", "--launcher=slurm"), 2, "there is no RECIPE")
    refused(alone.run("build"), 2, "there is no RECIPE")
    refused(alone.run(*words(recipes.alpha, recipes.alpha)), 2, "would both write", "give one of them another name")
    refused(alone.run(*words(recipes.alpha, recipes.beta, more=["--output=x"])), 2, "--output names the folder of one")
    refused(alone.run(*words("x/1@daint")), 2, "is a label, and stands behind no recipe")
    refused(alone.run(*words(recipes.alpha.parent, more=["--uarch=gh200"])), 2, "no recipe there has a target *%gh200")
    stale = tmp_path / "stale"
    stale.mkdir()
    (stale / "recipe.yaml").write_text((recipes.alpha / "recipe.yaml").read_text())
    refused(alone.run(*words(stale, recipes.alpha)), 5, "there is no lock")
    assert not (alone.folder / "job").exists()


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="the nodes of this machine are of the target's type")
def test_what_is_compiled_is_not_compiled_on_nodes_of_another_type(alone, cluster):
    recipe = ROOT / "recipes/pytorch/2.14-slingshot"
    outcome = alone.run(*words(recipe, more=["--system=daint"]), **cluster)
    [end] = outcome.document["builds"]
    assert (outcome.code, end["outcome"]) == (8, "inconclusive")
    assert (
        "[node-type] this node cannot run what is compiled for pytorch/2.14-slingshot:latest@daint%gh200"
        in end["reason"]
    )
    assert "--constraint" in end["hint"]


def test_a_build_that_runs_out_of_time(out_of_time):
    code, document = out_of_time.finish()
    [end] = document["builds"]
    assert (code, end["outcome"]) == (8, "inconclusive")
    assert "the job's time limit was reached (Slurm: TIMEOUT" in end["reason"]
    assert "--time" in end["hint"]


@pytest.fixture
def place_of_all():
    """A folder that every user of this machine may look into, which those of tests are not."""
    place = Path(tempfile.mkdtemp(prefix="uenv-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


NOBODY = {"user": "nobody", "group": "nogroup", "extra_groups": []}


def python_of_nobody():
    """A Python that runs our packages as the user nobody, and the variables for it."""
    env = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for python in (sys.executable, "/usr/bin/python3"):
        # The shell is there already when it looks for the interpreter, and has no right of root left.
        asked = ["sh", "-c", 'exec "$0" -c "import pydantic, uenv_builder, zstandard"', python]
        done = subprocess.run(asked, env={**os.environ, **env}, capture_output=True, check=False, cwd="/", **NOBODY)
        if done.returncode == 0:
            return python, env
    pytest.skip("the user nobody cannot read this Python and its packages, and the system has no such Python")


def test_a_user_without_any_right_submits(recipes, place_of_all):
    python, paths = python_of_nobody()
    own, slurm = place_of_all / "own", place_of_all / "slurm"
    shutil.copytree(recipes.alpha.parent, place_of_all / "recipes")
    shutil.copytree(recipes.mirror, place_of_all / "mirror")
    (own / "config/uenv-builder").mkdir(parents=True)
    (own / "config/uenv-builder/config.toml").write_text(f'mirrors = ["{place_of_all / "mirror"}"]\n')
    slurm.mkdir()
    for path in [own, *own.rglob("*")]:
        shutil.chown(path, "nobody", "nogroup")
    with running_cluster(slurm) as client:
        uenv = OfflineUenv(own, own / "store", own / "config")
        job = words(place_of_all / "recipes")
        done = subprocess.run(
            [python, *uenv.command(*job)[1:]], env=uenv.environment(HOME=str(own), **paths, **client), **NOBODY,
            cwd=own, capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = done.stdout + done.stderr + "".join(path.read_text() for path in own.glob("job/*/slurm.log"))
    assert done.returncode == 0, said
    built = ends(json.loads(done.stdout))
    assert {name: end["outcome"] for name, end in built.items()} == {"alpha": "built", "beta": "built"}, said
    assert {Path(end["folder"], "image.squashfs").owner() for end in built.values()} == {"nobody"}


@pytest.mark.parametrize("place", ["store", "folder"])
def test_what_a_node_does_not_see_is_told_in_the_place_of_a_strange_failure(recipes, alone, cluster, tmp_path, place):
    if not can_mount():
        pytest.skip("a file system of one node needs a mount namespace, which is not allowed here")
    own = Path(cluster["SLURM_CONF"]).parent / OWN
    (own / place).mkdir()
    uenv = OfflineUenv(alone.folder, own / place, alone.config)
    if place == "folder":
        uenv = OfflineUenv(own / place, alone.cache, alone.config)
    job = words(recipes.alpha, more=["--partition=slow", f"--report={tmp_path / 'job'}"])
    outcome = uenv.run(*job, **cluster)
    assert outcome.code == 8, outcome.stderr
    [end] = outcome.document["builds"]
    told = {"store": "is not the one of the job's submitter", "folder": "this node does not see the folder"}
    assert told[place] in end["reason"]
    assert "on a file system that all nodes share" in end["hint"]
