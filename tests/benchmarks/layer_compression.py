"""Compares a layer, whose frames serve an OCI image and a squashfs alike, with what makes each of them alone.

    python tests/benchmarks/layer_compression.py FOLDER [--runs N] [--level N] [--block-size KIB] [--threads N]

Each run packs the same FOLDER three times, in turns: as a layer, with `mksquashfs -comp zstd` (the image), and with
`tar | zstd` (the OCI layer). Seconds are wall and CPU time, children included; sizes are in bytes. `squashfs part` is
what a squashfs takes of the layer's frames: each content once, without tables, which mksquashfs's size includes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from uenv_builder.model.entry import Entry
from uenv_builder.model.segment import Segment
from uenv_builder.system.layer_blob import layer_members, read_layer, read_segment, write_layer


class Cost(NamedTuple):
    wall: float
    cpu: float


def measured(work: Callable[[], object]) -> Cost:
    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    started, before = time.monotonic(), cpu()
    work()
    return Cost(time.monotonic() - started, cpu() - before)


def tree_entries(root: Path) -> Iterator[Entry]:
    for path in sorted(root.rglob("*")):
        name, mode = str(path.relative_to(root)), path.lstat().st_mode & 0o777
        if path.is_symlink():
            yield Entry(path=name, kind="symlink", mode=0o777, mtime=0, target=str(path.readlink()))
        elif path.is_dir():
            yield Entry(path=name, kind="dir", mode=mode, mtime=0)
        elif path.is_file():
            with path.open("rb") as content:
                yield Entry(path=name, kind="file", mode=mode, mtime=0, size=path.stat().st_size, content=content)


def squashfs_part(segment: Segment) -> int:
    used: set[int] = set()
    for place in segment.places.values():
        used.update(range(place.first, place.first + place.blocks))
        if place.fragment >= 0:
            used.add(place.fragment)
    return sum(length for number in used for _, length in segment.units[number].pieces())


class Packing:
    """One folder, packed in three ways into `place`."""

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self.options, self.place = options, place
        self.layer, self.image, self.tar = place / "layer", place / "image.squashfs", place / "tar.zst"
        self.layer.mkdir()

    def write_layer(self) -> None:
        options = self.options
        block_size = options.block_size << 10
        entries = tree_entries(options.folder)
        write_layer(entries, self.layer, level=options.level, block_size=block_size, threads=options.threads)

    def mksquashfs(self) -> None:
        self.image.unlink(missing_ok=True)
        options = self.options
        squashfs = ["-comp", "zstd", "-Xcompression-level", str(options.level), "-b", f"{options.block_size}K"]
        shared = ["-all-root", "-all-time", "0", "-no-xattrs", "-quiet", "-no-progress"]
        threads = ["-processors", str(options.threads)]
        command = ["mksquashfs", str(options.folder), str(self.image), *squashfs, *shared, *threads]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def tar_zstd(self) -> None:
        packing = ["tar", "-C", str(self.options.folder), "--sort=name", "--owner=0", "--group=0", "-cf", "-", "."]
        compressing = ["zstd", "-q", "-f", f"-{self.options.level}", f"-T{self.options.threads}", "-o", str(self.tar)]
        with subprocess.Popen(packing, stdout=subprocess.PIPE) as tar:
            subprocess.run(compressing, check=True, stdin=tar.stdout)
        if tar.returncode:
            raise subprocess.CalledProcessError(tar.returncode, packing)


def report_times(times: dict[str, list[Cost]]) -> None:
    for name, costs in times.items():
        wall, cpu = (statistics.median(values) for values in zip(*costs, strict=True))
        print(f"{name:24}{wall:8.2f} s wall {cpu:8.2f} s CPU (median of {len(costs)})")
    both = [a.wall + b.wall for a, b in zip(times["mksquashfs"], times["tar | zstd"], strict=True)]
    ratios = [ours.wall / theirs for ours, theirs in zip(times["layer"], both, strict=True)]
    print("layer against mksquashfs and tar | zstd together, wall:", *(f"{ratio:.2f}" for ratio in ratios))


def report_sizes(packing: Packing) -> None:
    layer = read_layer(packing.layer)
    segment = read_segment(layer)
    image, tar, part = packing.image.stat().st_size, packing.tar.stat().st_size, squashfs_part(segment)
    raw = sum(unit.raw for unit in segment.units)
    print(f"{len(layer.entries)} entries, {len(segment.units)} frames, {raw} of them raw")
    print(f"layer {layer.size:,}; tar | zstd {tar:,}: {layer.size / tar:.3f}")
    print(f"squashfs part {part:,}; mksquashfs {image:,}: {part / image:.3f}")


def report_reading(packing: Packing) -> None:
    layer = read_layer(packing.layer)
    for name, work in {
        "read_layer": lambda: read_layer(packing.layer),
        "read_segment": lambda: read_segment(layer),
        "layer_members": lambda: [None for _ in layer_members(layer)],
    }.items():
        print(f"{name:24}{min(measured(work) for _ in range(5)).wall * 1000:8.0f} ms (best of 5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--block-size", type=int, default=256, help="KiB")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        packing = Packing(options, Path(place))
        ways = {"layer": packing.write_layer, "mksquashfs": packing.mksquashfs, "tar | zstd": packing.tar_zstd}
        times: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(options.runs):
            for name, work in ways.items():
                times[name].append(measured(work))
        report_times(times)
        report_sizes(packing)
        report_reading(packing)


if __name__ == "__main__":
    main()
