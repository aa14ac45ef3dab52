"""What Slurm says of jobs, what jobs ask of it, and what becomes of a report when a node was at fault."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from made_build import make_build
from uenv_builder.app.allreduce.engines import ENGINES, Place
from uenv_builder.app.batch import testing
from uenv_builder.app.batch.job_folder import JobRecord, find_record, read_record, write_record
from uenv_builder.app.batch.options import BatchOptions, options_for
from uenv_builder.app.outputs import open_build
from uenv_builder.app.session import Session
from uenv_builder.core.systems import load_system, parse_system
from uenv_builder.launchers import slurm_batch
from uenv_builder.launchers.slurm_batch import BatchJob, ask_states, folder_of, wait
from uenv_builder.launchers.slurm_states import ACTIVE, FAULTS, JobState, read_sacct, read_squeue
from uenv_builder.model.errors import InconclusiveError, UsageError
from uenv_builder.model.report import CheckResult, Report
from uenv_builder.system import report_files
from uenv_builder.system.settings import Settings

SITE = """\
extends: generic-x86_64
name: ours
slurm: {account: theirs, partition: debug, time: "10", options: ["--qos=low"]}
"""
SACCT = """\
7|TIMEOUT|n[1-2]|None
7.batch|CANCELLED|n1|
8|CANCELLED by 1000|None assigned|None
9|FAILED|n1|None
9.batch|FAILED|n1|
9.0|OUT_OF_MEMORY|n1|
10|COMPLETED|n2|None
"""


def test_answers_of_slurm_are_read():
    states = read_squeue(["7|RUNNING|n[1-2]|None", "8_3|PENDING||Resources, or | so", "slurm_load_jobs error", "x|y"])
    assert states == {"7": JobState("RUNNING", "n[1-2]", "None"), "8_3": JobState("PENDING", "", "Resources, or | so")}
    states = read_sacct(SACCT.splitlines())
    assert {job: state.name for job, state in states.items()} == {
        "7": "TIMEOUT", "8": "CANCELLED", "9": "OUT_OF_MEMORY", "10": "COMPLETED",
    }  # fmt: skip
    assert states["7"].fault == "the job's time limit was reached (Slurm: TIMEOUT, nodes n[1-2])"
    assert states["9"].fault == "a node's memory ran out (Slurm: OUT_OF_MEMORY, nodes n1, step 9.0)"
    assert states["10"].fault == ""
    assert not set(FAULTS) & ACTIVE


def test_the_strongest_word_on_an_option_counts(monkeypatch):
    for name in ("ACCOUNT", "PARTITION", "CONSTRAINT", "TIMELIMIT"):
        monkeypatch.delenv(f"SBATCH_{name}", raising=False)
    files = {"ours": SITE.encode()}
    known = load_system("ours", {"ours": (files["ours"], "ours.yaml")})
    settings = Settings(slurm_partition="normal", slurm_options=("--reservation=x",))
    found = options_for(settings, known, BatchOptions(constraint="gpu", further=("--mem=0",)))
    assert found.words() == [
        "--account=theirs", "--partition=normal", "--constraint=gpu", "--time=10", "--qos=low", "--reservation=x",
        "--mem=0",
    ]  # fmt: skip
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    assert options_for(settings, known, BatchOptions()).account is None
    assert options_for(settings, known, BatchOptions(account="yours")).account == "yours"
    job = BatchJob(name="n", script=Path("s"), folder=Path("/f"), seconds=100, options=BatchOptions())
    assert "--time=3" in job.command()
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    assert not [word for word in job.command() if word.startswith("--time")]


def test_a_system_file_with_a_wrong_option_is_refused():
    from uenv_builder.model.errors import RecipeError

    text = SITE.replace("account", "acount")
    with pytest.raises(RecipeError, match=r"slurm\.acount"):
        parse_system("ours", {"ours": (text.encode(), "f"), "generic-x86_64": (BASE.encode(), "b")}.__getitem__)


BASE = """\
name: generic-x86_64
description: x
uarchs: [x86_64]
networks: [none]
launch: {ranks_per_node: 1, cpus_per_rank: 1}
"""


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Programs of Slurm that print a file of their name, and fail where there is none."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("squeue", "sacct", "scontrol", "scancel", "sinfo"):
        script = (
            f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/asked\nif [ -e {tmp_path}/{name} ]; then cat {tmp_path}/{name}; '
        )
        script += f"else cat {tmp_path}/{name}.err >&2 2>/dev/null; exit 1; fi\n"
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def test_accounts_tell_what_the_queue_has_forgotten(answers):
    (answers / "squeue.err").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert ask_states("9") == {}
    (answers / "sacct").write_text(SACCT)
    assert ask_states("9")["9"].name == "OUT_OF_MEMORY"
    (answers / "squeue").write_text("9|FAILED|n1|NonZeroExitCode\n")
    assert ask_states("9")["9"].name == "OUT_OF_MEMORY"
    (answers / "squeue").write_text("9|RUNNING|n1|None\n")
    assert ask_states("9")["9"].name == "RUNNING"
    (answers / "scontrol").write_text("JobId=9 Name=x WorkDir=/a b/c StdErr=/a b/c/slurm.log Power=\n")
    assert folder_of("9") == Path("/a b/c")


def test_a_controller_that_does_not_answer_is_asked_again(answers, monkeypatch):
    (answers / "squeue.err").write_text("Unable to contact slurm controller (connect failure)\n")
    assert ask_states("9") is None
    monkeypatch.setattr(slurm_batch, "SHORTEST", 0.01)
    with pytest.raises(InconclusiveError, match=r"did not answer for 0\.05 s"):
        wait("9", told=lambda _: None, silence=0.05)
    assert (answers / "asked").read_text().count("squeue") > 2
    assert "scancel" not in (answers / "asked").read_text()


@pytest.fixture
def left(tmp_path):
    """A job's folder with a report that failed; and the record."""
    build = make_build(tmp_path / "build", network="none", torch=False)
    folder = tmp_path / "job"
    folder.mkdir()
    record = JobRecord(name="uenv-test-1", verb="test", subject=str(build), level="sockets", job="9")
    write_record(record, folder)
    failed = CheckResult(check="sockets-ring", outcome="failed", reason="crashed: exit 1")
    report = Report(
        image="i", label="l", plan="p", ran_on="x", emulated=False, started="s", results=(failed,), level="sockets"
    )
    report_files.write_report(report, folder)
    (folder / "exit-code").write_text("7\n")
    return record, folder


def test_only_what_ends_by_itself_blames_the_image(left, answers):
    record, folder = left
    before = (folder / "report.json").read_bytes()
    assert testing.collect(Session(), record, folder, JobState("FAILED", "n1", "NonZeroExitCode")).exit_code == 7
    for name in FAULTS:
        (folder / "report.json").write_bytes(before)
        found = testing.collect(Session(), record, folder, JobState(name, "n1", "None"))
        assert (found.exit_code, found.report.outcome) == (8, "inconclusive"), name
        assert name in found.report.results[0].reason
    (folder / "report.json").write_bytes(before)
    (folder / "sockets-ring.log").write_text("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=9.0.\n")
    found = testing.collect(Session(), record, folder, JobState("FAILED", "n1", "None"))
    assert "a node's memory ran out" in found.report.results[0].reason
    assert testing.collect(Session(), record, folder, None).report == found.report or found.exit_code == 8


def test_a_job_without_a_report_is_inconclusive_and_shows_its_log(left, answers):
    record, folder = left
    (folder / "report.json").unlink()
    (folder / "slurm.log").write_text("last words\n")
    found = testing.collect(Session(), record, folder, JobState("PREEMPTED"))
    assert (found.exit_code, found.report.results[0].details) == (8, ("last words",))
    (folder / "report.json").unlink()
    (folder / "exit-code").write_text("5\n")
    assert testing.collect(Session(), record, folder, JobState("FAILED")).exit_code == 5
    (folder / "report.json").unlink()
    (folder / "exit-code").unlink()
    found = testing.collect(Session(), record, folder, None)
    assert (found.exit_code, found.report.results[0].reason) == (8, "the job ended without a result")


def test_a_record_finds_the_job_whose_number_was_never_written_down(left, answers):
    record, folder = left
    write_record(JobRecord(**{**record_fields(record), "job": None}), folder)
    (answers / "squeue").write_text("41\n")
    assert find_record(str(folder))[0].job == "41"
    assert read_record(folder).job == "41"
    write_record(JobRecord(**{**record_fields(record), "job": None}), folder)
    (folder / "job-id").write_text("42\n")
    assert find_record(str(folder))[0].job == "42"
    (folder / "job.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(UsageError, match="its format is not known"):
        find_record(str(folder))
    with pytest.raises(UsageError, match="neither a job's number nor a folder"):
        find_record("nothing")


def record_fields(record):
    return {name: getattr(record, name) for name in ("name", "verb", "subject", "level", "nodes", "job")}


def test_pyxis_gets_the_squashfs_by_its_path(tmp_path, answers):
    build = open_build(make_build(tmp_path / "build", network="none", torch=False))
    place = Place(build, tmp_path, 2)
    entered = ENGINES["pyxis"].enter(place, ["true"], {"A": "b c"})
    assert entered.argv == ("env", "A=b c", "true")
    assert entered.options[0] == f"--container-image={build.image}"
    assert f"--container-mounts={tmp_path}:/run/uenv-test" in entered.options
    srun = tmp_path / "bin/srun"
    srun.write_text("#!/bin/sh\necho '  --container-image=IMAGE'\n")
    srun.chmod(0o755)
    assert ENGINES["pyxis"].problems(place) == []
    assert ENGINES["edf"].problems(place) == [
        "srun has no option --environment here: Container Engine is not installed"
    ]
