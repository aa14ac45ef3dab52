from __future__ import annotations

import os
import re
import shlex
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from golden_files import check_golden

from uenv_builder.core.label import Label
from uenv_builder.core.sbatch import SbatchRequest, render_sbatch, srun_line
from uenv_builder.core.systems import load_systems
from uenv_builder.model.errors import UsageError
from uenv_builder.system.process import run
from uenv_builder.system.templates import load_template

SYSTEMS = load_systems()
TEMPLATE = load_template("sbatch.sh.j2")
TORCH = SbatchRequest(
    label=Label.parse("pytorch/2.14:v1@daint%gh200"), edf="pytorch-2.14", system=SYSTEMS["daint"],
    network="hook-artifact", workload="torch",
)  # fmt: skip
PLAIN = SbatchRequest(
    label=Label.parse("tool/1.0"), edf="tool", system=SYSTEMS["generic-x86_64"], network="none", nodes=1
)
CASES = [
    replace(TORCH, system=system, network=mode, workload=workload, dialect=dialect)
    for system in SYSTEMS.values()
    for mode in system.networks
    for workload in ("torch", "mpi", "command")
    for dialect in ("ce", "sarus")
]

# It keeps its arguments, then runs the command once for each of two ranks, as srun does.
SRUN = """\
#!/bin/sh
printf '%s\\0' "$@" > "$RECORD"
while [ $# -gt 0 ]; do case $1 in --*) shift ;; *) break ;; esac; done
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" || exit $?
done
"""
# As many lines as a large job has: a reader that stops after the first one must not end the script.
SCONTROL = """\
#!/bin/sh
[ "$1 $2 $3" = "show hostnames nid[001234-021233]" ] || exit 1
i=1234
while [ $i -lt 21234 ]; do echo "nid00$i"; i=$((i + 1)); done
"""


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run_script(request: SbatchRequest, tmp_path: Path, *args: str, check: bool = True, **env: str):
    """Run the script as Slurm does; returns what it printed and the arguments that srun got."""
    programs = tmp_path / "bin"
    programs.mkdir()
    write_program(programs / "srun", SRUN)
    write_program(programs / "scontrol", SCONTROL)
    script = tmp_path / "job.sh"
    script.write_text(render_sbatch(request, TEMPLATE))
    job = {
        "PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record"), "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "nid[001234-021233]", "SLURM_CPUS_PER_TASK": "72",
    }  # fmt: skip
    done = run(["bash", str(script), *args], env={**job, **env}, check=check)
    record = tmp_path / "record"
    return done, record.read_text().split("\0")[:-1] if record.exists() else []


def test_the_text_of_the_script():
    check_golden("daint-hook-artifact/pytorch.sbatch", render_sbatch(TORCH, TEMPLATE))


@pytest.mark.parametrize(
    "request_", CASES, ids=lambda case: f"{case.system.name}-{case.network}-{case.workload}-{case.dialect}"
)
def test_every_script_is_bash_and_keeps_the_rules(request_, tmp_path):
    text = render_sbatch(request_, TEMPLATE)
    script = tmp_path / "job.sh"
    script.write_text(text)
    assert run(["bash", "-n", str(script)]).stderr == ""
    options = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    assert not [option for option in options if option.startswith(("--environment", "--edf"))]
    launch = request_.system.launch
    assert f"--ntasks-per-node={launch.ranks_per_node}" in options
    assert f"--cpus-per-task={launch.cpus_per_rank}" in options
    assert (f"--gpus-per-node={launch.gpus_per_node}" in options) is (launch.gpus_per_node > 0)
    assert text.count("srun \\\n") == 1


def test_a_given_command_runs_on_every_rank(tmp_path):
    show = 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $1"'
    done, arguments = run_script(TORCH, tmp_path, "sh", "-c", show, "sh", "a  b$(id)")
    assert done.stdout == "0 0 2 nid001234 24567 a  b$(id)\n1 1 2 nid001234 24567 a  b$(id)\n"
    assert arguments[:5] == [
        "--cpus-per-task=72", "--mpi=pmix", "--network=disable_rdzv_get", "--environment=pytorch-2.14", "sh",
    ]  # fmt: skip


def test_sarus_suite_has_an_option_of_its_own(tmp_path):
    _, arguments = run_script(replace(TORCH, dialect="sarus"), tmp_path, "true")
    assert "--edf=pytorch-2.14" in arguments


def test_paths_with_blanks_and_dollars_stay_whole(tmp_path):
    request = replace(PLAIN, edf="/my images/$(touch injected)'s.toml", command=("printf", "[%s]", "a b", "$HOME"))
    done, arguments = run_script(request, tmp_path)
    assert arguments[1] == "--environment=/my images/$(touch injected)'s.toml"
    assert done.stdout == "[a b][$HOME]" * 2


def test_another_edf_is_given_by_the_environment(tmp_path):
    _, arguments = run_script(PLAIN, tmp_path, "true", EDF="/other file.toml")
    assert "--environment=/other file.toml" in arguments


def test_a_failing_rank_fails_the_job(tmp_path):
    done, _ = run_script(TORCH, tmp_path, "sh", "-c", "exit 3", check=False)
    assert done.returncode == 3


def test_a_job_without_host_names_fails_before_srun(tmp_path):
    done, arguments = run_script(TORCH, tmp_path, "true", check=False, SLURM_JOB_NODELIST="")
    assert done.returncode != 0
    assert arguments == []


@pytest.mark.parametrize("workload", ["torch", "mpi"])
def test_the_example_is_python_that_checks_every_element(workload, tmp_path):
    write_program(tmp_path / "python3", '#!/bin/sh\nprintf %s "$2" > "$RECORD.py"\n')
    _, arguments = run_script(
        replace(TORCH, workload=workload), tmp_path, PATH=f"{tmp_path}/bin:{tmp_path}:{os.environ['PATH']}"
    )
    program = (tmp_path / "record.py").read_text()
    assert arguments[-3:] == ["python3", "-c", program]
    compile(program, workload, "exec")
    assert "SystemExit(0 if right else 1)" in program


def test_the_line_for_a_shell():
    assert srun_line(TORCH, ["python3", "my train.py"]) == (
        "srun --nodes=2 --ntasks-per-node=4 --cpus-per-task=72 --gpus-per-node=4 --mpi=pmix"
        " --network=disable_rdzv_get --environment=pytorch-2.14 python3 'my train.py'"
    )
    line = srun_line(replace(PLAIN, edf="/a b/$x.toml", dialect="sarus"))
    assert shlex.split(line)[-3:] == ["--edf=/a b/$x.toml", "uname", "-a"]
    assert "--gpus-per-node" not in line


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"edf": "./pytorch.toml"}, "edf-path"),
        ({"edf": "sub/pytorch"}, "edf-path"),
        ({"edf": "/a\n#SBATCH --x"}, "edf-path"),
        ({"edf": ""}, "edf-path"),
        ({"time_limit": "1h"}, "time-limit"),
        ({"time_limit": "00:15:00\n"}, "time-limit"),
        ({"nodes": 0}, "nodes"),
        ({"command": ()}, "command"),
        ({"label": Label.parse("@daint")}, "label"),
    ],
)
def test_values_that_slurm_would_not_take(changes, rule):
    for make in (lambda request: render_sbatch(request, TEMPLATE), srun_line):
        with pytest.raises(UsageError) as caught:
            make(replace(PLAIN, **changes))
        assert caught.value.diagnostics[0].rule == rule
