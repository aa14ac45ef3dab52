"""Images of mksquashfs read by our reader, and images of our linker read by unsquashfs, the kernel and squashfuse."""

import hashlib
import json
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_images import Zeros, leave_out_zeros
from uenv_builder.images.squashfs.layout import STORED_BLOCK
from uenv_builder.images.squashfs.link import link_images
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import FileData, Node, Piece, Source, walk
from uenv_builder.images.squashfs.writer import write_image
from uenv_builder.model.errors import BuildError

EPOCH = 1_700_000_000
NOISE = random.Random(3).randbytes(3_000_000)
KINDS = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}

pytestmark = pytest.mark.skipif(
    not (shutil.which("mksquashfs") and shutil.which("unsquashfs")), reason="squashfs-tools is not installed"
)


def can_mount():
    """Whether this process may mount through a loop device in a name space of its own."""
    if os.geteuid() != 0 or not shutil.which("losetup"):
        return False
    free = subprocess.run(["losetup", "-f"], capture_output=True, check=False)
    apart = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return free.returncode == 0 and apart.returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root and loop devices")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices")
needs_fuse = pytest.mark.skipif(
    not (can_mount() and shutil.which("squashfuse") and Path("/dev/fuse").exists()), reason="needs squashfuse and root"
)


# What is in a folder: a program, as it also runs inside of a mount name space

LISTING = """
import hashlib, json, os, sys
found, first = {}, {}
top = os.fsencode(sys.argv[1])
def read(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
def tell(path, name):
    at = os.lstat(path)
    kind = at.st_mode & 0o170000
    xattrs = {}
    if kind in (0o100000, 0o040000) and sys.argv[2] == "xattrs":
        try:
            names = sorted(os.listxattr(path, follow_symlinks=False))
        except OSError:  # a squashfs without any
            names = []
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}
    found[name.hex()] = [
        kind, at.st_mode & 0o7777, at.st_uid, at.st_gid, int(at.st_mtime), xattrs,
        os.readlink(path).hex() if kind == 0o120000 else "",
        at.st_rdev if kind in (0o020000, 0o060000) else 0,
        [at.st_size, read(path)] if kind == 0o100000 else None,
        at.st_nlink,
        first.setdefault(at.st_ino, name.hex()) if kind != 0o040000 else "",
    ]
def scan(folder, prefix):
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        tell(path, prefix + name)
        if os.path.isdir(path) and not os.path.islink(path):
            scan(path, prefix + name + b"/")
tell(top, b"")
scan(top, b"")
json.dump(found, sys.stdout)
"""


def folder_says(folder, *within, xattrs=True):
    """What LISTING tells of a folder, `within` a command that runs it."""
    command = [*within, sys.executable, "-c", LISTING, str(folder), "xattrs" if xattrs else "none"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def image_says(path):
    """The same of an image, by our reader."""
    kinds = {name: number for number, name in KINDS.items()}
    found, first, links = {}, {}, {}
    with open_squashfs(path) as image:
        contents = image.contents()
        for name, node in walk(image.root):
            digest, size = hashlib.sha256(), 0
            for block in contents.blocks(node.content) if node.content else ():
                digest.update(block)
                size += len(block)
            links.setdefault(node, []).append(name.hex())
            folders = sum(child.kind == "dir" for child in node.children.values())
            found[name.hex()] = [
                kinds[node.kind], node.mode, node.uid, node.gid, node.mtime,
                {key.decode(): value.hex() for key, value in node.xattrs} if node.kind in {"file", "dir"} else {},
                node.target.hex(), system_device(node.device), [size, digest.hexdigest()] if node.content else None,
                2 + folders,
                first.setdefault(node, name.hex()) if node.kind != "dir" else "",
            ]  # fmt: skip
        for node, names in links.items():
            for name in names if node.kind != "dir" else ():
                found[name][9] = len(names)
    return found


def system_device(device):
    """The kernel's 32-bit form of a device number, as stat tells it."""
    return os.makedev((device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)) if device else 0


def mounted(image, tmp_path):
    point = tmp_path / "mount"
    point.mkdir(exist_ok=True)
    script = f'mount -t squashfs -o loop,ro "{image}" "{point}" && "$@"'
    return folder_says(point, "unshare", "-m", "sh", "-c", script, "sh")


def fused(image, tmp_path):
    point = tmp_path / "fuse"
    point.mkdir(exist_ok=True)
    script = f'squashfuse "{image}" "{point}" || exit 9; "$@"; code=$?; umount "{point}"; exit $code'
    # squashfuse 0.1 lists empty attributes and does not find them, and takes trusted. and security. for each other.
    return folder_says(point, "unshare", "-m", "sh", "-c", script, "sh", xattrs=False)


def unsquashed(image, tmp_path):
    target = tmp_path / f"unsquashed-{image.name}"
    command = ["unsquashfs", "-n", "-strict-errors", "-d", str(target), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = folder_says(target)
    shutil.rmtree(target)
    return found


def without(said, *fields):
    """What a folder says, less some fields by their place."""
    return {name: [value for place, value in enumerate(entry) if place not in fields] for name, entry in said.items()}


def without_dir_links(said):
    """What a folder says, less the links of directories: not every file system counts them."""
    return {name: [*entry[:9], entry[0] != stat.S_IFDIR and entry[9], *entry[10:]] for name, entry in said.items()}


# Folders to make images of


def make_files(top):
    """Files of all kinds of content; what needs root to make is left out without it."""
    top.mkdir()
    sizes = [0, 1, 4095, 4096, 4097, 131072, 131073, 300_000, 1 << 20, 1_500_000]
    for size in sizes:
        (top / f"noise-{size}").write_bytes(NOISE[size % 1000 :][:size])
        (top / f"text-{size}").write_bytes((b"some text, line %d\n" * (size // 20 + 1))[:size])
    (top / "copy").write_bytes((top / "noise-1500000").read_bytes())
    with (top / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"in the middle")
        file.seek(11 << 20)
        file.truncate()
    (top / "all-zeros").write_bytes(bytes(400_000))
    (top / "many").mkdir()
    for number in range(600):
        (top / "many" / f"{number:05}-{'n' * (number % 50)}").write_bytes(b"%d" % number * (number % 7))
    (top / ("l" * 255)).write_bytes(b"long name")
    (top / os.fsdecode(b"not \xff utf-8 \n")).write_bytes(b"odd name")
    deep = top.joinpath(*(f"deep-{number}" for number in range(40)))
    deep.mkdir(parents=True)
    (deep / "leaf").write_bytes(b"leaf")
    (top / "empty").mkdir(mode=0o1777)
    (top / "link").symlink_to("nowhere/" + "x" * 1000)
    (top / "many" / "up").symlink_to("..")
    os.link(top / "noise-4097", top / "empty" / "hard-link")
    os.link(top / "noise-4097", top / "hard-link")
    os.link(top / "noise-0", top / "empty" / "empty-link")
    os.mkfifo(top / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(top)  # a socket's path is short
        bound.bind("socket")
        os.chdir(here)
    if os.geteuid() == 0:
        make_what_needs_root(top)
    for number, path in enumerate(sorted([top, *top.rglob("*")], reverse=True)):
        os.utime(path, (EPOCH, EPOCH - number * 1000), follow_symlinks=False)
    return top


def make_what_needs_root(top):
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "disk", 0o660 | stat.S_IFBLK, os.makedev(300, 70_000))
    for number, path in enumerate(sorted((top / "many").iterdir())[:400]):
        os.chown(path, number * 97, 1 + number * 31, follow_symlinks=False)
    (top / "noise-1").chmod(0o6711)
    for path in (top / "noise-1", top / "many", top / "text-4096", top / "sparse"):
        os.setxattr(path, "user.long", b"v" * 500)
        os.setxattr(path, "trusted.short", path.name.encode())
        os.setxattr(path, "user.empty", b"")
    os.setxattr(top / "noise-1", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files") / "top")


def make_image(folder, out, *options):
    subprocess.run(
        ["mksquashfs", str(folder), str(out), "-noappend", "-quiet", "-no-progress", *options],
        check=True, capture_output=True,
    )  # fmt: skip
    return out


VARIANTS = {
    "zstd": ["-comp", "zstd"],
    "zstd-level": ["-comp", "zstd", "-Xcompression-level", "1"],
    "gzip": ["-comp", "gzip"],
    "gzip-options": ["-comp", "gzip", "-Xcompression-level", "1", "-Xwindow-size", "10"],
    "xz": ["-comp", "xz"],
    "xz-options": ["-comp", "xz", "-Xdict-size", "50%", "-b", "65536"],
    "4K": ["-comp", "zstd", "-b", "4096"],
    "1M": ["-comp", "gzip", "-b", "1M"],
    "raw-inodes": ["-comp", "zstd", "-noI"],
    "raw-data": ["-comp", "gzip", "-noD", "-noF"],
    "raw": ["-comp", "zstd", "-noI", "-noD", "-noF", "-noX", "-noId"],
    "no-fragments": ["-comp", "zstd", "-no-fragments"],
    "tail-ends": ["-comp", "zstd", "-always-use-fragments"],
    "no-sparse": ["-comp", "zstd", "-no-sparse", "-no-duplicates"],
    "no-exports": ["-comp", "zstd", "-no-exports", "-no-xattrs"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_reader_sees_what_mksquashfs_packed(files, tmp_path, variant):
    image = make_image(files, tmp_path / "image", *VARIANTS[variant])
    expected, seen = without_dir_links(folder_says(files)), without_dir_links(image_says(image))
    if "-no-xattrs" in VARIANTS[variant]:
        expected = {name: [*fields[:5], {}, *fields[6:]] for name, fields in expected.items()}
    assert seen == expected
    linked = tmp_path / "linked"
    link_images([image], linked)
    assert image_says(linked) == image_says(image)
    assert without_dir_links(unsquashed(linked, tmp_path)) == expected
    shown = [subprocess.run(["unsquashfs", "-s", str(path)], check=True, capture_output=True, text=True).stdout
             for path in (image, linked)]  # fmt: skip
    for fact in ("Compression.*\n", "Block size .*", "Number of inodes .*", "Number of fragments .*", "Creation .*",
                 r"\t(?:compression-level|Dictionary size|window-size) .*"):  # fmt: skip
        assert re.findall(fact, shown[1]) == re.findall(fact, shown[0])
    assert "Filesystem is exportable via NFS" in shown[1]


@pytest.mark.root
@needs_mount
@pytest.mark.parametrize("variant", ["zstd", "gzip-options", "xz", "4K", "1M", "raw", "no-sparse"])
def test_the_kernel_sees_the_same_before_and_after_linking(files, tmp_path, variant):
    image = make_image(files, tmp_path / "image", *VARIANTS[variant])
    link_images([image], tmp_path / "linked")
    seen = mounted(tmp_path / "linked", tmp_path)
    assert seen == mounted(image, tmp_path)
    assert seen == image_says(image)


@pytest.mark.root
@needs_fuse
@pytest.mark.parametrize("variant", ["zstd", "gzip"])
def test_squashfuse_sees_the_same_before_and_after_linking(files, tmp_path, variant):
    image = make_image(files, tmp_path / "image", *VARIANTS[variant])
    link_images([image], tmp_path / "linked")
    seen = fused(tmp_path / "linked", tmp_path)
    assert seen == fused(image, tmp_path)
    # squashfuse gives every name an inode number of its own.
    assert without(seen, 5, 10) == without(image_says(image), 5, 10)


@pytest.mark.root
@needs_mount
def test_the_kernel_sees_hard_links_of_every_kind(tmp_path):
    kinds = ("symlink", "fifo", "socket", "char", "block", "file")
    nodes = {kind.encode(): Node(kind, 0o640, 1, 2, 3, ((b"user.a", b"b"),)) for kind in kinds}
    nodes[b"symlink"].target = b"t" * 4095
    nodes[b"symlink"].mode = 0o777
    nodes[b"file"].content = FileData(0)
    nodes[b"char"].device, nodes[b"block"].device = 0x103, 0xABCDEF12
    again = {name + b"-again": node for name, node in nodes.items()}
    root = Node("dir", 0o755, children={**nodes, b"below": Node("dir", 0o700, mtime=1, children=again)})
    write_image(root, [], tmp_path / "image", block_size=131072, epoch=0)
    assert mounted(tmp_path / "image", tmp_path) == image_says(tmp_path / "image")


# Several images


def random_folder(top, seed):
    """A folder with names that meet those of other seeds."""
    numbers = random.Random(seed)
    top.mkdir()
    places = [top]
    paths = []
    for _ in range(300):
        path = numbers.choice(places) / numbers.choice("abcdefgh")
        if path.is_symlink() or path.exists():
            continue
        kind = numbers.randrange(5)
        if kind == 0:
            path.mkdir(mode=numbers.choice([0o755, 0o700, 0o1777]))
            places.append(path)
        elif kind == 1:
            path.symlink_to(numbers.choice("abc") * numbers.randrange(1, 50))
        elif kind == 2 and paths:
            os.link(numbers.choice(paths), path)
        else:
            start = numbers.randrange(100_000)
            path.write_bytes(NOISE[start : start + numbers.choice([0, 10, 5000, 131072, 200_000])])
            paths.append(path)
    for path in sorted([top, *top.rglob("*")], reverse=True):
        os.utime(path, (EPOCH, EPOCH - numbers.randrange(10**6)), follow_symlinks=False)
    return top


def overlaid(folders, out):
    """What the folders show on top of each other, made with the file system's own means."""
    out.mkdir()
    for folder in folders:
        lay_over(folder, out)
    return out


def lay_over(folder, out):
    copies = {}

    def lay(source, target):
        for path in sorted(source.iterdir()):
            place = target / path.name
            if path.is_dir() and not path.is_symlink():
                if place.is_symlink() or (place.exists() and not place.is_dir()):
                    place.unlink()
                place.mkdir(exist_ok=True)
                lay(path, place)
                continue
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            place.unlink(missing_ok=True)
            identity = path.lstat().st_ino
            if identity in copies:
                os.link(copies[identity], place, follow_symlinks=False)
            else:
                shutil.copy2(path, place, follow_symlinks=False)
                copies[identity] = place
        shutil.copystat(source, target)

    lay(folder, out)


@pytest.mark.parametrize("seed", range(4))
def test_linked_images_are_the_overlay_of_their_folders(tmp_path, seed):
    folders = [random_folder(tmp_path / f"folder{number}", seed * 10 + number) for number in range(4)]
    images = [make_image(folder, tmp_path / f"image{number}", "-comp", "zstd", "-Xcompression-level", "1")
              for number, folder in enumerate(folders)]  # fmt: skip
    link_images(images, tmp_path / "linked", epoch=EPOCH)
    expected = without_dir_links(folder_says(overlaid(folders, tmp_path / "overlaid")))
    assert without_dir_links(image_says(tmp_path / "linked")) == expected
    assert without_dir_links(unsquashed(tmp_path / "linked", tmp_path)) == expected
    if can_mount():
        assert mounted(tmp_path / "linked", tmp_path) == image_says(tmp_path / "linked")
    again = tmp_path / "again"
    link_images(images, again, epoch=EPOCH)
    assert again.read_bytes() == (tmp_path / "linked").read_bytes()
    link_images(images[:2], tmp_path / "lower", epoch=EPOCH, partial=True)
    link_images(images[2:], tmp_path / "upper", epoch=EPOCH, partial=True)
    link_images([tmp_path / "lower", tmp_path / "upper"], again, epoch=EPOCH)
    assert image_says(again) == image_says(tmp_path / "linked")


def test_replaced_data_is_left_behind(tmp_path):
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_bytes(NOISE if name == "lower" else NOISE[:200_000])
        make_image(tmp_path / name, tmp_path / f"{name}.image", "-comp", "zstd")
    link_images([tmp_path / "lower.image", tmp_path / "upper.image"], tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_size < 210_000


# Limits


def test_a_directory_of_100_000_entries(tmp_path):
    fifo = [Node("fifo", 0o600, mtime=number) for number in range(100_000)]
    names = [b"%06d-%s" % (number * 7919 % 1_000_003, b"x" * (number % 90)) for number in range(100_000)]
    root = Node("dir", 0o755, children={b"many": Node("dir", 0o755, children=dict(zip(names, fifo, strict=True)))})
    write_image(root, [], tmp_path / "image", block_size=131072, epoch=0)
    shown = subprocess.run(["unsquashfs", "-l", str(tmp_path / "image")], check=True, capture_output=True).stdout
    assert len(shown.splitlines()) == 100_002
    if can_mount():
        point = tmp_path / "mount"
        point.mkdir()
        program = """
import os, sys
names = sys.stdin.read().split()
listed = os.listdir(sys.argv[1])
assert sorted(listed) == sorted(names), len(listed)
for number, name in enumerate(names):
    if number % 97 == 0 or number < 10:
        assert os.lstat(f"{sys.argv[1]}/{name}").st_mtime == number
for wrong in ("", "000000", "zzz", names[5] + "y"):
    assert not os.path.exists(f"{sys.argv[1]}/{wrong}x")
"""
        script = f'mount -t squashfs -o loop,ro "{tmp_path / "image"}" "{point}" && "$@"'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", program, str(point / "many")],
            input=b"\n".join(names).decode(), text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.root
@needs_mount
def test_files_and_images_of_more_than_4_gib(tmp_path, monkeypatch):
    """The first source's blocks are zeros that are not compressed."""
    leave_out_zeros(monkeypatch)
    size = 5 << 30
    (tmp_path / "noise").write_bytes(NOISE)
    with (tmp_path / "noise").open("rb") as noise:
        zeros, behind = Zeros(5 << 10), Source([Piece(noise, 0, 1 << 20)])
        word = 1 << 20 | STORED_BLOCK
        root = Node("dir", 0o755, children={
            b"big": Node("file", 0o644, content=FileData(size, zeros, 0, (word,) * 5120)),
            b"holes": Node("file", 0o644, content=FileData(size, words=(0,) * 5120, sparse=size - 1)),
            b"behind": Node("file", 0o644, content=FileData(1 << 20, behind, 0, (word,))),
        })  # fmt: skip
        write_image(root, [zeros, behind], tmp_path / "image", block_size=1 << 20, epoch=0)
    program = """
import hashlib, os, sys
top = sys.argv[1]
for name in ("big", "holes"):
    with open(f"{top}/{name}", "rb") as file:
        assert os.fstat(file.fileno()).st_size == 5 << 30
        file.seek((5 << 30) - 100)
        assert file.read() == bytes(100)
print(os.stat(f"{top}/holes").st_blocks, hashlib.sha256(open(f"{top}/behind", "rb").read()).hexdigest())
"""
    point = tmp_path / "mount"
    point.mkdir()
    script = f'mount -t squashfs -o loop,ro "{tmp_path / "image"}" "{point}" && "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", program, str(point)],
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", hashlib.sha256(NOISE[: 1 << 20]).hexdigest()]


@pytest.mark.parametrize("compressor", ["lzo", "lz4"])
def test_other_compressors_are_refused_by_name(files, tmp_path, compressor):
    image = make_image(files / "empty", tmp_path / "image", "-comp", compressor)
    with pytest.raises(BuildError, match=f"the compressor is {compressor}; only zstd, gzip and xz") as caught:
        image_says(image)
    assert caught.value.diagnostics[0].rule == "squashfs-unsupported"
