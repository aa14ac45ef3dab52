"""Random layers become a squashfs and an OCI image: kernel, unsquashfs, tarfile and our reader see what was given.

What they should see is worked out here, after the OCI image specification (1.0, layer.md), by other code than what is
tested.
40 trees by default, more of them by hand with UENV_TREES=1000.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compare_mounted_image
import tree_listing
from uenv_builder.images.oci import write_oci_layout
from uenv_builder.images.squashfs.from_layers import write_squashfs
from uenv_builder.images.squashfs.link import link_images
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import walk
from uenv_builder.model.entry import Entry
from uenv_builder.model.image import ImageConfig, SquashfsOptions
from uenv_builder.system.events import Silent
from uenv_builder.system.layer_blob import write_layer

TREES = int(os.environ.get("UENV_TREES", "40"))
EPOCH = 1_700_000_000
NOISE = random.Random(5).randbytes(300_000)
CONTENTS = [
    b"", b"x", b"text\n" * 900, NOISE[:4095], NOISE[:4096], NOISE[7:4104], bytes(4096), bytes(20_000), NOISE[:9000],
    bytes(8192) + b"end", NOISE[:4096] + bytes(8192) + NOISE[:100], NOISE[:150_000], b"compresses " * 30_000,
]  # fmt: skip
NAMES = ["a", "b", "c", "größe", "n" * 255, " \n'\"\\", "d"]
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True)
class Made:
    """One entry of a made layer; the target of a file is its own path, that of a hard link its file's."""

    path: str
    kind: str
    mode: int = 0o644
    mtime: int = EPOCH
    content: bytes = b""
    target: str = ""


@st.composite
def layers(draw, whiteouts: bool = True) -> list[list[Made]]:
    """One to four layers that name the parents of all that they bring."""
    return [draw(one_layer(whiteouts)) for _ in range(draw(st.integers(1, 4)))]


@st.composite
def one_layer(draw, whiteouts: bool) -> list[Made]:
    found: dict[str, Made] = {}
    files: list[str] = []
    kinds = ["dir", "dir", "file", "file", "file", "symlink", "hardlink"] + ["whiteout"] * (2 if whiteouts else 0)
    for _ in range(draw(st.integers(1, 12))):
        folders = ["", *(path for path, made in found.items() if made.kind == "dir" and path.count("/") < 4)]
        parent, name = draw(st.sampled_from(folders)), draw(st.sampled_from(NAMES))
        kind = draw(st.sampled_from(kinds))
        if kind == "whiteout":
            name = draw(st.sampled_from([OPAQUE, WHITEOUT + name[:100]]))
        path = f"{parent}/{name}".lstrip("/")
        if path in found:
            continue
        mtime = draw(st.sampled_from([0, 1, EPOCH, 2**31, 2**32 - 1]))
        mode = draw(st.integers(0, 0o777))
        if kind == "hardlink" and files:
            found[path] = replace(found[draw(st.sampled_from(files))], path=path, kind="hardlink")
        elif kind == "symlink":
            found[path] = Made(path, "symlink", 0o777, mtime, target=draw(st.sampled_from(["a", "../b", "x" * 300])))
        elif kind == "dir":
            found[path] = Made(path, "dir", mode | draw(st.sampled_from([0, 0o1000])) | 0o700, mtime)
        elif kind in {"file", "hardlink"}:
            found[path] = Made(path, "file", mode, mtime, draw(st.sampled_from(CONTENTS)), target=path)
            files.append(path)
        else:
            found[path] = Made(path, "file")
    return list(found.values())


def entries(layer: list[Made]) -> Iterator[Entry]:
    for made in layer:
        is_file = made.kind == "file"
        yield Entry(
            path=made.path, kind=made.kind, mode=made.mode, mtime=made.mtime, uid=3, gid=4,
            size=len(made.content) if is_file else 0, content=io.BytesIO(made.content) if is_file else None,
            target="" if is_file else made.target,
        )  # fmt: skip


def put_together(given: list[list[Made]]) -> dict[str, list]:
    """What the layers show, in the form of `list_tree`."""
    tree: dict[str, tuple[Made, tuple[int, str]]] = {}

    def remove_below(path: str) -> None:
        for name in [name for name in tree if name.startswith(f"{path}/" if path else "")]:
            del tree[name]

    for number, layer in enumerate(given):
        for made in layer:
            folder, _, name = made.path.rpartition("/")
            if name == OPAQUE:
                remove_below(folder)
            elif name.startswith(WHITEOUT):
                gone = f"{folder}/{name.removeprefix(WHITEOUT)}".lstrip("/")
                remove_below(gone)
                tree.pop(gone, None)
        for made in layer:
            if made.path.rpartition("/")[2].startswith(WHITEOUT):
                continue
            if made.kind != "dir" or (made.path in tree and tree[made.path][0].kind != "dir"):
                remove_below(made.path)
            tree[made.path] = made, (number, made.target if made.kind in {"file", "hardlink"} else made.path)
    first: dict[tuple[int, str], str] = {}
    return {path: shown(path, *tree[path], first) for path in in_order(tree)}


def in_order(paths) -> list[str]:
    """As a walk meets them that takes the names of each folder in the order of their code points."""
    return sorted(paths, key=lambda path: path.split("/"))


def shown(path: str, made: Made, identity: tuple[int, str], first: dict[tuple[int, str], str]) -> list:
    if made.kind in {"dir", "symlink"}:
        return [made.kind, made.mode, made.mtime, made.target, path]
    what = f"{len(made.content)} {hashlib.sha256(made.content).hexdigest()}"
    return ["file", made.mode, made.mtime, what, first.setdefault(identity, path)]


def read_by_us(image: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    first: dict[int, str] = {}
    with open_squashfs(image) as opened:
        contents = opened.contents()
        nodes = {os.fsdecode(path): node for path, node in walk(opened.root) if path}
        for path in in_order(nodes):
            node = nodes[path]
            what, same = os.fsdecode(node.target), path
            if node.content:
                content = contents.read(node.content)
                what, same = f"{len(content)} {hashlib.sha256(content).hexdigest()}", first.setdefault(id(node), path)
            found[path] = [node.kind, node.mode, node.mtime, what, same]
    return found


def read_by_unsquashfs(image: Path) -> dict[str, list]:
    target = image.with_name("unsquashed")
    command = ["unsquashfs", "-n", "-strict-errors", "-d", str(target), str(image)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        return tree_listing.list_tree(str(target))
    finally:
        shutil.rmtree(target)


def read_by_kernel(image: Path) -> dict[str, list]:
    script = f'mount -t squashfs -o loop,ro "{image}" /mnt && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, tree_listing.__file__, "/mnt"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read_oci(folder: Path) -> list[list[Made]]:
    """The image's layers as tarfile reads them."""
    blob = lambda digest: folder / "blobs/sha256" / digest.removeprefix("sha256:")  # noqa: E731
    index = json.loads((folder / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    config = json.loads(blob(manifest["config"]["digest"]).read_text())
    found = []
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        packed = blob(layer["digest"]).read_bytes()
        assert f"sha256:{hashlib.sha256(packed).hexdigest()}" == layer["digest"]
        with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
            unpacked = stream.read()
        assert f"sha256:{hashlib.sha256(unpacked).hexdigest()}" == diff_id
        found.append(read_tar(unpacked))
    return found


def read_tar(content: bytes) -> list[Made]:
    found: dict[str, Made] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            path = member.name
            assert (member.uid, member.gid) == (3, 4)
            mode, mtime = member.mode, int(member.mtime)
            if member.isdir():
                found[path] = Made(path, "dir", mode, mtime)
            elif member.issym():
                found[path] = Made(path, "symlink", mode, mtime, target=member.linkname)
            elif member.islnk():
                found[path] = replace(found[member.linkname], path=path, kind="hardlink", target=member.linkname)
            else:
                found[path] = Made(path, "file", mode, mtime, archive.extractfile(member).read(), target=path)
    return list(found.values())


def write_all(given: list[list[Made]], place: Path, block_size: int):
    shutil.rmtree(place, ignore_errors=True)
    written = []
    for number, layer in enumerate(given):
        (place / str(number)).mkdir(parents=True)
        written.append(write_layer(entries(layer), place / str(number), level=1, block_size=block_size))
    return written


def write_image(written, out: Path, block_size: int) -> Path:
    options = SquashfsOptions(level=1, block_size=block_size)
    write_squashfs(written, out, options, epoch=EPOCH, listener=Silent())
    return out


CONFIG = ImageConfig(architecture="amd64", env={}, workdir="/", entrypoint=(), cmd=("/bin/sh",), labels={}, created=0)
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SETTINGS, max_examples=TREES)
@given(layers(), st.sampled_from([4096, 131072, 1 << 20]))
def test_both_images_hold_what_was_given(tmp_path_factory, given, block_size):
    place = tmp_path_factory.getbasetemp() / "random-trees"
    written = write_all(given, place, block_size)
    expected = put_together(given)
    image = write_image(written, place / "image", block_size)
    assert read_by_us(image) == expected
    if shutil.which("unsquashfs"):
        assert read_by_unsquashfs(image) == expected
    if compare_mounted_image.can_mount():
        assert read_by_kernel(image) == expected
    write_oci_layout(written, CONFIG, place / "oci", reference="tree")
    assert put_together(read_oci(place / "oci")) == expected


@settings(SETTINGS, max_examples=TREES // 2)
@given(layers(whiteouts=False), st.data())
def test_layers_can_be_linked_in_any_order_of_steps(tmp_path_factory, given, data):
    """At once from the layers, or as images of one layer each, of which neighbours are linked first."""
    place = tmp_path_factory.getbasetemp() / "random-links"
    written = write_all(given, place, 4096)
    expected = put_together(given)
    images = [write_image([layer], place / f"image{number}", 4096) for number, layer in enumerate(written)]
    assert read_by_us(write_image(written, place / "whole", 4096)) == expected
    link_images(images[:1], place / "one")
    assert read_by_us(place / "one") == read_by_us(images[0])
    steps = 0
    while len(images) > 1:
        at = data.draw(st.integers(0, len(images) - 2))
        steps += 1
        link_images(images[at : at + 2], place / f"step{steps}", partial=len(images) > 2, epoch=EPOCH)
        images[at : at + 2] = [place / f"step{steps}"]
    assert read_by_us(images[0]) == expected


def test_a_folder_of_100_000_entries_and_a_file_of_more_than_4_gib(tmp_path):
    """By hand: this takes half a minute."""
    if TREES <= 40:
        pytest.skip("set UENV_TREES to more than 40")
    count, size = 100_000, (4 << 30) + 12345

    class Zeros(io.RawIOBase):
        left = size

        def read(self, wanted=-1):
            length = min(wanted, self.left)
            self.left -= length
            return bytes(length)

    def stream():
        yield Entry(path="many", kind="dir", mode=0o755, mtime=EPOCH)
        for number in range(count):
            yield Entry(path=f"many/{number * 7919 % 1_000_003:06}-{'x' * (number % 90)}", kind="file", mode=0o600,
                        mtime=number, content=io.BytesIO(b"%d" % (number % 7)), size=1)  # fmt: skip
        yield Entry(path="zeros", kind="file", mode=0o600, mtime=1, size=size, content=Zeros())

    layer = write_layer(stream(), tmp_path, level=1, block_size=1 << 20)
    image = write_image([layer], tmp_path / "image", 1 << 20)
    seen = read_by_kernel(image)
    assert len(seen) == count + 2
    zeros = hashlib.sha256()
    for _ in range(size >> 20):
        zeros.update(bytes(1 << 20))
    zeros.update(bytes(size & 0xFFFFF))
    assert seen["zeros"][3] == f"{size} {zeros.hexdigest()}"
    for number in range(0, count, 997):
        name = f"many/{number * 7919 % 1_000_003:06}-{'x' * (number % 90)}"
        content = b"%d" % (number % 7)
        assert seen[name] == ["file", 0o600, number, f"1 {hashlib.sha256(content).hexdigest()}", name]
