"""`uenv test --level` from the nodes' state to the report, with an srun that answers as recorded."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from made_build import make_build
from uenv_builder.app.allreduce import allocation, levels
from uenv_builder.app.allreduce.engines import SandboxEngine
from uenv_builder.app.allreduce.levels import LevelRequest, prove, read_reports
from uenv_builder.app.reports import exit_code_of
from uenv_builder.app.session import Session
from uenv_builder.checks import busbw_plot
from uenv_builder.core.allreduce.comparison import busbw_name, compare_busbw
from uenv_builder.core.allreduce.figures import load_figures
from uenv_builder.core.allreduce.nodes import find_faults, read_states
from uenv_builder.core.allreduce.verdict import Verdict, compare_with_known_good
from uenv_builder.launchers import Job, LocalLauncher, local
from uenv_builder.launchers.limits import place_script
from uenv_builder.model.errors import InconclusiveError, LockError, UsageError
from uenv_builder.model.report import CheckResult, Report
from uenv_builder.system.process import run

FIXTURES = Path(__file__).parent.parent / "fixtures"
# An srun that names the plugin's option in its help, and answers a probe and each program as recorded; torch's ranks
# leave their answers. What runs in the known good image has records of its own.
SRUN = """\
#!/bin/sh
printf '%s\\n' "$*" >>"$RECORDED/srun.txt"
case "$*" in
*--help*) echo "  --environment=FILE  an EDF"; exit 0 ;;
*probe_node.sh*) cat "$RECORDED/nodes.txt"; exit 0 ;;
esac
case "$*" in
*/known-good/*) from=$RECORDED/known-good ;;
*) from=$RECORDED ;;
esac
case "$*" in
*all_reduce_perf*) name=allreduce ;;
*sendrecv_perf*) name=sendrecv ;;
*) name=torch
   for word; do folder=$word; done
   for node in 0 1; do cp "$from/answer$node.json" "$ANSWERS/$(basename "$folder")/$node.json" 2>/dev/null; done ;;
esac
cat "$from/$name.log"
exit "$(cat "$from/$name.code" 2>/dev/null || echo 0)"
"""
GOOD_TORCH = [
    f"nid{rank // 4}:{rank}:{rank} [0] NCCL INFO {text}"
    for rank in range(8)
    for text in ("Using network AWS Libfabric", "NET/OFI Selected provider is cxi, fabric is cxi (found 4 nics)")
]


class Recorded:
    """The folder that the recorded srun answers from."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.nodes("healthy")
        self.log("allreduce", "good-cxi")
        self.log("sendrecv", "sendrecv")
        (folder / "torch.log").write_text("\n".join(GOOD_TORCH) + "\n")
        self.answers()

    def nodes(self, name):
        (self.folder / "nodes.txt").write_text((FIXTURES / f"nodes/{name}.txt").read_text())

    def log(self, program, name, code=0):
        (self.folder / f"{program}.log").write_text((FIXTURES / f"allreduce/{name}.log").read_text())
        (self.folder / f"{program}.code").write_text(str(code))

    def answers(self, **changes):
        for node in range(2):
            findings = [
                {"rank": 4 * node + i, "wrong": [], "compared": 9, "nccl": 23007, "bandwidths": {"1048576": 10.0 + i}}
                for i in range(4)
            ]
            answer = {"node": f"n{node}", "late": [], "broken": {}, "findings": findings, **changes}
            (self.folder / f"answer{node}.json").write_text(json.dumps(answer))


@pytest.fixture(autouse=True)
def drawing(monkeypatch, request):
    """Drawing takes long, and most tests are not about it."""
    if "plot" not in request.node.name:
        monkeypatch.setattr(busbw_plot, "can_plot", lambda: False)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho nid001000\necho nid001001\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    found = Recorded(tmp_path / "recorded")
    Recorded(tmp_path / "recorded/known-good")
    (tmp_path / "report").mkdir()
    for name, value in {
        "PATH": f"{programs}:{os.environ['PATH']}", "RECORDED": str(found.folder), "ANSWERS": str(tmp_path / "report"),
        "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "nid[001000-001001]",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def build(tmp_path):
    return make_build(tmp_path / "build", network="image")


def fabric(build, tmp_path, **more):
    (tmp_path / "report/report.json").unlink(missing_ok=True)
    request = LevelRequest(level="fabric", nodes=2, engine="edf", report=tmp_path / "report", **more)
    return prove(Session(), build, request)


def results(proved):
    return {result.check: result for result in proved.report.results}


def verdicts(proved):
    return {name: result.measured.get("verdict", result.outcome) for name, result in results(proved).items()}


def test_a_good_run_passes_is_plotted_and_reported(recorded, build, tmp_path):
    proved = fabric(build, tmp_path)
    assert verdicts(proved) == {
        "fabric-allreduce": "good", "fabric-sendrecv": "good", "fabric-torch": "good", "fabric-torch-busbw": "skipped",
    }  # fmt: skip
    assert exit_code_of(proved.report) == 0
    allreduce = results(proved)["fabric-allreduce"]
    assert allreduce.measured[busbw_name(134217728)] == 123.11
    assert {
        "nccl": "2.30.7",
        "network": "AWS Libfabric",
        "provider": "cxi",
        "ranks": 8,
    }.items() <= allreduce.measured.items()
    assert results(proved)["fabric-torch"].measured[busbw_name(1048576)] == 10.0
    report = json.loads((proved.folder / "report.json").read_text())
    manifest = json.loads((build / "manifest.json").read_text())
    assert (report["image"], report["level"]) == (manifest["squashfs"]["sha256"], "fabric")
    assert "fabric-allreduce" in (proved.folder / "report.xml").read_text()
    assert (proved.folder / "busbw.png").read_bytes().startswith(b"\x89PNG")
    drawing = (proved.folder / "busbw.svg").read_text()
    for text in ("fabric-allreduce", "at least expected", "TCP below", "128 MiB", "bus bandwidth in GB/s", "passed"):
        assert text in drawing


def test_srun_gets_what_the_system_and_the_program_need(recorded, build, tmp_path):
    fabric(build, tmp_path)
    steps = (recorded.folder / "srun.txt").read_text().splitlines()
    (benchmark,) = (step for step in steps if "all_reduce_perf" in step)
    (ranks,) = (step for step in steps if "ranks_program.py" in step)
    edf = tmp_path / "report/test.toml"
    for word in ("--nodes=2", "--network=disable_rdzv_get", f"--environment={edf}", "--kill-on-bad-exit=1", "--label"):
        assert word in benchmark.split()
        assert word in ranks.split()
    assert {"--ntasks=8", "--ntasks-per-node=4", "--mpi=pmix", "--cpus-per-task=72"} <= set(benchmark.split())
    assert {"--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=288"} <= set(ranks.split())
    assert "all_reduce_perf -b 8 -e 1G -f 2 -g 1 -c 1" in benchmark
    document = tomllib.loads(edf.read_text())
    assert document["image"] == str(build / "image.squashfs")
    assert document["mounts"] == ["/capstor:/capstor", f"{tmp_path / 'report'}:/run/uenv-test"]
    assert (document["env"]["OWN"], document["env"]["NCCL_DEBUG"]) == ("1", "INFO")
    request = json.loads((tmp_path / "report/fabric-torch.request.json").read_text())
    assert (request["meeting"], request["backend"], request["ranks_per_node"]) == ("nid001000:20007", "nccl", 4)


@pytest.mark.parametrize(
    ("log", "code", "verdict", "exit_code"),
    [
        ("tcp-fallback", 0, "wrong-transport", 7),
        ("plugin-required", 3, "plugin-not-found", 7),
        ("wrong-data", 1, "wrong-data", 7),
        ("mixed-versions", 3, "mixed-versions", 7),
        ("low-bandwidth", 0, "low-bandwidth", 7),
        ("hang-watchdog", 1, "hang", 7),
        ("node-fault", 2, "node-fault", 8),
        ("no-debug", 0, "not-proved", 8),
    ],
)
def test_verdicts_lead_to_exit_codes(recorded, build, tmp_path, log, code, verdict, exit_code):
    recorded.log("allreduce", log, code)
    proved = fabric(build, tmp_path)
    assert verdicts(proved)["fabric-allreduce"] == verdict
    assert exit_code_of(proved.report) == exit_code
    assert results(proved)["fabric-allreduce"].reason.startswith(f"{verdict}: ")


def test_wrong_elements_of_torch_fail(recorded, build, tmp_path):
    recorded.answers(findings=[{"rank": 0, "wrong": [["int32", 9, 1, 4, 7, 8]], "compared": 9, "nccl": 23007}])
    proved = fabric(build, tmp_path)
    assert verdicts(proved)["fabric-torch"] == "wrong-data"
    assert exit_code_of(proved.report) == 7


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        ("nic-down", "nid001001: hsn2 is down"),
        (
            "too-hot",
            "nid001001: GPU 1: clocks are down, hardware slowdown, software thermal slowdown, hardware thermal",
        ),
        ("clock-locked", "nid001001: GPU 0: may run at 1200 MHz at most, others at 1980"),
        ("memory-errors", "nid001000: GPU 3: 2 memory errors that ECC could not correct"),
    ],
)
def test_a_slow_run_on_a_faulty_node_is_inconclusive(recorded, build, tmp_path, nodes, fault):
    recorded.nodes(nodes)
    recorded.log("allreduce", "low-bandwidth")
    proved = fabric(build, tmp_path)
    found = results(proved)["fabric-allreduce"]
    assert (found.measured["verdict"], found.outcome, exit_code_of(proved.report)) == ("node-fault", "inconclusive", 8)
    assert fault in found.reason
    assert verdicts(proved)["fabric-sendrecv"] == "good"


@pytest.mark.parametrize(
    ("log", "verdict", "exit_code"), [("good-cxi", "low-bandwidth", 7), ("low-bandwidth", "node-fault", 8)]
)
def test_a_known_good_image_decides(recorded, build, tmp_path, log, verdict, exit_code):
    recorded.log("allreduce", "low-bandwidth")
    Recorded(recorded.folder / "known-good").log("allreduce", log)
    good = make_build(tmp_path / "good", network="image", label="good/1:v1")
    proved = fabric(build, tmp_path, known_good=good)
    assert (verdicts(proved)["fabric-allreduce"], exit_code_of(proved.report)) == (verdict, exit_code)
    steps = (recorded.folder / "srun.txt").read_text()
    # Only what failed runs again, with the other image's EDF.
    assert [step for step in steps.splitlines() if "/known-good/test.toml" in step and "sendrecv" in step] == []
    edf = tomllib.loads((tmp_path / "report/known-good/test.toml").read_text())
    assert edf["image"] == str(good / "image.squashfs")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("no-gpu", "no GPU on nid001000 (no nvidia-smi on this node), nid001001 (no nvidia-smi on this node)"),
        ("one-answers", "1 of 2 nodes told their state"),
    ],
)
def test_without_gpus_everything_is_skipped(recorded, build, tmp_path, nodes, reason):
    recorded.nodes(nodes)
    proved = fabric(build, tmp_path)
    assert set(verdicts(proved).values()) == {"skipped"}
    assert all(reason in result.reason for result in proved.report.results)
    assert exit_code_of(proved.report) == 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SLURM_JOB_ID": None}, "this is not inside a Slurm allocation"),
        ({"SLURM_JOB_NUM_NODES": "1"}, "2 nodes are asked for, the allocation has 1"),
        ({"PATH": "/usr/bin:/bin"}, "Slurm|no srun on this machine|no option --environment"),
    ],
)
def test_without_nodes_everything_is_skipped(recorded, build, tmp_path, monkeypatch, change, reason):
    for name, value in change.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    proved = fabric(build, tmp_path)
    assert set(verdicts(proved).values()) == {"skipped"}
    assert any(part in proved.report.results[0].reason for part in reason.split("|"))
    assert exit_code_of(proved.report) == 8


def test_images_without_the_programs_are_never_passed(recorded, tmp_path):
    bare = make_build(tmp_path / "bare", network="image", benchmarks=(), torch=False)
    proved = fabric(bare, tmp_path)
    assert [result.reason for result in proved.report.results] == [
        "the image has no all_reduce_perf", "the image has no sendrecv_perf", "the image has no torch",
    ]  # fmt: skip
    assert exit_code_of(proved.report) == 8
    some = make_build(tmp_path / "some", network="image", benchmarks=())
    assert exit_code_of(fabric(some, tmp_path).report) == 0
    none = make_build(tmp_path / "none", network="none")
    assert "network mode is none" in fabric(none, tmp_path).report.results[0].reason


def test_the_sandbox_shows_no_nic_and_is_refused_on_slingshot(recorded, build, tmp_path):
    request = LevelRequest(level="fabric", nodes=2, engine="sandbox", report=tmp_path / "report")
    proved = prove(Session(), build, request)
    assert "use --engine edf" in proved.report.results[0].reason
    assert exit_code_of(proved.report) == 8


def test_earlier_reports_show_what_got_slower(recorded, build, tmp_path):
    history = tmp_path / "history"
    for number in range(3):
        proved = fabric(build, tmp_path)
        (history / str(number)).mkdir(parents=True)
        (proved.folder / "report.json").rename(history / str(number) / "report.json")
    assert exit_code_of(fabric(build, tmp_path, compare=history).report) == 0
    recorded.log("allreduce", "low-bandwidth")
    found = results(fabric(build, tmp_path, compare=history, tolerance=16.0))["busbw-compare"]
    assert found.outcome == "failed"
    assert found.details == ("fabric-allreduce, 134217728 bytes: 101.9 GB/s, 123.11 before (-17%)",)
    (history / "0/report.json").write_text("{}")
    with pytest.raises(UsageError, match="is no report"):
        read_reports(history)
    with pytest.raises(UsageError, match="there is no"):
        read_reports(tmp_path / "bin")


def compared(now, *before, tolerance=0.1, **changes):
    def report(value):
        measured = {"nodes": 2, "ranks": 8, "gpu": "GH200", busbw_name(64): value}
        return CheckResult(check="fabric-torch", outcome="passed", measured=measured)

    new = report(now)
    old = [
        Report(image="i", label="l", plan="p", ran_on="x", emulated=False, started="s", results=(report(value),))
        for value in before
    ]
    return compare_busbw([replace(new, **changes)], old, tolerance)


def test_comparison_is_with_the_median_and_only_of_what_is_alike():
    assert compared(90.0, 100.0, 99.0, 500.0).outcome == "passed"
    slower = compared(89.0, 100.0, 99.0, 500.0)
    assert slower.reason == "1 of 1 sizes got slower, the first: fabric-torch, 64 bytes: 89 GB/s, 100 before (-11%)"
    assert compared(89.0, 100.0, tolerance=0.12).outcome == "passed"
    assert compared(90.0, 100.0, check="fabric-allreduce").outcome == "skipped"
    assert (
        compared(90.0, 100.0, measured={"nodes": 3, "ranks": 8, "gpu": "GH200", busbw_name(64): 90.0}).outcome
        == "skipped"
    )
    assert compared(90.0).outcome == "skipped"


def test_sizes_that_only_one_side_has_are_counted():
    measured = {"nodes": 2, "ranks": 8, "gpu": "GH200"}
    both = compared(90.0, 90.0, measured={**measured, busbw_name(64): 90.0, busbw_name(32): 9.0, busbw_name(16): 9.0})
    counts = {"sizes_compared": 1, "sizes_only_before": 0, "sizes_only_now": 2}
    assert (both.outcome, counts.items() <= both.measured.items()) == ("passed", True)
    none = compared(90.0, 90.0, measured={**measured, busbw_name(32): 90.0})
    assert none.outcome == "skipped"


def test_a_report_is_never_written_over(recorded, build, tmp_path):
    fabric(build, tmp_path)
    before = (tmp_path / "report/report.json").read_bytes()
    with pytest.raises(UsageError, match="has a report already"):
        prove(Session(), build, LevelRequest(level="fabric", nodes=2, engine="edf", report=tmp_path / "report"))
    assert (tmp_path / "report/report.json").read_bytes() == before
    recorded.nodes("no-gpu")
    folders = {prove(Session(), build, LevelRequest(level="fabric", nodes=2, engine="edf")).folder for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.parent == build / "tests" for folder in folders)


def test_the_ranks_of_torch_are_compared_with_those_on_the_same_gpu_only(recorded, build, tmp_path):
    assert results(fabric(build, tmp_path))["fabric-torch"].measured["gpu"] == "NVIDIA GH200 120GB"


def test_an_image_is_no_witness_for_itself(recorded, build, tmp_path):
    with pytest.raises(UsageError, match="is the image under test itself"):
        fabric(build, tmp_path, known_good=build)


def test_one_node_of_an_allocation_elsewhere_is_reached_by_slurm(recorded, build, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    monkeypatch.setattr(SandboxEngine, "problems", lambda *_: [])
    recorded.nodes("no-gpu")

    def first_reason():
        return prove(Session(), build, LevelRequest(level="gpu", nodes=1, engine="sandbox")).report.results[0].reason

    assert "nid001000" in first_reason()
    assert "probe_node.sh" in (recorded.folder / "srun.txt").read_text()
    (recorded.folder / "srun.txt").unlink()
    monkeypatch.setenv("SLURMD_NODENAME", "nid001000")
    first_reason()
    assert not (recorded.folder / "srun.txt").exists()


@pytest.mark.parametrize(
    ("mine", "other", "joined"),
    [
        ("low-bandwidth", "not-proved", "low-bandwidth"),
        ("crashed", "wrong-version", "crashed"),
        ("wrong-data", "low-bandwidth", "wrong-data"),
        ("wrong-data", "hang", "wrong-data"),
        ("wrong-data", "wrong-data", "node-fault"),
        ("wrong-version", "hang", "wrong-version"),
        ("hang", "node-fault", "node-fault"),
    ],
)
def test_a_known_good_image_excuses_only_what_nodes_can_cause(mine, other, joined):
    found = compare_with_known_good(Verdict(mine, "mine"), Verdict(other, "other"), "good/1")
    assert found.name == joined
    assert found.outcome == ("inconclusive" if joined == "node-fault" else "failed")


def test_requests_that_make_no_sense_and_changed_images_are_refused(build, tmp_path):
    for level, nodes in (("fabric", 1), ("gpu", 2)):
        with pytest.raises(UsageError):
            prove(Session(), build, LevelRequest(level=level, nodes=nodes))
    with (build / "image.squashfs").open("ab") as file:
        file.write(b"x")
    with pytest.raises(LockError, match="is not the image"):
        prove(Session(), build, LevelRequest(level="gpu", nodes=1))


def test_plots_are_the_same_for_the_same_figures(tmp_path):
    curve = busbw_plot.Curve("fabric-torch", {1 << power: float(power) for power in range(3, 31)})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        busbw_plot.plot_busbw(tmp_path / name, "title", [curve], load_figures().figures[:3])
    for file in ("busbw.svg", "busbw.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    # One rank alone has no bus bandwidth.
    assert len(busbw_plot.plot_busbw(tmp_path, "title", [busbw_plot.Curve("x", {8: 0.0})], [])) == 2
    assert busbw_plot.size_text(8) == "8 B"
    assert busbw_plot.size_text(8_000_000_000) == "7.451 GiB"


def test_without_what_draws_the_report_is_written_and_told(recorded, build, tmp_path, monkeypatch):
    monkeypatch.setattr(levels.busbw_plot, "can_plot", lambda: False)
    notes = []
    session = Session()
    monkeypatch.setattr(type(session.listener), "note", lambda self, text: notes.append(text))
    request = LevelRequest(level="fabric", nodes=2, engine="edf", report=tmp_path / "report")
    proved = prove(session, build, request)
    assert (proved.folder / "report.json").is_file()
    assert not (proved.folder / "busbw.svg").exists()
    assert any("pip install 'uenv-builder[plot]'" in note for note in notes)


def test_the_states_of_nodes_and_their_faults():
    usual = load_figures().node_of("daint")

    def faults(name, asked=()):
        lines = (FIXTURES / f"nodes/{name}.txt").read_text().splitlines()
        return [str(fault) for fault in find_faults(read_states(lines), usual, asked)]

    assert faults("healthy") == []
    assert faults("gpu-lost") == ["nid001001: has 3 GPUs, 4 are usual"]
    assert faults("too-hot")[1] == "nid001001: GPU 1: too hot, 2 degrees above where it slows down"
    assert faults("one-answers", ["nid001000", "nid001001"]) == ["nid001001: did not answer"]
    labelled = read_states(["3: uenv-node n1 nic hsn0 down", "1: uenv-node n1 end ", "noise"])
    assert labelled["n1"].nics == {"hsn0": "down"}
    assert read_states(["uenv-node n1 gpu 0, NAME, [N/A], x, y, z, [N/A]"])["n1"].gpus[0].uncorrected is None


NVIDIA_SMI = """\
#!/bin/sh
case "$1" in
*temperature.gpu,*) echo "0, NVIDIA GH200 120GB, 590.48.01, 41, 1200, 1980, 3" ;;
*{known}*) echo "0, 0x0000000000000008" ;;
*tlimit*) echo "0, -1" ;;
*) echo "Field is not a valid field to query."; exit 2 ;;
esac
"""


@pytest.mark.parametrize("known", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_the_probe_asks_nvidia_smi_and_sysfs(tmp_path, monkeypatch, known):
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI.replace("{known}", known))
    (tmp_path / "nvidia-smi").chmod(0o755)
    for nic, state in (("hsn0", "up"), ("hsn1", "down"), ("eth0", "down")):
        (tmp_path / "sys/class/net" / nic).mkdir(parents=True)
        (tmp_path / "sys/class/net" / nic / "operstate").write_text(f"{state}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("UENV_PROBE_ROOT", str(tmp_path))
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    done = run(["sh", str(place_script("probe_node.sh", tmp_path))])
    states = read_states(done.stdout.splitlines())
    assert states["n7"].complete
    assert [str(fault) for fault in find_faults(states, None)] == [
        "n7: GPU 0: clocks are down, hardware slowdown (now 1200 of 1980 MHz)",
        "n7: GPU 0: too hot, 1 degrees above where it slows down",
        "n7: GPU 0: 3 memory errors that ECC could not correct",
        "n7: hsn1 is down",
    ]  # fmt: skip


def test_a_driver_that_hangs_does_not_hang_the_probe(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("UENV_PROBE_SECONDS", "0.3")
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    state = read_states(LocalLauncher().probe(tmp_path, 1).splitlines())["n7"]
    assert (state.trouble, state.complete) == ("nvidia-smi did not answer in 0.3 s", True)


def test_a_dump_and_a_probe_that_hang_lose_neither_verdict_nor_what_they_told(tmp_path, monkeypatch):
    def place_hanging(name, folder):
        (folder / name).write_text("echo so far; sleep 60\n")
        return folder / name

    monkeypatch.setattr(local, "place_script", place_hanging)
    monkeypatch.setattr(local, "_SHORT_SECONDS", 0.5)
    job = Job(name="job", argv=("sleep", "60"), folder=tmp_path, limit=0.3)
    assert LocalLauncher().run(job).returncode is None
    assert job.dump.read_text() == "so far\n"
    assert LocalLauncher().probe(tmp_path, 1) == (tmp_path / "nodes.txt").read_text() == "so far\n"


SALLOC = """\
#!/bin/sh
[ "$REFUSES" = 1 ] && exit 1
while [ "$1" != sh ]; do shift; done
SLURM_JOB_ID=1 SLURM_JOB_NUM_NODES=1 exec "$@"
"""


@pytest.mark.parametrize("refuses", ["0", "1"])
def test_a_command_that_fails_in_its_allocation_is_not_taken_for_none(build, tmp_path, monkeypatch, refuses):
    (tmp_path / "salloc").write_text(SALLOC)
    (tmp_path / "salloc").chmod(0o755)
    for name, value in {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REFUSES": refuses}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(allocation.sys, "executable", "false")
    request = LevelRequest(level="gpu", nodes=1)
    if refuses == "1":
        with pytest.raises(InconclusiveError, match="Slurm gave no allocation"):
            allocation.run_again(Session(), build, request)
    else:
        assert allocation.run_again(Session(), build, request) == 1
