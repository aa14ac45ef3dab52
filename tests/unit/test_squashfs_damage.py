"""Images that are damaged, or made to do harm: one clear error, in little time and memory."""

import resource
import struct
import zlib

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_squashfs import EPOCH, Blocks, folder, one_of_each, read_back, superblock, symlink, uncompressed, write

from uenv_builder.images.squashfs import layout, metadata, reader
from uenv_builder.images.squashfs.compressors import TooLongError, packer, unpacker
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import FileData, Node, walk
from uenv_builder.images.squashfs.writer import write_image
from uenv_builder.model.errors import BuildError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The bytes of images with everything in them, their tables as they are or compressed."""
    place = tmp_path_factory.mktemp("images")
    found = {}
    for compressor in ("zstd", "gzip", "xz"):
        for plain in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                if plain:
                    uncompressed(patch)
                blocks = Blocks(place / "blocks", 4096, compressor)
                write(one_of_each(blocks), place / "image", blocks, compressor=compressor)
            found[compressor, plain] = (place / "image").read_bytes()
    return found


@pytest.fixture
def plain(tmp_path, images):
    """An image whose tables are not compressed: its path, superblock and a way to change it."""
    return Plain(tmp_path / "image", bytearray(images["zstd", True]))


class Plain:
    def __init__(self, path, content):
        self.path, self.content = path, content
        path.write_bytes(content)
        self.top = superblock(path)

    def refused(self, match):
        self.path.write_bytes(self.content)
        with pytest.raises(BuildError, match=match) as caught:
            read_back(self.path)
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.rule == "squashfs-damaged"
        assert str(self.path) in diagnostic.message

    def set_top(self, **fields):
        self.content[:96] = layout.SUPERBLOCK.pack(*self.top._replace(**fields))

    def inode(self, number):
        """The place in the file of the inode with that number; all inodes are in one block."""
        at = self.top.lookup_table_start
        (block,) = struct.unpack_from("<Q", self.content, at)
        (reference,) = struct.unpack_from("<Q", self.content, block + 2 + 8 * (number - 1))
        assert reference >> 16 == 0
        return self.top.inode_table_start + 2 + reference

    def find(self, name):
        """The place in the file of the directory entry with that name."""
        at = self.content.index(name, self.top.directory_table_start) - layout.DIRECTORY_ENTRY.size
        assert layout.DIRECTORY_ENTRY.unpack_from(self.content, at)[3] + 1 == len(name)
        return at

    def inode_of(self, name):
        offset = struct.unpack_from("<H", self.content, self.find(name))[0]
        return self.top.inode_table_start + 2 + offset


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"magic": 1}, "no squashfs"),
        ({"major": 3}, r"version is 3\.0"),
        ({"minor": 1}, r"version is 4\.1"),
        ({"block_size": 2048, "block_log": 11}, "block size is 2048"),
        ({"block_size": 1 << 21, "block_log": 21}, "block size is 2097152"),
        ({"block_size": 5000}, "block size is 5000"),
        ({"block_log": 17}, "logarithm 17"),
        ({"block_log": 0xFFFF}, "logarithm 65535"),
        ({"inode_table_start": 0}, "not in their order"),
        ({"inode_table_start": 1 << 63}, "not in their order"),
        ({"directory_table_start": 96}, "not in their order"),
        ({"bytes_used": 1 << 40}, "at most 268435456"),
        ({"bytes_used": 1 << 20}, "it ends at"),
        ({"bytes_used": 100}, "not in their order"),
        ({"no_ids": 0}, "table of 0 records"),
        ({"no_ids": 5000}, "table of 5000 records"),
        ({"fragments": 0xFFFFFFFF}, "table of 4294967295 records"),
        ({"fragments": 1}, "bytes instead of 16"),
        ({"inodes": 0xFFFFFFFF}, "table of 4294967295 records"),
        ({"inodes": 3}, "bytes instead of 24"),
        ({"id_table_start": 0}, "cannot lie"),
        ({"xattr_id_table_start": 1 << 62}, "are not between"),
        ({"fragment_table_start": 96}, "cannot lie"),
        ({"root_inode": 5 << 16}, "refers to what is not there"),
        ({"root_inode": 0xFFFF}, "ends early"),
        ({"flags": layout.FLAG_COMPRESSOR_OPTIONS}, "compressor's options"),
    ],
)
def test_superblocks(plain, fields, match):
    plain.set_top(**fields)
    plain.refused(match)


def test_other_compressors_are_named(plain):
    for number, name in ((2, "lzma"), (3, "lzo"), (5, "lz4"), (77, "number 77")):
        plain.set_top(compression=number)
        plain.path.write_bytes(plain.content)
        with pytest.raises(BuildError, match=f"compressor is {name}") as caught:
            read_back(plain.path)
        assert caught.value.diagnostics[0].rule == "squashfs-unsupported"


def test_files_that_are_not_there_or_no_files(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(BuildError, match=r"No such file|Is a directory"):
            read_back(path)
    (tmp_path / "empty").touch()
    with pytest.raises(BuildError, match="0 bytes only"):
        read_back(tmp_path / "empty")


def test_a_directory_that_holds_itself(plain):
    deep, inner = plain.find(b"deep"), plain.find(b"er")
    plain.content[inner : inner + 2] = plain.content[deep : deep + 2]
    plain.refused("the directory 'er' is in two places")


def test_directories_that_share_a_listing(plain):
    deep = plain.inode_of(b"deep")
    root = plain.top.inode_table_start + 2 + (plain.top.root_inode & 0xFFFF)
    # start_block, then nlink, file_size and offset, of the root in place of its child's
    plain.content[deep + 16 : deep + 28] = plain.content[root + 16 : root + 28]
    plain.refused("directories overlap|in two places")


@pytest.mark.parametrize(
    ("name", "match"),
    [(b"c/b", "cannot be"), (b"cc\0", "cannot be"), (b"bad", "two entries with one name"), (b"aaa", "not sorted")],
)
def test_names(tmp_path, monkeypatch, name, match):
    uncompressed(monkeypatch)
    write(folder({b"x" * len(name): symlink(b"t"), b"bad": symlink(b"u")}), tmp_path / "image")
    content = (tmp_path / "image").read_bytes().replace(b"x" * len(name), name)
    Plain(tmp_path / "image", bytearray(content)).refused(match)


def test_dots_are_no_names(tmp_path, monkeypatch):
    uncompressed(monkeypatch)
    write(folder({b"xy": symlink(b"t")}), tmp_path / "image")
    Plain(tmp_path / "image", bytearray((tmp_path / "image").read_bytes().replace(b"xy", b".."))).refused("cannot be")


def put(plain, at, form, value):
    struct.pack_into(form, plain.content, at, value)


@pytest.mark.parametrize(
    ("name", "offset", "form", "value", "match"),
    [
        (b"fifo", 0, "<H", 0, "unknown type 0"),
        (b"fifo", 0, "<H", 15, "unknown type 15"),
        (b"fifo", 0, "<H", layout.SOCKET, "is a socket, but is listed with type 6"),
        (b"fifo", 4, "<H", 0xFFFF, "refers to what is not there"),
        (b"fifo", 12, "<I", 0, "number 0, and there are 19"),
        (b"fifo", 12, "<I", 20, "number 20, and there are 19"),
        (b"link", 20, "<I", 4097, "a symbolic link's text of 4097 bytes"),
        (b"link", 20, "<I", 0xFFFFFFFF, "a symbolic link's text of 4294967295 bytes"),
        (b"small", 20, "<I", 1000, "fragment 1000"),
        (b"small", 24, "<I", 4095, "5 bytes at 4095"),
        (b"small", 28, "<I", 8192, "0 bytes at|size is"),
        (b"small", 28, "<I", 0xFFFFFFFF, "fewer than 1048575 words"),
        (b"block", 16, "<I", 5, "not in the data area"),
        (b"block", 16, "<I", 0xFFFFFFFF, "not in the data area"),
        (b"block", 32, "<I", 4097, "size is 0x1001"),
        (b"block", 32, "<I", 1 << 25, "decompressed|size is|bytes instead"),
        (b"block", 32, "<I", 1 << 25 | 1, "size is 0x2000001"),
        (b"block", 32, "<I", 1 << 24, "has fewer|bytes instead|size is 0x1000000"),
        (b"deep", 24, "<H", 0xFFFF, "ends early, or directories overlap"),
        (b"deep", 24, "<H", 9, "ends within an entry"),
        (b"deep", 16, "<I", 12345, "refers to what is not there"),
        (b"text", 52, "<I", 1000, "refers to what is not there"),
        (b"zeros", 24, "<Q", 1 << 62, "words"),
    ],
)
def test_inodes(plain, name, offset, form, value, match):
    put(plain, plain.inode_of(name) + offset, form, value)
    plain.refused(match)


def test_inodes_that_overlap(tmp_path, monkeypatch):
    """Two thousand inodes whose words are the same bytes would be a hundred times the image."""
    uncompressed(monkeypatch)
    big = Node("file", 0o644, content=FileData(4096 * 2000, words=(0,) * 2000))
    inner = Node("file", 0o644, content=FileData(0))
    write_image(folder({b"a": big, b"b": inner}), [], tmp_path / "image", block_size=4096, epoch=EPOCH)
    plain = Plain(tmp_path / "image", bytearray((tmp_path / "image").read_bytes()))
    start = plain.inode_of(b"a")
    head = bytearray(plain.content[start : start + 32])
    put(plain, start + 32, "<32s", bytes(head))  # a second inode among the words of the first
    put(plain, plain.find(b"b"), "<H", 32)
    put(plain, start + 32 + 28, "<I", 4096 * 1900)
    plain.refused("inodes overlap|size is")


def test_xattrs(plain):
    table = plain.top.xattr_id_table_start
    (start,) = struct.unpack_from("<Q", plain.content, table)
    at = start + 2
    for offset, form, value, match in [
        (0, "<H", 9, "unknown kind 9"),
        (2, "<H", 0xFFFF, "overlap or end early"),
        (0, "<H", 0x102, "ends early|overlap"),
    ]:
        before = bytes(plain.content)
        put(plain, at + offset, form, value)
        plain.refused(match)
        plain.content[:] = before
    put(plain, table + 8, "<I", 0)
    plain.refused("table of 0 records|empty")


def test_lists_of_xattrs_that_overlap(tmp_path, monkeypatch):
    """Each list is the rest of the table, if their counts are to be believed."""
    uncompressed(monkeypatch)
    nodes = {b"%d" % number: Node("fifo", 0, xattrs=((b"user.%d" % number, b"v" * 8),)) for number in range(400)}
    write_image(folder(nodes), [], tmp_path / "image", block_size=4096, epoch=EPOCH)
    plain = Plain(tmp_path / "image", bytearray((tmp_path / "image").read_bytes()))
    head = plain.top.xattr_id_table_start
    (first,) = struct.unpack_from("<Q", plain.content, head + 16)
    for number in range(400):
        put(plain, first + 2 + 16 * number + 8, "<I", 400 - number)
    plain.refused("overlap")


@pytest.mark.parametrize("compressor", ["zstd", "gzip", "xz"])
def test_blocks_that_are_bombs(compressor):
    unpack = unpacker(compressor)
    content = bytes(64 << 20)
    packed = {
        "zstd": lambda: zstandard.ZstdCompressor(write_content_size=False).compress(content),
        "gzip": lambda: zlib.compress(content),
        "xz": lambda: packer("xz")(content),
    }[compressor]()
    with pytest.raises((TooLongError, zstandard.ZstdError)):
        unpack(packed, 8192)
    with pytest.raises((TooLongError, zstandard.ZstdError, zlib.error, Exception)):
        unpack(packer(compressor)(content), 8192)
    assert unpack(packer(compressor)(content[:8192]), 8192) == content[:8192]


def test_a_frame_that_claims_to_be_huge_allocates_nothing():
    claim = b"\x28\xb5\x2f\xfd" + bytes([0xC0 | 0x20]) + struct.pack("<Q", 1 << 50) + b"\x01\0\0"
    with pytest.raises(TooLongError):
        unpacker("zstd")(claim, 8192)


def test_tables_and_trees_larger_than_what_is_read(plain, monkeypatch):
    monkeypatch.setattr(metadata, "MAX_TABLE", 100)
    plain.refused("more than 100 bytes")
    monkeypatch.undo()
    monkeypatch.setattr(reader, "MAX_ENTRIES", 5)
    plain.refused("more than 5 directory entries")


def test_data_that_is_damaged(tmp_path, images):
    content = bytearray(images["zstd", False])
    plain = Plain(tmp_path / "image", content)
    for at in range(96, plain.top.inode_table_start):
        content[at] = 0x55
    plain.refused("cannot be decompressed|more than 4096 bytes|bytes instead|does not have")


def read_all(path):
    """Read an image and its first megabytes of data, as far as it lets."""
    with open_squashfs(path) as image:
        contents = image.contents()
        left = 4 << 20
        for _, node in walk(image.root):
            for block in contents.blocks(node.content) if node.content else ():
                left -= len(block)
                if left < 0:
                    return


CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\0", b"\xff", b"\xff" * 4, b"\0" * 8, b"\x01\x80"]),
        st.sampled_from(["tables", "tables", "tables", "superblock", "anywhere"]),
    ),
    max_size=6,
)


@given(
    st.sampled_from([(name, plain) for name in ("zstd", "gzip", "xz") for plain in (True, True, False)]),
    CHANGES,
    st.none() | st.floats(0, 1),
)
@settings(max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(("zstd", True), [], 0.5)
@example(("zstd", True), [], None)
def test_any_change_is_read_or_refused(images, tmp_path_factory, which, changes, cut):
    content = bytearray(images[which])
    start = struct.unpack_from("<Q", content, 64)[0]
    areas = {"tables": (start, len(content)), "superblock": (0, 96), "anywhere": (0, len(content))}
    for place, change, area in changes:
        low, high = areas[area]
        at = low + int(place * (high - low))
        content[at : at + len(change)] = change
    if cut is not None:
        del content[int(cut * len(content)) :]
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_all(path)
    except BuildError as error:
        assert error.diagnostics[0].rule in {"squashfs-damaged", "squashfs-unsupported"}  # noqa: PT017
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
