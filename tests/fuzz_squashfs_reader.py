"""Damages squashfs images at random and reads them, for as long as one likes: by hand, without a test framework.

    python tests/fuzz_squashfs_reader.py --seconds 900 --seed 1

Each image is read whole, with its data, under a limit on memory and on time. Whatever is not a BuildError of the reader
ends the run; the image lies in --keep then, and the seed and the number that made it are printed.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent / "unit"))

from made_squashfs import Blocks, one_of_each, write

from uenv_builder.images.squashfs import writer
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import walk
from uenv_builder.model.errors import BuildError

SECONDS = 20
MEMORY = 300 << 20
READ = 8 << 20
"""Bytes of files that are read of one image: a damaged one may claim to hold terabytes of zeros."""
RULES = {"squashfs-damaged", "squashfs-unsupported"}
NUMBERS = [0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 1 << 24, 0x7FFFFFFF, 1 << 31, 0xFFFFFFFF, 1 << 63]


def make_images(place: Path) -> dict[str, bytes]:
    """Images with everything in them: each compressor, tables as they are and compressed."""
    found = {}
    for compressor in ("zstd", "gzip", "xz"):
        for plain in (True, False):
            blocks = Blocks(place / "blocks", 4096, compressor)
            path = place / "image"
            if plain:
                with mock.patch.object(writer, "packer", return_value=bytes):
                    write(one_of_each(blocks), path, blocks, compressor=compressor)
            else:
                write(one_of_each(blocks), path, blocks, compressor=compressor)
            found[f"{compressor}{' plain' if plain else ''}"] = path.read_bytes()
    return found


def damage(chance: random.Random, image: bytes) -> bytes:
    """The image after one to eight changes, most of them to its tables."""
    content = bytearray(image)
    (tables,) = struct.unpack_from("<Q", image, 64)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        low, high = chance.choice([(tables, len(content)), (tables, len(content)), (0, 96), (0, len(content))])
        at = chance.randrange(low, max(low + 1, min(high, len(content))))
        kind = chance.randrange(6)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            width = chance.choice("BHIQ")
            number = chance.choice(NUMBERS) & ((1 << 8 * struct.calcsize(width)) - 1)
            content[at : at + struct.calcsize(width)] = struct.pack(f"<{width}", number)
        elif kind == 2:
            source = chance.randrange(len(content)) if content else 0
            length = chance.randrange(1, 64)
            content[at : at + length] = content[source : source + length]
        elif kind == 3:
            content[at : at + 8] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 4:
            del content[at : at + chance.randrange(1, 16)]
        else:
            content[at:at] = chance.randbytes(chance.randrange(1, 16))
    if chance.random() < 0.05:
        del content[chance.randrange(len(content) + 1) :]
    return bytes(content)


def read_all(path: Path) -> None:
    """Read the image's tree, and its files' contents as far as READ."""
    left = READ
    with open_squashfs(path) as image:
        contents = image.contents()
        for _, node in walk(image.root):
            for block in contents.blocks(node.content) if node.content else ():
                left -= len(block)
                if left < 0:
                    return


def run(seconds: float, seed: int, keep: Path) -> Counter[str]:
    """Damage and read until the time is up; how many were read, and refused by which rule."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        images = make_images(Path(folder))
        path = Path(folder) / "damaged"
        deadline = time.monotonic() + seconds
        number = 0
        while time.monotonic() < deadline:
            number += 1
            chance = random.Random(f"{seed} {number}")
            path.write_bytes(damage(chance, images[chance.choice(sorted(images))]))
            signal.alarm(SECONDS)
            try:
                read_all(path)
                ends["read"] += 1
            except BuildError as error:
                rule = str(error.diagnostics[0].rule)
                ends[rule] += 1
                if rule not in RULES:
                    raise
            except BaseException:
                keep.write_bytes(path.read_bytes())
                print(f"seed {seed}, number {number}: see {keep}")
                raise
            signal.alarm(0)
            if number % 5000 == 0:
                print(number, dict(ends), flush=True)
    return ends


def too_slow(*_: object) -> None:
    raise TimeoutError(f"an image took more than {SECONDS} s")


def main() -> None:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("damaged.squashfs"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, too_slow)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    ends = run(arguments.seconds, arguments.seed, arguments.keep)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{ends.total()} images: {dict(ends)}; at most {memory} MiB")


if __name__ == "__main__":
    main()
