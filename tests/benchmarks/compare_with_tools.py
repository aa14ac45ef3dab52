"""Times a build against the tools that people use for the same: dpkg-deb, uv, compileall, mksquashfs, tar and zstd.

    python tests/benchmarks/compare_with_tools.py RECIPE [--uarch UARCH] [--runs N]

Both sides start from the same downloaded packages and make the same two things: a squashfs (zstd 3, 256 KiB blocks) and
zstd-compressed tars of the same content. Runs alternate; the figures are wall seconds of whole processes, and their
ratios run by run: below 1, the builder is faster. The second table is for a changed environment variable, with all
else as it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uv
import yaml

ROOT = Path(__file__).parents[2]
SQUASHFS = [
    "-comp",
    "zstd",
    "-Xcompression-level",
    "3",
    "-b",
    "256K",
    "-all-root",
    "-no-xattrs",
    "-quiet",
    "-no-progress",
]


def run(*command: object, **options: object) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, **options)


def timed(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


class Builder:
    """Our side: the store's layers are removed before a full build, its downloads stay."""

    def __init__(self, recipe: Path, uarch: str, place: Path, cache: Path) -> None:
        self.recipe, self.uarch, self.place, self.cache = recipe, uarch, place, cache

    def build(self) -> None:
        command = [
            "build",
            self.recipe,
            "--uarch",
            self.uarch,
            "--locked",
            "--no-test",
            "--quiet",
            "--output",
            self.place / "out",
        ]
        run(sys.executable, "-m", "uenv_builder.cli", *command, env={**os.environ, "UENV_CACHE": str(self.cache)})

    def forget(self) -> None:
        shutil.rmtree(self.cache / "steps", ignore_errors=True)

    def change_variable(self, number: int) -> None:
        text = (self.recipe / "recipe.yaml").read_text()
        kept = "\n".join(line for line in text.splitlines() if "BENCHMARK" not in line)
        (self.recipe / "recipe.yaml").write_text(f'{kept}\nenv: {{BENCHMARK: "{number}"}}\n')


class Tools:
    """The other side: a tree, compiled and packed."""

    def __init__(self, lock: Path, place: Path, cache: Path) -> None:
        document = yaml.safe_load(lock.read_text())
        self.place = place
        self.tree = place / "tree"
        store = lambda pin: cache / "downloads" / pin["sha256"][:2] / pin["sha256"]  # noqa: E731
        self.debs = [store(pin) for pin in document["userland"]["packages"]]
        self.wheels = place / "wheels"
        self.wheels.mkdir()
        for pin in document["python"]["wheels"]:
            (self.wheels / pin["file"]).symlink_to(store(pin))
        self.packages = self.tree / f"usr/local/lib/python{document['python']['version']}/dist-packages"
        self.platform = "aarch64-manylinux_2_39" if document["target"]["debian"] == "arm64" else "x86_64-manylinux_2_39"
        self.python = document["python"]["version"]

    def build(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir()
        for deb in self.debs:
            run("dpkg-deb", "-x", deb, self.tree)
        options = ["--quiet", "--no-deps", "--no-index", "--no-cache", "--link-mode", "copy", "--no-python-downloads"]
        options += ["--python-platform", self.platform, "--python-version", self.python, "--target", self.packages]
        wheels = sorted(self.wheels.iterdir())
        run(uv.find_uv_bin(), "pip", "install", *options, *wheels, stderr=subprocess.DEVNULL)
        compileall = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", self.tree / "usr"]
        subprocess.run([sys.executable, *compileall], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pack()

    def pack(self) -> None:
        (self.place / "tools.squashfs").unlink(missing_ok=True)
        run("mksquashfs", self.tree, self.place / "tools.squashfs", *SQUASHFS, stderr=subprocess.DEVNULL)
        run("sh", "-c", f"tar -C {self.tree} -cf - . | zstd -3 -T0 -q -f -o {self.place}/tools.tar.zst")

    def change_variable(self, number: int) -> None:
        (self.tree / "etc").mkdir(exist_ok=True)
        (self.tree / "etc/environment").write_text(f"BENCHMARK={number}\n")


def table(title: str, pairs: list[tuple[float, float]]) -> None:
    print(f"\n{title}\n{'':8}{'builder s':>12}{'tools s':>12}{'ratio':>8}")
    for number, (ours, theirs) in enumerate(pairs, 1):
        print(f"run {number:<4}{ours:12.2f}{theirs:12.2f}{ours / theirs:8.2f}")
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"median  {ours:12.2f}{theirs:12.2f}{statistics.median(a / b for a, b in pairs):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--uarch", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="a store whose downloads are used; default: an empty one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="uenv-benchmark-") as folder:
        place = Path(folder)
        recipe, cache = place / "recipe", place / "cache"
        shutil.copytree(arguments.recipe, recipe)
        if arguments.cache:
            shutil.copytree(arguments.cache / "downloads", cache / "downloads")
        ours = Builder(recipe, arguments.uarch, place, cache)
        ours.build()
        theirs = Tools(recipe / f"{arguments.uarch}.lock.yaml", place, cache)
        full, changed = [], []
        for _ in range(arguments.runs):
            ours.forget()
            full.append((timed(ours.build), timed(theirs.build)))
        for number in range(arguments.runs):
            ours.change_variable(number)
            theirs.change_variable(number)
            changed.append((timed(ours.build), timed(theirs.pack)))
        table("from downloaded packages to both images", full)
        table("one environment variable changed", changed)


if __name__ == "__main__":
    main()
