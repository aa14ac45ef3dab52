"""The OCI layout in the hands of others: skopeo, umoci and podman, and the squashfs of the same layers beside it."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from uenv_builder.images.oci import write_oci_layout
from uenv_builder.images.squashfs.from_layers import write_squashfs
from uenv_builder.model.entry import Entry
from uenv_builder.model.image import ImageConfig, SquashfsOptions
from uenv_builder.system.events import Silent
from uenv_builder.system.layer_blob import write_layer

EPOCH = 1_700_000_000
SHELL = Path("/bin/busybox")
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
LONG = "/".join(["a" * 90, "b" * 90, "c" * 200])


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def directory(path, mode=0o755):
    return Entry(path=path, kind="dir", mode=mode, mtime=EPOCH - 1)


def file(path, content=b"", mode=0o644):
    return Entry(path=path, kind="file", mode=mode, mtime=EPOCH - 60, size=len(content), content=io.BytesIO(content))


def link(kind, path, target):
    return Entry(path=path, kind=kind, mode=0o777, mtime=EPOCH - 60, target=target)


def lower(shell):
    for path in ("bin", "dev", "etc", "proc", "sys", "run", "data", "old", "a" * 90, LONG.rpartition("/")[0]):
        yield directory(path)
    yield directory("tmp", 0o1777)
    yield file("bin/busybox", shell, 0o755)
    yield link("symlink", "bin/sh", "busybox")
    yield link("hardlink", "bin/cat", "bin/busybox")
    yield file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    yield file("data/replaced", b"old")
    yield link("hardlink", "data/survivor", "data/replaced")
    yield link("hardlink", "data/survivor2", "data/replaced")
    yield file("data/gone", b"x")
    yield file("old/hidden", b"x")
    yield file("data/zero", mode=0o400)
    yield file(LONG, b"long")
    yield file("data/größe", b"sharp")


def upper():
    yield file("data/replaced", b"new")
    yield file("data/.wh.gone")
    yield directory("old", 0o700)
    yield file("old/.wh..wh..opq")
    yield file("old/new", b"new")
    yield link("symlink", "data/link", "l/" * 150 + "l")


@pytest.fixture
def layers(tmp_path):
    shell = SHELL.read_bytes() if SHELL.exists() else b"#!/bin/sh\n"
    made = []
    for name, entries in (("lower", lower(shell)), ("upper", upper())):
        (tmp_path / name).mkdir()
        made.append(write_layer(entries, tmp_path / name))
    return made


@pytest.fixture
def layout(layers, tmp_path):
    config = ImageConfig(
        architecture=ARCHITECTURE, env={"PATH": "/bin", "GREETING": "hello, world"}, workdir="/data",
        cmd=("/bin/sh",), labels={"org.opencontainers.image.title": "demo"}, created=EPOCH, history=("lower", "upper"),
    )  # fmt: skip
    write_oci_layout(layers, config, tmp_path / "oci", reference="demo/1.0:v1")
    return tmp_path / "oci"


def run(*command, **more):
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@needs("skopeo")
def test_skopeo_reads_and_copies_it(layout, layers, tmp_path):
    name = f"oci:{layout}:demo/1.0:v1"
    seen = json.loads(run("skopeo", "inspect", name))
    assert (seen["Architecture"], seen["Os"], seen["Created"]) == (ARCHITECTURE, "linux", "2023-11-14T22:13:20Z")
    assert seen["Layers"] == [f"sha256:{layer.digest}" for layer in layers]
    assert seen["Env"] == ["PATH=/bin", "GREETING=hello, world"]
    assert seen["Labels"] == {"org.opencontainers.image.title": "demo"}
    run("skopeo", "--insecure-policy", "copy", "--preserve-digests", name, f"oci:{tmp_path / 'copy'}:demo")
    copied = json.loads((tmp_path / "copy" / "index.json").read_bytes())["manifests"][0]["digest"]
    assert copied == json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]


@needs("skopeo")
def test_skopeo_refuses_a_damaged_layer(layout, layers, tmp_path):
    path = layout / "blobs" / "sha256" / layers[1].digest
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(AssertionError, match=r"[Dd]igest"):
        run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:demo/1.0:v1", f"dir:{tmp_path / 'copy'}")


def listing(root):
    """What lies below `root`: kind, mode, time, content, and which names share an inode."""
    found, inodes = {}, {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in folders + files):
            at, name = path.lstat(), str(path.relative_to(root))
            what = str(path.readlink()) if path.is_symlink() else ""
            if not path.is_symlink() and path.is_file():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
                inodes.setdefault(at.st_ino, set()).add(name)
            found[name] = (oct(at.st_mode), int(at.st_mtime), what)
    return found, sorted(sorted(names) for names in inodes.values() if len(names) > 1)


@needs("skopeo", "umoci", "unsquashfs")
def test_both_images_unpack_to_the_same(layout, layers, tmp_path):
    # umoci of Debian 12 (0.4.7) does not know zstd: skopeo recompresses the layers for it.
    gzipped = f"oci:{tmp_path / 'gzipped'}:demo"
    run("skopeo", "--insecure-policy", "copy", "--dest-compress-format", "gzip", f"oci:{layout}:demo/1.0:v1", gzipped)
    run("umoci", "unpack", "--rootless", "--image", f"{tmp_path / 'gzipped'}:demo", tmp_path / "bundle")
    image = tmp_path / "image.squashfs"
    write_squashfs(layers, image, SquashfsOptions(), epoch=EPOCH, listener=Silent())
    run("unsquashfs", "-no-progress", "-d", tmp_path / "unsquashed", image)
    from_oci, oci_links = listing(tmp_path / "bundle" / "rootfs")
    from_squashfs, squashfs_links = listing(tmp_path / "unsquashed")
    assert from_oci == from_squashfs
    assert oci_links == squashfs_links
    assert ["bin/busybox", "bin/cat"] in squashfs_links
    assert ["data/survivor", "data/survivor2"] in squashfs_links
    assert "data/gone" not in from_squashfs
    assert "old/hidden" not in from_squashfs


@pytest.fixture
def podman(tmp_path):
    """podman with a storage of its own, and the limits that an unprivileged container of CI allows."""
    with tempfile.TemporaryDirectory(prefix="run-") as runroot:  # podman takes no more than 50 characters for it
        base = [
            "podman", "--root", tmp_path / "storage", "--runroot", runroot, "--storage-driver", "vfs",
            "--runtime", "runc", "--cgroup-manager", "cgroupfs",
        ]  # fmt: skip
        yield base
        run(*base, "rmi", "--all", "--force")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(not SHELL.exists(), reason="needs a static busybox")
@needs("podman", "runc")
def test_podman_runs_it(layout, podman):
    image = run(*podman, "pull", "--quiet", f"oci:{layout}:demo/1.0:v1").strip()
    options = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    script = 'echo "$GREETING"; pwd; echo /data/* /old/*; cat survivor replaced'
    shown = run(*podman, "run", "--rm", *options, image, "/bin/sh", "-c", script)
    assert shown.split() == [
        "hello,", "world", "/data", "/data/größe", "/data/link", "/data/replaced", "/data/survivor",
        "/data/survivor2", "/data/zero", "/old/new", "oldnew",
    ]  # fmt: skip
