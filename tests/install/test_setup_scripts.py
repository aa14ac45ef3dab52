"""The scripts that prepare a machine, with programs on PATH that only write down how they were called."""

import os
import shutil
import subprocess
import sys

import pytest

from uenv_command import ROOT

SCRIPTS = ["ci/uenv", "ci/test", "ci/setup.sh", ".ci/run"]
TOOLS = ["bash", "cat", "chmod", "cksum", "dirname", "env", "grep", "mkdir", "rm", "true"]
NEW_PYTHON = """
if [ "$1" = -V ]; then echo "Python ${FAKE_VERSION:-3.12.1}"; exit; fi
if [ "$1" = -c ]; then exit 0; fi
echo "python $*" >> "$CALLS"
if [ "$1$2" = -mvenv ]; then
    for venv; do :; done
    mkdir -p "$venv/bin"
    cat "$0" > "$venv/bin/python"
    chmod +x "$venv/bin/python"
    echo > "$venv/pyvenv.cfg"
fi
if [ "$1$2" = -mpip ]; then exit "${FAKE_PIP:-0}"; fi
"""
OLD_PYTHON = 'if [ "$1" = -V ]; then echo "Python 3.9.2"; exit; fi\nexit 1\n'


class Machine:
    """A PATH with a few real tools and programs of our own, and what these were asked to do."""

    def __init__(self, folder):
        self.bin, self.calls, self.venv = folder / "bin", folder / "calls", folder / "venv"
        self.bin.mkdir()
        self.calls.touch()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.program("python3", NEW_PYTHON)
        self.program("id", "echo 0")
        self.program(
            "dpkg-query", 'for name; do :; done\ncase " $FAKE_THERE " in *" $name "*) echo install ok installed;; esac'
        )
        self.program("apt-get", 'echo "apt-get $*" >> "$CALLS"\nexit "${FAKE_APT:-0}"')

    def program(self, name, text):
        path = self.bin / name
        path.write_text(f"#!{shutil.which('bash')}\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def bash(self, script, **variables):
        environment = {
            "PATH": str(self.bin), "CALLS": str(self.calls), "UENV_VENV": str(self.venv), "FAKE_THERE": "", **variables,
        }  # fmt: skip
        whole = f'set -euo pipefail; checkout="{ROOT}"; . "{ROOT}/ci/setup.sh"; {script}'
        return subprocess.run(
            [shutil.which("bash"), "-c", whole], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip

    def called(self):
        lines = self.calls.read_text(encoding="utf-8").splitlines()
        self.calls.write_text("", encoding="utf-8")
        return lines


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_it(script):
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_finds_nothing():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "-x", "-s", "bash", *SCRIPTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["ci/uenv", "ci/test", ".ci/run"])
def test_it_can_be_started(script):
    assert os.access(ROOT / script, os.X_OK)


def test_nothing_happens_where_all_is_there(machine):
    done = machine.bash("install_packages one two", FAKE_THERE="one two three")
    assert (done.returncode, done.stdout, done.stderr, machine.called()) == (0, "", "", [])


def test_root_gets_what_is_missing_and_only_that(machine):
    done = machine.bash("install_packages one two three", FAKE_THERE="two")
    assert done.returncode == 0
    assert done.stderr == "uenv: installing one three\n"
    update, install = machine.called()
    assert update.endswith("update")
    assert " install " in install
    assert install.endswith(" one three")


def test_no_install_names_what_is_missing_and_installs_nothing(machine):
    machine.program("sudo", 'echo "sudo $*" >> "$CALLS"')
    done = machine.bash("install_packages one two three", FAKE_THERE="two", UENV_NO_INSTALL="1")
    assert done.returncode == 0
    assert done.stderr == "uenv: not installed, and not installing: one three\n"
    assert machine.called() == []


def test_a_machine_without_apt_gets_no_command_for_it(machine):
    (machine.bin / "apt-get").unlink()
    done = machine.bash("install_packages one")
    assert (done.returncode, done.stderr) == (0, "uenv: not installed, and not installing: one\n")


@pytest.mark.parametrize("sudo", [None, "echo a password is required >&2; exit 1"], ids=["no sudo", "asks a password"])
def test_a_user_is_shown_the_command(machine, sudo):
    machine.program("id", "echo 1000")
    if sudo:
        machine.program("sudo", sudo)
    done = machine.bash("install_packages one two")
    assert done.returncode == 0
    assert done.stderr == "uenv: needs these packages: sudo apt-get install one two\n"
    assert machine.called() == []


def test_a_user_with_sudo_installs_and_nothing_asks(machine):
    machine.program("id", "echo 1000")
    # As sudo does, this drops the variables that it was started with.
    machine.program("sudo", 'shift; echo "sudo $*" >> "$CALLS"; unset DEBIAN_FRONTEND; exec "$@"')
    machine.program("apt-get", 'echo "apt-get $DEBIAN_FRONTEND" >> "$CALLS"')
    done = machine.bash("install_packages one")
    assert done.returncode == 0, done.stderr
    calls = machine.called()
    assert calls[0] == "sudo true"
    assert calls[-1] == "apt-get noninteractive"


def test_a_failing_apt_ends_it_with_a_way_on(machine):
    done = machine.bash("install_packages one; echo went on", FAKE_APT="100")
    assert done.returncode == 6
    assert "went on" not in done.stdout
    assert "UENV_NO_INSTALL=1 this goes on without one" in done.stderr


def test_an_old_python_is_refused_by_name_and_version(machine):
    machine.program("python3", OLD_PYTHON)
    done = machine.bash('prepare ""')
    assert done.returncode == 6
    assert done.stderr == (
        "uenv: Python 3.11 or newer is needed, and python3 is Python 3.9.2; set PYTHON to the path of a newer one\n"
    )
    assert not machine.venv.exists()


def test_no_python_is_told_from_an_old_one(machine):
    (machine.bin / "python3").unlink()
    assert "python3 is missing" in machine.bash('prepare ""').stderr


def test_a_newer_python_beside_an_old_one_is_found(machine):
    machine.program("python3", OLD_PYTHON)
    machine.program("python3.13", NEW_PYTHON)
    assert machine.bash("find_python").stdout == f"{machine.bin}/python3.13\n"


def test_the_chosen_python_is_taken_or_refused_but_not_replaced(machine):
    machine.program("other", OLD_PYTHON)
    done = machine.bash("find_python", PYTHON="other")
    assert (done.returncode, done.stdout) == (6, "")
    assert "other is Python 3.9.2" in done.stderr


def test_a_python_without_venv_gets_the_package_for_it(machine):
    machine.program("python3", NEW_PYTHON.replace("exit 0", "[[ $2 != *ensurepip* ]]; exit"))
    machine.bash('prepare ""')
    assert [call for call in machine.called() if call.endswith("python3-venv")]


def test_the_environment_is_made_once_and_again_after_a_change(machine):
    assert machine.bash('prepare "[test]"').returncode == 0
    make, install = machine.called()
    assert make == f"python -m venv {machine.venv}"
    assert install.endswith(f"--constraint {ROOT}/ci/constraints.txt --editable {ROOT}[test]")
    done = machine.bash('prepare "[test]"')
    assert (done.returncode, done.stderr, machine.called()) == (0, "", [])
    machine.bash('prepare ""')
    assert machine.called()[-1].endswith(f"--editable {ROOT}")


@pytest.mark.parametrize("code", ["1", "130"], ids=["failed", "interrupted"])
def test_a_half_made_environment_is_made_again(machine, code):
    done = machine.bash('prepare ""; echo went on', FAKE_PIP=code)
    assert done.returncode == int(code)
    assert "went on" not in done.stdout
    assert machine.venv.exists()
    assert machine.called()
    assert machine.bash('prepare ""').returncode == 0
    assert len(machine.called()) == 2
    machine.bash('prepare ""')
    assert machine.called() == []


def test_a_broken_interpreter_is_noticed_though_the_stamp_is_there(machine):
    machine.bash('prepare ""')
    (machine.venv / "bin/python").unlink()
    machine.called()
    assert machine.bash('prepare ""').returncode == 0
    assert len(machine.called()) == 2


def test_another_python_gets_a_new_environment(machine):
    machine.bash('prepare ""')
    machine.called()
    (machine.venv / "bin/python").write_text("#!/bin/sh\necho Python 3.11.0\n", encoding="utf-8")
    machine.bash('prepare ""', FAKE_VERSION="3.13.0")
    assert machine.called()[0] == f"python -m venv --clear {machine.venv}"


def test_a_folder_that_is_no_environment_is_not_emptied(machine):
    machine.venv.mkdir()
    (machine.venv / "mine").touch()
    machine.bash('prepare ""')
    assert "--clear" not in machine.called()[0]


@pytest.mark.network
def test_a_fresh_copy_sets_itself_up_and_then_starts_at_once(tmp_path):
    copy = tmp_path / "copy of it"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", ".*_cache"), symlinks=True
    )
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UENV_", "VIRTUAL_ENV"))
    }
    environment = {**kept, "UENV_NO_INSTALL": "1", "PYTHON": sys.executable}
    for turn in ("first", "second"):
        done = subprocess.run(
            [copy / "ci/uenv", "--version"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("uenv-builder ")
        assert ("preparing the Python environment" in done.stderr) == (turn == "first")
