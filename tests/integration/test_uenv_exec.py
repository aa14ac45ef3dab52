"""`uenv exec` in a uenv: the image at its mount point on the machine's own files, and the environment of its views."""

import platform
from pathlib import Path

import pytest

from made_uenv import META, VIEW, make_uenv
from uenv_command import refused

UARCH = platform.machine()
OTHER = "aarch64" if UARCH == "x86_64" else "x86_64"
TOOL = b'#!/bin/sh\nprintf \'%s %s %s\\n\' "$0" "$CUDA_HOME" "$*"\n'
SECOND = {
    "env": {"values": {"list": {"PATH": [{"op": "append", "value": ["/second"]}]}, "scalar": {"CUDA_HOME": None}}}
}


@pytest.fixture
def build(alone):
    meta = {**META, "views": {"default": VIEW, "second": SECOND}}
    return make_uenv(alone.folder / "build", meta=meta, content=TOOL, uarch=UARCH)


def test_the_default_view_finds_the_images_programs(alone, build):
    outcome = alone.ok("exec", str(build), "--", "tool", "a b", PATH="/usr/bin:/bin")
    assert outcome.stdout == "/user-environment/env/default/bin/tool /user-environment/cuda a b\n"


def test_views_are_applied_in_their_order_and_variables_win(alone, build):
    words = ["--view", "second", "--view", "default", "--env", "CUDA_HOME=/mine"]
    outcome = alone.ok("exec", *words, str(build), "--", "sh", "-c", "echo $PATH $CUDA_HOME $UENV_VIEW", PATH="/bin")
    view = "/user-environment:tools:"
    assert outcome.stdout == f"/user-environment/env/default/bin:/bin:/second /mine {view}second,{view}default\n"


def test_the_machine_is_there_and_nothing_of_it_changes(alone, build):
    script = "echo x >/usr/x || echo x >/user-environment/x || echo refused; test -e /etc/passwd && echo seen; :>/tmp/x"
    outcome = alone.ok("exec", str(build), "--", "/bin/sh", "-c", script)
    assert outcome.stdout == "refused\nseen\n"
    assert not Path("/user-environment/x").exists()


def test_the_exit_code_comes_back(alone, build):
    assert alone.run("exec", str(build), "--", "/bin/sh", "-c", "exit 37").code == 37


def test_a_view_that_is_not_there(alone, build):
    refused(alone.run("exec", "--view", "third", str(build), "--", "true"), 6, 'tools has no view "third"', "default")


def test_a_uenv_of_another_machine(alone):
    build = make_uenv(alone.folder / "build", uarch=OTHER)
    refused(alone.run("exec", str(build), "--", "true"), 6, f"the uenv is for {OTHER}")


def test_a_container_has_no_views(alone):
    build = make_uenv(alone.folder / "build", meta=None, uarch=UARCH)
    refused(alone.run("exec", "--view", "default", str(build), "--", "true"), 2, "has no views")
