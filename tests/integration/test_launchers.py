"""Launchers for real: processes here, and steps of a Slurm of two nodes that the tests start on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from made_build import make_build
from slurm_cluster import marked
from uenv_builder.core.allreduce.nodes import read_states
from uenv_builder.launchers import Job, LocalLauncher, SlurmLauncher
from uenv_builder.launchers.slurm import allocate
from uenv_command import ROOT, refused

TELL = 'echo "task $UENV_TASK node $UENV_NODE word $WORD"'
# A program of ours that hangs: it answers SIGUSR1 with its stacks, and a child of it hangs, too.
HANG = """
import faulthandler, os, signal, subprocess, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
def wait_for_others():
    subprocess.Popen(["sleep", "600"])
    print("waiting", flush=True)
    time.sleep(600)
wait_for_others()
"""


@pytest.fixture(scope="module")
def allocation(cluster, tmp_path_factory):
    """An allocation of both nodes, and the variables that a process in it has."""
    command = allocate(2, 300, [], ["sh", "-c", "env -0 && exec sleep 300"])
    process = subprocess.Popen(
        command, env={**os.environ, **cluster}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        text = b""
        while b"\0SLURM_JOB_NUM_NODES" not in text or not text.endswith(b"\0"):
            more = os.read(process.stdout.fileno(), 1 << 16)
            assert more, "salloc gave no allocation"
            text += more
        pairs = (item.partition("=") for item in text.decode().split("\0") if item)
        yield {name: value for name, _, value in pairs if name.startswith("SLURM")}
    finally:
        process.send_signal(signal.SIGHUP)
        process.wait(30)


@pytest.fixture
def inside(allocation, monkeypatch):
    for name, value in allocation.items():
        monkeypatch.setenv(name, value)
    return SlurmLauncher()


def job(folder, script, **more):
    return Job(name="job", argv=("sh", "-c", script), folder=folder, **{"limit": 60, **more})


def numbers(log, **labels):
    return sorted(line for line in log.read_text().splitlines() if "task" in line)


def test_local_tasks_have_numbers_and_the_first_that_fails_ends_all(tmp_path):
    ended = LocalLauncher().run(job(tmp_path, TELL, tasks_per_node=3, env={"WORD": "x"}))
    assert ended.returncode == 0
    assert numbers(tmp_path / "job.log") == [f"task {task} node 0 word x" for task in range(3)]
    started = time.monotonic()
    ended = LocalLauncher().run(job(tmp_path, '[ "$UENV_TASK" = 1 ] && exit 3; exec sleep 600', tasks_per_node=2))
    assert ended.returncode == 3
    assert time.monotonic() - started < 30
    assert LocalLauncher().problems(1) == []
    assert "2 nodes" in LocalLauncher().problems(2)[0]


def hang(launcher, folder, **more):
    program = folder / "hang.py"
    program.write_text(HANG)
    wanted = Job(name="job", argv=(sys.executable, "-B", str(program)), folder=folder, limit=3, **more)
    ended = launcher.run(wanted)
    assert ended.returncode is None
    assert ended.seconds < 40
    return wanted, wanted.dump.read_text(), wanted.log.read_text()


def running(word):
    return subprocess.run(["pgrep", "-f", word], capture_output=True, text=True, check=False).stdout.split()


def test_a_local_hang_ends_after_its_limit_with_stacks(tmp_path):
    _, dump, log = hang(LocalLauncher(), tmp_path)
    assert "hang.py" in dump
    assert "waits in: " in dump
    assert "sleep 600" in dump
    assert "wait_for_others" in log
    assert running(str(tmp_path)) == []


def test_allocation_by_the_command_itself(cluster, tmp_path, uenv):
    """`--allocate`: the command runs again inside salloc. Before the others, whose allocation has both nodes."""
    build = make_build(tmp_path / "build", network="image", system="generic-x86_64")
    outcome = uenv.run(
        "test", "--level", "gpu", "--engine", "uenv", "--allocate", str(build), "--json", **cluster
    )  # fmt: skip
    assert outcome.code == 8, outcome.stderr
    assert {result["outcome"] for result in outcome.document["results"]} == {"skipped"}
    assert "srun has no option --uenv here" in outcome.document["results"][0]["reason"]
    # salloc runs its command here, and the node is another machine.
    outcome = uenv.run("test", "--level", "gpu", "--allocate", str(build), "--json", **cluster)
    assert outcome.code == 8, outcome.stderr
    assert "no GPU on n1" in outcome.document["results"][0]["reason"]
    build = make_build(tmp_path / "more", network="image")
    outcome = uenv.run("test", "--level", "gpu", "--allocate", str(build), **cluster)
    refused(outcome, 8, "Invalid generic resource", "error[inconclusive]: Slurm gave no allocation, nodes asked for: 1")


def test_an_allocation_ends_with_whoever_asked_for_it(cluster, tmp_path):
    command = allocate(2, 300, [], ["sh", "-c", "exec sleep 778"])
    script = f"import subprocess; subprocess.run({command!r})"
    env = {**os.environ, **cluster, "OURS": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=env, stderr=subprocess.DEVNULL)
    mark = f"OURS={tmp_path}"
    wait_for(lambda: sleeping(mark) == 1)
    process.kill()
    process.wait()
    wait_for(lambda: not marked(mark))
    wait_for(lambda: not subprocess.check_output(["squeue", "-h"], env=env))


def test_slurm_starts_tasks_on_both_nodes(inside, tmp_path):
    ended = inside.run(job(tmp_path, TELL, nodes=2, tasks_per_node=2, env={"WORD": "y"}, options=("--mpi=none",)))
    assert ended.returncode == 0, (tmp_path / "job.log").read_text()
    found = numbers(tmp_path / "job.log")
    assert found == [f"{task}: task {task} node {task // 2} word y" for task in range(4)]
    assert inside.problems(2) == []
    assert inside.problems(3) == ["3 nodes are asked for, the allocation has 2"]
    assert inside.nodes() == ["n1", "n2"]
    assert re.fullmatch(r"127\.0\.0\.1:2[0-9]{4}", inside.meeting())


def test_a_part_of_an_allocation_is_its_first_nodes_even_if_others_are_free(inside, tmp_path):
    busy = subprocess.Popen(["srun", "--nodes=1", "--ntasks=1", "--nodelist=n1", "--exact", "sleep", "20"])
    try:
        time.sleep(1)
        where = 'echo "$UENV_NODE_NAME"'
        ended = inside.run(job(tmp_path, where, nodes=1, options=("--mpi=none", "--overlap")))
        assert (ended.returncode, (tmp_path / "job.log").read_text()) == (0, "0: n1\n")
        assert sorted(read_states(inside.probe(tmp_path, 1).splitlines())) == ["n1"]
    finally:
        busy.terminate()
        busy.wait(60)


def test_slurm_nodes_tell_their_state(inside, tmp_path):
    states = read_states(inside.probe(tmp_path, 2).splitlines())
    assert sorted(states) == ["n1", "n2"]
    assert all(state.complete for state in states.values())


def test_a_slurm_task_that_fails_ends_the_others(inside, tmp_path):
    started = time.monotonic()
    ended = inside.run(job(tmp_path, '[ "$UENV_TASK" = 1 ] && exit 3; exec sleep 600', nodes=2))
    assert ended.returncode not in {0, None}
    assert time.monotonic() - started < 30
    assert "task 1: Exited with exit code 3" in (tmp_path / "job.log").read_text()


def test_a_slurm_hang_ends_after_its_limit_with_the_stacks_of_both_nodes(inside, tmp_path):
    _, dump, log = hang(inside, tmp_path, nodes=2)
    assert "node n1" in dump
    assert "node n2" in dump
    assert dump.count("hang.py") >= 2
    assert log.count("wait_for_others") >= 2
    assert running(str(tmp_path / "hang.py")) == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_us_ends_the_step(inside, tmp_path, sign):
    script = f"""
from pathlib import Path
from uenv_builder.launchers import Job, SlurmLauncher
here = {str(tmp_path)!r}
SlurmLauncher().run(Job(name="job", argv=("sleep", "777"), folder=Path(here), limit=60, nodes=2, env={{"OURS": here}}))
"""
    path = f"{ROOT / 'builder'}:{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    mark = f"OURS={tmp_path}"
    wait_for(lambda: sleeping(mark) == 2)
    process.send_signal(sign)
    process.wait(30)
    wait_for(lambda: not marked(mark))


def wait_for(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def sleeping(mark):
    found = 0
    for pid in marked(mark):
        try:
            found += Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        except OSError:
            continue
    return found
