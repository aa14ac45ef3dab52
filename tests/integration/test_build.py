"""The main job on real packages: both images of the small recipe, for both architectures, tested and compared."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

import compare_mounted_image
from made_listings import listing_of_oci, listing_of_squashfs
from uenv_command import ROOT, Uenv

pytestmark = pytest.mark.network


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, session_cache):
    """The small recipe with locks of today: a mirror drops what a lock of some months ago names."""
    folder = tmp_path_factory.mktemp("recipe") / "python-mpi"
    shutil.copytree(ROOT / "recipes/python-mpi/1.0", folder, ignore=shutil.ignore_patterns("*.lock.yaml"))
    Uenv(folder.parent, session_cache).ok("lock", str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def builds(tmp_path_factory, session_cache, recipe):
    """The small recipe built and tested for both architectures: folders by node type."""
    uenv = Uenv(tmp_path_factory.mktemp("builds"), session_cache)
    folders = {}
    for uarch in ("x86_64", "aarch64"):
        outcome = uenv.ok("build", recipe, "--uarch", uarch, "--locked", "--json")
        folders[uarch] = uenv.folder / outcome.document["folder"]
    return folders


def manifest(folder: Path):
    return json.loads((folder / "manifest.json").read_text())


def report(folder: Path):
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("uarch", ["x86_64", "aarch64"])
def test_a_build_leaves_what_the_reference_lists(builds, uarch):
    names = {str(path.relative_to(builds[uarch])) for path in builds[uarch].rglob("*") if "blobs" not in path.parts}
    assert names == {
        "plan.json", "image.squashfs", "oci", "oci/oci-layout", "oci/index.json", "edf", "edf/python-mpi.toml",
        "edf/python-mpi.sarus.toml", "sbatch.sh", "manifest.json", "report.json", "report.xml", "lock.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("uarch", ["x86_64", "aarch64"])
def test_every_check_passed_inside_the_image(builds, uarch):
    found = report(builds[uarch])
    assert found["outcome"] == "passed"
    assert found["image"] == manifest(builds[uarch])["squashfs"]["sha256"]
    assert found["emulated"] == (uarch != platform.machine())
    outcomes = {result["check"]: result["outcome"] for result in found["results"]}
    assert {"elf-machine", "elf-needed", "wheel-record", "python-starts", "imports", "allreduce-mpi"} <= set(outcomes)
    assert set(outcomes.values()) == {"passed"}
    mpi = next(result for result in found["results"] if result["check"] == "allreduce-mpi")
    assert mpi["measured"]


@pytest.mark.parametrize("uarch", ["x86_64", "aarch64"])
def test_the_digest_is_that_of_the_file(builds, uarch):
    with (builds[uarch] / "image.squashfs").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == manifest(builds[uarch])["squashfs"]["sha256"]


def test_programs_run_inside(builds, uenv):
    script = "import platform, numpy, sys; print(platform.machine(), numpy.arange(4).sum(), sys.prefix)"
    for uarch, folder in builds.items():
        assert uenv.ok("exec", str(folder), "--", "python3", "-c", script).stdout.split() == [uarch, "6", "/usr"]


def test_exec_passes_the_exit_code_and_the_environment_on(builds, uenv):
    folder = str(builds[platform.machine()] / "image.squashfs")
    assert uenv.run("exec", folder, "--", "sh", "-c", "exit 42").code == 42
    shown = uenv.ok("exec", folder, "--", "env", HOME="/somewhere", SECRET="x").stdout
    assert "SECRET" not in shown
    assert "LANG=C.UTF-8" in shown


def test_dpkg_and_pip_metadata_are_there(builds, uenv):
    folder = str(builds[platform.machine()])
    assert "python3.13-minimal" in uenv.ok("exec", folder, "--", "dpkg", "-l").stdout
    code = "import importlib.metadata as m; print(m.version('numpy'), m.distribution('numpy').read_text('INSTALLER'))"
    assert "uenv-builder" in uenv.ok("exec", folder, "--", "python3", "-c", code).stdout


def test_a_second_build_runs_nothing(recipe, builds, uenv):
    document = uenv.ok("build", recipe, "--uarch", "x86_64", "--locked", "--offline", "--json").document
    assert document["built"] == []
    assert document["manifest"]["squashfs"] == manifest(builds["x86_64"])["squashfs"]


def is_answered(uenv, words):
    """Whether the command would be answered from the record of an earlier one."""
    code = "import sys, uenv_builder.system.up_to_date as u; print(u.find_answer(sys.argv[1:]) is not None)"
    command = [sys.executable, "-c", code, *words]
    asked = subprocess.run(
        command, cwd=uenv.folder, env=uenv.environment(), capture_output=True, text=True, check=True
    )  # fmt: skip
    return asked.stdout == "True\n"


def age(*folders):
    """Make all files look as if nobody had changed them just now."""
    for file in (file for folder in folders for file in [folder, *folder.rglob("*")]):
        os.utime(file, ns=(0, file.stat().st_mtime_ns - 10_000_000_000))


def test_a_build_without_changes_is_told_from_stamps_until_something_changes(recipe, uenv):
    own = uenv.folder / "shelf/own"
    shutil.copytree(recipe, own / "1.0", ignore=shutil.ignore_patterns("aarch64.lock.yaml"))
    text = (own / "1.0/recipe.yaml").read_text().replace("name: python-mpi", "name: own")
    (own / "1.0/recipe.yaml").write_text(text.replace("  - system: generic-aarch64\n    uarch: aarch64\n", ""))
    words = ["build", "shelf/own", "--no-test"]
    output = uenv.folder / "build/own-1.0-x86_64"

    def settle():
        age(uenv.folder / "shelf", output)
        shown = uenv.ok(*words)
        assert "\n0 of 9 steps ran" in shown.stdout
        assert is_answered(uenv, words)
        assert uenv.ok(*words).stdout == shown.stdout

    uenv.ok(*words)
    assert not is_answered(uenv, words)
    settle()
    assert not is_answered(uenv, [*words, "--quiet"])
    lock = own / "1.0/x86_64.lock.yaml"
    later = lock.stat().st_mtime_ns + 1
    changes = [
        lambda: os.utime(lock, ns=(later, later)),
        (own / "1.0/x86_64.start.txt").touch,
        (own / "2.0").mkdir,
        (output / "sbatch.sh").unlink,
        lambda: (output / "edf/own.toml").write_text("x"),
        (uenv.folder / "shelf/components").mkdir,
        lambda: (own / "2.0/recipe.yaml").write_text("x"),
        lambda: (own / "recipe.yaml").write_text("x"),
    ]
    undo = {
        1: (own / "1.0/x86_64.start.txt").unlink, 6: (own / "2.0/recipe.yaml").unlink, 7: (own / "recipe.yaml").unlink,
    }  # fmt: skip
    for number, change in enumerate(changes):
        change()
        assert not is_answered(uenv, words), number
        undo.get(number, lambda: None)()
        uenv.ok(*words)
        settle()
    plan = json.loads((output / "plan.json").read_text())
    [image] = [step["id"] for step in plan["steps"] if step["kind"] == "squashfs"]
    stored = uenv.cache / "steps" / image[:2] / image
    stored.rename(stored.with_name("gone"))
    assert not is_answered(uenv, words)
    stored.with_name("gone").rename(stored)
    assert is_answered(uenv, words)


def test_plan_says_what_runs_and_why(recipe, builds, uenv):
    target = ["--uarch", "x86_64", "--output", str(builds["x86_64"])]
    assert uenv.ok("plan", recipe, *target).stdout.endswith("\n0 of 9 steps would run\n")
    changed = uenv.folder / "changed"
    shutil.copytree(recipe, changed)
    with (changed / "recipe.yaml").open("a") as file:
        file.write("env:\n  ADDED: here\n")
    steps = {step["kind"]: step for step in uenv.ok("plan", str(changed), *target, "--json").document["steps"]}
    assert {kind for kind, step in steps.items() if not step["stored"]} == {"finish", "squashfs", "oci"}
    assert "generated.etc/environment: new: ADDED=here" in steps["finish"]["why"]
    assert steps["squashfs"]["why"] == ["made from: environment and start scripts"]
    assert "config.env.ADDED: new: here" in steps["oci"]["why"]
    assert steps["wheel"]["why"] == []


def test_an_empty_store_another_folder_and_one_job_give_the_same_bytes(recipe, builds, session_cache, tmp_path):
    cache = tmp_path / "other-cache"
    shutil.copytree(session_cache / "downloads", cache / "downloads", copy_function=os.link)
    uenv = Uenv(tmp_path / "elsewhere", cache)
    uenv.folder.mkdir()
    arguments = ("build", recipe, "--uarch", "aarch64", "--locked", "--offline", "--no-test", "--jobs", "1", "--json")
    document = uenv.ok(*arguments, TZ="Asia/Tokyo", LC_ALL="C").document
    assert len(document["built"]) == len(document["manifest"]["steps"])
    first = manifest(builds["aarch64"])
    assert document["manifest"]["squashfs"] == first["squashfs"]
    assert document["manifest"]["oci"] == first["oci"]
    assert document["manifest"]["plan"] == first["plan"]


def test_both_images_hold_the_same(builds, tmp_path):
    squashfs = listing_of_squashfs(builds["aarch64"] / "image.squashfs", tmp_path / "tree")
    oci = listing_of_oci(builds["aarch64"] / "oci")
    assert set(squashfs) == set(oci)
    assert squashfs == oci


@pytest.mark.root
@pytest.mark.skipif(not compare_mounted_image.can_mount(), reason="needs root and loop devices")
@pytest.mark.parametrize("uarch", ["x86_64", "aarch64"])
def test_every_file_of_the_mounted_image_is_that_of_its_package(builds, session_cache, uarch):
    done = subprocess.run(
        [sys.executable, compare_mounted_image.__file__, builds[uarch], "--downloads", session_cache / "downloads"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)["files"]
    assert counts["as in a wheel's RECORD"] > 500
    assert counts["as in a package's md5sums"] > 1500
    assert sum(count for kind, count in counts.items() if kind.startswith("other: ")) < 15


def test_the_comparison_with_the_packages_finds_what_is_wrong(builds, session_cache, tmp_path):
    listing_of_squashfs(builds["x86_64"] / "image.squashfs", tmp_path / "tree")
    lock = yaml.safe_load((builds["x86_64"] / "lock.yaml").read_text())
    expected = compare_mounted_image.read_packages(lock, session_cache / "downloads")
    places = ["usr/bin/dash", "usr/local/lib/python3.13/dist-packages/numpy/version.py"]
    with (tmp_path / "tree" / places[0]).open("r+b") as file:
        file.write(b"\0")
    (tmp_path / "tree" / places[1]).write_text("")
    (tmp_path / "tree/usr/bin/cat").unlink()
    _, wrong = compare_mounted_image.compare(tmp_path / "tree", expected)
    assert [text.partition(": ")[0] for text in wrong] == [*places, "usr/bin/cat"]


def test_the_image_has_what_enroot_wants_and_nothing_that_it_refuses(builds, tmp_path):
    tree = listing_of_squashfs(builds["x86_64"] / "image.squashfs", tmp_path / "tree")
    for name in ("etc/rc", "etc/environment", "etc/fstab", "etc/profile.d/zz-uenv.sh", "bin", "usr/bin/sh"):
        assert name in tree, name
    assert all(kind in {"file", "dir", "link"} for kind, *_ in tree.values())
    assert not [name for name, (kind, *more) in tree.items() if kind == "file" and more[0] & 0o7000]
    login = subprocess.run(["stat", "-c", "%F", tmp_path / "tree/dev"], capture_output=True, text=True, check=True)
    assert login.stdout.strip() == "directory"
    assert not list((tmp_path / "tree/dev").iterdir())


def test_a_login_shell_keeps_the_environment(builds, uenv):
    folder = str(builds[platform.machine()])
    assert "/usr/local/bin" in uenv.ok("exec", folder, "--", "bash", "-lc", "echo $PATH").stdout


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_killed_is_finished_by_the_next_one(recipe, builds, session_cache, tmp_path, signal_number):
    cache = tmp_path / "cache"
    shutil.copytree(session_cache / "downloads", cache / "downloads", copy_function=os.link)
    uenv = Uenv(tmp_path, cache)
    arguments = ("build", recipe, "--uarch", "x86_64", "--locked", "--offline", "--no-test", "--json")
    for delay in (1.5, 3.0, 5.0):
        process = subprocess.Popen(
            uenv.command(*arguments), cwd=tmp_path, env=uenv.environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal_number)
        code = process.wait(timeout=60)
        if code == 0:
            break
        # A shell shows 130 for both: the process says so itself once it has started, and dies of the signal before.
        assert code in ({130, -signal.SIGINT} if signal_number == signal.SIGINT else {-signal.SIGKILL})
        assert not (tmp_path / "build/python-mpi-1.0-x86_64").exists()
    document = uenv.ok(*arguments).document
    assert document["manifest"]["squashfs"] == manifest(builds["x86_64"])["squashfs"]


def test_two_builds_at_once_give_the_same(recipe, builds, session_cache, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(session_cache / "downloads", cache / "downloads", copy_function=os.link)
    uenv = Uenv(tmp_path, cache)
    command = uenv.command("build", recipe, "--uarch", "x86_64", "--locked", "--offline", "--no-test", "--json")
    running = [
        subprocess.Popen(
            command, cwd=tmp_path, env=uenv.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(2)
    ]
    documents = [json.loads(process.communicate(timeout=300)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    digests = {document["manifest"]["squashfs"]["sha256"] for document in documents}
    assert digests == {manifest(builds["x86_64"])["squashfs"]["sha256"]}
    steps = len(documents[0]["manifest"]["steps"])
    assert sum(len(document["built"]) for document in documents) == steps


def test_a_damaged_download_is_found_and_fetched_again_or_named(recipe, builds, session_cache, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(session_cache / "downloads", cache / "downloads")
    victim = max((cache / "downloads").glob("*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    uenv = Uenv(tmp_path, cache)
    outcome = uenv.run("cache", "verify", "--json")
    assert outcome.code == 5
    assert victim.name in outcome.document["damaged"][0]["entry"]
    assert not victim.exists()
    outcome = uenv.run("build", recipe, "--uarch", "x86_64", "--locked", "--offline", "--no-test")
    assert outcome.code in {0, 9}  # 9: it was one of the files of this target, and --offline forbids to fetch it


def test_a_download_that_was_damaged_in_the_store_does_not_get_into_a_layer(recipe, builds, session_cache, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(session_cache / "downloads", cache / "downloads")
    wheels = yaml.safe_load(Path(f"{recipe}/x86_64.lock.yaml").read_text())["python"]["wheels"]
    pin = next(pin for pin in wheels if pin["name"] == "mpi4py")
    victim = cache / "downloads" / pin["sha256"][:2] / pin["sha256"]
    victim.write_bytes(victim.read_bytes()[:-4] + b"\0\1\2\3")
    uenv = Uenv(tmp_path, cache)
    arguments = ("build", recipe, "--uarch", "x86_64", "--locked", "--no-test", "--json")
    refused = uenv.run(*arguments, "--offline")
    assert refused.code == 9
    assert "is not what its name says" in refused.stderr
    document = uenv.ok(*arguments).document
    assert document["manifest"]["squashfs"] == manifest(builds["x86_64"])["squashfs"]


def test_a_failed_check_fails_the_build_and_says_why(recipe, builds, uenv):
    own = uenv.folder / "recipe.yaml"
    relative = os.path.relpath(recipe, uenv.folder)
    own.write_text(f"extends: {relative}\nchecks:\n  imports:\n    modules: [no_such_module]\n")
    shutil.copy(f"{recipe}/x86_64.lock.yaml", uenv.folder)
    outcome = uenv.run("build", str(own), "--uarch", "x86_64", "--locked", "--offline", "--json")
    assert outcome.code == 7
    found = report(uenv.folder / outcome.document["folder"])
    assert found["outcome"] == "failed"
    assert any("no_such_module" in json.dumps(result) for result in found["results"] if result["outcome"] == "failed")


def test_a_new_recipe_builds_and_passes_as_it_is(uenv):
    uenv.ok("new", "recipes/mine/1.0", "--uarch", platform.machine(), "--system", f"generic-{platform.machine()}")
    document = uenv.ok("build", "recipes/mine/1.0", "--json").document
    assert document["outcome"] == "passed"
    assert document["manifest"]["label"].startswith("mine/1.0")


def test_an_output_folder_that_is_no_build_is_left_alone(recipe, builds, uenv):
    precious = uenv.folder / "home"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    outcome = uenv.run("build", recipe, "--uarch", "x86_64", "--locked", "--output", str(precious), "--no-test")
    assert outcome.code == 2
    assert (precious / "thesis.tex").exists()


def test_inspect_shows_versions_digests_and_the_verdict(builds, uenv):
    document = uenv.ok("inspect", str(builds["x86_64"]), "--json").document
    assert document["outcome"] == "passed"
    assert "sha256:" in uenv.ok("inspect", str(builds["x86_64"])).stdout


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_reads_the_oci_image(builds):
    shown = subprocess.run(
        ["skopeo", "inspect", f"oci:{builds['aarch64'] / 'oci'}"], capture_output=True, text=True, check=True
    )
    document = json.loads(shown.stdout)
    assert document["Architecture"] == "arm64"
    assert document["Labels"]["org.opencontainers.image.title"] == "python-mpi"
    assert document["Digest"] == manifest(builds["aarch64"])["oci"]["digest"]


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="podman is run as root here")
def test_podman_runs_the_oci_image(builds, tmp_path):
    runroot = tempfile.mkdtemp(prefix="uenv-")  # podman takes no more than 50 characters here
    podman = ["podman", "--root", tmp_path / "root", "--runroot", runroot, "--storage-driver", "vfs"]
    podman += ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    limits = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    folder = builds[platform.machine()]
    pulled = subprocess.run(
        [*podman, "pull", "-q", f"oci:{folder / 'oci'}"], capture_output=True, text=True, check=False
    )
    assert pulled.returncode == 0, pulled.stderr
    try:
        command = ["python3", "-c", "import numpy, os; print(numpy.__version__, os.environ['LANG'])"]
        ran = subprocess.run(
            [*podman, "run", "--rm", *limits, pulled.stdout.strip(), *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        numpy = dict(manifest(folder)["wheels"])["numpy"]
        assert ran.stdout.split() == [numpy, "C.UTF-8"]
    finally:
        subprocess.run([*podman, "rmi", "--all", "--force"], capture_output=True, check=False)
        shutil.rmtree(runroot, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting through a loop device needs root")
def test_the_kernel_mounts_the_squashfs(builds, tmp_path):
    script = 'mount -t squashfs -o loop,ro "$1" "$2" && cat "$2/etc/environment" && ls "$2"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", builds["x86_64"] / "image.squashfs", tmp_path]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "PATH=" in shown
    assert "usr" in shown.split()


def test_nothing_stays_mounted(builds):
    assert str(builds["x86_64"].parent) not in Path("/proc/self/mounts").read_text()
