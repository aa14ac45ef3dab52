"""Installing wheels from their zips: what a wheel may hold, where it goes, and what is refused."""

import base64
import hashlib
import io
import sys
import zipfile

import pytest

from uenv_builder.layers import compile_sources
from uenv_builder.layers.wheel import Installation, wheel_entries
from uenv_builder.layers.wheel_content import open_member
from uenv_builder.model.errors import BuildError

PACKAGES = "usr/local/lib/python3.13/dist-packages"
TARGET = Installation(prefix="usr/local", packages=PACKAGES, python="/usr/bin/python3.13")
METADATA = {
    "demo-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
}


def digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def record_of(files) -> bytes:
    rows = [f"{name},{digest(content)},{len(content)}" for name, content in files.items()]
    return "\n".join([*rows, "demo-1.0.dist-info/RECORD,,", ""]).encode()


def write_wheel(folder, files, *, record=None, name="demo-1.0-py3-none-any.whl", modes=None):
    files = {**files, **{key: value for key, value in METADATA.items() if key not in files}}
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in {**files, "demo-1.0.dist-info/RECORD": record or record_of(files)}.items():
            info = zipfile.ZipInfo(member, (2024, 5, 6, 7, 8, 10))
            info.external_attr = (modes or {}).get(member, 0o100644) << 16
            archive.writestr(info, content)
    return path


def install(wheel, compiler=None):
    found = {}
    for entry in wheel_entries(wheel, TARGET, name=wheel.name, compiler=compiler):
        assert entry.path not in found
        parent = entry.path.rpartition("/")[0]
        assert not parent or found[parent][0].kind == "dir"
        found[entry.path] = (entry, entry.content.read() if entry.content else b"")
    return found


class Compiler:
    def compile(self, sources):
        pairs = [(path, compile_sources.compile_source(f"/{path}", content)) for path, content in sources]
        return {path: code for path, code in pairs if code}


def test_modules_go_to_dist_packages_with_the_times_of_the_zip(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/__init__.py": b"x = 1\n"})
    entry, content = install(wheel)[f"{PACKAGES}/demo/__init__.py"]
    assert (content, entry.mode, entry.mtime) == (b"x = 1\n", 0o644, 1714979290)


def test_data_folders_go_to_their_schemes(tmp_path):
    files = {
        "demo-1.0.data/scripts/run": b"#!python\nprint(1)\n",
        "demo-1.0.data/scripts/tool": b"#!/bin/sh\n",
        "demo-1.0.data/data/share/x": b"x",
        "demo-1.0.data/headers/demo.h": b"h",
        "demo-1.0.data/platlib/demo/_c.so": b"so",
    }
    found = install(write_wheel(tmp_path, files))
    script, content = found["usr/local/bin/run"]
    assert (content, script.mode) == (b"#!/usr/bin/python3.13\nprint(1)\n", 0o755)
    assert found["usr/local/bin/tool"][1] == b"#!/bin/sh\n"
    assert found["usr/local/share/x"][1] == b"x"
    assert "usr/local/include/python3.13/demo/demo.h" in found
    assert f"{PACKAGES}/demo/_c.so" in found


def test_entry_points_become_scripts_that_run(tmp_path):
    files = {
        "demo.py": b"class A:\n    @staticmethod\n    def main():\n        return 3\n",
        "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\nDemo-X = demo:A.main\n[other]\na = b:c\n",
    }
    entry, content = install(write_wheel(tmp_path, files))["usr/local/bin/Demo-X"]
    assert entry.mode == 0o755
    assert content.startswith(b"#!/usr/bin/python3.13\n")
    sys.path.insert(0, str(tmp_path))
    (tmp_path / "demo.py").write_bytes(files["demo.py"])
    try:
        with pytest.raises(SystemExit) as ended:
            exec(compile(content, "Demo-X", "exec"), {"__name__": "__main__"})
        assert ended.value.code == 3
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("demo", None)


def test_executable_bits_stay_and_setuid_does_not(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/tool": b"x"}, modes={"demo/tool": 0o104755})
    assert install(wheel)[f"{PACKAGES}/demo/tool"][0].mode == 0o755


def test_record_lists_everything_with_its_digest(tmp_path):
    files = {
        "demo/__init__.py": b"x = 1\n",
        "demo/broken.py": b"def (:\n",
        "demo-1.0.data/scripts/run": b"#!python\n",
        "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\nd = demo:x\n",
    }
    found = install(write_wheel(tmp_path, files), Compiler())
    rows = dict(line.split(",", 1) for line in found[f"{PACKAGES}/demo-1.0.dist-info/RECORD"][1].decode().splitlines())
    for path, (entry, content) in found.items():
        if entry.kind == "file":
            inside = path.startswith(PACKAGES)
            name = path.removeprefix(f"{PACKAGES}/") if inside else f"../../../{path.removeprefix('usr/local/')}"
            expected = "," if path.endswith((".pyc", "RECORD")) else f"{digest(content)},{len(content)}"
            assert rows[name] == expected, path
    assert len(rows) == sum(entry.kind == "file" for entry, _ in found.values())
    assert f"{PACKAGES}/demo/__pycache__/__init__.cpython-313.pyc" in found
    assert f"{PACKAGES}/demo/__pycache__/broken.cpython-313.pyc" not in found
    assert found[f"{PACKAGES}/demo-1.0.dist-info/INSTALLER"][1] == b"uenv-builder\n"


def test_the_same_wheel_gives_the_same_entries(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/a.py": b"a = 1\n", "demo/b.py": b"b = (1, 'x')\n"})
    first, second = install(wheel, Compiler()), install(wheel, Compiler())
    assert [(path, content) for path, (_, content) in first.items()] == [
        (path, content) for path, (_, content) in second.items()
    ]


def test_byte_code_is_of_the_unchecked_kind():
    code = compile_sources.compile_source("/x.py", b"x = 1\n")
    assert code[4:8] == (1).to_bytes(4, "little")


@pytest.mark.parametrize(
    "member", ["../evil.py", "demo/../../evil.py", "/etc/passwd", "demo-1.0.data/data/../../../etc/x", "a\x00b"]
)
def test_members_that_climb_out(tmp_path, member):
    wheel = write_wheel(tmp_path, {"demo/ok.py": b""})
    with zipfile.ZipFile(wheel, "a") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename = member
        archive.writestr(info, b"x")
    if "\x00" in member:
        return  # zipfile itself cuts a name at a NUL when it reads
    with pytest.raises(BuildError) as caught:
        install(wheel)
    assert caught.value.diagnostics[0].rule == "unsafe-path"
    assert "demo-1.0" in str(caught.value)


@pytest.mark.parametrize(("mode", "rule"), [(0o120777, "wheel-file-type"), (0o020644, "wheel-file-type")])
def test_links_and_devices_are_refused(tmp_path, mode, rule):
    wheel = write_wheel(tmp_path, {"demo/x": b"/etc/passwd"}, modes={"demo/x": mode})
    with pytest.raises(BuildError) as caught:
        install(wheel)
    assert caught.value.diagnostics[0].rule == rule


def test_a_file_that_is_not_the_recorded_one(tmp_path):
    record = record_of({"demo/x.bin": b"good", **METADATA})
    wheel = write_wheel(tmp_path, {"demo/x.bin": b"evil"}, record=record)
    with pytest.raises(BuildError) as caught:
        install(wheel)
    assert caught.value.diagnostics[0].rule == "record-mismatch"


def test_a_file_that_is_longer_than_recorded(tmp_path):
    record = record_of({"demo/x.bin": b"good", **METADATA})
    wheel = write_wheel(tmp_path, {"demo/x.bin": b"good and more"}, record=record)
    with pytest.raises(BuildError, match=r"demo/x\.bin"):
        install(wheel)


def test_truncated(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/x.bin": bytes(range(256)) * 999})
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(BuildError) as caught:
        install(wheel)
    assert caught.value.diagnostics[0].rule == "wheel-damaged"


def test_a_flipped_byte(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/x.bin": bytes(range(256)) * 999})
    content = bytearray(wheel.read_bytes())
    content[200] ^= 0xFF
    wheel.write_bytes(content)
    with pytest.raises(BuildError):
        install(wheel)


def test_huge_claimed_sizes(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/x.bin": b"x"})
    content = wheel.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        offset = archive.start_dir
    at = content.index(b"PK\x01\x02", offset) + 24
    forged = content[:at] + (0xFFFFFFF0).to_bytes(4, "little") + content[at + 4 :]
    wheel.write_bytes(forged)
    with pytest.raises(BuildError):
        install(wheel)


@pytest.mark.parametrize(
    ("files", "name", "text"),
    [
        ({}, "other-1.0-py3-none-any.whl", "dist-info"),
        ({}, "demo-2.0-py3-none-any.whl", "dist-info"),
        ({}, "nonsense.whl", "name"),
        ({"demo-1.0.dist-info/WHEEL": b"Wheel-Version: 2.0\n"}, "demo-1.0-py3-none-any.whl", "wheel format 2.0"),
        ({"demo-1.0.data/strange/x": b""}, "demo-1.0-py3-none-any.whl", "scheme"),
        ({"demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\na = b\n"}, "demo-1.0-py3-none-any.whl", "entry"),
        ({"a.py": b"", "demo-1.0.data/purelib/a.py": b""}, "demo-1.0-py3-none-any.whl", "two of its files"),
    ],
)
def test_wheels_that_are_not_what_they_say(tmp_path, files, name, text):
    with pytest.raises(BuildError, match=text):
        install(write_wheel(tmp_path, files, name=name))


def test_dates_that_are_none_or_too_late(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/a.py": b"a = 1\n", "demo/b.py": b"b = 1\n"})
    content = bytearray(wheel.read_bytes())
    directory = content.index(b"PK\x01\x02")
    for stamp in (bytes(4), bytes(2) + ((127 << 9) | (5 << 5) | 5).to_bytes(2, "little")):
        at = content.index(b"PK\x01\x02", directory) + 12
        content[at : at + 4] = stamp
        directory = at
    wheel.write_bytes(content)
    found = install(wheel)
    assert found[f"{PACKAGES}/demo/a.py"][0].mtime == 315532800
    assert found[f"{PACKAGES}/demo/b.py"][0].mtime == 2**32 - 1


def test_large_programs_among_the_scripts_are_streamed(tmp_path):
    program = b"\x7fELF" + bytes(65 << 20)
    wheel = write_wheel(tmp_path, {"demo-1.0.data/scripts/tool": program})
    for entry in wheel_entries(wheel, TARGET, name=wheel.name):
        if entry.path == "usr/local/bin/tool":
            assert not isinstance(entry.content, io.BytesIO)
            assert (entry.mode, entry.content.read()) == (0o755, program)
            break
    else:
        pytest.fail("the script is missing")


def test_byte_code_that_a_wheel_brings_gives_way_to_ours(tmp_path):
    files = {"demo/a.py": b"a = 1\n", "demo/__pycache__/a.cpython-313.pyc": b"stale"}
    cache = f"{PACKAGES}/demo/__pycache__/a.cpython-313.pyc"
    wheel = write_wheel(tmp_path, files)
    assert install(wheel)[cache][1] == b"stale"
    assert install(wheel, Compiler())[cache][1] != b"stale"


def test_an_entry_point_wins_over_a_script_of_its_name(tmp_path):
    files = {
        "demo-1.0.data/scripts/run": b"#!python\nold\n",
        "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\nrun = demo:x\n",
    }
    assert b"from demo import x" in install(write_wheel(tmp_path, files))["usr/local/bin/run"][1]


def test_what_an_installer_writes_is_not_taken_from_the_wheel(tmp_path):
    names = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "RECORD.p7s")
    wheel = write_wheel(tmp_path, {f"demo-1.0.dist-info/{name}": b"theirs" for name in names})
    found = {path.rpartition("/")[2]: content for path, (_, content) in install(wheel).items() if ".dist-info/" in path}
    assert set(found) == {"METADATA", "WHEEL", "INSTALLER", "RECORD"}
    assert found["INSTALLER"] == b"uenv-builder\n"


def test_metadata_of_another_package(tmp_path):
    metadata = {"demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: other\nVersion: 1.0\n"}
    with pytest.raises(BuildError, match="METADATA is that of other"):
        install(write_wheel(tmp_path, metadata))


@pytest.mark.parametrize("row", ["sha512={sha512},4", "sha256={sha256},", "sha384={sha384},4"])
@pytest.mark.parametrize("content", [b"good", b"evil"])
def test_rows_with_other_hashes_or_without_a_size_hold_too(tmp_path, row, content):
    values = {
        kind: base64.urlsafe_b64encode(hashlib.new(kind, b"good").digest()).rstrip(b"=").decode()
        for kind in ("sha256", "sha384", "sha512")
    }
    wheel = write_wheel(tmp_path, {"demo/x.bin": content}, record=f"demo/x.bin,{row.format(**values)}\n".encode())
    if content == b"evil":
        with pytest.raises(BuildError) as caught:
            install(wheel)
        assert caught.value.diagnostics[0].rule == "record-mismatch"
    else:
        found = install(wheel)
        rows = found[f"{PACKAGES}/demo-1.0.dist-info/RECORD"][1].decode().splitlines()
        assert f"demo/x.bin,{digest(content)},4" in rows


def test_files_that_record_does_not_list_are_installed_and_listed(tmp_path):
    wheel = write_wheel(tmp_path, {"demo/x.bin": b"more"}, record=b"demo-1.0.dist-info/RECORD,,\n")
    found = install(wheel)
    assert found[f"{PACKAGES}/demo/x.bin"][1] == b"more"
    assert f"demo/x.bin,{digest(b'more')},4" in found[f"{PACKAGES}/demo-1.0.dist-info/RECORD"][1].decode()


def test_a_file_where_a_folder_is(tmp_path):
    with pytest.raises(BuildError, match="below that"):
        install(write_wheel(tmp_path, {"demo/a": b"1", "demo/a/b": b"2"}))


@pytest.mark.parametrize(
    "text", ["x = demo:f()", "x = demo;import os:f", "x = demo:a..b", "x = 1demo:f", "../x = demo:f"]
)
def test_entry_points_that_are_no_plain_references(tmp_path, text):
    listed = {"demo-1.0.dist-info/entry_points.txt": f"[console_scripts]\n{text}\n".encode()}
    with pytest.raises(BuildError) as caught:
        install(write_wheel(tmp_path, listed))
    assert caught.value.diagnostics[0].rule == "wheel-entry-points"


def test_members_are_inflated_by_isal(tmp_path):
    wheel = tmp_path / "a.zip"
    content = bytes(range(256)) * 4000
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("deflated", content, zipfile.ZIP_DEFLATED)
        archive.writestr("stored", content, zipfile.ZIP_STORED)
    with zipfile.ZipFile(wheel) as archive:
        for name in ("deflated", "stored"):
            with open_member(archive, archive.getinfo(name)) as member:
                assert isinstance(member, zipfile.ZipExtFile) == (name == "stored")
                assert member.read(0) == b""
                assert member.read(1000) + member.read() == content
                assert member.read() == b""
