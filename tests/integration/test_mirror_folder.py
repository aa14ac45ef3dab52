"""A mirror serves a build that may not ask anybody, from a folder and through a web server."""

from __future__ import annotations

import shutil

import pytest
from faulty_server import serving

from uenv_command import ROOT, Uenv

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory, session_cache):
    """A locked recipe, and the mirror that was filled for it."""
    folder = tmp_path_factory.mktemp("mirrored")
    recipe, mirror = folder / "recipe", folder / "mirror"
    shutil.copytree(ROOT / "recipes/python-mpi/1.0", recipe, ignore=shutil.ignore_patterns("*.lock.yaml"))
    online = Uenv(folder, session_cache)
    refused = online.run("mirror", str(recipe), str(mirror), "--uarch", "x86_64")
    assert refused.code == 5
    assert "lock-missing" in refused.stderr
    online.ok("lock", str(recipe), "--uarch", "x86_64")
    filled = online.ok("mirror", str(recipe), str(mirror), "--uarch", "x86_64", "--json").document
    assert filled["added"] > 20
    again = online.ok("mirror", str(recipe), str(mirror), "--uarch", "x86_64", "--offline", "--json").document
    assert (again["added"], again["present"]) == (0, filled["added"])
    return recipe, mirror


def test_a_build_without_internet_and_with_an_empty_store(tmp_path, session_cache, mirrored):
    recipe, mirror = mirrored
    offline = Uenv(tmp_path, tmp_path / "empty")
    arguments = ("build", str(recipe), "--uarch", "x86_64", "--no-test", "--locked", "--offline", "--json")
    # Without the mirror it names what is missing, all at once.
    refused = offline.run(*arguments)
    assert refused.code == 9
    assert len(refused.document["diagnostics"]) > 10
    with serving() as server:
        for file in mirror.rglob("*"):
            if file.is_file():
                server.files[f"/m/{file.relative_to(mirror).as_posix()}"] = file.read_bytes()
        built = offline.ok(*arguments, "--mirror", str(tmp_path / "nowhere"), "--mirror", server.url("/m")).document
    online = Uenv(tmp_path, session_cache)
    other = ("build", str(recipe), "--uarch", "x86_64", "--no-test", "--locked", "--output", str(tmp_path / "other"))
    assert built["manifest"]["squashfs"] == online.ok(*other, "--json").document["manifest"]["squashfs"]


def test_a_damaged_mirror_of_the_settings_is_not_believed(tmp_path, session_cache, mirrored):
    recipe, mirror, config = mirrored[0], tmp_path / "mirror", tmp_path / "config"
    shutil.copytree(mirrored[1], mirror)
    for file in mirror.glob("sha256/*/*"):
        content = bytearray(file.read_bytes()[:-1] + b"\0")
        content[0] ^= 1
        file.write_bytes(content)
    (config / "uenv-builder").mkdir(parents=True)
    (config / "uenv-builder/config.toml").write_text(f'mirrors = ["{mirror}"]\n')
    outcome = Uenv(tmp_path, tmp_path / "empty").run(
        "build", str(recipe), "--uarch", "x86_64", "--no-test", "--locked", "--offline", XDG_CONFIG_HOME=str(config)
    )
    assert outcome.code == 5
    assert "hash-mismatch" in outcome.stderr
    assert not list((tmp_path / "empty/downloads").glob("*/" + "?" * 64))
    online = Uenv(tmp_path, session_cache)
    found = online.run("mirror", "--verify", str(mirror), "--json")
    assert found.code == 5
    assert len(found.document["damaged"]) == found.document["files"]
    online.ok("mirror", "--verify", str(recipe), str(mirror), "--uarch", "x86_64")
    assert online.ok("mirror", "--verify", str(mirror), "--json").document["damaged"] == []
    assert online.run("mirror", str(mirror)).code == 2
