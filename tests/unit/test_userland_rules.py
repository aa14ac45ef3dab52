"""Packages made for the purpose: who owns which file, what dpkg's database says, which alternatives win."""

import stat
import tarfile

import pytest

from made_debs import folder, hardlink, make_deb, member, symlink
from uenv_builder.layers.alternatives import read_alternatives
from uenv_builder.layers.userland import userland_entries
from uenv_builder.model.errors import BuildError
from uenv_builder.model.system import Uarch

EPOCH = 1_790_000_000
UARCH = Uarch(name="x86_64", machine="x86_64", debian="amd64", oci="amd64", multiarch="x86_64-linux-gnu")


def build(*debs):
    """The entries by path with their contents; checks what every stream promises."""
    found, contents = {}, {}
    for entry in userland_entries(debs, epoch=EPOCH, uarch=UARCH):
        assert entry.path not in found, entry.path
        parent = entry.path.rpartition("/")[0]
        assert not parent or found[parent].kind == "dir", entry.path
        if entry.kind == "hardlink":
            assert found[entry.target].kind == "file"
        assert entry.mtime <= EPOCH
        found[entry.path] = entry
        contents[entry.path] = entry.content.read() if entry.content else None
        assert entry.size == len(contents[entry.path] or b"")
    return found, contents


def refusal(*debs):
    with pytest.raises(BuildError) as caught:
        build(*debs)
    return caught.value.diagnostics[0]


def test_two_packages_with_one_file_are_refused(tmp_path):
    first = make_deb(tmp_path / "first.deb", member("./usr/a", b"1"))
    for kind, other in {
        "file": member("./usr/a", b"2"), "symlink": symlink("./usr/a", "b"), "dir": folder("./usr/a"),
    }.items():  # fmt: skip
        second = make_deb(tmp_path / f"second-{kind}.deb", other)
        found = refusal(first, second)
        assert found.rule == "file-conflict"
        assert "first 1.0" in found.message
        assert f"second-{kind} 1.0" in found.message
        assert found.hint
    moved = make_deb(tmp_path / "moved.deb", member("./bin/x", b"1"))
    merged = make_deb(tmp_path / "merged.deb", member("./usr/bin/x", b"1"))
    assert refusal(moved, merged).rule == "file-conflict"


@pytest.mark.parametrize("replaces", ["old", "other, old (<< 2.0)", "old (= 1.0)", "old (>= 1.0~) | x"])
@pytest.mark.parametrize("names", [("old", "new"), ("old", "a-new")])
def test_the_package_that_replaces_wins_in_any_order(tmp_path, replaces, names):
    old = make_deb(tmp_path / "old.deb", member("./usr/a", b"old"), member("./usr/b", b"old"))
    new = make_deb(tmp_path / f"{names[1]}.deb", member("./usr/a", b"new"), fields={"Replaces": replaces})
    for order in ((old, new), (new, old)):
        _, contents = build(*order)
        assert (contents["usr/a"], contents["usr/b"]) == (b"new", b"old")
        assert contents["var/lib/dpkg/info/old.list"] == b"/.\n/usr/b\n"
        assert contents[f"var/lib/dpkg/info/{names[1]}.list"] == b"/.\n/usr/a\n"


@pytest.mark.parametrize("replaces", ["other", "old (<< 1.0)", "old (>> 1.0)", "olde"])
def test_replacing_another_version_does_not_count(tmp_path, replaces):
    old = make_deb(tmp_path / "old.deb", member("./usr/a", b"old"))
    new = make_deb(tmp_path / "new.deb", member("./usr/a", b"new"), fields={"Replaces": replaces})
    assert refusal(old, new).rule == "file-conflict"


def test_a_hard_link_to_a_file_that_was_replaced_is_refused(tmp_path):
    old = make_deb(tmp_path / "old.deb", member("./usr/a", b"old"), hardlink("./usr/b", "./usr/a"))
    new = make_deb(tmp_path / "new.deb", member("./usr/a", b"new"), fields={"Replaces": "old"})
    assert refusal(old, new).rule == "file-conflict"


def test_folders_are_shared_and_stay_as_they_came_first(tmp_path):
    first = make_deb(tmp_path / "first.deb", folder("./usr/"), folder("./usr/share", 0o700), member("./usr/share/a"))
    second = make_deb(
        tmp_path / "second.deb", folder("./usr/"), folder("./usr/share", 0o755), symlink("./usr/share", "x")
    )
    assert refusal(first, second).rule == "unsafe-path"  # within one package
    second = make_deb(tmp_path / "second.deb", folder("./usr/"), symlink("./usr/share", "x"), member("./usr/b"))
    found, contents = build(first, second)
    assert (found["usr/share"].kind, found["usr/share"].mode) == ("dir", 0o700)
    assert contents["var/lib/dpkg/info/second.list"] == b"/.\n/usr\n/usr/share\n/usr/b\n"


def test_base_files_comes_first_for_the_modes_of_its_folders(tmp_path):
    apt = make_deb(tmp_path / "apt.deb", folder("./root"), member("./root/x"))
    base = make_deb(tmp_path / "base-files.deb", folder("./root", 0o700), folder("./var/"), folder("./var/run/"),
                    folder("./var/lock/", 0o1777))  # fmt: skip
    late = make_deb(
        tmp_path / "late.deb", folder("./var/run/late"), member("./var/lock/x"), hardlink("./a", "./var/lock/x")
    )
    found, _ = build(apt, base, late)
    assert found["root"].mode == 0o700
    assert (found["var/run"].target, found["var/lock"].target) == ("/run", "/run/lock")
    assert (found["run/late"].kind, found["run/lock"].mode, found["a"].target) == ("dir", 0o1777, "run/lock/x")


def test_nothing_is_written_through_a_link_of_another_package(tmp_path):
    first = make_deb(tmp_path / "first.deb", symlink("./usr/share/x", "/etc"))
    second = make_deb(tmp_path / "second.deb", member("./usr/share/x/passwd", b"evil"))
    assert refusal(first, second).rule == "unsafe-path"


def test_wrong_architectures_and_second_copies_are_refused(tmp_path):
    assert refusal(make_deb(tmp_path / "tool.deb", fields={"Architecture": "arm64"})).rule == "wrong-architecture"
    build(make_deb(tmp_path / "tool.deb", fields={"Architecture": "all"}))
    again = make_deb(tmp_path / "again.deb", fields={"Package": "tool"})
    assert refusal(make_deb(tmp_path / "tool.deb"), again).rule == "duplicate-package"


def test_the_system_is_there_without_any_package(tmp_path):
    found, contents = build()
    assert {path: found[path].target for path in ("bin", "sbin", "lib")} == {
        "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib",
    }  # fmt: skip
    assert "lib64" not in found
    modes = {path: found[path].mode for path in ("tmp", "var/tmp", "root", "proc", "dev", "var/mail")}
    assert modes == {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "proc": 0o755, "dev": 0o755, "var/mail": 0o2775}
    assert contents["etc/machine-id"] == b""
    assert contents["var/lib/dpkg/info/format"] == b"1\n"
    assert not any(stat.S_IFMT(entry.mode) for entry in found.values())
    loader = make_deb(tmp_path / "libc6.deb", member("./lib64/ld-linux-x86-64.so.2"))
    assert build(loader)[0]["lib64"].target == "usr/lib64"


def test_accounts_are_locked_and_dated_by_the_epoch(tmp_path):
    base = make_deb(
        tmp_path / "base-passwd.deb",
        member("./usr/share/base-passwd/passwd.master", b"root:*:0:0:root:/root:/bin/bash\n"),
        member("./usr/share/base-passwd/group.master", b"root:*:0:\nshadow:*:42:\n"),
    )
    found, contents = build(base, make_deb(tmp_path / "apt.deb"))
    assert contents["etc/passwd"] == (
        b"root:x:0:0:root:/root:/bin/bash\n_apt:x:100:65534::/nonexistent:/usr/sbin/nologin\n"
    )
    assert contents["etc/group"] == b"root:x:0:\nshadow:x:42:\n"
    assert contents["etc/shadow"] == b"root:*:20717:0:99999:7:::\n_apt:*:20717:0:99999:7:::\n"
    assert contents["etc/gshadow"] == b"root:*::\nshadow:*::\n"
    for path in ("etc/shadow", "etc/gshadow"):
        assert (found[path].mode, found[path].uid, found[path].gid) == (0o640, 0, 42)


def test_dpkgs_database(tmp_path):
    scripts = {
        "md5sums": "x  usr/a\n",
        "conffiles": "/etc/tool.conf\n",
        "postinst": "#!/bin/sh\n",
        "triggers": "interest-noawait ldconfig\ninterest /usr/man\nactivate x\ninterest-await deep\n",
    }
    tool = make_deb(
        tmp_path / "tool.deb",
        folder("./lib/"),
        member("./lib/a"),
        member("./etc/tool.conf", b"text\n"),
        scripts=scripts,
        fields={"Multi-Arch": "same", "Homepage": "none"},
    )
    found, contents = build(tool, make_deb(tmp_path / "aaa.deb"))
    info = "var/lib/dpkg/info/tool:amd64"
    assert contents[f"{info}.list"] == b"/.\n/lib\n/lib/a\n/etc/tool.conf\n"
    assert contents[f"{info}.md5sums"] == b"x  usr/a\n"
    assert (found[f"{info}.postinst"].mode, found[f"{info}.triggers"].mode) == (0o755, 0o644)
    assert f"{info}.control" not in found
    assert contents["var/lib/dpkg/status"].decode().split("\n\n")[1] == (
        "Package: tool\nStatus: install ok installed\nInstalled-Size: 10\nMaintainer: A <a@example.org>\n"
        "Architecture: amd64\nMulti-Arch: same\nVersion: 1.0\n"
        "Conffiles:\n /etc/tool.conf e1cbb0c3879af8347246f12c559a86b5\n"
        "Description: made for a test\n of packages\nHomepage: none"
    )
    assert contents["var/lib/dpkg/triggers/ldconfig"] == b"tool:amd64/noawait\n"
    assert contents["var/lib/dpkg/triggers/deep"] == b"tool:amd64\n"
    assert contents["var/lib/dpkg/triggers/File"] == b"/usr/man tool:amd64\n"


def test_alternatives_go_by_priority_and_need_their_targets(tmp_path):
    low = make_deb(
        tmp_path / "low.deb",
        member("./usr/bin/mawk"),
        member("./usr/share/m"),
        scripts={
            "postinst": "update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\\n"
            "  --slave /usr/man/a a.1 /usr/share/m\n"
            "update-alternatives --install /bin/gone gone /usr/bin/gone 99\n"
        },
    )
    high = make_deb(
        tmp_path / "high.deb",
        member("./bin/gawk"),
        scripts={
            "postinst": "update-alternatives --install /usr/bin/awk awk /bin/gawk 10 --slave /usr/nawk nawk /usr/none\n"
        },
    )
    found, contents = build(high, low)
    assert (found["usr/bin/awk"].target, found["etc/alternatives/awk"].target) == ("/etc/alternatives/awk", "/bin/gawk")
    assert not {"usr/nawk", "usr/man/a", "etc/alternatives/a.1", "etc/alternatives/gone", "usr/bin/gone"} & set(found)
    assert contents["var/lib/dpkg/alternatives/awk"].decode().split("\n") == [
        "auto",
        "/usr/bin/awk",
        "a.1",
        "/usr/man/a",
        "nawk",
        "/usr/nawk",
        "",
        "/bin/gawk",
        "10",
        "",
        "/usr/none",
        "/usr/bin/mawk",
        "5",
        "/usr/share/m",
        "",
        "",
        "",
    ]
    found, _ = build(low)
    assert found["etc/alternatives/awk"].target == "/usr/bin/mawk"
    assert (found["usr/man/a"].target, found["etc/alternatives/a.1"].target) == (
        "/etc/alternatives/a.1",
        "/usr/share/m",
    )


def test_an_alternative_never_takes_the_place_of_a_file(tmp_path):
    deb = make_deb(
        tmp_path / "tool.deb",
        member("./usr/bin/awk", b"mine"),
        member("./usr/bin/mawk"),
        scripts={"postinst": "update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5\n"},
    )
    assert build(deb)[1]["usr/bin/awk"] == b"mine"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("update-alternatives --install /a a /b 5", [("a", "/a", "/b", 5)]),
        ("if x; then update-alternatives --quiet --install \\\n  /a a \\\n /b -5 || true; fi", [("a", "/a", "/b", -5)]),
        (
            "/usr/bin/update-alternatives --install /a 'a' \"/b\" 5; update-alternatives --install /c c /d 1",
            [("a", "/a", "/b", 5), ("c", "/c", "/d", 1)],
        ),
        (
            "update-alternatives --install /a a /b 5 \\\n # --slave /x\n\nupdate-alternatives --install /c c /d 1",
            [("a", "/a", "/b", 5), ("c", "/c", "/d", 1)],
        ),
        ("# update-alternatives --install /a a /b 5", []),
        ("V=3.1\nupdate-alternatives --install /a a /b$V ${V}1", []),
        ("V=3\nupdate-alternatives --install /a a /b$V ${V}1", [("a", "/a", "/b3", 31)]),
        ("V=3\nV=4\nupdate-alternatives --install /a a /b$V 1", []),
        ("V=$(x)\nupdate-alternatives --install /a a /b$V 1", []),
        ("for V in a b; do update-alternatives --install /a a /b$V 1; done", []),
        ("update-alternatives --remove a /b", []),
        ("update-alternatives --install /a a /b", []),
        ("update-alternatives --install /a ../../x /b 5", []),
        ("update-alternatives --install a a /b 5", []),
        ("perl -e 'system(qw(update-alternatives --install))'", []),
        ("update-alternatives --install /a a '/b 5", []),
        ("update-alternatives --install /a a /b 5 --slave /c c", []),
    ],
)
def test_reading_alternatives_from_scripts(script, expected):
    found = [(choice.name, choice.link, choice.target, choice.priority) for choice in read_alternatives(script)]
    assert found == expected


def test_an_alternative_that_leads_out_is_refused(tmp_path):
    for command in ("/../../b b /usr/x 1", "/usr/b .. /usr/x 1"):
        script = {"postinst": f"update-alternatives --install {command}\n"}
        assert refusal(make_deb(tmp_path / "tool.deb", member("./usr/x"), scripts=script)).rule == "unsafe-path"


def test_certificates_are_linked_and_bundled_with_line_ends(tmp_path):
    deb = make_deb(
        tmp_path / "ca-certificates.deb",
        member("./usr/share/ca-certificates/m/B_(x).crt", b"b\n"),
        member("./usr/share/ca-certificates/m/A.crt", b"a"),
        member("./usr/share/ca-certificates/README", b"r"),
    )
    found, contents = build(deb)
    assert contents["etc/ssl/certs/ca-certificates.crt"] == b"a\nb\n"
    assert contents["etc/ca-certificates.conf"].endswith(b"\nm/A.crt\nm/B_(x).crt\n")
    links = {path: entry.target for path, entry in found.items() if path.endswith(".pem")}
    assert links == {
        "etc/ssl/certs/A.pem": "/usr/share/ca-certificates/m/A.crt",
        "etc/ssl/certs/B_=x=.pem": "/usr/share/ca-certificates/m/B_(x).crt",
    }


def test_the_stream_depends_on_the_packages_alone(tmp_path):
    deb = make_deb(tmp_path / "tool.deb", member("./usr/a", b"1", mtime=EPOCH + 9), folder("./usr/b"))
    assert [repr(entry) for entry in build(deb)[0].values() if not entry.content] == [
        repr(entry) for entry in build(deb)[0].values() if not entry.content
    ]
    assert build(deb)[1] == build(deb)[1]


def test_devices_stop_the_whole_stream(tmp_path):
    deb = make_deb(tmp_path / "evil.deb", member("./dev/null", type=tarfile.CHRTYPE))
    assert refusal(deb).rule == "device-node"
