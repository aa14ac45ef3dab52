"""`uenv test --launcher slurm` on a real Slurm: jobs that pass, and all ways in which they end otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from python_image import make_python_build, missing_for_image
from uenv_builder.sandboxes import SANDBOXES
from uenv_command import Uenv, refused

SHAPE = ("--level", "sockets", "--nodes", "2", "--ntasks-per-node", "2")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    if missing := missing_for_image():
        pytest.skip(f"not installed: {', '.join(missing)}")
    if problems := SANDBOXES["bwrap"]().problems(os.uname().machine):
        pytest.skip(problems[0].reason)
    return make_python_build(tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="module", autouse=True)
def out_of_time(cluster, build, tmp_path_factory):
    """A job that Slurm ends for its time, which it looks at twice in a minute only: begun first, looked at last."""
    folder = tmp_path_factory.mktemp("late")
    started = Started(Uenv(folder, folder), cluster, build, folder / "report", "--nodes=1", "--partition=slow")
    started.wait_until_begun()
    ask(cluster, "scontrol", "update", f"JobId={started.job}", "EndTime=now")
    yield started
    started.end()


class Started:
    """The command, at work: its job waits until it is let go."""

    def __init__(self, uenv, cluster, build, report, *more):
        report.mkdir()
        (report / "hold").touch()
        self.report, self.cluster = report, cluster
        options = [*SHAPE, "--launcher=slurm", "--json", *more, "--report", str(report), str(build)]
        # An interrupt shall reach it as a terminal's would, whatever the tests themselves ignore.
        self.process = subprocess.Popen(
            uenv.command("test", *options), env=uenv.environment(**cluster), stdout=subprocess.PIPE,
            stderr=(report / "said").open("w"), text=True, stdin=subprocess.DEVNULL, cwd=uenv.folder,
        )  # fmt: skip

    @property
    def job(self):
        return (self.report / "job-id").read_text().strip()

    def wait_until_begun(self):
        """Until the job is at work inside the image, on all of its nodes."""
        request = self.report / "sockets-ring.request.json"
        wait_for(request.exists, self.said)

    def let_go(self):
        (self.report / "hold").unlink()

    def said(self):
        return "".join(path.read_text() for path in (self.report / "said", self.report / "slurm.log") if path.exists())

    def finish(self):
        """Exit code and document."""
        out, _ = self.process.communicate(timeout=100)
        return self.process.returncode, json.loads(out) if out else None

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        if (self.report / "job-id").exists():
            ask(self.cluster, "scancel", self.job)


@pytest.fixture
def begin(uenv, cluster, build, tmp_path):
    found = []

    def start(*more):
        found.append(Started(uenv, cluster, build, tmp_path / "report", *more))
        found[-1].wait_until_begun()
        return found[-1]

    yield start
    for started in found:
        started.end()


def ask(cluster, *command):
    return subprocess.run(command, env={**os.environ, **cluster}, capture_output=True, text=True, check=True).stdout


def put_back(cluster, node):
    """Slurm refuses it while something ends there, and for a node that is in use already."""

    def is_usable():
        subprocess.run(
            ["scontrol", "update", f"NodeName={node}", "State=RESUME"], env={**os.environ, **cluster},
            capture_output=True, check=False,
        )  # fmt: skip
        return ask(cluster, "sinfo", "-h", "-n", node, "-p", "all", "-o", "%t").strip() == "idle"

    wait_for(is_usable)


def wait_for(holds, said=str):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)


def results(document):
    return {result["check"]: result for result in document["results"]}


def test_an_all_reduce_over_both_nodes_passes_inside_the_image(uenv, cluster, build, tmp_path):
    outcome = uenv.ok(
        "test", *SHAPE, "--launcher", "slurm", "--json", "--report", "report", "--slurm-option=--comment=x", str(build),
        **cluster,
    )  # fmt: skip
    ring, job = (results(outcome.document)[name] for name in ("sockets-ring", "slurm-job"))
    assert (ring["outcome"], ring["measured"]["nodes"], ring["measured"]["ranks"]) == ("passed", 2, 4)
    assert ring["measured"]["values_compared"] == 4 * (1 + 3 + 1000)
    assert (job["measured"]["state"], job["measured"]["nodes"]) == ("COMPLETED", "n[1-2]")
    answers = [json.loads((tmp_path / f"report/sockets-ring/{node}.json").read_text())["node"] for node in (0, 1)]
    assert answers == ["n1", "n2"]
    assert json.loads((tmp_path / "report/report.json").read_text())["outcome"] == "passed"
    # The result of a job that has ended long ago can be collected again, by its folder, too.
    again = uenv.ok("test", "--resume", "report", "--json", **cluster)
    assert again.document == outcome.document


def test_a_test_that_fails_is_the_images_fault_unless_its_node_was_taken_out(begin, cluster):
    started = begin()
    (started.report / "fail").touch()
    started.let_go()
    code, document = started.finish()
    assert (code, results(document)["sockets-ring"]["outcome"]) == (7, "failed")
    report = json.loads((started.report / "report.json").read_text())
    assert report["outcome"] == "failed"


@pytest.mark.parametrize("fails", [False, True])
def test_a_node_that_is_drained_in_the_middle(begin, cluster, fails):
    started = begin()
    ask(cluster, "scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=fan")
    try:
        if fails:
            (started.report / "fail").touch()
        started.let_go()
        code, document = started.finish()
    finally:
        put_back(cluster, "n2")
    found = results(document)
    assert "n2 (drain" in found["slurm-job"]["details"][0]
    if fails:
        assert (code, found["sockets-ring"]["outcome"]) == (8, "inconclusive")
        assert "node-fault: nodes were taken out of use: n2" in found["sockets-ring"]["reason"]
    else:
        assert (code, found["sockets-ring"]["outcome"]) == (0, "passed")


def test_a_node_that_fails_in_the_middle(begin, cluster):
    started = begin()
    ask(cluster, "scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=fan")
    try:
        code, document = started.finish()
    finally:
        put_back(cluster, "n2")
    assert code == 8
    assert document["outcome"] == "inconclusive"
    assert "a node failed (Slurm: NODE_FAIL" in json.dumps(document)


def test_a_job_that_somebody_cancels(begin, cluster):
    started = begin()
    ask(cluster, "scancel", started.job)
    code, document = started.finish()
    assert (code, document["outcome"]) == (8, "inconclusive")
    assert "the job was cancelled (Slurm: CANCELLED" in json.dumps(document)


def test_a_job_whose_command_is_killed(begin):
    started = begin()
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*") if is_command(path, started.report)]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    code, document = started.finish()
    assert code == 8
    assert document["results"][0]["reason"] == "the command in the job ended with exit code 137 and left no report"


def is_command(process, report):
    """Whether it is the command inside the job, the one that would write the report."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"test" in words and str(report).encode() in words and b"--launcher=slurm" not in words


def test_what_is_killed_goes_on_and_is_collected_by_another(begin, uenv, cluster):
    started = begin()
    started.process.kill()
    started.process.wait()
    started.let_go()
    outcome = uenv.ok("test", "--resume", started.job, "--json", **cluster)
    assert results(outcome.document)["sockets-ring"]["outcome"] == "passed"
    assert outcome.document["folder"] == str(started.report)


def test_an_interrupt_cancels_the_job(begin, cluster):
    started = begin()
    started.process.send_signal(signal.SIGINT)
    code, _ = started.finish()
    assert code == 130
    wait_for(lambda: "CANCELLED" in ask(cluster, "squeue", "-h", "-t", "all", "-j", started.job, "-o", "%T"))


def test_jobs_that_slurm_refuses_and_jobs_that_never_begin(uenv, cluster, build):
    job = ("test", *SHAPE, "--launcher=slurm", str(build))
    refused(uenv.run(*job, "--partition=none", **cluster), 8, "error[inconclusive]: Slurm refuses the job", "partition")
    outcome = uenv.run(*job, "--slurm-option=--begin=now+1hour", "--wait=0.5", **cluster)
    refused(outcome, 8, "did not begin within 0.5 s (Slurm: BeginTime), and was cancelled")
    refused(uenv.run("test", "--resume", "999999", **cluster), 2, "Slurm does not know this job")
    refused(uenv.run("test", "--time=5", str(build)), 2, "options of a job are for --launcher slurm")


def test_a_job_that_runs_out_of_time(out_of_time):
    code, document = out_of_time.finish()
    assert (code, document["outcome"]) == (8, "inconclusive")
    assert "the job's time limit was reached (Slurm: TIMEOUT" in json.dumps(document)
