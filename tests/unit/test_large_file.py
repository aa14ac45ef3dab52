import errno
import fcntl
import os
import random

import pytest

from uenv_builder.system import large_file
from uenv_builder.system.large_file import LargeFile

BLOCK = 4096


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(large_file, "_BUFFER", 2 * BLOCK)
    monkeypatch.setattr(large_file, "_TRIAL", 2)
    monkeypatch.setattr(large_file, "_PERIOD", 8)


@pytest.fixture
def ways(monkeypatch):
    """For each write to the file whether it went past the cache, and how many bytes it had."""
    found = []
    write = os.write

    def watch(descriptor, data):
        direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        count = write(descriptor, data)
        found.append((direct, count))
        return count

    monkeypatch.setattr(large_file.os, "write", watch)
    return found


@pytest.fixture
def clock(monkeypatch):
    """Time passes as `clock` says for each way: seconds a write."""
    seconds, now = {False: 1.0, True: 1.0}, [0.0]
    write_out = LargeFile._write_out

    def timed(self, size):
        write_out(self, size)
        now[0] += seconds[self._direct]

    monkeypatch.setattr(LargeFile, "_write_out", timed)
    monkeypatch.setattr(large_file.time, "monotonic", lambda: now[0])
    return seconds


def write_all(path, pieces):
    with path.open("wb") as file:
        large = LargeFile(file.fileno())
        for piece in pieces:
            large.write(piece)
        large.finish()


def pieces_of(content, seed):
    chance, at = random.Random(seed), 0
    while at < len(content):
        length = chance.randrange(1, 5 * BLOCK)
        yield content[at : at + length]
        at += length


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 1, 100_000, 40 * BLOCK])
def test_the_file_has_what_was_written(size, tmp_path, small):
    content = random.Random(size).randbytes(size)
    for seed in range(4):
        write_all(tmp_path / "file", pieces_of(content, seed))
        assert (tmp_path / "file").read_bytes() == content


def require_direct(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct writes")


@pytest.mark.parametrize("faster", [False, True])
def test_both_ways_are_tried_then_the_faster_one_is_used(faster, tmp_path, small, ways, clock):
    require_direct(tmp_path / "probe")
    clock[not faster] = 2.0
    write_all(tmp_path / "file", [bytes(16 * 2 * BLOCK)])
    period = [False, False, True, True] + 4 * [faster]
    assert [way for way, count in ways if count] == 2 * period


def test_the_cache_is_used_where_the_direct_way_is_hardly_faster(tmp_path, small, ways, clock):
    require_direct(tmp_path / "probe")
    clock[True] = 0.9
    write_all(tmp_path / "file", [bytes(8 * 2 * BLOCK)])
    assert [way for way, _ in ways][4:8] == 4 * [False]


def test_the_end_goes_through_the_cache(tmp_path, small, ways, clock):
    require_direct(tmp_path / "probe")
    clock[False] = 5.0
    write_all(tmp_path / "file", [bytes(6 * 2 * BLOCK), b"end"])
    assert ways[-1] == (False, 3)


def test_a_file_system_that_refuses_the_flag_gets_all_through_the_cache(tmp_path, small, ways, monkeypatch):
    control = fcntl.fcntl

    def refuse(descriptor, command, argument=0):
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct writes here")
        return control(descriptor, command, argument)

    monkeypatch.setattr(large_file.fcntl, "fcntl", refuse)
    content = random.Random(1).randbytes(50_000)
    write_all(tmp_path / "file", [content])
    assert (tmp_path / "file").read_bytes() == content
    assert not any(way for way, _ in ways)


def test_one_that_refuses_direct_writes_themselves_too(tmp_path, small, monkeypatch):
    require_direct(tmp_path / "probe")
    write, refused = os.write, []

    def refuse(descriptor, data):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "no direct writes here")
        return write(descriptor, data)

    monkeypatch.setattr(large_file.os, "write", refuse)
    content = random.Random(2).randbytes(100_000)
    write_all(tmp_path / "file", [content])
    assert (tmp_path / "file").read_bytes() == content
    assert len(refused) == 1


def test_a_part_of_a_block_that_was_written_is_no_harm(tmp_path, small, monkeypatch):
    require_direct(tmp_path / "probe")
    write = os.write

    def write_less(descriptor, data):
        return write(descriptor, data if len(data) % BLOCK else data[: max(BLOCK, len(data) - BLOCK)])

    monkeypatch.setattr(large_file.os, "write", write_less)
    content = random.Random(3).randbytes(100_000)
    write_all(tmp_path / "file", [content])
    assert (tmp_path / "file").read_bytes() == content


def test_a_full_disk_is_told(tmp_path, small, monkeypatch):
    def full(_descriptor, _data):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(large_file.os, "write", full)
    with pytest.raises(OSError, match="no space"):
        write_all(tmp_path / "file", [bytes(3 * BLOCK)])
