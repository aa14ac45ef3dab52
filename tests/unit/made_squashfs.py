"""Squashfs images that tests make in memory, and what an image says in a form to compare."""

import lzma
import random
import zlib

import zstandard

from uenv_builder.images.squashfs import layout, writer
from uenv_builder.images.squashfs.content import ContentReader
from uenv_builder.images.squashfs.layout import Superblock
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import FileData, Node, Piece, Source, walk
from uenv_builder.images.squashfs.writer import write_image

EPOCH = 1_700_000_000
NOISE = random.Random(7).randbytes(40_000)
COMPRESS = {
    "zstd": zstandard.ZstdCompressor(level=1).compress,
    "gzip": lambda content: zlib.compress(content, 1),
    "xz": lambda content: lzma.compress(
        content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    ),
}


class Blocks:
    """A source made by the tests: contents as blocks of a file, tail ends in fragments."""

    def __init__(self, path, block_size=4096, compressor="zstd"):
        self.path, self.block_size = path, block_size
        self.compress = COMPRESS[compressor]
        self.area, self.fragments, self.tail = bytearray(), [], bytearray()
        self.source = Source([], self.fragments)

    def block(self, content):
        packed = self.compress(bytes(content))
        stored = len(packed) >= len(content)
        self.area += content if stored else packed
        return len(content) | layout.STORED_BLOCK if stored else len(packed)

    def add(self, content, fragments=True):
        full = len(content) // self.block_size * self.block_size if fragments else len(content)
        tail = content[full:]
        if len(self.tail) + len(tail) > self.block_size:
            self.flush()
        start = len(self.area)
        parts = [content[at : at + self.block_size] for at in range(0, full, self.block_size)]
        words = tuple(self.block(part) if any(part) else 0 for part in parts)
        sparse = sum(len(part) for part, word in zip(parts, words, strict=True) if not word)
        fragment = len(self.fragments) if tail else None
        offset = len(self.tail)
        self.tail += tail
        data = FileData(
            len(content), self.source, start if any(words) else 0, words, fragment, offset if tail else 0, sparse
        )
        return Node("file", 0o644, 0, 0, EPOCH, content=data)

    def flush(self):
        if self.tail:
            at = len(self.area)
            self.fragments.append((at, self.block(self.tail)))
            self.tail.clear()

    def finish(self):
        self.flush()
        self.path.write_bytes(self.area)
        file = self.path.open("rb")
        self.source.__init__([Piece(file, 0, len(self.area))], self.fragments)
        return file


def folder(children=None, **fields):
    fields = {"mode": 0o755, "mtime": EPOCH} | fields
    return Node("dir", children=dict(children or {}), **fields)


def symlink(target, **fields):
    return Node("symlink", 0o777, mtime=EPOCH, target=target, **fields)


def told(root, read=lambda data: data):
    """All that a tree says, in a form to compare: hard links by the first of their paths."""
    first, found = {}, {}
    for path, node in walk(root):
        content = read(node.content) if node.content else None
        fields = (node.kind, node.mode, node.uid, node.gid, node.mtime, node.xattrs, node.target, node.device)
        found[path] = (*fields, content, first.setdefault(node, path))
    return found


def read_back(path):
    with open_squashfs(path) as image:
        return told(image.root, image.contents().read)


def write(root, path, blocks=None, **more):
    """Write `root`, whose data is in `blocks`; returns what it says."""
    if blocks is None:
        write_image(root, [], path, **{"block_size": 4096, "epoch": EPOCH} | more)
        return told(root)
    with blocks.finish():
        write_image(root, [blocks.source], path, block_size=blocks.block_size, epoch=EPOCH, **more)
        reader = {"compressor": "zstd"} | more
        return told(root, ContentReader(reader["compressor"], blocks.block_size, "blocks").read)


def superblock(path):
    return Superblock._make(layout.SUPERBLOCK.unpack(path.read_bytes()[:96]))


def uncompressed(monkeypatch):
    """Let tables be written as they are, for tests that change bytes of them."""
    monkeypatch.setattr(writer, "packer", lambda compressor, level: lambda content: content)


def one_of_each(blocks):
    noise = blocks.add(NOISE)
    noise.mode, noise.uid, noise.gid, noise.mtime = 0o6755, 1000, 0xFFFFFFFF, 0xFFFFFFFF
    text = blocks.add(b"text" * 3000)
    text.xattrs = ((b"security.capability", b"\1\0\0\2" * 5), (b"user.empty", b""))
    link = symlink(b"../else/where", xattrs=((b"trusted.overlay", b"y" * 300),))
    return folder(
        {
            b"noise": noise,
            b"same noise": noise,
            b"text": text,
            b"empty": blocks.add(b""),
            b"small": blocks.add(b"small"),
            b"block": blocks.add(b"b" * 4096),
            b"odd": blocks.add(NOISE[:5000], fragments=False),
            b"zeros": blocks.add(bytes(4096 * 5)),
            b"mixed": blocks.add(NOISE[:4096] + bytes(8192) + b"end"),
            b"link": link,
            b"same link": link,
            b"fifo": Node("fifo", 0o600, 1, 2, 3),
            b"socket": Node("socket", 0o600, xattrs=((b"user.a", b"y" * 300),)),
            b"null": Node("char", 0o666, device=0x103),
            b"disk": Node("block", 0o660, device=0xFFFFFFFF, xattrs=((b"user.a", b"1"), (b"user.b", b"y" * 300))),
            "größe \n\xff".encode("latin-1"): folder(mode=0o1777, mtime=0, xattrs=((b"user.d", b"dir"),)),
            b"deep": folder({b"er": folder({b"and": folder({b"x" * 256: blocks.add(b"deepest")})})}),
        },
        mode=0o700,
        uid=5,
    )
