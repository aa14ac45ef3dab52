"""What a user sets for a job is what programs see, whatever image and contract say; the empty value is a value too."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from uenv_command import ROOT, Uenv, refused

pytestmark = pytest.mark.network

MACHINE = platform.machine()
IMAGE = {"OMP_NUM_THREADS": "4", "NCCL_CROSS_NIC": "0", "LANG": "C.UTF-8"}
"""From the recipe, from the contract, and what every image has."""
OWN = {"OMP_NUM_THREADS": "7", "NCCL_CROSS_NIC": "", "LANG": "de_CH.UTF-8", "ONLY_MINE": "a=b c"}
SITE = f"""\
extends: generic-{MACHINE}
name: own-site
description: a site's own system
variables:
  NCCL_CROSS_NIC: {{values: {{none: "0"}}, reason: a value to win over., source: this test}}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory, session_cache) -> Path:
    """The small recipe with a variable of its own, built for a system that a folder of the site describes."""
    folder = tmp_path_factory.mktemp("user-wins")
    (folder / "systems").mkdir()
    (folder / "systems/own-site.yaml").write_text(SITE)
    recipe = folder / "python-mpi"
    shutil.copytree(ROOT / "recipes/python-mpi/1.0", recipe, ignore=shutil.ignore_patterns("*.lock.yaml"))
    document = yaml.safe_load((recipe / "recipe.yaml").read_text())
    document["targets"] = [{"system": "own-site", "uarch": MACHINE}]
    document["env"] = {"OMP_NUM_THREADS": "4"}
    (recipe / "recipe.yaml").write_text(yaml.safe_dump(document))
    uenv, variables = Uenv(folder, session_cache), {"UENV_SYSTEM_PATH": str(folder / "systems")}
    uenv.ok("lock", str(recipe), **variables)
    made = uenv.ok("build", str(recipe), "--locked", "--no-test", "--json", **variables)
    return folder / made.document["folder"]


def execute(build: Path, *words: str, variables: list[str], **host: str) -> dict[str, str]:
    """The environment that a program in the image sees; `variables` are those of `uenv exec --env`."""
    call = "import json, sys; from pathlib import Path; from uenv_builder.app.executing import execute\n"
    call += "path, argv, variables = json.loads(sys.argv[1])\n"
    call += "sys.exit(execute(Path(path), argv, binds=[], network=False, variables=variables))"
    argument = json.dumps([str(build), list(words) or ["env", "-0"], variables])
    done = subprocess.run(
        [sys.executable, "-c", call, argument], env={**os.environ, **host}, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def options(own: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in own.items()]


def seen(inside: dict[str, str], names) -> dict[str, str | None]:
    return {name: inside.get(name) for name in names}


def test_the_image_has_the_recipe_s_and_the_contract_s_values(build):
    assert seen(execute(build, variables=[]), IMAGE) == IMAGE


def test_a_starter_recipe_for_a_site_s_system_and_a_file_of_it_that_is_wrong(uenv):
    folder = uenv.folder / "systems"
    folder.mkdir()
    (folder / "own-site.yaml").write_text(SITE)
    arguments = ("--system", "own-site", "--uarch", MACHINE)
    uenv.ok("new", "mine/1.0", *arguments, UENV_SYSTEM_PATH=str(folder))
    assert "own-site" in (uenv.folder / "mine/1.0/recipe.yaml").read_text()
    refused(uenv.run("new", "other/1.0", *arguments), 2, 'unknown system "own-site"')
    (folder / "own-site.yaml").write_text(SITE + "lanch: {}\n")
    place = f"{folder}/own-site.yaml:6:1: error[unknown-key]"
    refused(uenv.run("new", "other/1.0", *arguments, UENV_SYSTEM_PATH=str(folder)), 3, place, 'did you mean "launch"?')


def test_what_exec_is_given_wins(build):
    inside = execute(build, variables=options(OWN))
    assert seen(inside, OWN) == OWN
    assert inside["PATH"], "all else is the image's"


def test_a_name_alone_takes_the_value_from_here(build):
    inside = execute(build, variables=["OMP_NUM_THREADS", "ONLY_MINE"], OMP_NUM_THREADS="9", ONLY_MINE="")
    assert seen(inside, ["OMP_NUM_THREADS", "ONLY_MINE"]) == {"OMP_NUM_THREADS": "9", "ONLY_MINE": ""}


def test_a_variable_of_this_machine_stays_outside_unless_it_is_named(build):
    assert seen(execute(build, variables=[], **OWN), IMAGE) == IMAGE


@pytest.mark.parametrize("shell", [("sh", "-lc"), ("bash", "-lc")], ids=lambda words: words[0])
def test_a_login_shell_in_the_image_keeps_it(build, shell):
    assert seen(execute(build, *shell, "exec env -0", variables=options(OWN)), OWN) == OWN


def test_enroot_s_start_script_keeps_it(build):
    """enroot sets the variables and hands /etc/rc to a login shell."""
    inside = execute(build, "sh", "-l", "/etc/rc", "env", "-0", variables=options(OWN))
    assert seen(inside, OWN) == OWN


def test_python_sees_it(build):
    code = "import os, sys; sys.stdout.write('\\0'.join(f'{k}={v}' for k, v in os.environ.items()))"
    assert seen(execute(build, "python3", "-c", code, variables=options(OWN)), OWN) == OWN


def test_a_variable_can_be_taken_away(build):
    inside = execute(build, "env", "-u", "NCCL_CROSS_NIC", "env", "-0", variables=[])
    assert "NCCL_CROSS_NIC" not in inside
    assert inside["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("variable", "message"),
    [("1X=2", 'error[usage]: --env 1X=2: "1X" is no name'), ("NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set here")],
)
def test_what_is_no_variable_is_refused(build, monkeypatch, variable, message):
    from uenv_builder.app.executing import execute as run_inside
    from uenv_builder.model.errors import UsageError

    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(UsageError) as caught:
        run_inside(build, ["true"], binds=[], network=False, variables=[variable])
    assert message in str(caught.value)
    assert "hint: write --env" in str(caught.value)


def test_the_command_line_passes_it_on(build, uenv):
    arguments = [word for text in options(OWN) for word in ("--env", text)]
    shown = uenv.ok("exec", *arguments, str(build), "--", "env", "-0").stdout
    inside = dict(line.split("=", 1) for line in shown.split("\0") if line)
    assert seen(inside, OWN) == OWN


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="podman is run as root here")
def test_podman_s_option_wins(build, tmp_path):
    runroot = tempfile.mkdtemp(prefix="uenv-")  # podman takes no more than 50 characters here
    podman = ["podman", "--root", tmp_path / "root", "--runroot", runroot, "--storage-driver", "vfs"]
    podman += ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    limits = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]

    def run(*words) -> str:
        done = subprocess.run([*podman, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        image = run("pull", "-q", f"oci:{build / 'oci'}").strip()
        given = [word for text in options(OWN) for word in ("--env", text)]
        for command in (["env", "-0"], ["bash", "-lc", "exec env -0"]):
            shown = run("run", "--rm", *limits, *given, image, *command)
            inside = dict(line.split("=", 1) for line in shown.split("\0") if line)
            assert seen(inside, OWN) == OWN
        shown = run("run", "--rm", *limits, "--unsetenv", "NCCL_CROSS_NIC", image, "env")
        assert "NCCL_CROSS_NIC" not in shown
    finally:
        subprocess.run([*podman, "rmi", "--all", "--force"], capture_output=True, check=False)
        shutil.rmtree(runroot, ignore_errors=True)
