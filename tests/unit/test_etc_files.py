from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from golden_files import check_golden

from uenv_builder.core.environment import compose_environment
from uenv_builder.core.etc_files import etc_files
from uenv_builder.core.systems import load_systems
from uenv_builder.model.errors import RecipeError
from uenv_builder.model.image import ImageConfig
from uenv_builder.system.process import run

CONFIG = ImageConfig(
    architecture="arm64",
    env=compose_environment(load_systems()["daint"], "hook-artifact", {"MODEL": 'it\'s a "test"; $HOME'}),
    workdir="/workspace",
    labels={
        "org.opencontainers.image.title": "pytorch",
        "org.opencontainers.image.version": "2.14",
        "org.opencontainers.image.description": "two\nlines; touch injected",
    },
)
SHELLS = pytest.mark.parametrize("shell", ["dash", "bash", "bash --posix"])
BARE = {"PATH": os.environ["PATH"], "HOME": "/"}


def test_files_are_those_that_enroot_and_login_shells_read():
    files = etc_files(CONFIG)
    assert list(files) == ["etc/environment", "etc/fstab", "etc/profile.d/zz-uenv.sh", "etc/rc", "etc/rc.local"]
    assert {mode for _, mode in files.values()} <= {0o644, 0o755}
    assert files["etc/fstab"][0] == files["etc/rc.local"][0] == ""
    for path in ("etc/environment", "etc/profile.d/zz-uenv.sh", "etc/rc"):
        check_golden(f"daint-hook-artifact/{path}", files[path][0])


def read_as_enroot(text: str, host: dict[str, str]) -> dict[str, str]:
    """As NVIDIA/enroot 4.1.2 src/common.sh does: envsubst, then envfmt."""
    found = {}
    for line in text.splitlines():
        filled = re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", lambda match: host.get(match[1], ""), line).lstrip()
        if re.match(r"[A-Za-z_][A-Za-z0-9_]*=", filled) and not filled.startswith("ENROOT_"):
            name, _, value = filled.partition("=")
            found[name] = re.sub(r"^[\"'](.*)[\"']\s*$", r"\1", value)
    return found


def test_enroot_reads_the_same_variables_as_oci_engines():
    assert read_as_enroot(etc_files(CONFIG)["etc/environment"][0], {"HOME": "/users/x"}) == CONFIG.env


@pytest.mark.parametrize("value", ["a\nB=1", "${HOME}", "'x'", "$(id)", " x"])
def test_variables_that_cannot_be_written_are_refused(value):
    with pytest.raises(RecipeError, match=r"^error\[env-"):
        etc_files(replace(CONFIG, env={**CONFIG.env, "X": value}))


def start(
    config: ImageConfig, tmp_path: Path, shell: str, *args: str, local: str = "", env: dict[str, str] | None = None
):
    """Run the image's start script with `shell` as enroot does; its rc.local lies in `tmp_path`."""
    (tmp_path / "rc.local").write_text(local)
    script = tmp_path / "rc"
    script.write_text(etc_files(config)["etc/rc"][0].replace("/etc/rc.local", str(tmp_path / "rc.local")))
    return run([*shell.split(), str(script), *args], env=env or BARE, cwd=tmp_path, check=False)


SHOW = ("sh", "-c", 'pwd; printf "<%s>" "$@"', "sh")


@SHELLS
def test_the_given_command_runs_in_the_workdir(tmp_path, shell):
    workdir = tmp_path / "a b$(touch injected)`touch injected`'\""
    done = start(replace(CONFIG, workdir=str(workdir)), tmp_path, shell, *SHOW, "x y", "$HOME")
    assert done.stdout == f"{workdir}\n<x y><$HOME>"
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("injected"))


@SHELLS
def test_a_label_s_second_line_is_no_command(tmp_path, shell):
    start(replace(CONFIG, workdir=str(tmp_path)), tmp_path, shell, "true")
    assert not (tmp_path / "injected").exists()
    assert "# org.opencontainers.image.description two lines; touch injected\n" in etc_files(CONFIG)["etc/rc"][0]


@SHELLS
def test_the_entrypoint_gets_command_or_default(tmp_path, shell):
    config = replace(CONFIG, workdir=str(tmp_path), entrypoint=("printf", "[%s]"), cmd=("de fault", "$x"))
    assert start(config, tmp_path, shell, "given", "a b").stdout == "[given][a b]"
    assert start(config, tmp_path, shell).stdout == "[de fault][$x]"


@SHELLS
def test_without_command_and_default_a_shell_starts(tmp_path, shell):
    config = replace(CONFIG, workdir=str(tmp_path), cmd=())
    assert "exec '/bin/sh'\n" in etc_files(config)["etc/rc"][0]
    assert start(config, tmp_path, shell).returncode == 0


@SHELLS
def test_pyxis_replaces_the_entrypoint_after_the_change_to_the_workdir(tmp_path, shell):
    config = replace(CONFIG, workdir=str(tmp_path / "work"), entrypoint=("false",))
    done = start(config, tmp_path, shell, *SHOW, "x y", local='exec "$@"\n')
    assert done.stdout == f"{tmp_path}/work\n<x y>"


@SHELLS
def test_a_workdir_that_cannot_be_made_ends_the_start(tmp_path, shell):
    (tmp_path / "file").write_text("")
    done = start(replace(CONFIG, workdir=str(tmp_path / "file" / "x")), tmp_path, shell, "echo", "ran")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "cd" in done.stderr


DEBIAN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"


def login(config: ImageConfig, tmp_path: Path, shell: str, env: dict[str, str], *, times: int = 1) -> dict[str, str]:
    """The variables of a login shell whose /etc/profile sets PATH as Debian's does and then reads profile.d."""
    (tmp_path / "zz-uenv.sh").write_text(etc_files(config)["etc/profile.d/zz-uenv.sh"][0])
    lines = [f'PATH="{DEBIAN_PATH}"', "export PATH", "set -eu", *[f". {tmp_path}/zz-uenv.sh"] * times]
    (tmp_path / "profile").write_text("\n".join([*lines, "exec /usr/bin/env -0"]))
    done = run([*shell.split(), str(tmp_path / "profile")], env=env)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


@SHELLS
def test_a_login_shell_keeps_the_image_s_environment(tmp_path, shell):
    env = {**CONFIG.env, "PATH": "/opt/my tools/bin:/opt/b:/usr/local/sbin:/usr/local/bin:/usr/bin:/bin:/opt/last"}
    config = replace(CONFIG, env=env)
    inside = login(config, tmp_path, shell, {})
    assert inside["PATH"] == f"/opt/my tools/bin:/opt/b:{DEBIAN_PATH}:/usr/local/sbin:/opt/last"
    assert {name: inside[name] for name in env if name != "PATH"} == {k: v for k, v in env.items() if k != "PATH"}
    assert {"_", "PWD", "SHLVL", "OLDPWD", *env} >= set(inside), "nothing else is left behind"


@SHELLS
def test_reading_it_again_changes_nothing(tmp_path, shell):
    config = replace(CONFIG, env={**CONFIG.env, "PATH": "/opt/a:/usr/bin:/opt/b"})
    once, again = login(config, tmp_path, shell, {}), login(config, tmp_path, shell, {}, times=3)
    assert once == again


@SHELLS
def test_what_the_user_set_wins(tmp_path, shell):
    inside = login(CONFIG, tmp_path, shell, {"NCCL_PROTO": "Simple", "LANG": "", "PMIX_MCA_psec": "a b"})
    assert (inside["NCCL_PROTO"], inside["LANG"], inside["PMIX_MCA_psec"]) == ("Simple", "", "a b")
    assert inside["CUDA_CACHE_DISABLE"] == "1"


@SHELLS
def test_a_path_of_the_user_s_own_order_is_kept(tmp_path, shell):
    script = tmp_path / "zz.sh"
    script.write_text(etc_files(CONFIG)["etc/profile.d/zz-uenv.sh"][0] + 'echo "$PATH"\n')
    path = "/venv/bin:/bin:/usr/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin"
    assert run([*shell.split(), str(script)], env={"PATH": path}).stdout.strip() == path


@SHELLS
def test_an_unset_path_is_filled(tmp_path, shell):
    script = tmp_path / "zz.sh"
    script.write_text("unset PATH\n" + etc_files(CONFIG)["etc/profile.d/zz-uenv.sh"][0] + 'echo "$PATH"\n')
    done = run([*shell.split(), str(script)], env=BARE)
    assert done.stdout.strip() == CONFIG.env["PATH"]
