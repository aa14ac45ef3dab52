"""Records of starts: their text, and what an image says of its own start."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uenv_builder.core.start_record import dump_start, parse_start, start_document
from uenv_builder.images.squashfs.start_part import START_MAGIC, dump_extents, read_extents
from uenv_builder.images.squashfs.start_reads import first_reads
from uenv_builder.model.errors import RecipeError
from uenv_builder.model.start import StartFile, StartRecord

NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: b"/".join(names).decode("utf-8", "surrogateescape"))
PARTS = st.lists(st.integers(0, 10**12), unique=True, max_size=8).map(
    lambda found: tuple(zip(*[iter(sorted(found))] * 2, strict=False))
)
FILES = st.lists(st.builds(StartFile, PATHS, PARTS), unique_by=lambda file: file.path, max_size=6)


@given(FILES)
@settings(deadline=None)
def test_a_record_is_read_as_it_was_written(files):
    assert parse_start(dump_start(files, ["of\nthree", "lines"]), "name") == StartRecord(tuple(files))


def test_the_text_is_what_the_page_says():
    files = [StartFile("usr/lib/a b#c"), StartFile("#x\t", ((0, 4096), (8192, 9000)))]
    assert dump_start(files, ["import\ntorch"]) == (
        b"uenv-start 1\n# import torch\nusr/lib/a b#c\n\\x23x\\t\t0-4096 8192-9000\n"
    )
    read = parse_start(b"uenv-start 1\r\n\n# c\r\nusr/\\xc3\\x9f\r\n", "name")
    assert read.files == (StartFile("usr/ß"),)


@pytest.mark.parametrize(
    "line",
    [
        *("/abs", "a//b", "a/../b", "a/", "a\t", "a\t5", "a\t5-5", "a\t5-9 7-8", "a\t-5--2", "a\\q", "a\\", "a\\x4"),
        *("a\\x00", "a\t0-9999999999999999999"),
    ],
)
def test_lines_that_are_none_are_named_all_at_once(line):
    text = f"uenv-start 1\nfine\n{line}\n# fine, too\n{line}\n"
    with pytest.raises(RecipeError) as caught:
        parse_start(text.encode(), "x.start.txt")
    places = [(found.rule, found.position.file, found.position.line) for found in caught.value.diagnostics]
    assert places == [("start-invalid", "x.start.txt", 3), ("start-invalid", "x.start.txt", 5)]


@pytest.mark.parametrize("content", [b"", b"\n", b"uenv-start 2\na\n", b"usr/lib/a\n", b"\x7fELF\xff\0"])
def test_other_files_are_refused(content):
    with pytest.raises(RecipeError, match='must be "uenv-start 1"'):
        parse_start(content, "x")


def test_what_is_listed_again_is_put_together():
    record = parse_start(b"uenv-start 1\na\t5-9 20-30\nb\na\t0-5 8-12\nb\t1-2\n", "x")
    assert record.files == (StartFile("a", ((0, 12), (20, 30))), StartFile("b"))
    assert record.repeated == ("a", "b")


def test_comments_do_not_change_an_image():
    one, two = (parse_start(dump_start([StartFile("a")], [text]), "x") for text in ("one", "two"))
    assert start_document(one) == start_document(two) != start_document(parse_start(b"uenv-start 1\na\t0-1\n", "x"))


# The list in an image


def an_image(path, tail, size=1000):
    head = struct.pack("<I36xQ48x", 0x73717368, size)
    path.write_bytes(head + bytes(size - len(head)) + tail)
    return path


def test_extents_are_read_from_the_image_alone(tmp_path):
    extents = ((900, 100), (96, 300))
    assert read_extents(an_image(tmp_path / "image", dump_extents(extents) + bytes(50))) == extents


def test_a_list_that_is_not_right_counts_as_none(tmp_path):
    good = dump_extents([(96, 300)])
    count = struct.pack("<8sII", START_MAGIC, 1, 1 << 31)
    beyond = dump_extents([(900, 101)])
    newer = struct.pack("<8sII", START_MAGIC, 2, 0)
    for tail in (b"", good[:-1], good[:20] + b"\1" + good[21:], count + bytes(99), beyond,
                 newer + struct.pack("<I", zlib.crc32(newer)), bytes(4096)):  # fmt: skip
        assert read_extents(an_image(tmp_path / "image", tail)) == ()
    for content in (b"", b"x" * 2000, good):
        (tmp_path / "other").write_bytes(content)
        assert read_extents(tmp_path / "other") == ()


# Reads


def test_a_unit_is_read_when_all_of_it_was():
    units = [(100, 300), (300, 310), (310, 600), (2000, 9000)]
    # Whole sectors around the first; both ends of the third; the fourth in two reads, and another one between them.
    reads = [(0, 305), (2000, 3000), (595, 100), (305, 10), (5000, 4000)]
    assert first_reads(reads, units) == {(100, 300): 0, (300, 310): 3, (2000, 9000): 4}
    assert first_reads([(0, 10_000)], units) == dict.fromkeys(units, 0)
    assert first_reads([], units) == first_reads(reads, []) == {}
