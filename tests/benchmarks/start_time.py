"""Times the first start of a program from images of one tree, laid out in different ways, with nothing in memory.

    python tests/benchmarks/start_time.py BUILD [--recorded CODE] [--other CODE] [--runs N] [--delay MS] [--json FILE]

BUILD is the folder of a build without a recorded start. The sides are mksquashfs's image of the same tree with the same
compressor, level and block size; our image without a record; ours laid out by a start that is recorded here, of Python
code (--recorded, by default `import torch`); and the same image, read ahead while the program starts. Each side also
runs code that was not recorded (--other). Runs take turns; figures are medians, and ratios to mksquashfs's image run by
run: below 1, less or faster.

Disks: this machine's own, and one that answers each read after a delay (default 5 ms), as many as 16 at once. A FUSE
server in this file's process stands for that: the kernel reads ahead there as on a disk, at most 128 KiB by itself.
"asked" is what the mount asks for, with no reading ahead of the file below it. Needs root, /dev/fuse, squashfs-tools.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from uenv_builder.app.outputs import open_build
from uenv_builder.app.reading_ahead import begin_reading_ahead
from uenv_builder.core.start_record import dump_start, parse_start
from uenv_builder.core.systems import load_uarchs
from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.start_part import FirstRead, read_extents
from uenv_builder.images.squashfs.start_reads import start_files
from uenv_builder.images.squashfs.tree import walk
from uenv_builder.images.squashfs.writer import write_image
from uenv_builder.model.start import StartFile
from uenv_builder.sandboxes import Command
from uenv_builder.sandboxes.bwrap import BwrapSandbox
from uenv_builder.sandboxes.served_file import ServedFile
from uenv_builder.system.page_cache import cached_bytes, drop_cached

SIDES = ("mksquashfs", "ours", "ordered", "read ahead")


def command_for(build: Path, code: str) -> Command:
    config = open_build(build).manifest["config"]
    return Command(argv=("python3", "-c", code), env=config["env"], workdir=config["workdir"], interactive=True)


def sandbox_for(build: Path) -> BwrapSandbox:
    uarch = load_uarchs()[open_build(build).manifest["uarch"]]
    return BwrapSandbox(machine=uarch.machine, qemu_cpu=uarch.qemu_cpu)


def record(build: Path, image: Path, code: str) -> tuple[dict[str, float], bytes]:
    """What the mount asks for, and the record."""
    drop_cached(image)
    recording = sandbox_for(build).record(image, command_for(build, code))
    assert recording.returncode == 0
    reads = [(read.start, read.length) for read in recording.reads]
    with open_squashfs(image) as opened:
        files = start_files(opened, reads, set(recording.files))
    return {"bytes": sum(length for _, length in reads), "reads": len(reads)}, dump_start(files, [code])


def run_once(build: Path, image: Path, code: str, *, delay: float | None, ahead: bool) -> dict[str, float]:
    """One start, in a process with a mount namespace of its own."""
    assert drop_cached(image) == 0
    served = None
    if delay is not None:
        served = ServedFile(image, direct=False, threads=16, before=lambda _read: time.sleep(delay))
    sandbox, command = sandbox_for(build), command_for(build, code)
    started = time.monotonic()
    if ahead:
        begin_reading_ahead(image)
    assert sandbox.run(image, command).returncode == 0
    seconds = time.monotonic() - started
    if served is None:
        return {"seconds": seconds, "bytes": cached_bytes(image)}
    reads = list(served.reads)
    return {"seconds": seconds, "bytes": sum(read.length for read in reads), "reads": len(reads)}


def run_apart(build: Path, image: Path, code: str, *, delay: float | None, ahead: bool) -> dict[str, float]:
    words = [sys.executable, __file__, "--one", build, image, code, "-" if delay is None else delay, int(ahead)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *map(str, words)], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_quietly(command: list[object]) -> None:
    words = [str(word) for word in command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def relink(plain: Path, out: Path, files: tuple[StartFile, ...]) -> None:
    """The same image with the data of `files` first, as a build with that record would write it."""
    with open_squashfs(plain) as image:
        contents = {os.fsdecode(path): node.content for path, node in walk(image.root) if node.content}
        write_image(
            image.root, [image.source], out, block_size=image.block_size, epoch=image.mkfs_time,
            level=layout.ZSTD_OPTIONS.unpack(image.options)[0], options=image.options,
            first=[FirstRead(contents[file.path], file.parts) for file in files],
        )  # fmt: skip


def make_images(build: Path, place: Path, code: str) -> tuple[dict[str, Path], dict[str, object]]:
    plain = build / "image.squashfs"
    assert not read_extents(plain), "the build has a recorded start: build it without"
    tree = place / "tree"
    run_quietly(["unsquashfs", "-quiet", "-no-progress", "-d", tree, plain])
    with open_squashfs(plain) as image:
        level, block = layout.ZSTD_OPTIONS.unpack(image.options)[0], image.block_size
    options = [
        "-comp",
        "zstd",
        "-Xcompression-level",
        str(level),
        "-b",
        str(block),
        "-all-root",
        "-no-xattrs",
        "-quiet",
    ]
    run_quietly(["mksquashfs", tree, place / "mksquashfs", *options, "-no-progress"])
    subprocess.run(["rm", "-rf", tree], check=True)
    _, text = record(build, plain, code)
    files = parse_start(text, "record").files
    relink(plain, place / "ordered", files)
    images = {"mksquashfs": place / "mksquashfs", "ours": plain, "ordered": place / "ordered"}
    images["read ahead"] = images["ordered"]
    sizes = {side: path.stat().st_size for side, path in images.items()}
    extents = read_extents(place / "ordered")
    recorded = {"files": len(files), "read_ahead_bytes": sum(length for _, length in extents), "extents": len(extents)}
    return images, {"level": level, "block_size": block, "image_bytes": sizes, "record": recorded}


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def compare(runs: int, start: Callable[[str], dict[str, float]]) -> dict[str, object]:
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side in SIDES:
            found[side].append(start(side))
    base = found["mksquashfs"]
    result: dict[str, object] = {}
    for side, measured in found.items():
        keys = measured[0].keys()
        result[side] = {key: median([one[key] for one in measured]) for key in keys} | {
            "ratios": {
                key: median([one[key] / other[key] for one, other in zip(measured, base, strict=True)]) for key in keys
            },
            "runs": [round(one["seconds"], 3) for one in measured],
        }
    return result


def show(title: str, table: dict[str, dict[str, object]]) -> None:
    print(f"\n{title}\n{'':12}{'s':>8}{'ratio':>8}{'MB':>9}{'ratio':>8}{'reads':>8}{'ratio':>8}")
    for side, row in table.items():
        ratios = row.get("ratios", {})
        cells = [f"{row.get('seconds', 0):8.2f}{ratios.get('seconds', 0):8.2f}"]
        cells += [f"{row['bytes'] / 1e6:9.1f}{ratios.get('bytes', 0):8.2f}"]
        cells += [f"{row.get('reads', 0):8.0f}{ratios.get('reads', 0):8.2f}"]
        print(f"{side:12}{''.join(cells)}")


def asked(build: Path, images: dict[str, Path], code: str) -> dict[str, object]:
    table: dict[str, dict[str, object]] = {}
    for side in SIDES[:3]:
        found, _ = record(build, images[side], code)
        table[side] = dict(found)
        base = table["mksquashfs"]
        table[side]["ratios"] = {key: round(value / base[key], 4) for key, value in found.items()}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--recorded", default="import torch")
    parser.add_argument("--other", default="import sympy")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--delay", type=float, default=5, help="ms")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--place", type=Path, help="a folder on a disk for the images; default: the temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="uenv-start-", dir=arguments.place) as folder:
        images, document = make_images(arguments.build, Path(folder), arguments.recorded)
        document |= {"runs": arguments.runs, "delay_ms": arguments.delay, "kernel": os.uname().release, "tables": {}}
        for code in (arguments.recorded, arguments.other):
            tables = {"asked": asked(arguments.build, images, code)}
            for disk, delay in (("own disk", None), (f"{arguments.delay:g} ms a read", arguments.delay / 1000)):
                tables[disk] = compare(
                    arguments.runs,
                    lambda side, code=code, delay=delay: run_apart(
                        arguments.build, images[side], code, delay=delay, ahead=side == "read ahead"
                    ),
                )
            document["tables"][code] = tables
            for disk, table in tables.items():
                show(f"{code}, {'recorded' if code == arguments.recorded else 'not recorded'}, {disk}", table)
        print(f"\nimages: {json.dumps(document['image_bytes'])}; record: {json.dumps(document['record'])}")
        if arguments.json:
            arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        build, image, code, delay, ahead = sys.argv[2:]
        seconds = None if delay == "-" else float(delay)
        print(json.dumps(run_once(Path(build), Path(image), code, delay=seconds, ahead=ahead == "1")))
    else:
        main()
