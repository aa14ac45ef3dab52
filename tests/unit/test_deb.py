import lzma
import tarfile

import pytest

from made_debs import COMPRESSORS, ar_of, folder, hardlink, make_deb, member, symlink, tar_of
from uenv_builder.layers.deb import deb_control, deb_entries
from uenv_builder.model.errors import BuildError

NEWEST = 1_700_000_000


def read(deb):
    """Every entry with its content."""
    return [(entry, entry.content.read() if entry.content else b"") for entry in deb_entries(deb, newest=NEWEST)]


def rule_of(deb):
    with pytest.raises(BuildError) as caught:
        read(deb)
    assert deb.name in str(caught.value)
    return caught.value.diagnostics[0].rule


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_compression_gives_the_same_entries(tmp_path, suffix):
    text = bytes(range(256)) * 5000
    deb = make_deb(tmp_path / "tool.deb", folder("./usr/"), member("./usr/text", text, uid=3, gid=42), suffix=suffix)
    (directory, _), (file, content) = read(deb)
    assert (directory.path, directory.kind, directory.mode) == ("usr", "dir", 0o755)
    assert (file.path, file.kind, file.mode, file.uid, file.gid, file.size) == (
        "usr/text",
        "file",
        0o644,
        3,
        42,
        len(text),
    )
    assert content == text
    assert deb_control(deb).name == "tool"


def test_content_can_be_left_unread(tmp_path):
    deb = make_deb(tmp_path / "tool.deb", member("a", b"x" * 100_000), member("b", b"y" * 1000))
    sizes = {}
    for entry in deb_entries(deb, newest=NEWEST):
        sizes[entry.path] = len(entry.content.read(10))
    assert sizes == {"a": 10, "b": 10}


def test_times_modes_and_owners(tmp_path):
    deb = make_deb(
        tmp_path / "tool.deb",
        member("new", mtime=NEWEST + 5), member("old", mtime=5), member("su", mode=0o6755), member("t", mode=0o1644),
        folder("tmp", 0o1777), folder("mail", 0o2775), symlink("l", "new"),
    )  # fmt: skip
    found = {entry.path: entry for entry, _ in read(deb)}
    assert (found["new"].mtime, found["old"].mtime) == (NEWEST, 5)
    assert (found["su"].mode, found["t"].mode) == (0o755, 0o644)
    assert (found["tmp"].mode, found["mail"].mode, found["l"].mode) == (0o1777, 0o2775, 0o777)


def test_merged_usr_moves_paths_and_hard_links_but_keeps_the_links_themselves(tmp_path):
    deb = make_deb(
        tmp_path / "tool.deb",
        folder("./lib/"), member("./lib/a.so", b"a"), hardlink("./bin/b", "./lib/a.so"), symlink("./sbin", "usr/sbin"),
        symlink("./lib64/ld.so.2", "../lib/a.so"), folder("./usr/"), folder("./usr/lib/"),
    )  # fmt: skip
    found = {entry.path: entry for entry, _ in read(deb)}
    assert list(found) == ["usr/lib", "usr/lib/a.so", "usr/bin/b", "sbin", "usr/lib64/ld.so.2", "usr"]
    assert (found["usr/bin/b"].kind, found["usr/bin/b"].target) == ("hardlink", "usr/lib/a.so")
    assert (found["sbin"].kind, found["sbin"].target) == ("symlink", "usr/sbin")


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("./a/../../evil")],
        [member("/etc/evil")],
        [symlink("./a", "/etc"), member("./a/passwd")],
        [symlink("./a", ".."), folder("./a/b")],
        [symlink("./lib", "/etc"), member("./lib/evil"), symlink("./usr/lib", "/etc"), member("./usr/lib/evil")],
        [member("./a/b"), symlink("./a", "/etc")],
        [member("./twice"), member("./twice")],
        [member("./a"), hardlink("./b", "../a")],
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path, members):
    assert rule_of(make_deb(tmp_path / "evil.deb", *members)) == "unsafe-path"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(tmp_path, kind):
    assert rule_of(make_deb(tmp_path / "evil.deb", member("./dev/sda", type=kind))) == "device-node"


@pytest.mark.parametrize("target", ["./missing", "./folder", "./link"])
def test_hard_links_need_a_file_before_them(tmp_path, target):
    deb = make_deb(tmp_path / "evil.deb", folder("./folder"), symlink("./link", "/etc/passwd"), hardlink("./b", target))
    assert rule_of(deb) == "broken-deb"


def test_every_cut_is_noticed(tmp_path):
    deb = make_deb(tmp_path / "tool.deb", member("a", b"some content"))
    whole = deb.read_bytes()
    for size in [*range(0, len(whole) - 1, 13), len(whole) - 2]:
        deb.write_bytes(whole[:size])
        assert rule_of(deb) == "broken-deb", size


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damaged_content_is_noticed(tmp_path, suffix):
    deb = make_deb(tmp_path / "tool.deb", member("a", bytes(range(256)) * 200), suffix=suffix)
    content = bytearray(deb.read_bytes())
    content[-14] ^= 0xFF  # in the checksum at the end, or just before it
    deb.write_bytes(content)
    assert rule_of(deb) == "broken-deb"


def test_a_tar_archive_that_ends_early_is_noticed(tmp_path):
    data = tar_of([member("a", b"x" * 5000)])[:2000]
    assert rule_of(make_deb(tmp_path / "tool.deb", data=data)) == "broken-deb"
    assert rule_of(make_deb(tmp_path / "junk.deb", data=b"no tar" * 1000)) == "broken-deb"


def test_other_files_are_no_packages(tmp_path):
    deb = tmp_path / "x.deb"
    for content in (b"", b"PK\3\4", ar_of({"debian-binary": b"2.0\n"}), ar_of({"control.tar.lzma": b""})):
        deb.write_bytes(content)
        assert rule_of(deb) == "broken-deb"


@pytest.mark.parametrize("fields", [{"Package": "../../etc/x"}, {"Architecture": "../x"}, {"Version": ""}])
def test_names_that_would_lead_elsewhere_are_refused(tmp_path, fields):
    assert rule_of(make_deb(tmp_path / "tool.deb", fields=fields)) == "broken-deb"


def test_a_huge_claimed_size_is_refused_before_it_is_read(tmp_path):
    info, _ = member("a")
    info.size = 1 << 40
    assert rule_of(make_deb(tmp_path / "huge.deb", data=info.tobuf(tarfile.GNU_FORMAT))) == "deb-size"


def test_a_decompression_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("uenv_builder.layers.deb._MIN_DATA_LIMIT", 1 << 20)
    small = make_deb(tmp_path / "small.deb", member("a", bytes(700_000)), member("b", bytes(200_000)))
    assert len(read(small)) == 2
    bomb = make_deb(tmp_path / "bomb.deb", member("a", bytes(700_000)), member("b", bytes(700_000)))
    assert rule_of(bomb) == "deb-size"
    honest = make_deb(tmp_path / "big.deb", member("a", bytes(2_000_000)), fields={"Installed-Size": "2000"})
    assert len(read(honest)) == 1
    endless = make_deb(tmp_path / "endless.deb", data=tar_of([member("a", b"")]) + bytes(20 << 20))
    assert endless.stat().st_size < 10_000
    assert rule_of(endless) == "deb-size"


def test_control_members(tmp_path):
    scripts = {"postinst": "#!/bin/sh\nexit 0\n", "conffiles": "/etc/a\nremove-on-upgrade /etc/b\n", "triggers": "x"}
    control = deb_control(make_deb(tmp_path / "tool.deb", scripts=scripts, fields={"Multi-Arch": "same"}))
    assert (control.name, control.version, control.architecture) == ("tool", "1.0", "amd64")
    assert control.postinst == scripts["postinst"]
    assert control.conffiles == ("/etc/a",)
    assert control.fields["Multi-Arch"] == "same"
    assert control.stanza.endswith(" of packages\nMulti-Arch: same\n")
    assert control.text("triggers") == "x"
    assert control.text("md5sums") == ""


def test_several_xz_streams_are_one(tmp_path):
    control = tar_of([member("control", b"Package: tool\nVersion: 1\nArchitecture: all\n")])
    tar = tar_of([member("a", b"x" * 3000)])
    data = lzma.compress(tar[:1500]) + lzma.compress(tar[1500:])
    deb = tmp_path / "tool.deb"
    deb.write_bytes(ar_of({"debian-binary": b"2.0\n", "control.tar.xz": lzma.compress(control), "data.tar.xz": data}))
    assert [content for _, content in read(deb)] == [b"x" * 3000]
