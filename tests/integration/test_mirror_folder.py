"""A folder by sha256 serves a build that may not ask anybody."""

from __future__ import annotations

import os
import shutil

import pytest

from uenv_command import ROOT, Uenv

pytestmark = pytest.mark.network


def test_a_mirror_folder_serves_an_offline_build_with_an_empty_store(tmp_path, session_cache):
    recipe = tmp_path / "recipe"
    shutil.copytree(ROOT / "recipes/python-mpi/1.0", recipe, ignore=shutil.ignore_patterns("*.lock.yaml"))
    online = Uenv(tmp_path, session_cache)
    online.ok("lock", str(recipe), "--uarch", "x86_64")
    online.ok("build", str(recipe), "--uarch", "x86_64", "--no-test", "--locked", "--output", str(tmp_path / "first"))
    mirror, config = tmp_path / "mirror", tmp_path / "config"
    shutil.copytree(session_cache / "downloads", mirror, copy_function=os.link)
    (config / "uenv-builder").mkdir(parents=True)
    (config / "uenv-builder/config.toml").write_text(f'mirror-folders = ["{mirror}"]\n')
    offline = Uenv(tmp_path, tmp_path / "empty")
    arguments = ("build", str(recipe), "--uarch", "x86_64", "--no-test", "--locked", "--offline", "--json")
    # Without the folder it names what is missing, all at once.
    refused = offline.run(*arguments, XDG_CONFIG_HOME=str(tmp_path / "nowhere"))
    assert refused.code == 9
    assert len(refused.document["diagnostics"]) > 10
    built = offline.ok(*arguments, XDG_CONFIG_HOME=str(config), PATH=f"{tmp_path}:{os.environ['PATH']}").document
    first = online.ok("inspect", str(tmp_path / "first"), "--json").document
    assert built["manifest"]["squashfs"] == first["squashfs"]


def test_a_damaged_file_in_a_mirror_folder_is_not_taken(tmp_path, session_cache):
    recipe = tmp_path / "recipe"
    shutil.copytree(ROOT / "recipes/python-mpi/1.0", recipe, ignore=shutil.ignore_patterns("*.lock.yaml"))
    online = Uenv(tmp_path, session_cache)
    online.ok("lock", str(recipe), "--uarch", "x86_64")
    online.ok("build", str(recipe), "--uarch", "x86_64", "--no-test", "--locked")
    mirror, config = tmp_path / "mirror", tmp_path / "config"
    shutil.copytree(session_cache / "downloads", mirror)
    for file in mirror.glob("*/*"):
        content = bytearray(file.read_bytes()[:-1] + b"\0")
        content[0] ^= 1
        file.write_bytes(content)
    (config / "uenv-builder").mkdir(parents=True)
    (config / "uenv-builder/config.toml").write_text(f'mirror-folders = ["{mirror}"]\n')
    outcome = Uenv(tmp_path, tmp_path / "empty").run(
        "build", str(recipe), "--uarch", "x86_64", "--no-test", "--locked", "--offline", XDG_CONFIG_HOME=str(config)
    )
    assert outcome.code == 5
    assert "hash-mismatch" in outcome.stderr
    assert not list((tmp_path / "empty/downloads").glob("*/" + "?" * 64))
