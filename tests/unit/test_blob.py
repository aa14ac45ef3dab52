"""Layers in the store: the same bytes each time, an index that agrees with them, and damage that does not pass."""

import hashlib
import io
import json
import random
import tarfile

import pytest
import zstandard

from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.image import IndexEntry
from uenv_builder.system.layer_blob import compressor_version, layer_members, read_files, read_layer, write_layer
from uenv_builder.system.tar_stream import tar_header

LONG = "/".join(["a" * 90, "b" * 90, "c" * 200])
NOISE = random.Random(7).randbytes(3 << 20)


def folder(path, mode=0o755, mtime=1_000_000):
    return Entry(path=path, kind="dir", mode=mode, mtime=mtime)


def file(path, content=b"", mode=0o644, mtime=1_000_000, **more):
    return Entry(path=path, kind="file", mode=mode, mtime=mtime, size=len(content), content=io.BytesIO(content), **more)


def symlink(path, target):
    return Entry(path=path, kind="symlink", mode=0o777, mtime=1_000_000, target=target)


def hardlink(path, target, **more):
    return Entry(path=path, kind="hardlink", target=target, **{"mode": 0o644, "mtime": 1_000_000, **more})


def sample():
    yield folder("tmp", 0o1777)
    yield folder("bin")
    yield file("bin/tool", b"#!/bin/sh\n", 0o755, mtime=5)
    yield hardlink("bin/alias", "bin/tool")
    yield file("bin/empty")
    yield symlink("bin/link", "t" * 300)
    yield symlink("bin/ü", "ö")
    yield file("été/größe", b"x" * 512)
    yield file(LONG, b"y" * 513, uid=1000, gid=3_000_000_000)
    yield file("noise", NOISE)


def write(folder, entries, **options):
    folder.mkdir()
    return write_layer(entries, folder, **options)


def test_bytes_depend_on_the_entries_alone(tmp_path):
    many = [[*sample(), *(file(f"f{number}", NOISE[number:]) for number in range(9))] for _ in range(4)]
    layers = [
        write(tmp_path / str(number), entries, threads=threads)
        for number, (threads, entries) in enumerate(zip((1, 2, 5, 0), many, strict=True))
    ]
    blobs = {layer.blob.read_bytes() for layer in layers}
    assert len(blobs) == 1
    for name in ("index.json", "segment.json"):
        assert len({(tmp_path / str(number) / name).read_bytes() for number in range(4)}) == 1
    blob = blobs.pop()
    assert layers[0].digest == hashlib.sha256(blob).hexdigest()
    assert layers[0].size == len(blob)
    tar = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(blob), read_across_frames=True).read()
    assert layers[0].diff_id == hashlib.sha256(tar).hexdigest()


def test_the_bytes_of_a_layer_do_not_change_by_accident(tmp_path):
    """Every stored layer and every step's identity rest on this: raise the layer format when it changes on purpose."""
    layer = write(tmp_path / "layer", sample())
    assert layer.diff_id[:12] == "e5a655ccb408"
    assert compressor_version().endswith(", level 3, blocks of 262144 bytes, layer format 3")
    assert compressor_version(level=9, block_size=4096).endswith(", level 9, blocks of 4096 bytes, layer format 3")


def test_other_programs_read_the_tar(tmp_path):
    layer = write(tmp_path / "layer", sample())
    raw = zstandard.ZstdDecompressor().stream_reader(layer.blob.open("rb"), read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = {member.name: member for member in tar}
        assert tar.extractfile("noise").read() == NOISE
        assert tar.extractfile("bin/alias").read() == b"#!/bin/sh\n"
    assert list(members) == [entry.path for entry in sample()]
    assert members["tmp"].isdir()
    assert members["tmp"].mode == 0o1777
    assert members["bin/link"].linkname == "t" * 300
    assert members["bin/ü"].linkname == "ö"
    assert members[LONG].gid == 3_000_000_000
    assert {(member.uname, member.gname) for member in members.values()} == {("", "")}


def test_extended_headers_only_where_needed():
    def described(path, size=0):
        return IndexEntry(path, "file", 0o644, 0, 0, 0, size, "", "")

    assert len(tar_header(described("d" * 155 + "/" + "f" * 100))) == 512
    assert len(tar_header(described("d" * 156 + "/" + "f" * 100))) == 3 * 512
    assert len(tar_header(described("f" * 101))) == 3 * 512
    assert len(tar_header(described("f", (8 << 30) - 1))) == 512
    big = tar_header(described("f", 8 << 30))
    with tarfile.open(fileobj=io.BytesIO(big)) as tar:
        assert tar.firstmember.size == 8 << 30


def test_an_index_is_read_back_and_members_come_in_order(tmp_path):
    written = write(tmp_path / "layer", sample())
    layer = read_layer(tmp_path / "layer")
    assert layer == written
    contents = {entry.path: content.read() if content else None for entry, content in layer_members(layer)}
    assert list(contents) == [entry.path for entry in layer.entries]
    assert contents["noise"] == NOISE
    assert contents["bin/empty"] == b""
    for entry in layer.entries:
        if entry.kind == "file":
            assert hashlib.sha256(contents[entry.path]).hexdigest() == entry.sha256


def test_a_hard_link_has_the_attributes_of_its_file(tmp_path):
    layer = write(tmp_path / "l", [*sample(), hardlink("again", "bin/alias", mode=0, mtime=9)])
    again = layer.entries[-1]
    assert (again.target, again.mode, again.mtime) == ("bin/tool", 0o755, 5)


def test_contents_end_with_their_entry(tmp_path):
    layer = write(tmp_path / "layer", [file("a", b"12345"), file("b", b"678")])
    members = layer_members(layer)
    _, first = next(members)
    assert first.read(2) == b"12"
    _, second = next(members)
    assert second.read() == b"678"
    assert second.read() == b""
    with pytest.raises(ValueError, match="moved on"):
        first.read()
    assert next(members, None) is None


def test_wanted_files_are_read_and_nothing_else(tmp_path):
    layer = write(tmp_path / "layer", sample())
    assert read_files(layer, lambda entry: entry.path.startswith("bin/")) == {
        "bin/tool": b"#!/bin/sh\n",
        "bin/alias": b"#!/bin/sh\n",
        "bin/empty": b"",
    }
    layer.blob.unlink()
    assert read_files(layer, lambda entry: False) == {}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([file("/etc/passwd")], "plain path"),
        ([file("a/../b")], "plain path"),
        ([file("./a")], "plain path"),
        ([file("")], "plain path"),
        ([folder("a/")], "plain path"),
        ([file("a\0b")], "plain path"),
        ([file("x" * 256)], "more than 255 bytes"),
        ([file("a\udcff")], "UTF-8"),
        ([symlink("a", "b\udcff")], "UTF-8"),
        ([file("a"), file("a")], "twice"),
        ([symlink("lib", "usr/lib"), file("lib/x")], "lies below 'lib', which is a symlink"),
        ([file("lib/x"), symlink("lib", "usr/lib")], "entries before it lie below it"),
        ([hardlink("a", "b"), file("b")], "no file earlier"),
        ([symlink("b", "c"), hardlink("a", "b")], "no file earlier"),
        ([symlink("a", "")], "target"),
        ([file("a", mode=0o4755)], "mode"),
        ([folder("a", mode=0o10755)], "mode"),
        ([file("a", mtime=-1)], "time"),
        ([Entry(path="a", kind="file", mode=0o644, mtime=0, size=3, content=io.BytesIO(b"12"))], "less content"),
        ([Entry(path="a", kind="file", mode=0o644, mtime=0, size=1, content=io.BytesIO(b"12"))], "more content"),
        ([Entry(path="a", kind="file", mode=0o644, mtime=0, size=1)], "no content"),
        ([Entry(path="a", kind="dir", mode=0o755, mtime=0, size=1)], "has content"),
    ],
)
def test_entries_that_break_the_contract_are_refused(tmp_path, entries, words):
    with pytest.raises(BuildError, match=words):
        write_layer(entries, tmp_path)
    assert list(tmp_path.iterdir()) == []


def read_all(layer):
    return [content.read() for _, content in layer_members(layer) if content]


def damage_middle(blob, index):
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)


def damage_end(blob, index):
    blob.write_bytes(blob.read_bytes()[:-100] + bytes(100))


def append(blob, index):
    blob.write_bytes(blob.read_bytes() + b"more")


def rewrite(path, change):
    """Change what stands in an index or a segment, and its sha256 with it."""
    content = json.loads(path.read_text())["content"]
    change(content)
    body = json.dumps(content, separators=(",", ":"))
    path.write_text(f'{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}","content":{body}}}')


def change_index(blob, index):
    rewrite(index, lambda content: content["entries"][2].__setitem__(2, 0o777))


@pytest.mark.parametrize("damage", [damage_middle, damage_end, append, change_index])
def test_damage_is_found_while_reading(tmp_path, damage):
    layer = write(tmp_path / "layer", sample())
    damage(layer.blob, tmp_path / "layer" / "index.json")
    damaged = read_layer(tmp_path / "layer") if damage is change_index else layer
    with pytest.raises(LockError, match="damaged") as caught:
        read_all(damaged)
    (finding,) = caught.value.diagnostics
    assert finding.rule == "hash-mismatch"
    assert "uenv cache verify" in finding.hint
    assert str(layer.blob) in finding.message


def test_a_wanted_file_is_verified_by_itself(tmp_path):
    layer = write(tmp_path / "layer", [file("noise", NOISE)])
    damage_middle(layer.blob, None)
    with pytest.raises(LockError, match="damaged"):
        read_files(layer, lambda entry: True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").write_text("[]"),
        lambda folder: (folder / "index.json").write_text('{"format": 2}'),
        lambda folder: rewrite(folder / "index.json", lambda content: content.update(format=1)),
        lambda folder: rewrite(folder / "index.json", lambda content: content.update(digest="ab")),
        lambda folder: rewrite(folder / "index.json", lambda content: content["entries"][0].__setitem__(1, "door")),
        lambda folder: rewrite(folder / "index.json", lambda content: content["entries"][0].__setitem__(2, "1023")),
        lambda folder: rewrite(folder / "index.json", lambda content: content["entries"][0].pop()),
        lambda folder: (folder / "layer.tar.zst").unlink(),
        lambda folder: (folder / "layer.tar.zst").write_bytes(b"short"),
        lambda folder: (folder / "index.json").write_text((folder / "index.json").read_text().replace("1023", "1022")),
        lambda folder: (folder / "index.json").write_text((folder / "index.json").read_text() + "\n"),
    ],
)
def test_a_damaged_layer_is_not_opened(tmp_path, damage):
    write(tmp_path / "layer", sample())
    damage(tmp_path / "layer")
    with pytest.raises(LockError, match="damaged") as caught:
        read_layer(tmp_path / "layer")
    assert [finding.rule for finding in caught.value.diagnostics] == ["hash-mismatch"]


def test_a_stream_that_fails_leaves_nothing(tmp_path):
    def failing():
        yield file("a", NOISE)
        raise BuildError("the artefact ends here")

    with pytest.raises(BuildError, match="the artefact ends here"):
        write_layer(failing(), tmp_path)
    assert list(tmp_path.iterdir()) == []
