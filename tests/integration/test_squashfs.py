"""The squashfs, read back by the kernel and by unsquashfs."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest

from uenv_builder.images.merge import merge_layers
from uenv_builder.images.squashfs.from_layers import write_squashfs
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.start_part import read_extents
from uenv_builder.images.squashfs.tree import walk
from uenv_builder.images.squashfs.version import linker_version
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.image import SquashfsOptions
from uenv_builder.model.start import StartFile
from uenv_builder.system.events import Silent
from uenv_builder.system.layer_blob import read_layer, write_layer

EPOCH = 1_700_000_000
NOISE = random.Random(1).randbytes(1_500_000)
LONG = "/".join(["a" * 90, "b" * 90, "c" * 200])

pytestmark = pytest.mark.skipif(not shutil.which("unsquashfs"), reason="squashfs-tools is not installed")


def can_mount():
    """Whether this process may mount through a loop device in a name space of its own."""
    if os.geteuid() != 0 or not shutil.which("losetup"):
        return False
    free = subprocess.run(["losetup", "-f"], capture_output=True, check=False)
    apart = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return free.returncode == 0 and apart.returncode == 0


def directory(path, mode=0o755, mtime=EPOCH):
    return Entry(path=path, kind="dir", mode=mode, mtime=mtime)


def file(path, content=b"", mode=0o644, mtime=EPOCH - 60):
    return Entry(
        path=path, kind="file", mode=mode, mtime=mtime, size=len(content), content=io.BytesIO(content), uid=7, gid=8
    )


def link(kind, path, target):
    return Entry(path=path, kind=kind, mode=0o777, mtime=EPOCH - 7, target=target)


def lower():
    yield directory("tmp", 0o1777)
    yield directory("empty", 0o700, mtime=1)
    yield directory("usr")
    yield file("usr/zero", mode=0o400)
    yield file("usr/noise", NOISE, 0o755)
    yield link("hardlink", "usr/same", "usr/noise")
    yield file("usr/replaced", b"old content")
    yield link("hardlink", "usr/survivor", "usr/replaced")
    yield link("hardlink", "usr/survivor2", "usr/replaced")
    yield file("usr/gone", b"x")
    yield file("usr/zeros", bytes(1_000_000))
    yield link("symlink", "usr/dangling", "t" * 300)
    yield link("symlink", "bin", "usr")
    yield file(LONG, b"long")
    yield file("größe/ß", b"sharp")
    for number in range(300):
        yield file(f"usr/many/{number:03}", b"%d" % number * number)


def upper():
    yield file("usr/replaced", b"new content", mtime=EPOCH - 1)
    yield file("usr/.wh.gone")
    yield directory("usr", 0o750, mtime=2)
    yield file("implied/parent/file", b"x")
    yield file("usr/copy-of-noise", NOISE)


def write_layers(folder, **options):
    made = []
    for name, entries in (("lower", lower()), ("upper", upper())):
        (folder / name).mkdir()
        made.append(write_layer(entries, folder / name, **options))
    return made


@pytest.fixture
def layers(tmp_path):
    return write_layers(tmp_path)


def write(layers, out, options=None, epoch=EPOCH):
    write_squashfs(layers, out, options or SquashfsOptions(), epoch=epoch, listener=Silent())
    return out


LISTING = """
import hashlib, json, os, sys
found = {}
for folder, folders, files in os.walk(sys.argv[1]):
    for path in [folder] * (folder == sys.argv[1]) + [os.path.join(folder, name) for name in folders + files]:
        at = os.lstat(path)
        link = os.readlink(path) if os.path.islink(path) else None
        digest = hashlib.sha256(open(path, "rb").read()).hexdigest() if not link and os.path.isfile(path) else None
        found[os.path.relpath(path, sys.argv[1])] = [
            at.st_mode, int(at.st_mtime), at.st_uid, at.st_gid, at.st_size if digest else 0, link, digest,
            at.st_ino if digest else 0, at.st_nlink if digest else 0,
        ]
json.dump(found, sys.stdout)
"""


def mounted(image, tmp_path):
    """What the kernel shows of `image`, mounted in a name space that ends with the command."""
    point = tmp_path / "mount"
    point.mkdir(exist_ok=True)
    script = f'mount -t squashfs -o loop,ro "{image}" "{point}" && "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", LISTING, str(point)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.root
@pytest.mark.skipif(not can_mount(), reason="needs root and loop devices")
@pytest.mark.parametrize("block_size", [4096, 262144, 1 << 20])
def test_the_kernel_reads_back_what_the_layers_hold(tmp_path, block_size):
    layers = write_layers(tmp_path, level=1, block_size=block_size)
    image = write(layers, tmp_path / "image.squashfs", options=SquashfsOptions(level=1, block_size=block_size))
    seen = mounted(image, tmp_path)
    assert seen.pop(".")[:5] == [0o040755, EPOCH, 0, 0, 0]
    tree = merge_layers(layers).entries
    assert sorted(seen) == sorted(tree)
    kinds = {"dir": 0o040000, "file": 0o100000, "hardlink": 0o100000, "symlink": 0o120000}
    for path, merged in tree.items():
        entry = merged.entry
        mode, mtime, uid, gid, size, target, digest, inode, links = seen[path]
        assert (mode, mtime) == (kinds[entry.kind] | entry.mode, entry.mtime), path
        assert (uid, gid) == (0, 0)
        if entry.kind == "symlink":
            assert target == entry.target
        elif entry.kind == "hardlink":
            assert inode == seen[entry.target][7]
            assert links > 1
        elif entry.kind == "file":
            assert (size, digest) == (entry.size, entry.sha256), path
    assert seen["usr/replaced"][6] == hashlib.sha256(b"new content").hexdigest()
    assert seen["usr/survivor"][6:9] == seen["usr/survivor2"][6:9]
    assert seen["usr/survivor"][8] == 2
    assert seen["usr/noise"][8] == 2


def test_unsquashfs_lists_it(layers, tmp_path):
    image = write(layers, tmp_path / "image.squashfs")
    lines = subprocess.run(
        ["unsquashfs", "-lln", str(image)], check=True, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"}
    ).stdout.splitlines()
    (root,) = [line for line in lines if line.endswith(" squashfs-root")]
    assert root.startswith("drwxr-xr-x 0/0")
    assert "2023-11-14 22:13" in root
    assert next(line for line in lines if line.endswith("/tmp")).startswith("drwxrwxrwt 0/0")
    assert len(lines) == 1 + len(merge_layers(layers).entries)
    facts = subprocess.run(["unsquashfs", "-s", str(image)], check=True, capture_output=True, text=True).stdout
    assert "Compression zstd" in facts
    assert "compression-level 3" in facts
    assert "Block size 262144" in facts
    assert "exportable via NFS" in facts
    assert "not exportable" not in facts
    assert "Xattrs are not stored" in facts


def test_bytes_do_not_depend_on_place_or_environment(layers, tmp_path, monkeypatch):
    first = write(layers, tmp_path / "one.squashfs").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    for layer in layers:
        shutil.copytree(layer.blob.parent, tmp_path / "elsewhere" / layer.blob.parent.name)
    copies = [read_layer(tmp_path / "elsewhere" / name) for name in ("lower", "upper")]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    old = os.umask(0o077)
    try:
        assert write(copies, tmp_path / "elsewhere" / "two.squashfs").read_bytes() == first
    finally:
        os.umask(old)


def test_an_entry_newer_than_the_epoch_keeps_its_time(tmp_path):
    layer = write_layer([file("new", b"x", mtime=EPOCH + 5)], tmp_path)
    image = write([layer], tmp_path / "image.squashfs", epoch=EPOCH)
    assert int.from_bytes(image.read_bytes()[8:12], "little") == EPOCH
    shown = subprocess.run(["unsquashfs", "-d", str(tmp_path / "out"), str(image)], check=True, capture_output=True)
    assert shown.returncode == 0
    assert int((tmp_path / "out" / "new").stat().st_mtime) == EPOCH + 5


def test_an_empty_image(tmp_path):
    image = write([], tmp_path / "image.squashfs")
    lines = subprocess.run(["unsquashfs", "-ll", str(image)], check=True, capture_output=True, text=True).stdout
    assert lines.count("\n") == 1


def test_a_damaged_layer_leaves_the_older_image_alone(layers, tmp_path):
    out = tmp_path / "image.squashfs"
    out.write_bytes(b"older")
    content = bytearray(layers[1].blob.read_bytes())
    content[-3] ^= 1
    layers[1].blob.write_bytes(content)
    with pytest.raises(LockError, match="damaged"):
        write(layers, out)
    assert out.read_bytes() == b"older"
    assert [path for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_layers_of_another_block_size_are_refused(layers, tmp_path):
    with pytest.raises(BuildError, match="has blocks of 262144 bytes, and the image is to have 131072"):
        write(layers, tmp_path / "image.squashfs", options=SquashfsOptions(block_size=131072))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lower", "upper"]


def test_a_content_of_several_layers_is_stored_once(tmp_path):
    sizes = []
    for name, content in (("same", NOISE), ("other", NOISE[::-1])):
        folder = tmp_path / name
        (folder / "one").mkdir(parents=True)
        (folder / "two").mkdir()
        made = [write_layer([file("a", NOISE)], folder / "one"), write_layer([file("b", content)], folder / "two")]
        sizes.append(write(made, folder / "image.squashfs").stat().st_size)
    assert sizes[0] < len(NOISE) + 20_000
    assert sizes[1] > 2 * len(NOISE)


@pytest.mark.root
@pytest.mark.skipif(not can_mount(), reason="needs root")
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "layer").mkdir()
    write_layer([file(f"noise{number}", random.Random(number).randbytes(3 << 20)) for number in range(4)],
                tmp_path / "layer")  # fmt: skip
    (tmp_path / "small").mkdir()
    program = f"""
import pathlib, sys
from uenv_builder.images.squashfs.from_layers import write_squashfs
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import SquashfsOptions
from uenv_builder.model.start import StartFile
from uenv_builder.system.events import Silent
from uenv_builder.system.layer_blob import read_layer
small = pathlib.Path({str(tmp_path / "small")!r})
try:
    write_squashfs([read_layer(pathlib.Path({str(tmp_path / "layer")!r}))], small / "image.squashfs",
                   SquashfsOptions(), epoch=0, listener=Silent())
except BuildError as error:
    print(error)
    print("left:", list(small.iterdir()))
"""
    mount = f'mount -t tmpfs -o size=2m tmpfs "{tmp_path / "small"}" && "$@"'
    shown = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", program],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    assert "error[no-space]" in shown
    assert "left: []" in shown


def test_the_version_says_what_the_bytes_depend_on():
    assert re.fullmatch(r"squashfs linker \d+, zstd \d+\.\d+\.\d+", linker_version())


# Data in the order of a start


START = ["usr/many/299", "implied/parent/file", "not/there", "usr", "usr/noise", "usr/many/007", "usr/replaced"]


def places_of(image, path):
    """Where a file's blocks and its tail's fragment are in the data area: (first byte, last byte) each."""
    node = image.root
    for name in path.encode().split(b"/"):
        node = node.children[name]
    content = node.content
    if content.words:
        yield content.start, content.start + content.stored
    if content.fragment is not None:
        start, word = image.source.fragments[content.fragment]
        yield start, start + (word & 0xFFFFFF)


def test_what_a_start_reads_lies_in_front_and_the_content_is_the_same(layers, tmp_path):
    plain = write(layers, tmp_path / "plain")
    notes = []

    class Told(Silent):
        def note(self, text):
            notes.append(text)

    start = [StartFile(path) for path in START]
    for name in ("ordered", "again"):
        write_squashfs(layers, tmp_path / name, SquashfsOptions(), epoch=EPOCH, listener=Told(), start=start)
    assert (tmp_path / "ordered").read_bytes() == (tmp_path / "again").read_bytes() != plain.read_bytes()
    assert notes[0] == "2 of 7 files of the recorded start are not in the image: not/there, usr"
    with open_squashfs(plain) as one, open_squashfs(tmp_path / "ordered") as two:
        assert contents_of(one) == contents_of(two)
        assert one.inodes == two.inodes
        assert abs(one.size - two.size) < 1000  # tables, which name other places
        listed = [place for path in START if path not in {"not/there", "usr"} for place in places_of(two, path)]
        base = two.source.pieces[0].offset
    places = list(dict.fromkeys(listed))
    assert places == sorted(places)
    assert places[0][0] == 0
    assert all(end == start for (_, end), (start, _) in pairwise(places))
    tables, *data = read_extents(tmp_path / "ordered")
    assert data == [(base, places[-1][1])]
    assert sum(tables) == two.size
    assert read_extents(plain) == ()


def contents_of(image):
    reader = image.contents()
    return {
        path: (node.kind, node.mode, node.mtime, node.target, node.content and reader.read(node.content))
        for path, node in walk(image.root)
    }


def test_only_the_parts_that_are_read_are_read_ahead(tmp_path):
    blocks = b"".join(hashlib.shake_256(bytes([number])).digest(100_000) for number in range(3))
    (tmp_path / "layer").mkdir()
    entries = [file("aside", hashlib.shake_256(b"a").digest(300_000)), file("big", blocks + b"tail")]
    layer = write_layer(iter(entries), tmp_path / "layer", block_size=4096)
    out, options = tmp_path / "image", SquashfsOptions(block_size=4096)
    start = [StartFile("big", ((0, 1), (200_000, 200_001)))]
    write_squashfs([layer], out, options, epoch=EPOCH, listener=Silent(), start=start)
    with open_squashfs(out) as image:
        first = image.source.pieces[0].offset
    assert read_extents(out)[1:] == ((first, 4096), (first + 200_000 // 4096 * 4096, 4096))


def test_a_damaged_layer_is_found_with_an_order_too(layers, tmp_path):
    blob = layers[0].blob
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    start = [StartFile("usr/many/299")]
    with pytest.raises(LockError) as caught:
        write_squashfs(layers, tmp_path / "out", SquashfsOptions(), epoch=EPOCH, listener=Silent(), start=start)
    assert caught.value.diagnostics[0].rule == "hash-mismatch"
    assert not (tmp_path / "out").exists()
