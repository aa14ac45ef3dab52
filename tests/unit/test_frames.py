"""Layers as squashfs sees them: frames that are blocks and fragments, and the places of files in them."""

import hashlib
import io
import json
import random
import shutil
import subprocess
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.segment import FilePlace, Unit
from uenv_builder.system.frames import FrameWriter, raw_frame
from uenv_builder.system.layer_blob import layer_members, read_files, read_layer, read_segment, write_layer
from uenv_builder.system.tar_stream import tar_header

BLOCK = 4096
NOISE = random.Random(11).randbytes(3 << 20)
TEXT = b"".join(b"%d bottles of beer on the wall, " % number for number in range(200_000))
KINDS = {"noise": NOISE, "text": TEXT, "zeros": bytes(3 << 20)}


def file(path, content=b""):
    return Entry(path=path, kind="file", mode=0o644, mtime=7, size=len(content), content=io.BytesIO(content))


def files(contents):
    return [file(path, content) for path, content in contents.items()]


def write(contents, folder, **options):
    folder.mkdir()
    return write_layer(files(contents), folder, **{"block_size": BLOCK, **options})


def frames(layer, segment):
    """Each unit's frame, decompressed by itself."""
    blob = layer.blob.read_bytes()
    found = [blob[unit.offset : unit.offset + unit.length] for unit in segment.units]
    assert b"".join(found) == blob
    return [zstandard.ZstdDecompressor().decompress(frame) for frame in found]


def squashfs_content(layer, segment, path, size):
    """A file's content as a squashfs reader finds it: pieces of the blob, compressed or not, and holes."""
    blob, place = layer.blob.read_bytes(), segment.places[path]

    def uncompressed(unit):
        stored = b"".join(blob[offset : offset + length] for offset, length in unit.pieces())
        assert len(stored) < unit.size or unit.raw
        if unit.zero:
            assert stored == b""
            return bytes(unit.size)
        return stored if unit.raw else zstandard.ZstdDecompressor().decompress(stored)

    blocks = [uncompressed(unit) for unit in segment.units[place.first : place.first + place.blocks]]
    assert {len(block) for block in blocks} <= {segment.block_size}
    tail = size % segment.block_size
    if tail:
        assert not segment.units[place.fragment].zero
        blocks.append(uncompressed(segment.units[place.fragment])[place.offset : place.offset + tail])
    return b"".join(blocks)


around = st.builds(
    lambda blocks, more: max(0, blocks * BLOCK + more), st.integers(0, 4), st.sampled_from([-513, -1, 0, 1, 511, 2048])
)
made = st.builds(
    lambda kind, size, start: KINDS[kind][start : start + size],
    st.sampled_from(sorted(KINDS)),
    st.one_of(around, st.integers(0, 5 * BLOCK)),
    st.sampled_from([0, 0, 0, 1, 77_777]),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(made, max_size=12), st.integers(1, 3))
def test_any_files_come_back_from_the_tar_and_from_the_squashfs(contents, threads):
    by_path = {f"{number}/{'x' * (number * 37 % 200 + 1)}": content for number, content in enumerate(contents)}
    with tempfile.TemporaryDirectory() as folder:
        written = write_layer(files(by_path), Path(folder), block_size=BLOCK, threads=threads)
        layer = read_layer(Path(folder))
        assert layer == written
        assert {entry.path: content.read() for entry, content in layer_members(layer)} == by_path
        segment = read_segment(layer)
        assert segment.block_size == BLOCK
        assert list(segment.places) == list(by_path)
        units = frames(layer, segment)
        assert [len(unit) for unit in units] == [unit.size for unit in segment.units]
        assert hashlib.sha256(b"".join(units)).hexdigest() == layer.diff_id
        for path, content in by_path.items():
            assert squashfs_content(layer, segment, path, len(content)) == content


@pytest.mark.parametrize("block_size", [4 << 10, 128 << 10, 256 << 10, 1 << 20])
@pytest.mark.parametrize("level", [1, 3])
def test_frames_have_the_form_that_linux_reads(tmp_path, block_size, level):
    contents = {"noise": NOISE[:-5], "text": TEXT, "zeros": bytes(2 * block_size), "small": TEXT[:100]}
    layer = write(contents, tmp_path / "layer", block_size=block_size, level=level)
    segment, blob = read_segment(layer), layer.blob.read_bytes()
    for unit in segment.units:
        frame = blob[unit.offset : unit.offset + unit.length]
        parameters = zstandard.get_frame_parameters(frame)
        assert (parameters.content_size, parameters.has_checksum) == (unit.size, False)
        assert frame[4] & 0x20, "a single segment"
        assert unit.size <= block_size
    assert {unit.zero for unit in segment.units} == {unit.raw for unit in segment.units} == {True, False}
    for path, content in contents.items():
        assert squashfs_content(layer, segment, path, len(content)) == content


def test_the_places_of_a_few_files(tmp_path):
    contents = {
        "empty": b"", "small": b"s" * 10, "block": TEXT[:BLOCK], "zeros": bytes(2 * BLOCK),
        "tail": TEXT[BLOCK : 2 * BLOCK + 100], "again": TEXT[:BLOCK],
    }  # fmt: skip
    segment = read_segment(write(contents, tmp_path / "layer"))
    assert segment.places == {
        "empty": FilePlace(0, 0, -1, 0),
        "small": FilePlace(0, 0, 0, 1024),
        "block": FilePlace(1, 1, -1, 0),  # the unit 0 has all that is before it
        "zeros": FilePlace(3, 2, -1, 0),
        "tail": FilePlace(6, 1, 7, 0),
        "again": FilePlace(1, 1, -1, 0),
    }
    assert [number for number, unit in enumerate(segment.units) if unit.zero] == [3, 4]


def test_a_tail_lies_in_one_unit(tmp_path):
    contents = {"a": NOISE[:2500], "b": NOISE[:1500]}  # with its header and padding, a leaves 512 bytes
    segment = read_segment(write(contents, tmp_path / "layer"))
    assert segment.places == {"a": FilePlace(0, 0, 0, 512), "b": FilePlace(0, 0, 1, 0)}


def test_a_header_longer_than_a_block_is_cut(tmp_path):
    path = "/".join(["d" * 200] * 60)
    assert len(tar_header(file(path))) > 3 * BLOCK
    layer = write({path: b"content"}, tmp_path / "layer")
    segment = read_segment(layer)
    assert max(unit.size for unit in segment.units) == BLOCK
    assert squashfs_content(layer, segment, path, 7) == b"content"
    assert read_files(layer, lambda entry: True) == {path: b"content"}


@pytest.mark.parametrize("size", [1, 255, 256, 4096, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 256 << 10, 1 << 20])
def test_a_raw_frame_is_its_data_between_headers(size):
    data = NOISE[:size]
    frame = raw_frame(bytearray(data))
    assert zstandard.ZstdDecompressor().decompress(frame) == data
    pieces = Unit(0, len(frame), size, raw=True, zero=False, check=b"").pieces()
    assert b"".join(frame[offset : offset + length] for offset, length in pieces) == data
    moved = Unit(1000, len(frame), size, raw=True, zero=False, check=b"").pieces()
    assert moved == tuple((offset + 1000, length) for offset, length in pieces)


def test_what_does_not_compress_is_raw(tmp_path):
    segment = read_segment(write({"noise": NOISE[: 1 << 20]}, tmp_path / "layer", block_size=256 << 10))
    assert [unit.raw for unit in segment.units] == [False, True, True, True, True, False]
    assert {unit.length - unit.size for unit in segment.units if unit.raw} == {9 + 2 * 3}


@pytest.mark.parametrize("level", [1, 3, 5, 9, 16, 19])
def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path, level):
    """At levels with other match finders, too: a thread's compressor has worked on other blocks before."""
    size = 16 * BLOCK if level > 9 else 64 * BLOCK
    blobs = set()
    for threads in (1, 2, 8):
        contents = {f"{number}": (TEXT + NOISE)[number * 50_021 :][: size + number] for number in range(12)}
        layer = write(contents, tmp_path / str(threads), threads=threads, level=level, block_size=32 << 10)
        blobs.add((layer.blob.read_bytes(), (tmp_path / str(threads) / "segment.json").read_bytes()))
    assert len(blobs) == 1


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs zstd")
def test_zstd_and_tar_read_the_blob(tmp_path):
    contents = {"a": TEXT[:9000], "noise": NOISE[:9000], "zeros": bytes(9000), "empty": b"", "dir/b": TEXT}
    layer = write(contents, tmp_path / "layer")
    tar = subprocess.run(["zstd", "-dc", layer.blob], check=True, capture_output=True).stdout
    assert hashlib.sha256(tar).hexdigest() == layer.diff_id
    listed = subprocess.run(["tar", "-tf", "-"], check=True, capture_output=True, input=tar).stdout
    assert listed.decode().split() == list(contents)
    unpacked = subprocess.run(["tar", "-xOf", "-", "dir/b"], check=True, capture_output=True, input=tar).stdout
    assert unpacked == TEXT


@pytest.mark.parametrize("block_size", [0, 2048, 4095, 12288, 2 << 20, -4096])
def test_block_sizes_that_squashfs_does_not_know_are_refused(block_size):
    with pytest.raises(ValueError, match="power of two"):
        FrameWriter(io.BytesIO(), level=3, block_size=block_size)


class Endless(io.RawIOBase):
    """Content that does not compress, made as it is read; gives less than it is asked for."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(size, self.left, 100_000)
        self.left -= size
        return NOISE[self.left * 7 % (2 << 20) :][:size]


def test_memory_does_not_grow_with_the_layer(tmp_path):
    size, threads = 96 << 20, 2
    entry = Entry(path="big", kind="file", mode=0o644, mtime=0, size=size, content=Endless(size))
    tracemalloc.start()
    try:
        layer = write_layer([entry], tmp_path, threads=threads)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layer.size > size
    assert most < size // 8


def test_a_slow_disk_holds_the_threads_back():
    class Slow:
        def write(self, data):
            assert len(writer._waiting) < 8
            return len(data)

    with FrameWriter(Slow(), level=3, block_size=BLOCK, threads=2) as writer:
        for number in range(500):
            writer.add_block(NOISE[number : number + BLOCK])
            assert len(writer._waiting) <= 8
        writer.close()
    assert len(writer.units) == 500


def test_a_failure_stops_the_threads(tmp_path):
    def failing():
        yield file("a", NOISE)
        raise BuildError("the artefact ends here")

    with pytest.raises(BuildError, match="the artefact ends here"):
        write_layer(failing(), tmp_path, threads=3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("zstd")]
    assert list(tmp_path.iterdir()) == []


CONTENTS = {"noise": NOISE[:9000], "text": TEXT[:5000], "zeros": bytes(2 * BLOCK), "small": TEXT[:100], "empty": b""}


def rewrite(path, change):
    content = json.loads(path.read_text())["content"]
    change(content)
    body = json.dumps(content, separators=(",", ":"))
    path.write_text(f'{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}","content":{body}}}')


def test_damage_at_any_byte_of_a_segment_is_found(tmp_path):
    layer = write(CONTENTS, tmp_path / "layer")
    path = tmp_path / "layer" / "segment.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(LockError, match="damaged"):
            read_segment(layer)
    path.write_bytes(whole)
    read_segment(layer)


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def lengthen(content):
    content["units"][0][0] += 1  # everything after it moves, and the sum is wrong


@pytest.mark.parametrize(
    "change",
    [
        lengthen,
        put("format", 1),
        put("layer", "0" * 64),
        put("block_size", 8192),
        put("block_size", 4095),
        put("block_size", "4096"),
        put("units", 0, 1, 0),
        put("units", 0, 1, BLOCK + 1),
        put("units", 0, 2, 3),
        put("units", 0, 2, 1),
        put("units", 0, 2, 2),
        put("units", 0, 2, False),
        put("units", 0, []),
        put("units", []),
        put("units", None),
        put("places", 0, 0, -1),
        put("places", 0, 0, 99),
        put("places", 0, 1, 1),
        put("places", 0, 2, -1),
        put("places", 0, 2, 99),
        put("places", 0, 3, -1),
        put("places", 0, 3, BLOCK),
        put("places", 0, 3, 0.5),
        put("places", 0, [1, 2, 3]),
        put("places", 2, 2, 0),
        put("places", 2, 3, 1),
        put("places", 3, 2, 6),  # a block of zeros, which a squashfs does not store, as a fragment
        lambda content: content["places"].pop(),
        lambda content: content["places"].append([0, 0, -1, 0]),
        lambda content: content.pop("units"),
    ],
)
def test_a_segment_that_contradicts_its_layer_is_refused(tmp_path, change):
    layer = write(CONTENTS, tmp_path / "layer")
    assert read_segment(layer).units[6].zero
    rewrite(tmp_path / "layer" / "segment.json", lambda content: None)
    read_segment(layer)
    rewrite(tmp_path / "layer" / "segment.json", change)
    with pytest.raises(LockError, match="damaged") as caught:
        read_segment(layer)
    (finding,) = caught.value.diagnostics
    assert finding.rule == "hash-mismatch"
    assert str(tmp_path / "layer" / "segment.json") in finding.message


def test_the_segment_of_another_layer_is_refused(tmp_path):
    layers = [write({"a": content}, tmp_path / content.decode()) for content in (b"1", b"2")]
    shutil.copy(layers[0].blob.parent / "segment.json", layers[1].blob.parent / "segment.json")
    read_segment(layers[0])
    with pytest.raises(LockError, match="belongs to the blob"):
        read_segment(layers[1])


def test_a_layer_without_its_segment_is_readable_but_not_linkable(tmp_path):
    layer = write(CONTENTS, tmp_path / "layer")
    (tmp_path / "layer" / "segment.json").unlink()
    assert read_layer(tmp_path / "layer") == layer
    with pytest.raises(LockError, match="damaged"):
        read_segment(layer)
