import functools
import io
import itertools
import random
import shutil
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest

from uenv_builder.layers.loader_cache import SharedLibrary, search_folders, soname_of, write_loader_cache
from uenv_builder.model.errors import BuildError

NAMES = ["libc.so.6", "libc.so", "libm.so.6", "libx9.so.1", "libx10.so.1", "libx10.so.1.2", "libx.so.10", "libx.so.9",
         "libX.so.1", "lib+.so", "lib-a.so", "lib_a.so", "liba1b.so", "liba.so", "liba", "ld-linux.so.3",
         "lib99999999999.so", "lib5.so", "lib05x.so", "libstdc++.so.6", "libé.so"]  # fmt: skip


def parse(cache):
    """Header fields, and the entries as (flags, name, path)."""
    header = struct.unpack_from("<17s3sIIB3sI12s", cache)
    entries = []
    for number in range(header[2]):
        flags, key, value, _, hwcap = struct.unpack_from("<iIIIQ", cache, 48 + 24 * number)
        assert hwcap == 0
        name, path = (cache[at : cache.index(b"\0", at)].decode() for at in (key, value))
        entries.append((flags, name, path))
    return header, entries


def compare(left, right):
    """The comparison of glibc's dl-cache, written over characters; test names need no wrap-around but one."""

    def pieces(text):
        for digits, group in itertools.groupby(text.encode(), key=lambda byte: chr(byte).isdigit()):
            run = bytes(group)
            if digits:
                number = int(run) & 0xFFFFFFFF
                yield (1, number - (1 << 32) if number >> 31 else number)
            else:
                yield from ((0, byte) for byte in run)
        yield (0, 0)

    for first, second in zip(pieces(left), pieces(right), strict=False):
        if first != second:
            return -1 if first < second else 1
    return 0


def look_up(entries, name):
    """A binary search as the loader does it, which then goes back to the first of equal entries."""
    low, high = 0, len(entries) - 1
    while low <= high:
        middle = (low + high) // 2
        order = compare(name, entries[middle][1])
        if order == 0:
            while middle and compare(name, entries[middle - 1][1]) == 0:
                middle -= 1
            return entries[middle][2]
        low, high = (middle + 1, high) if order < 0 else (low, middle - 1)
    return None


@pytest.mark.parametrize(("machine", "flags"), [("x86_64", 0x0303), ("aarch64", 0x0A03)])
def test_header_flags_and_strings(machine, flags):
    libraries = [SharedLibrary("libm.so.6", "/usr/lib/libm.so.6"), SharedLibrary("libm.so", "/usr/lib/libm-2.so")]
    cache = write_loader_cache(libraries, machine=machine)
    header, entries = parse(cache)
    assert header[:3] == (b"glibc-ld.so.cache", b"1.1", 2)
    assert header[4:] == (2, b"\0\0\0", 0, bytes(12))
    assert header[3] == len(cache) - 48 - 2 * 24
    assert entries == [(flags, "libm.so.6", "/usr/lib/libm.so.6"), (flags, "libm.so", "/usr/lib/libm-2.so")]


def test_the_loader_finds_every_name():
    libraries = [SharedLibrary(name, f"/usr/lib/{name}") for name in NAMES]
    random.Random(3).shuffle(libraries)
    _, entries = parse(write_loader_cache(libraries, machine="aarch64"))
    assert [name for _, name, _ in entries] == sorted(NAMES, key=functools.cmp_to_key(compare), reverse=True)
    assert {name: look_up(entries, name) for name in NAMES} == {name: f"/usr/lib/{name}" for name in NAMES}
    assert look_up(entries, "libmissing.so") is None
    order = [name for _, name, _ in entries]
    assert order.index("libx10.so.1") < order.index("libx9.so.1")


def test_order_does_not_matter_but_between_equal_names():
    libraries = [SharedLibrary(name, f"/usr/lib/{name}") for name in NAMES]
    expected = write_loader_cache(libraries, machine="x86_64")
    assert write_loader_cache(libraries[::-1], machine="x86_64") == expected
    two = [SharedLibrary("libz.so.1", "/usr/local/lib/libz.so.1"), SharedLibrary("libz.so.1", "/usr/lib/libz.so.1")]
    for pair in (two, two[::-1]):
        _, entries = parse(write_loader_cache([*pair, *libraries], machine="x86_64"))
        assert look_up(entries, "libz.so.1") == pair[0].path


def test_an_empty_cache_is_a_header():
    assert len(write_loader_cache([], machine="x86_64")) == 48


def test_ldconfig_reads_it(tmp_path):
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if not ldconfig:
        pytest.skip("no ldconfig on this machine")
    cache = tmp_path / "cache"
    cache.write_bytes(write_loader_cache([SharedLibrary(n, f"/opt/{n}") for n in NAMES], machine="x86_64"))
    printed = subprocess.run([ldconfig, "-p", "-C", cache], capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()[1:]
    assert {(line.split()[0], line.split(" => ")[1]) for line in lines} == {(name, f"/opt/{name}") for name in NAMES}
    assert all("libc6,x86-64" in line for line in lines)


def test_folders_follow_the_includes():
    conf = {
        "/etc/ld.so.conf": b"/opt/first # why\ninclude ld.so.conf.d/*.conf\n/opt/last\n",
        "/etc/ld.so.conf.d/b.conf": b"# text\n/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\nrelative\nhwcap 0 a\n",
        "/etc/ld.so.conf.d/a.conf": b"/usr/local/lib/\ninclude /etc/more/one.conf\n/opt/after\n",
        "/etc/ld.so.conf.d/ignored.txt": b"/opt/ignored\n",
        "/etc/ld.so.conf.d/deep/c.conf": b"/opt/deep\n",
        "/etc/more/one.conf": b"/opt/one\n",
    }
    folders = search_folders(conf)
    assert folders[:6] == ["/opt/first", "/usr/local/lib", "/opt/one", "/opt/after", "/usr/lib/x86_64-linux-gnu",
                           "/opt/last"]  # fmt: skip
    assert folders[-1] == "/usr/lib"
    assert len(folders) == len(set(folders))
    assert not any("deep" in folder or "ignored" in folder or folder.startswith("/lib") for folder in folders)
    assert search_folders({}) == ["/usr/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib"]


def test_files_that_include_each_other_are_an_error():
    with pytest.raises(BuildError):
        search_folders({"/etc/ld.so.conf": b"include ld.so.conf\n"})


def host_library():
    found = [path for folder in ("/lib", "/usr/lib") for path in Path(folder).glob("*-linux-gnu/libc.so.6")]
    if not found:
        pytest.skip("no glibc where Debian has it")
    return found[0]


def test_sonames_of_real_files():
    library = host_library()
    machine = sysconfig.get_platform().rpartition("-")[2]
    other = "aarch64" if machine == "x86_64" else "x86_64"
    with library.open("rb") as content:
        assert soname_of(content) == "libc.so.6"
        assert soname_of(content, machine=machine) == "libc.so.6"
        assert soname_of(content, machine=other) is None
    with Path("/bin/sh").open("rb") as content:
        assert soname_of(content) is None


def test_other_files_have_no_soname():
    whole = host_library().read_bytes()
    for content in (
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        whole[:20],
        whole[:64],
        whole[:200],
        whole[:5000],
        b"\x7fELF" * 100,
    ):
        assert soname_of(io.BytesIO(content)) is None
