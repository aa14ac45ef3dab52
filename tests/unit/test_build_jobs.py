"""What becomes of builds that Slurm ran, told from what they left; and the scripts that run them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from uenv_builder.app.batch import job_folder
from uenv_builder.app.batch.build_results import BuildEnd, read_end, worst_code
from uenv_builder.app.batch.build_tasks import BuildOptions, BuildTask, read_tasks, write_tasks
from uenv_builder.app.batch.job_folder import Telling
from uenv_builder.app.batch.shared_store import leave_proof, remove_proof, warn_of_memory
from uenv_builder.app.session import Session
from uenv_builder.launchers.slurm_states import JobState
from uenv_builder.model.errors import UsageError
from uenv_builder.system.events import Remembering, Silent
from uenv_builder.system.mounts import find_type

TASK = BuildTask(recipe="/r/recipe.yaml", label="a/1:latest@daint%gh200", output="/b/a")
MOUNTS = """\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /capstor rw - lustre 10.0.0.1@tcp:/capstor rw
24 22 0:6 / /dev/shm rw - tmpfs tmpfs rw
25 23 0:7 / /capstor/with\\040blank rw - nfs4 server:/x rw
26 22 0:8 / /dev/shm rw - ramfs none rw
no table
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "ext4"), ("/capstor/scratch", "lustre"), ("/capstor", "lustre"), ("/capstors", "ext4"),
        ("/capstor/with blank/x", "nfs4"), ("/dev/shm/x", "ramfs"), ("/", "ext4"),
    ],
)  # fmt: skip
def test_the_last_mount_on_the_longest_part_of_a_path_counts(path, kind):
    assert find_type(MOUNTS, path) == kind


def test_a_store_in_memory_is_told(monkeypatch):
    monkeypatch.setattr("uenv_builder.app.batch.shared_store.file_system_of", lambda path: str(path).strip("/"))
    assert "only this machine sees" in str(warn_of_memory(Path("/tmpfs")))
    assert warn_of_memory(Path("/lustre")) is None


def test_proofs_of_forgotten_jobs_go(tmp_path):
    old, word = leave_proof(tmp_path, "old")
    assert old.read_text() == f"{word}\n"
    long_ago = time.time() - 40 * 86400
    os.utime(old, (long_ago, long_ago))
    new, _ = leave_proof(tmp_path, "new")
    assert [path.name for path in old.parent.iterdir()] == ["new"]
    remove_proof(tmp_path, "new")
    remove_proof(tmp_path, "new")
    assert not new.exists()


def end(code):
    return BuildEnd(task=TASK, folder=Path("/j/0"), state=None, exit_code=code)


def test_the_worst_is_what_failed_first_and_never_what_only_did_not_run():
    assert [worst_code([end(code) for code in codes]) for codes in ([], [0, 0], [0, 8], [8, 9, 0], [7, 8, 6], [5, 1])] \
        == [0, 0, 8, 9, 6, 1]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "state", "expected"),
    [
        ({"exit-code": "0", "result.json": '{"built": ["x"]}'}, "COMPLETED", (0, "")),
        # A job that is cancelled after its build was done has built.
        ({"exit-code": "0"}, "CANCELLED", (0, "")),
        ({"exit-code": "6", "result.json": '{"diagnostics": [{"rule": "build", "message": "cc", "hint": null}]}'},
         "FAILED", (6, "[build] cc")),
        ({"exit-code": "7", "result.json": '{"outcome": "failed", "folder": "/b/a"}'}, "FAILED",
         (7, "the image was built, and its checks are failed")),
        ({"exit-code": "6"}, "NODE_FAIL", (8, "a node failed (Slurm: NODE_FAIL, nodes n1)")),
        ({"exit-code": "6"}, "PREEMPTED", (8, "the job was preempted (Slurm: PREEMPTED, nodes n1)")),
        ({"exit-code": "6", "slurm.log": "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.\n"}, "FAILED",
         (8, "a node's memory ran out (Slurm: OUT_OF_MEMORY, nodes n1, see slurm.log)")),
        ({"exit-code": "127"}, "FAILED", (8, "the node could not start uenv (exit code 127)")),
        ({"exit-code": "139"}, "FAILED", (8, "the build was killed (exit code 139)")),
        ({"job-id": "7"}, "FAILED", (8, "the job ended without a result")),
        ({}, "FAILED", (8, "the job never began there: its node may not see {}")),
        ({"exit-code": "2", "result.json": "{half"}, "FAILED", (2, "uenv build ended with exit code 2")),
        ({"exit-code": "5", "result.json": "[]"}, "FAILED", (5, "uenv build ended with exit code 5")),
    ],
)  # fmt: skip
def test_what_a_task_left_says_what_became_of_it(tmp_path, monkeypatch, files, state, expected):
    monkeypatch.setattr(job_folder, "_LATE_SECONDS", 0)
    monkeypatch.setattr("uenv_builder.app.batch.build_results.bad_nodes", lambda _: [])
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = read_end(TASK, tmp_path, JobState(state, "n1"))
    assert (found.exit_code, found.reason) == (expected[0], expected[1].format(tmp_path))


def test_lines_for_people_name_reason_remedy_and_log(tmp_path, monkeypatch):
    monkeypatch.setattr("uenv_builder.app.batch.build_results.bad_nodes", lambda _: [])
    (tmp_path / "exit-code").write_text("6")
    (tmp_path / "slurm.log").write_text("one\ntwo\n")
    assert read_end(TASK, tmp_path, JobState("TIMEOUT", "n1")).lines() == [
        "a/1:latest@daint%gh200: inconclusive (exit 8): the job's time limit was reached (Slurm: TIMEOUT, nodes n1)",
        "  hint: ask for more with --time, or let a test's programs take less with --limit", "    one", "    two",
        f"  log: {tmp_path}/slurm.log",
    ]  # fmt: skip


def run_script(folder, number=0):
    done = subprocess.run(["sh", "build.sh"], cwd=folder / str(number), capture_output=True, text=True, check=False)
    text = (folder / str(number) / "result.json").read_text()
    return done.returncode, json.loads(text)["diagnostics"][0]["rule"] if text.startswith("{") else text


def test_a_script_refuses_the_wrong_node_before_it_builds(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/echo")
    store = tmp_path / "a store"
    proof = leave_proof(store, "job")
    other = BuildTask(recipe="r", label="a/1", output="o", machine="vax")
    same = BuildTask(recipe="r", label="a/1", output="o", machine=os.uname().machine)
    list_file = write_tasks(
        tmp_path, [TASK, other, same], BuildOptions(offline=True, jobs=3, mirror=("/m n",)), store=store, proof=proof
    )
    assert read_tasks(list_file) == [TASK, other, same]
    code, said = run_script(tmp_path)
    assert (code, said.split()[1:4]) == (0, ["uenv_builder.cli", "build", TASK.recipe])
    assert said.endswith("--locked --json --verbose --offline --jobs=3 --mirror=/m n\n")
    assert run_script(tmp_path, 1) == (8, "node-type")
    assert run_script(tmp_path, 2)[0] == 0
    proof[0].write_text("another\n")
    assert run_script(tmp_path) == (8, "store-not-shared")
    proof[0].unlink()
    assert run_script(tmp_path, 2) == (8, "store-not-shared")


def test_a_list_of_builds_that_is_damaged_is_refused(tmp_path):
    for text in ("{half", '{"format": 2, "tasks": []}', '{"format": 1, "tasks": [{"recipe": "x"}]}', "[]"):
        (tmp_path / "tasks.json").write_text(text)
        with pytest.raises(UsageError, match="is no list of builds"):
            read_tasks(tmp_path / "tasks.json")


def test_each_task_of_an_array_is_told_once():
    listener = Remembering(Silent())
    telling = Telling(Session(listener=listener))
    states = {"7_0": JobState("RUNNING", "n1", "None"), "7_1": JobState("PENDING", "", "Resources")}
    telling(states)
    telling(states)
    telling({**states, "7_0": JobState("COMPLETED", "n1")})
    assert listener.notes == [
        "job 7_0 is running on n1", "job 7_1 is pending (Resources)", "job 7_0 is completed on n1",
    ]  # fmt: skip
