import gzip
import hashlib
import io
import subprocess
import tarfile
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from uenv_builder.core.base_leaks import find_leaks
from uenv_builder.layers.oci_layer import Removal, oci_layer_entries
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.system.layer_blob import layer_members, write_layer

TAR = "application/vnd.oci.image.layer.v1.tar"
EPOCH = 1_700_000_000
LONG = "/".join(["a" * 200, "b" * 200, "größe"])


def member(name, content=None, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.mtime, info.mode = kind, EPOCH, 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    if content is not None:
        info.size = len(content)
    return info, content


def folder(name, mode=0o755):
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


def hard(name, target):
    return member(name, kind=tarfile.LNKTYPE, linkname=target)


def soft(name, target):
    return member(name, kind=tarfile.SYMTYPE, linkname=target, mode=0o777)


def tar(*members, form=tarfile.PAX_FORMAT, headers=None):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=headers or {}) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


def put(tmp_path, stream, packed=None, name="layer"):
    path = tmp_path / name
    path.write_bytes(stream if packed is None else packed)
    return path, hashlib.sha256(stream).hexdigest()


@pytest.fixture
def read(tmp_path):
    """The entries of a layer with the given tar stream: each as it is in the end, with its content."""

    def read_all(stream, packed=None, media_type=TAR, diff_id=None, **more):
        blob, real = put(tmp_path, stream, packed)
        entries = oci_layer_entries(blob, media_type=media_type, diff_id=diff_id or real, **more)
        return {e.path: (e, e.content.read() if e.content else b"") for e in entries}

    return read_all


def contents(found):
    return {path: (entry.kind, entry.target or content.decode()) for path, (entry, content) in found.items()}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_kind_of_entry(read, form):
    long_link = "l/" * 150 + "l"
    found = read(tar(
        folder("./"), folder("./etc/", 0o750), member("./etc/passwd", b"root", uid=3, gid=4, mode=0o600),
        hard("etc/same", "./etc/passwd"), soft("lib", "usr/lib"), soft("long", long_link), member(LONG, b"long"),
        hard("big", LONG), member("zero", b""), member("etc/.wh.gone"), folder("opt"), member("opt/.wh..wh..opq"),
        form=form,
    ))  # fmt: skip
    assert contents(found) == {
        "etc": ("dir", ""), "etc/passwd": ("file", "root"), "etc/same": ("hardlink", "etc/passwd"),
        "lib": ("symlink", "usr/lib"), "long": ("symlink", long_link), LONG: ("file", "long"),
        "big": ("hardlink", LONG), "zero": ("file", ""), "etc/.wh.gone": ("file", ""), "opt": ("dir", ""),
        "opt/.wh..wh..opq": ("file", ""),
    }  # fmt: skip
    entry = found["etc/passwd"][0]
    assert (entry.uid, entry.gid, entry.mode, entry.mtime, entry.size) == (3, 4, 0o600, EPOCH, 4)
    assert found["etc"][0].mode == 0o750


STREAM = tar(folder("a"), member("a/b", b"content" * 10_000))
WHOLE = 512 + 512 + 70_144  # without the zeros that end it
HALF = len(STREAM) // 2
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"


@pytest.mark.parametrize(
    ("suffix", "packed"),
    [
        ("", STREAM),
        ("+gzip", gzip.compress(STREAM)),
        ("+gzip", gzip.compress(STREAM[:HALF]) + gzip.compress(STREAM[HALF:])),
        ("+zstd", zstandard.compress(STREAM)),
        ("+zstd", zstandard.compress(STREAM[:HALF]) + SKIPPABLE + zstandard.compress(STREAM[HALF:]) + SKIPPABLE),
    ],
)
def test_compressions(read, suffix, packed):
    found = read(STREAM, packed, f"{TAR}{suffix}")
    assert contents(found) == {"a": ("dir", ""), "a/b": ("file", "content" * 10_000)}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_other_names_of_gzip(read, media_type):
    assert set(read(STREAM, gzip.compress(STREAM), media_type)) == {"a", "a/b"}


@pytest.mark.parametrize("media_type", [f"{TAR}+zstd+encrypted", "application/vnd.oci.empty.v1+json", f"{TAR}+xz"])
def test_unknown_types_are_refused(read, media_type):
    with pytest.raises(BuildError, match="cannot be unpacked"):
        read(STREAM, None, media_type)


def test_privileges_and_attributes_are_dropped(read):
    capability = {"SCHILY.xattr.security.capability": "x"}
    ping = member("ping", b"p", mode=0o4755, pax_headers=capability)
    found = read(tar(ping, folder("tmp", 0o1777), folder("mail", 0o2775)))
    assert [found[path][0].mode for path in ("ping", "tmp", "mail")] == [0o755, 0o1777, 0o2775]


def test_devices_become_whiteouts_and_are_noted(read):
    notes = []
    null = member("dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)
    found = read(
        tar(folder("dev"), member("dev/null", b"x"), null, member("fifo", kind=tarfile.FIFOTYPE)), note=notes.append
    )
    assert contents(found) == {"dev": ("dir", ""), "dev/.wh.null": ("file", ""), ".wh.fifo": ("file", "")}
    assert notes == ["layer: 2 devices or FIFOs are left out: containers get theirs from the engine"]


def test_aufs_bookkeeping_is_left_out(read):
    found = read(tar(
        member(".wh..wh.aufs", b""), folder(".wh..wh.plnk"), member(".wh..wh.plnk/1.2", b"x"), member("f", b"f"),
        hard(".wh.gone", ".wh..wh.aufs"),
    ))  # fmt: skip
    assert contents(found) == {"f": ("file", "f"), ".wh.gone": ("file", "")}


def test_the_last_of_several_entries_wins(read):
    found = read(tar(
        folder("d", 0o700), member("f", b"one"), member("f", b"two"), folder("d", 0o755), soft("s", "f"),
        folder("s"), member("s/x", b"x"),
    ))  # fmt: skip
    assert contents(found) == {
        "f": ("file", "two"), "d": ("dir", ""), "s": ("dir", ""), "s/x": ("file", "x"),
    }  # fmt: skip
    assert found["d"][0].mode == 0o755


@pytest.mark.parametrize("first", [[folder("d")], []])
def test_what_replaces_a_folder_takes_all_below_it_away(read, first):
    found = read(tar(*first, member("d/x", b"x"), member("d/y/z", b"x"), member("db", b"x"), soft("d", "elsewhere")))
    assert contents(found) == {"db": ("file", "x"), "d": ("symlink", "elsewhere")}


def test_a_hard_link_keeps_the_content_that_it_was_made_of(read):
    found = read(tar(
        member("f", b"old", mode=0o755), hard("one", "f"), hard("two", "one"), member("f", b"new"), hard("three", "f"),
    ))  # fmt: skip
    assert contents(found) == {
        "one": ("file", "old"), "two": ("hardlink", "one"), "f": ("file", "new"), "three": ("hardlink", "f"),
    }  # fmt: skip
    assert found["one"][0].mode == 0o755


def test_what_is_removed_leaves_the_links_to_it(read):
    removal = Removal(["/opt/hpcx", "/lib/*/libnccl.so*"])
    found = read(
        tar(
            folder("opt"), folder("opt/hpcx"), member("opt/hpcx/a", b"a"), hard("kept", "opt/hpcx/a"),
            member("opt/hpcx2", b"b"), member("usr/lib/x/libnccl.so.2", b"n"), member("usr/lib/x/y/libnccl.so.2", b"n"),
            member("opt/.wh.hpcx"), member("opt/hpcx/.wh.b"),
        ),
        removal=removal,
    )  # fmt: skip
    assert contents(found) == {
        "opt": ("dir", ""), "kept": ("file", "a"), "opt/hpcx2": ("file", "b"), "opt/.wh.hpcx": ("file", ""),
        "usr/lib/x/y/libnccl.so.2": ("file", "n"),
    }  # fmt: skip


def test_removal_says_what_it_does_not_find():
    removal = Removal(["/opt/*", "/lib", "/", "/lib/gone", "/etc/a.c"])
    paths = ["opt", "opt/x", "opt/x/y", "opt/x/\n", "lib", "usr/lib/x", "etc/abc"]
    assert [path for path in paths if removal.takes(path)] == ["opt/x", "opt/x/y", "opt/x/\n", "lib"]
    assert removal.unused(paths) == ("/", "/lib/gone", "/etc/a.c")


def test_removal_as_a_layer_of_whiteouts():
    removal = Removal(["/opt/*", "/opt/x/y", "/etc/pip", "/top"])
    paths = ["opt", "opt/x", "opt/x/y", "opt/z", "etc", "etc/pip", "etc/pip/constraint.txt", "top"]
    made = list(removal.whiteouts(paths, mtime=7))
    assert [entry.path for entry in made] == ["etc/.wh.pip", "opt/.wh.x", "opt/.wh.z", ".wh.top"]
    assert {(entry.kind, entry.mtime, entry.size) for entry in made} == {("file", 7, 0)}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("../x", b"")], "climbs"),
        ([member("a/../../x", b"")], "climbs"),
        ([member("/etc/x", b"")], "is absolute"),
        ([hard("x", "../etc/passwd")], "climbs"),
        ([hard("x", "/etc/passwd")], "is absolute"),
        ([member("a\udcff", b"")], "not UTF-8"),
        ([member("n" * 256, b"")], "is longer"),
        ([soft("out", "/"), member("out/x", b"")], "lies below 'out'"),
        ([member("f", b""), member("f/x", b"")], "lies below 'f'"),
    ],
)
def test_no_path_leads_out_of_the_root(read, members, reason):
    with pytest.raises(BuildError, match=reason) as caught:
        read(tar(*members, form=tarfile.GNU_FORMAT))
    assert caught.value.diagnostics[0].rule == "unsafe-path"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([hard("x", "lower")], "hard link to 'lower'"),
        ([hard("x", "late"), member("late", b"")], "hard link to 'late'"),
        ([folder("d"), hard("x", "d")], "hard link to 'd'"),
        ([member("f", b""), hard("f", "f")], "hard link to 'f'"),
        ([member("d/f", b""), soft("d", "e"), hard("x", "d/f")], "hard link to 'd/f'"),
        ([member("f", b"", uid=-5)], "owner -5"),
        ([member("f", b"", gid=2**32)], "4294967296"),
        ([member("odd", kind=b"V")], "unknown type"),
        ([soft("s", "")], "no valid target"),
    ],
)
def test_what_no_layer_may_have(read, members, reason):
    with pytest.raises(BuildError, match=reason) as caught:
        read(tar(*members, form=tarfile.GNU_FORMAT))
    assert caught.value.diagnostics[0].rule == "broken-layer"


def test_a_wrong_diff_id_is_told_before_the_first_entry(tmp_path):
    blob, _ = put(tmp_path, STREAM)
    entries = oci_layer_entries(blob, media_type=TAR, diff_id="0" * 64)
    with pytest.raises(LockError, match="unpacks to sha256") as caught:
        next(entries)
    assert caught.value.diagnostics[0].rule == "hash-mismatch"


def test_bytes_behind_the_end_count_for_the_hash(read):
    with pytest.raises(LockError):
        read(STREAM, STREAM + b"more")
    assert set(read(STREAM + b"more")) == {"a", "a/b"}


@pytest.mark.parametrize(
    ("stream", "suffix", "reason"),
    [
        (STREAM[:-20_000], "", "unexpected end of data"),
        (STREAM[:700], "", "truncated"),
        (b"no tar at all" * 100, "", "invalid|bad checksum|truncated"),
        (STREAM[:WHOLE] + b"x" * 512 + STREAM[:WHOLE], "", "bad checksum|invalid"),
        (gzip.compress(STREAM)[:-40], "+gzip", "ended before"),
        (STREAM, "+gzip", "Not a gzipped file"),
        (gzip.compress(STREAM, mtime=0)[:10] + b"\xff" * 40, "+gzip", "Invalid deflate block"),
        (gzip.compress(STREAM), "+zstd", "[Uu]nknown frame"),
        (b"", "", "empty"),
    ],
)
def test_damage_is_told(read, stream, suffix, reason):
    with pytest.raises(BuildError, match=reason) as caught:
        read(stream, None, f"{TAR}{suffix}")
    assert caught.value.diagnostics[0].rule == "broken-layer"


def test_a_layer_without_an_end_is_whole(read):
    assert set(read(STREAM[:WHOLE])) == {"a", "a/b"}


def test_a_layer_without_entries(read):
    assert read(tar()) == {}


def test_a_huge_extended_header_is_refused(read):
    with pytest.raises(BuildError, match="extended header"):
        read(tar(member("a", b"", pax_headers={"comment": "x" * (2 << 20)})))


@pytest.mark.parametrize("form", ["gnu", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"])
def test_sparse_files_come_with_their_holes(read, tmp_path, form):
    with (tmp_path / "holes").open("wb") as file:
        file.write(b"begin")
        file.seek(5 << 20)
        file.write(b"middle")
        file.truncate(9 << 20)
    options = form.split() if form.startswith("--") else [f"--format={form}"]
    done = subprocess.run(
        ["tar", "-C", tmp_path, "--sparse", *options, "-cf", "-", "holes"], capture_output=True, check=True
    )
    assert len(done.stdout) < 1 << 20
    entry, content = read(done.stdout)["holes"]
    assert entry.size == len(content) == 9 << 20
    assert content == (tmp_path / "holes").read_bytes()


def test_contents_that_nobody_reads_are_skipped(tmp_path):
    stream = tar(*(member(f"f{number}", bytes([number]) * 5000) for number in range(50)))
    blob, diff_id = put(tmp_path, stream)
    found = {}
    for entry in oci_layer_entries(blob, media_type=TAR, diff_id=diff_id):
        if entry.path in {"f7", "f49"}:
            found[entry.path] = entry.content.read(100)
    assert found == {"f7": b"\x07" * 100, "f49": b"1" * 100}


def test_the_store_takes_what_comes(tmp_path):
    stream = tar(
        folder("d"), member("d/f", b"old"), hard("d/l", "d/f"), member("d/f", b"new", mode=0o4755), soft("s", "d"),
        member("d/.wh.x"), member("dev/null", kind=tarfile.CHRTYPE), member(LONG, b"x", mtime=-5.5),
    )  # fmt: skip
    blob, diff_id = put(tmp_path, stream)
    (tmp_path / "made").mkdir()
    layer = write_layer(oci_layer_entries(blob, media_type=TAR, diff_id=diff_id), tmp_path / "made")
    again = {entry.path: content.read() for entry, content in layer_members(layer) if content}
    assert again == {"d/f": b"new", "d/l": b"old", "d/.wh.x": b"", "dev/.wh.null": b"", LONG: b"x"}


def test_memory_does_not_grow_with_contents(tmp_path):
    stream = tar(*(member(f"f{number}", bytes(8 << 20)) for number in range(6)))
    blob, diff_id = put(tmp_path, stream, gzip.compress(stream, 1))
    del stream
    tracemalloc.start()
    try:
        for entry in oci_layer_entries(blob, media_type=f"{TAR}+gzip", diff_id=diff_id):
            while entry.content.read(1 << 20):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_memory_does_not_grow_much_with_entries(tmp_path):
    blob, diff_id = put(tmp_path, tar(*(member(f"f{number}", b"") for number in range(4000))))
    tracemalloc.start()
    try:
        assert sum(1 for _ in oci_layer_entries(blob, media_type=TAR, diff_id=diff_id)) == 4000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (2 << 20) + 4000 * 700  # tarfile alone would keep more than twice as much of each


PATHS = ["a", "b", "a/c", "a/d", "a/c/e", "b/f"]
STEPS = st.lists(st.tuples(st.sampled_from(["dir", "file", "symlink", "hardlink"]), st.sampled_from(PATHS),
                           st.sampled_from(PATHS)), max_size=12)  # fmt: skip


def unpack(tree, kind, path, target, content):
    """Do to `tree` what a container engine does to a folder; says whether it can. Files are lists of one content."""
    above = [path[:end] for end, sign in enumerate(path) if sign == "/"]
    if any(tree.get(folder, "dir") != "dir" for folder in above):
        return False
    if kind == "hardlink" and (not isinstance(tree.get(target), list) or f"{target}/".startswith(f"{path}/")):
        return False
    tree.update(dict.fromkeys(above, "dir"))
    if kind != "dir" or tree.get(path) != "dir":
        for gone in [other for other in tree if f"{other}/".startswith(f"{path}/")]:
            del tree[gone]
    tree[path] = {"dir": "dir", "file": [content], "symlink": ("to", target)}.get(kind) or tree[target]
    return True


def shape(tree):
    """A tree with numbers in place of the files: equal ones are one file."""
    numbers = {}
    return {
        path: (numbers.setdefault(id(node), min(p for p in tree if tree[p] is node)), node[0])
        if isinstance(node, list) else node
        for path, node in tree.items()
    }  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(STEPS, st.lists(st.sampled_from(PATHS), max_size=2))
def test_a_layer_unpacks_as_container_engines_do_it(tmp_path_factory, steps, removed):
    expected, members = {}, []
    for number, (kind, path, target) in enumerate(steps):
        if unpack(expected, kind, path, target, number):
            made = {"dir": folder(path), "file": member(path, b"%d" % number),
                    "symlink": soft(path, target), "hardlink": hard(path, target)}  # fmt: skip
            members.append(made[kind])
    removal = Removal(f"/{path}" for path in removed)
    expected = {path: node for path, node in expected.items() if not removal.takes(path)}
    blob, diff_id = put(tmp_path_factory.getbasetemp(), tar(*members))
    found, named = {}, []
    for entry in oci_layer_entries(blob, media_type=TAR, diff_id=diff_id, removal=removal):
        content = int(entry.content.read()) if entry.content else None
        named.append(entry.path)
        assert unpack(found, entry.kind, entry.path, entry.target, content)
    assert len(named) == len(set(named))
    for path in list(found):
        for end in [end for end, sign in enumerate(path) if sign == "/"]:
            found.setdefault(path[:end], "dir")
    missing = {path for path, node in expected.items() if node == "dir"} - found.keys()
    assert shape(found) == shape({path: node for path, node in expected.items() if path not in missing})
    # A folder that no entry names and that nothing is left in need not be there.
    assert not missing & {info.name for info, _ in members if info.isdir()}


LEAKY = [
    "opt", "opt/hpcx", "opt/hpcx/ompi", "opt/hpcx/lib/libnccl-net.so", "opt/amazon", "opt/amazon/aws-ofi-nccl",
    "opt/amazon/aws-ofi-nccl/lib/libnccl-net-ofi.so", "opt/amazon/efa", "usr/lib/aarch64-linux-gnu/libnccl.so",
    "usr/lib/aarch64-linux-gnu/libnccl.so.2.29.3", "usr/lib/libnccl-tuner-ofi.so", "etc/ld.so.preload",
    "usr/local/lib/python3.12/dist-packages/nvidia/nccl/lib/libnccl.so.2", "etc/pip/constraint.txt",
    "usr/lib/mylibnccl.so",
]  # fmt: skip
LEAKY_ENV = {
    "LD_PRELOAD": "/usr/lib/libjemalloc.so.2", "NCCL_NET_PLUGIN": "spcx", "PIP_CONSTRAINT": "/etc/pip/constraint.txt",
    "PATH": "/bin", "NCCL_TUNER_PLUGIN": "",
}  # fmt: skip


def test_leaks_are_found_where_they_are():
    found = {leak.what: (leak.remove, leak.unset) for leak in find_leaks(LEAKY, LEAKY_ENV)}
    assert found == {
        "/etc/ld.so.preload": (("/etc/ld.so.preload",), ()),
        "/opt/amazon/aws-ofi-nccl": (("/opt/amazon/aws-ofi-nccl",), ()),
        "/opt/amazon/efa": (("/opt/amazon/efa",), ()),
        "/opt/hpcx": (("/opt/hpcx",), ()),
        "/usr/lib/aarch64-linux-gnu/libnccl.so": (("/usr/lib/aarch64-linux-gnu/libnccl.so*",), ()),
        "/usr/lib/libnccl-tuner-ofi.so": (("/usr/lib/libnccl-tuner-ofi.so*",), ()),
        "LD_PRELOAD=/usr/lib/libjemalloc.so.2": ((), ("LD_PRELOAD",)),
        "NCCL_NET_PLUGIN=spcx": ((), ("NCCL_NET_PLUGIN",)),
        "PIP_CONSTRAINT=/etc/pip/constraint.txt": ((), ("PIP_CONSTRAINT",)),
    }


def test_who_follows_the_remedies_has_no_leaks_left():
    found = find_leaks(LEAKY, LEAKY_ENV)
    removal = Removal(pattern for leak in found for pattern in leak.remove)
    unset = {name for leak in found for name in leak.unset}
    assert removal.unused(LEAKY) == ()
    kept = [path for path in LEAKY if not removal.takes(path)]
    assert find_leaks(kept, {name: value for name, value in LEAKY_ENV.items() if name not in unset}) == ()
    assert len(kept) == 5
