"""A build whose image has this machine's own Python, made without downloads, for tests that start ranks in it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from made_build import make_build
from uenv_builder.core.lock_file import dump_lock, parse_lock

PYTHON = Path("/usr/bin/python3")
# The run stands still while the job's folder has `hold`, and fails where it has `fail`.
WRAPPER = """\
#!/bin/sh
while [ -e /run/uenv-test/hold ]; do sleep 0.1; done
[ ! -e /run/uenv-test/fail ] || exit 3
exec /usr/bin/python-itself "$@"
"""
UNUSED = ("test", "idlelib", "lib2to3", "distutils", "pydoc_data", "ensurepip", "unittest", "config-*", "__pycache__")


def missing_for_image() -> list[str]:
    """What is not installed that the image is made from."""
    wanted = {
        "busybox": shutil.which("busybox"),
        "squashfs-tools": shutil.which("mksquashfs"),
        "python3": PYTHON.exists(),
    }
    return [name for name, found in wanted.items() if not found]


def make_python_build(folder: Path) -> Path:
    """Write a build like those of made_build.py, with an image that runs; returns its folder."""
    version = re.search(r"3\.\d+", os.path.realpath(PYTHON))[0]
    tree = folder / "tree"
    copy_python(tree, version)
    build = make_build(folder / "build", network="none", system=f"generic-{platform.machine()}", torch=False)
    image = build / "image.squashfs"
    image.unlink()
    subprocess.run(
        ["mksquashfs", tree, image, "-comp", "zstd", "-Xcompression-level", "1", "-all-root", "-quiet", "-no-progress"],
        check=True, capture_output=True,
    )  # fmt: skip
    shutil.rmtree(tree)
    manifest = json.loads((build / "manifest.json").read_text())
    manifest |= {"uarch": platform.machine()}
    manifest["squashfs"] |= {"sha256": hashlib.sha256(image.read_bytes()).hexdigest(), "size": image.stat().st_size}
    (build / "manifest.json").write_text(json.dumps(manifest))
    lock = parse_lock((build / "lock.yaml").read_text(), "lock.yaml")
    python = lock.python.model_copy(update={"version": version})
    (build / "lock.yaml").write_text(dump_lock(lock.model_copy(update={"python": python})))
    return build


def copy_python(tree: Path, version: str) -> None:
    """The interpreter with the libraries that the loader gives it, its modules, and a shell."""
    for name in ("usr/bin", "usr/lib", "bin", "tmp", "etc", "run", "proc", "dev", "sys", "opt", "root", "var/tmp"):
        (tree / name).mkdir(parents=True)
    shutil.copy(PYTHON, tree / "usr/bin/python-itself")
    listed = subprocess.run(["ldd", PYTHON], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+)", listed):
        (tree / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, tree / library[1:])
    shutil.copytree(
        f"/usr/lib/python{version}", tree / f"usr/lib/python{version}", ignore=shutil.ignore_patterns(*UNUSED),
        symlinks=False, ignore_dangling_symlinks=True,
    )  # fmt: skip
    shutil.copy(shutil.which("busybox"), tree / "bin/busybox")
    for name in ("sh", "sleep", "env"):
        (tree / "bin" / name).symlink_to("busybox")
    wrapper = tree / f"usr/bin/python{version}"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
