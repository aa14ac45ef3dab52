"""Squashfs images written and read without any other program; the integration tests let others read them."""

import hashlib
import os
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_squashfs import EPOCH, NOISE, Blocks, folder, one_of_each, read_back, superblock, symlink, uncompressed, write

from sparse_images import Zeros, leave_out_zeros
from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.inode_writer import build_listing
from uenv_builder.images.squashfs.link import link_images
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.tree import FileData, Node, Piece, Source
from uenv_builder.images.squashfs.writer import write_image
from uenv_builder.model.errors import BuildError
from uenv_builder.system import large_file


@pytest.mark.parametrize("compressor", ["zstd", "gzip", "xz"])
@pytest.mark.parametrize("block_size", [4096, 131072, 1 << 20])
def test_what_is_written_is_read(tmp_path, compressor, block_size):
    blocks = Blocks(tmp_path / "blocks", block_size, compressor)
    said = write(one_of_each(blocks), tmp_path / "image", blocks, compressor=compressor)
    assert read_back(tmp_path / "image") == said
    assert said[b"noise"][8] == NOISE
    assert (tmp_path / "image").stat().st_size % 4096 == 0


def test_an_empty_image(tmp_path):
    assert write(folder(), tmp_path / "image") == read_back(tmp_path / "image")
    top = superblock(tmp_path / "image")
    assert (top.inodes, top.fragments, top.no_ids) == (1, 0, 1)
    assert top.xattr_id_table_start == layout.NO_TABLE
    assert top.fragment_table_start > top.directory_table_start - 1


def test_the_bytes_follow_from_the_content(tmp_path):
    digests = set()
    for number in range(2):
        blocks = Blocks(tmp_path / f"blocks{number}")
        root = one_of_each(blocks)
        if number:
            root.children = dict(reversed(root.children.items()))
        write(root, tmp_path / f"image{number}", blocks)
        digests.add(hashlib.sha256((tmp_path / f"image{number}").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_basic_inodes_are_taken_where_they_suffice(tmp_path, monkeypatch):
    uncompressed(monkeypatch)
    blocks = Blocks(tmp_path / "blocks")
    plain = blocks.add(b"plain")
    twice = blocks.add(b"twice")
    write(folder({b"1": plain, b"2": twice, b"3": twice, b"4": symlink(b"x")}), tmp_path / "image", blocks)
    table = (tmp_path / "image").read_bytes()[superblock(tmp_path / "image").inode_table_start + 2 :]
    assert layout.FILE_INODE.unpack_from(table)[0] == layout.FILE
    fields = layout.LONG_FILE_INODE.unpack_from(table, layout.FILE_INODE.size)
    assert (fields[0], fields[9]) == (layout.FILE + layout.EXTENDED, 2)
    at = layout.FILE_INODE.size + layout.LONG_FILE_INODE.size
    assert layout.SYMLINK_INODE.unpack_from(table, at)[0] == layout.SYMLINK
    at += layout.SYMLINK_INODE.size + 1
    assert layout.DIR_INODE.unpack_from(table, at)[0] == layout.DIR


def test_data_that_nothing_refers_to_is_left_behind(tmp_path):
    blocks = Blocks(tmp_path / "blocks")
    kept = [blocks.add(NOISE[:8192]), blocks.add(b"tail" * 100)]
    blocks.flush()
    blocks.add(NOISE[8192:30000] + b"and a tail")
    blocks.flush()
    kept.append(blocks.add(NOISE[30000:]))
    said = write(folder({b"%d" % number: node for number, node in enumerate(kept)}), tmp_path / "image", blocks)
    assert read_back(tmp_path / "image") == said
    assert (tmp_path / "image").stat().st_size < 8192 + 10_000 + 4096 + 1000
    assert superblock(tmp_path / "image").fragments == 2


def test_a_source_can_be_parts_of_several_files(tmp_path):
    blocks = Blocks(tmp_path / "blocks")
    root = one_of_each(blocks)
    with blocks.finish():
        write_image(root, [blocks.source], tmp_path / "image", block_size=4096, epoch=EPOCH)
    area = bytes(blocks.area)
    cuts = [0, 1, 1, 5000, 5003, len(area) - 1, len(area)]
    with ExitStack() as opened:
        pieces = []
        for number, (start, end) in enumerate(pairwise(cuts)):
            path = tmp_path / f"piece{number}"
            path.write_bytes(b"before" + area[start:end] + b"behind")
            pieces.append(Piece(opened.enter_context(path.open("rb")), 6, end - start))
        blocks.source.__init__(pieces, blocks.fragments)
        assert blocks.source.read(0, len(area)) == area
        write_image(root, [blocks.source], tmp_path / "again", block_size=4096, epoch=EPOCH)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "image").read_bytes()
    with pytest.raises(ValueError, match="not in a data area"):
        blocks.source.read(len(area), 1)


def test_what_the_kernel_takes_in_pieces_is_written_and_hashed_whole(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(large_file.os, "write", lambda target, data: real(target, data[:1000]))
    blocks = Blocks(tmp_path / "blocks")
    root = one_of_each(blocks)
    with blocks.finish():
        written = write_image(root, [blocks.source], tmp_path / "image", block_size=4096, epoch=EPOCH)
    assert written.sha256 == hashlib.sha256((tmp_path / "image").read_bytes()).hexdigest()
    assert read_back(tmp_path / "image")[b"noise"][8] == NOISE


@pytest.mark.parametrize("chunk", [1, 5, 29])
def test_a_full_disk_at_any_chunk_leaves_the_older_image(tmp_path, monkeypatch, chunk):
    """Chunk 1 is told while others are read, chunk 29 is the last of all: the tables."""
    real, calls = os.write, []

    def full(target, data):
        calls.append(target)
        if len(calls) == chunk:
            raise OSError(28, "No space left on device")
        return real(target, data)

    monkeypatch.setattr(large_file.os, "write", full)
    monkeypatch.setattr(large_file, "_BUFFER", 4096)
    (tmp_path / "image").write_bytes(b"older")
    blocks = Blocks(tmp_path / "blocks")
    names = (f"{number:02}".encode() for number in range(28))
    root = folder({name: blocks.add(NOISE[:4096]) for name in names})
    for node in root.children.values():  # each in a source of its own, so that each is a chunk
        node.content = node.content._replace(source=Source([]))
    with blocks.finish() as _:
        for node in root.children.values():
            node.content.source.__init__(blocks.source.pieces)
        with pytest.raises(BuildError, match="no space left"):
            write_image(
                root, [node.content.source for node in root.children.values()], tmp_path / "image", block_size=4096,
                epoch=EPOCH,
            )  # fmt: skip
    assert len(calls) == chunk
    assert (tmp_path / "image").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks", "image"]


def test_a_source_that_became_shorter_is_an_error_and_leaves_the_older_image(tmp_path):
    blocks = Blocks(tmp_path / "blocks")
    root = folder({b"a": blocks.add(NOISE)})
    (tmp_path / "image").write_bytes(b"older")
    with blocks.finish():
        os.truncate(tmp_path / "blocks", 100)
        with pytest.raises(BuildError, match="too early"):
            write_image(root, [blocks.source], tmp_path / "image", block_size=4096, epoch=0)
    assert (tmp_path / "image").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks", "image"]


def test_files_and_images_of_more_than_4_gib(tmp_path, monkeypatch):
    """The first source's blocks are zeros that are not compressed."""
    leave_out_zeros(monkeypatch)
    size = 5 << 30
    zeros = Zeros(5 << 10)
    blocks = Blocks(tmp_path / "blocks", 1 << 20)
    words = (1 << 20 | layout.STORED_BLOCK,) * 5120
    root = folder(
        {
            b"big": Node("file", 0o644, content=FileData(size, zeros, 0, words)),
            b"sparse": Node("file", 0o644, content=FileData(size, words=(0,) * 5120, sparse=size - 1)),
            b"behind": blocks.add(NOISE * 30),
        }
    )
    with blocks.finish():
        write_image(root, [zeros, blocks.source], tmp_path / "image", block_size=1 << 20, epoch=EPOCH)
    with open_squashfs(tmp_path / "image") as image:
        assert image.size > size
        children = image.root.children
        assert image.contents().read(children[b"behind"].content) == NOISE * 30
        assert children[b"behind"].content.start > 1 << 32
        assert children[b"big"].content.size == children[b"sparse"].content.size == size
        assert children[b"sparse"].content.sparse == size - 1
        assert next(image.content(children[b"big"].content)) == bytes(1 << 20)


def test_a_directory_of_100_000_entries_has_an_index(tmp_path, monkeypatch):
    uncompressed(monkeypatch)
    root = folder({b"many": folder({b"file-%06d" % number: Node("fifo", 0o600) for number in range(100_000)})})
    said = write(root, tmp_path / "image")
    assert read_back(tmp_path / "image") == said
    top = superblock(tmp_path / "image")
    content = (tmp_path / "image").read_bytes()
    at = (top.root_inode >> 16) * 8194 // 8194 + top.inode_table_start
    assert content[at + 1] & 0x80  # stored as it is: blocks are 8194 bytes apart
    inodes = unframed(content[top.inode_table_start : top.directory_table_start])
    listing = unframed(content[top.directory_table_start : top.fragment_table_start])
    root_at = (top.root_inode >> 16) // 8194 * 8192 + (top.root_inode & 0xFFFF)
    many_at = root_at - find_index(inodes, root_at)
    fields = layout.LONG_DIR_INODE.unpack_from(inodes, many_at)
    count, offset, start = fields[10], fields[11], fields[8]
    assert fields[0] == layout.DIR + layout.EXTENDED
    assert 200 < count < 400
    at = many_at + layout.LONG_DIR_INODE.size
    begin = start // 8194 * 8192 + offset
    for _ in range(count):
        index, block, size = layout.DIR_INDEX.unpack_from(inodes, at)
        name = inodes[at + 12 : at + 13 + size]
        at += 13 + size
        assert block == (begin + index) // 8192 * 8194
        entry = begin + index + layout.DIRECTORY_HEADER.size
        length = layout.DIRECTORY_ENTRY.unpack_from(listing, entry)[3] + 1
        assert listing[entry + 8 : entry + 8 + length] == name
    assert at == root_at


def unframed(table):
    """A table's content when no block of it is compressed."""
    return b"".join(table[at + 2 : at + 8194] for at in range(0, len(table), 8194))


def find_index(inodes, root_at):
    """How far before the root's inode the directory's with the index begins: the only long one."""
    for back in range(40, 20_000):
        if layout.INODE.unpack_from(inodes, root_at - back)[0:2] == (layout.DIR + layout.EXTENDED, 0o755):
            return back
    raise AssertionError("no long directory inode")


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=256), st.integers(0, 3), st.integers(1, 100_000)), max_size=700
    )
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_listings_keep_their_entries(drawn):
    entries = [(name, 2, block << 16 | at % 8192, number) for at, (name, block, number) in enumerate(drawn)]
    listing, marks = build_listing(entries)
    at, found, headers = 0, [], {}
    while at < len(listing):
        count, block, base = layout.DIRECTORY_HEADER.unpack_from(listing, at)
        assert count < 256
        header = at
        at += 12
        for _ in range(count + 1):
            offset, near, kind, size = layout.DIRECTORY_ENTRY.unpack_from(listing, at)
            name = listing[at + 8 : at + 9 + size]
            headers.setdefault(header, name)
            found.append((name, kind, block << 16 | offset, base + near))
            at += 9 + size
    assert found == entries
    assert all(headers[place] == name for place, name in marks)
    places = [0, *(place for place, _ in marks), len(listing)]
    assert all(later - earlier <= 8192 + 300 for earlier, later in pairwise(places))


# What squashfs cannot hold


def refused(root, tmp_path, match):
    with pytest.raises(BuildError, match=match) as caught:
        write_image(root, [], tmp_path / "image", block_size=4096, epoch=0)
    assert caught.value.diagnostics[0].rule == "squashfs-unsupported"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mtime": -1}, "'x': mode 0o600, time -1"),
        ({"mtime": 1 << 32}, "time 4294967296"),
        ({"uid": 1 << 32}, "the owner or group 4294967296"),
        ({"mode": 0o100644}, "mode 0o100644"),
        ({"kind": "symlink", "target": b"t" * 4097}, "target of 4097 bytes"),
        ({"xattrs": ((b"system.posix_acl_access", b""),)}, "'system.posix_acl_access'"),
        ({"xattrs": ((b"user.", b""),)}, "'user.'"),
    ],
)
def test_values_that_have_no_place(tmp_path, fields, match):
    node = Node(**{"kind": "fifo", "mode": 0o600} | fields)
    refused(folder({b"x": node}), tmp_path, match)


def test_names_of_257_bytes(tmp_path):
    refused(folder({b"n" * 257: Node("fifo", 0o600)}), tmp_path, "257 bytes")


def test_65535_owners_are_held_and_no_more(tmp_path):
    nodes = {b"%d" % number: Node("fifo", 0o600, number) for number in range(65_535)}
    assert write(folder(nodes), tmp_path / "image") == read_back(tmp_path / "image")
    (tmp_path / "image").unlink()
    refused(folder(nodes | {b"more": Node("fifo", 0o600, 70_000)}), tmp_path, "more than 65535 different owners")
    refused(folder(nodes | {b"more": Node("fifo", 0o600, 7, 70_000), b"x": Node("fifo", 0o600, 7, 70_001)}), tmp_path,
            "more than 65535")  # fmt: skip


def test_trees_that_contradict_themselves(tmp_path):
    shared = folder()
    wrong = [
        (folder({b"a": shared, b"b": shared}), "'b' is in two places"),
        (folder({b"a/b": Node("fifo", 0)}), "name that cannot be"),
        (folder({b"..": Node("fifo", 0)}), "name that cannot be"),
        (folder({b"": Node("fifo", 0)}), "name that cannot be"),
        (folder({b"a": Node("file", 0)}), "no content"),
        (folder({b"a": Node("file", 0, content=FileData(4097, words=(0,)))}), "4097 bytes has 1 words"),
        (folder({b"a": Node("file", 0, content=FileData(4096, Source([]), 0, (1,)))}), "source is not among"),
        (Node("fifo", 0), "the root is a fifo"),
    ]
    shared.children[b"up"] = shared
    wrong.append((shared, "'up' is in two places"))
    for root, match in wrong:
        with pytest.raises(ValueError, match=match):
            write_image(root, [], tmp_path / "image", block_size=4096, epoch=0)


# Random trees


CONTENTS = st.sampled_from(
    [b"", b"x", b"y" * 4095, b"z" * 4096, NOISE[:4097], bytes(8192), bytes(4096) + b"1", NOISE[:12288], NOISE[5:16390]]
)
XATTRS = st.dictionaries(
    st.builds(bytes.__add__, st.sampled_from(layout.XATTR_PREFIXES), st.binary(min_size=1, max_size=20)),
    st.binary(max_size=20) | st.just(b"long" * 50),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))
U32 = st.sampled_from([0, 1, 1000, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF)
SAFE_NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."} and not name.startswith(b".wh.")
)


@st.composite
def random_trees(draw, blocks):
    common = {"uid": U32, "gid": U32, "mtime": U32, "xattrs": XATTRS, "mode": st.integers(0, 0o7777)}
    fields = st.fixed_dictionaries(common)
    seen = []

    def leaf():
        if seen and draw(st.integers(0, 4)) == 0:
            return draw(st.sampled_from(seen))
        kind = draw(st.sampled_from(["file", "file", "file", "symlink", "fifo", "socket", "block", "char"]))
        node = Node(kind, **draw(fields))
        if kind == "file":
            node.content = blocks.add(draw(CONTENTS), fragments=draw(st.booleans())).content
        if kind == "symlink":
            node.target = draw(st.binary(min_size=1, max_size=30).filter(lambda text: b"\0" not in text))
        if kind in {"block", "char"}:
            node.device = draw(U32)
        seen.append(node)
        return node

    def directory(depth):
        children = {
            name: directory(depth + 1) if depth < 3 and draw(st.integers(0, 2)) == 0 else leaf()
            for name in draw(st.sets(SAFE_NAMES, max_size=5))
        }
        return Node("dir", children=children, **draw(fields))

    return directory(0)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_random_trees_come_back(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("random")
    blocks = Blocks(place / "blocks")
    said = write(data.draw(random_trees(blocks)), place / "image", blocks)
    assert read_back(place / "image") == said
    link_images([place / "image"], place / "linked")
    assert read_back(place / "linked") == said
