"""The static ELF and wheel checks on trees of real libraries, compiled here, with the dynamic loader as the judge."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from uenv_builder.checks.elf import ElfChecks
from uenv_builder.checks.elf_file import read_elf
from uenv_builder.checks.image_tree import ImageTree
from uenv_builder.checks.loader import Loader, configured_folders, read_loader_cache
from uenv_builder.checks.static import StaticRequest
from uenv_builder.checks.wheels import check_records

MACHINE = platform.machine()
MULTIARCH = f"{MACHINE}-linux-gnu"
OTHER = "aarch64" if MACHINE == "x86_64" else "x86_64"

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def compile_library(path: Path, *options: str, soname: str | None = None) -> Path:
    """A shared library without libc, so that only what the test names is needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = [f"-Wl,-soname,{soname or path.name}"]
    command = [
        "gcc",
        "-shared",
        "-nostdlib",
        "-fPIC",
        "-x",
        "c",
        "/dev/null",
        "-o",
        str(path),
        *name,
        "-Wl,--no-as-needed",
    ]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return path


def against(library: Path) -> list[str]:
    return ["-x", "none", str(library)]


def rpath(folder: str) -> list[str]:
    return ["-Wl,--disable-new-dtags", f"-Wl,-rpath,{folder}"]


def runpath(folder: str) -> list[str]:
    return ["-Wl,--enable-new-dtags", f"-Wl,-rpath,{folder}"]


def checks(root: Path, **options: object) -> ElfChecks:
    return ElfChecks(ImageTree(str(root)), MACHINE, MULTIARCH, **options)  # type: ignore[arg-type]


def header(machine: int, kind: int = 3) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + kind.to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(100)


@needs_gcc
def test_reads_what_readelf_reads(tmp_path: Path) -> None:
    base = compile_library(tmp_path / "libbase.so.3")
    library = compile_library(tmp_path / "liba.so.1", *against(base), *runpath("$ORIGIN/x:/y"))
    elf = read_elf(str(library))
    assert elf is not None
    assert (elf.machine_name, elf.kind, elf.dynamic) == (MACHINE, 3, True)
    assert (elf.needed, elf.soname, elf.rpath, elf.runpath) == (
        ("libbase.so.3",),
        "liba.so.1",
        None,
        ("$ORIGIN/x", "/y"),
    )
    old = read_elf(str(compile_library(tmp_path / "libb.so", *rpath("/old"))))
    assert old is not None
    assert (old.rpath, old.runpath) == (("/old",), None)


def test_reads_the_programs_of_this_machine() -> None:
    elf = read_elf(os.path.realpath("/bin/sh"))
    assert elf is not None
    assert "libc.so.6" in elf.needed


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, header(62)[:60]])
def test_other_files_and_torn_ones_are_no_elf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    assert read_elf(str(tmp_path / "f")) is None


def test_wrong_machine_is_found_and_gpu_code_is_not_counted(tmp_path: Path) -> None:
    for name, content in {
        "usr/lib/right.so": header({"x86_64": 62, "aarch64": 183}[MACHINE]),
        "usr/lib/wrong.so": header({"x86_64": 62, "aarch64": 183}[OTHER]),
        "usr/lib/kernel.cubin": header(190, 2),
        "usr/lib/filter.o": header(247, 1),
        "usr/lib/firmware/chip.elf": header(40),
        "usr/share/tests/sample": header(3),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    result = checks(tmp_path).check_machine(["/usr/share/tests/*"])
    assert result.outcome == "failed"
    assert result.details == (f"/usr/lib/wrong.so: program or library for {OTHER}",)
    assert result.measured == {"elf_files": 6, "not_for_the_processor": 4}
    assert len(checks(tmp_path).check_machine().details) == 2
    (tmp_path / "usr/lib/wrong.so").unlink()
    assert checks(tmp_path).check_machine(["/usr/share/tests/*"]).outcome == "passed"


@needs_gcc
def test_missing_library_names_who_needs_it(tmp_path: Path) -> None:
    gone = compile_library(tmp_path / "build/libgone.so.1")
    for number in range(5):
        compile_library(tmp_path / f"root/usr/lib/lib{number}.so", *against(gone))
    result = checks(tmp_path / "root").check_needed()
    assert result.outcome == "failed"
    assert result.reason == "1 shared libraries are needed and not found"
    assert result.details == (
        "libgone.so.1: needed by /usr/lib/lib0.so, /usr/lib/lib1.so, /usr/lib/lib2.so and 2 more",
    )


@needs_gcc
def test_ignored_programs_start_nothing_but_count_where_others_load_them(tmp_path: Path) -> None:
    gone = compile_library(tmp_path / "build/libgone.so.1")
    plugin = compile_library(tmp_path / "root/usr/lib/libplugin.so", *against(gone))
    assert checks(tmp_path / "root").check_needed(["/usr/lib/libplug*"]).outcome == "passed"
    compile_library(tmp_path / "root/usr/lib/libuser.so", *against(plugin), "-Wl,--allow-shlib-undefined")
    assert checks(tmp_path / "root").check_needed(["/usr/lib/libplug*"]).outcome == "failed"


@needs_gcc
def test_libraries_from_outside_are_named_with_their_reason(tmp_path: Path) -> None:
    driver = compile_library(tmp_path / "build/libcuda.so.1")
    compile_library(tmp_path / "root/usr/lib/liba.so", *against(driver))
    result = checks(tmp_path / "root", outside={"libcuda.so.*": "comes from the driver"}).check_needed()
    assert result.outcome == "passed"
    assert result.details == ("libcuda.so.1: comes from the driver (needed by /usr/lib/liba.so)",)
    assert checks(tmp_path / "root", outside={"libcudart*": "x"}).check_needed().outcome == "failed"


@needs_gcc
@pytest.mark.parametrize(
    ("folder", "options", "outcome"),
    [
        ("opt/app/deps", rpath("$ORIGIN/../deps"), "passed"),
        ("opt/app/deps", runpath("${ORIGIN}/../deps"), "passed"),
        ("opt/app/deps", runpath("/opt/app/deps"), "passed"),
        ("opt/app/deps", runpath("/opt/other"), "failed"),
        ("opt/app/deps", runpath("deps"), "failed"),
        ("opt/app/deps", [], "failed"),
        (f"usr/lib/{MULTIARCH}", [], "passed"),
        (f"opt/lib/{MULTIARCH}", runpath("/opt/$LIB"), "passed"),
    ],
)
def test_search_path_of_the_object_itself(tmp_path: Path, folder: str, options: list[str], outcome: str) -> None:
    root = tmp_path / "root"
    dep = compile_library(root / folder / "libdep.so.1")
    compile_library(root / "opt/app/lib/libapp.so", *against(dep), *options)
    result = checks(root).check_needed()
    assert result.outcome == outcome
    if outcome == "failed":
        assert f"the image has /{folder}/libdep.so.1, which is not in their search path" in result.details[0]


@needs_gcc
@pytest.mark.parametrize(("tag", "outcome"), [(rpath, "passed"), (runpath, "failed")])
def test_rpath_reaches_what_is_loaded_below_and_runpath_does_not(tmp_path: Path, tag, outcome: str) -> None:
    """The loader itself is asked too: a program that is built the same way starts, or does not."""
    root = tmp_path / "root"
    deep = compile_library(root / "deps/libdeep.so.1")
    middle = compile_library(root / "deps/libmiddle.so.1", *against(deep))
    program = root / "bin/program"
    program.parent.mkdir()
    libraries = [*against(middle), "-Wl,--allow-shlib-undefined", f"-Wl,-rpath-link,{root}/deps"]
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 0; }")
    command = ["gcc", str(source), "-o", str(program), "-Wl,--no-as-needed", *libraries, *tag("$ORIGIN/../deps")]
    subprocess.run(command, check=True, capture_output=True)
    starts = subprocess.run([program], capture_output=True, check=False).returncode == 0
    assert starts == (outcome == "passed")
    result = checks(root, outside={"libc.so.6": "of the machine"}).check_needed()
    # What nothing loads by itself, the middle library, can be loaded only through the program.
    assert result.outcome == outcome
    if outcome == "passed":
        assert "libdeep.so.1, needed by /bin/../deps/libmiddle.so.1: found via /bin/program" in result.details


@needs_gcc
def test_a_library_that_was_loaded_before_counts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shared = compile_library(root / "deps/libshared.so.1")
    user = compile_library(root / "deps/libuser.so.1", *against(shared))
    compile_library(root / "bin/first.so", *against(shared), *against(user), *runpath("/deps"))
    result = checks(root).check_needed()
    assert result.outcome == "passed"
    assert result.details == ("libshared.so.1, needed by /deps/libuser.so.1: found via /bin/first.so",)


@needs_gcc
def test_libraries_of_other_machines_do_not_resolve(tmp_path: Path) -> None:
    dep = compile_library(tmp_path / "build/libdep.so.1")
    compile_library(tmp_path / "root/usr/lib/liba.so", *against(dep))
    (tmp_path / "root/usr/lib/libdep.so.1").write_bytes(header(40))
    assert checks(tmp_path / "root").check_needed().outcome == "failed"


@needs_gcc
def test_libraries_that_need_each_other_are_checked(tmp_path: Path) -> None:
    gone = compile_library(tmp_path / "build/libgone.so")
    first = compile_library(tmp_path / "root/usr/lib/libfirst.so")
    second = compile_library(tmp_path / "root/usr/lib/libsecond.so", *against(first))
    compile_library(first, *against(second), *against(gone))
    result = checks(tmp_path / "root").check_needed()
    assert result.details == ("libgone.so: needed by /usr/lib/libfirst.so",)


@needs_gcc
def test_library_path_of_the_image_counts(tmp_path: Path) -> None:
    dep = compile_library(tmp_path / "opt/x/libdep.so.1")
    compile_library(tmp_path / "usr/lib/liba.so", *against(dep))
    assert checks(tmp_path).check_needed().outcome == "failed"
    assert checks(tmp_path, library_path=["/opt/x"]).check_needed().outcome == "passed"


@needs_gcc
def test_loader_cache_and_the_files_that_ldconfig_reads(tmp_path: Path) -> None:
    root = tmp_path / "root"
    dep = compile_library(root / "opt/cached/libdep.so.1")
    compile_library(root / "usr/lib/liba.so", *against(dep))
    conf = root / "etc/ld.so.conf.d/extra.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("# a comment\n/opt/cached\n")
    (root / "etc/ld.so.conf").write_text("include ld.so.conf.d/*.conf\n")
    assert configured_folders(ImageTree(str(root))) == ["/opt/cached"]
    assert checks(root).check_needed().outcome == "passed"
    conf.write_text("")
    assert checks(root).check_needed().outcome == "failed"
    conf.write_text("/opt/cached\n")
    (root / "usr/lib").rename(root / "usr/lib.away")
    subprocess.run(["/sbin/ldconfig", "-X", "-r", str(root)], check=True, capture_output=True)
    (root / "usr/lib.away").rename(root / "usr/lib")
    conf.write_text("")
    assert read_loader_cache(ImageTree(str(root))) == {"libdep.so.1": ["/opt/cached/libdep.so.1"]}
    assert checks(root).check_needed().outcome == "passed"


def test_this_machines_programs_resolve_as_ldd_says() -> None:
    loader = Loader(ImageTree(""), MACHINE, MULTIARCH)
    path = shutil.which("bash")
    assert path
    assert loader.load(path) == []
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    expected = {os.path.realpath(line.split("=> ")[1].split()[0]) for line in listed.splitlines() if "=> /" in line}
    assert expected <= loader.seen


def test_absolute_links_stay_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/real").touch()
    (tmp_path / "lib").symlink_to("/usr/lib")
    (tmp_path / "up").symlink_to("../../../../usr/lib/real")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "out").symlink_to("/etc/passwd")
    tree = ImageTree(str(tmp_path))
    assert tree.resolve("/lib/real") == "/usr/lib/real"
    assert tree.resolve("/lib/../lib/./real") == "/usr/lib/real"
    assert tree.resolve("/up") == "/usr/lib/real"
    assert tree.resolve("/loop") is None
    assert tree.resolve("/out") is None
    assert tree.resolve("/usr/lib/real/below") is None


def install_nccl(site: Path, version: str = "2.30.7", owner: str = "nvidia_nccl_cu13") -> None:
    library = site / "nvidia/nccl/lib/libnccl.so.2"
    compile_library(library)
    info = site / f"{owner}-{version}.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("nvidia/nccl/lib/libnccl.so.2,sha256=x,1\n")


@needs_gcc
def test_nccl_is_one_and_the_pinned_wheels(tmp_path: Path) -> None:
    site = tmp_path / "usr/lib/python3/site-packages"
    install_nccl(site)
    (tmp_path / "usr/lib/libnccl.so.2").symlink_to("python3/site-packages/nvidia/nccl/lib/libnccl.so.2")
    assert checks(tmp_path).check_nccl("2.30.7").outcome == "passed"
    assert checks(tmp_path).check_nccl(None).outcome == "skipped"
    other = checks(tmp_path).check_nccl("2.29.7")
    assert (other.outcome, other.reason) == ("failed", "the image has NCCL 2.30.7, the lock pins 2.29.7")
    compile_library(tmp_path / "opt/libnccl.so.2.19.3", soname="libnccl.so.2")
    double = checks(tmp_path).check_nccl("2.30.7")
    assert double.outcome == "failed"
    assert double.details == ("/opt/libnccl.so.2.19.3", "/usr/lib/python3/site-packages/nvidia/nccl/lib/libnccl.so.2")


@needs_gcc
def test_nccl_of_another_origin_fails(tmp_path: Path) -> None:
    assert checks(tmp_path).check_nccl("2.30.7").reason == "there is no libnccl.so.2 in the image"
    install_nccl(tmp_path / "site", owner="somebodys_nccl")
    assert "does not belong to a wheel nvidia-nccl-cu*" in checks(tmp_path).check_nccl("2.30.7").reason


@needs_gcc
def test_cudart_link(tmp_path: Path) -> None:
    library = compile_library(tmp_path / "site/nvidia/lib/libcudart.so.13")
    assert checks(tmp_path).check_cudart(None).outcome == "skipped"
    assert "does not lead to a file" in checks(tmp_path).check_cudart("13.0").reason
    link = tmp_path / "usr/local/cuda/lib64/libcudart.so"
    link.parent.mkdir(parents=True)
    link.symlink_to("/site/nvidia/lib/libcudart.so.13")
    passed = checks(tmp_path).check_cudart("13.0")
    assert (passed.outcome, passed.measured) == ("passed", {"path": "/site/nvidia/lib/libcudart.so.13"})
    assert checks(tmp_path).check_cudart("12.9").outcome == "failed"
    library.write_text("GROUP ( libcudart.so.13 )")
    assert "which is no library" in checks(tmp_path).check_cudart("13.0").reason


def install_wheel(site: Path) -> Path:
    (site / "pkg").mkdir(parents=True)
    (site / "pkg/__init__.py").write_text("x = 1\n")
    (site / "pkg/with, comma.txt").write_text("")
    (site.parent / "bin").mkdir()
    (site.parent / "bin/tool").write_text("#!/bin/sh\n")
    info = site / "pkg-1.0.dist-info"
    info.mkdir()
    lines = ["pkg/__pycache__/__init__.cpython-313.pyc,,", "pkg-1.0.dist-info/RECORD,,"]
    for name in ("pkg/__init__.py", "pkg/with, comma.txt", "../bin/tool"):
        content = (site / name).read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        shown = f'"{name}"' if "," in name else name
        lines.append(f"{shown},sha256={digest},{len(content)}")
    (info / "RECORD").write_text("\r\n".join(lines) + "\r\n")
    return site


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("pkg/__init__.py", "x = 2\n", "/site/pkg/__init__.py: has sha256 "),
        ("pkg/__init__.py", "x = 10\n", "/site/pkg/__init__.py: has 7 bytes, RECORD says 6"),
        ("pkg/with, comma.txt", None, "/site/pkg/with, comma.txt: is missing"),
        ("../bin/tool", None, "/bin/tool: is missing"),
    ],
)
def test_record_finds_every_difference(tmp_path: Path, name: str, content: str | None, problem: str) -> None:
    site = install_wheel(tmp_path / "site")
    passed = check_records(ImageTree(str(tmp_path)))
    assert (passed.outcome, passed.measured["wheels"], passed.measured["files"]) == ("passed", 1, 5)
    if content is None:
        (site / name).unlink()
    else:
        (site / name).write_text(content)
    failed = check_records(ImageTree(str(tmp_path)))
    assert failed.outcome == "failed"
    assert len(failed.details) == 1
    assert failed.details[0].startswith(problem)


def test_a_record_that_a_wheel_carries_for_a_vendored_package_is_only_a_file(tmp_path: Path) -> None:
    site = install_wheel(tmp_path / "site")
    vendored = site / "pkg/_vendor/inner-2.0.dist-info/RECORD"
    vendored.parent.mkdir(parents=True)
    vendored.write_text("../../bin/inner,sha256=AAAA,1\n")
    assert check_records(ImageTree(str(tmp_path))).outcome == "failed"
    digest = base64.urlsafe_b64encode(hashlib.sha256(vendored.read_bytes()).digest()).rstrip(b"=").decode()
    with (site / "pkg-1.0.dist-info/RECORD").open("a") as record:
        record.write(f"pkg/_vendor/inner-2.0.dist-info/RECORD,sha256={digest},{vendored.stat().st_size}\n")
    result = check_records(ImageTree(str(tmp_path)))
    assert (result.outcome, result.measured["wheels"]) == ("passed", 1)
    vendored.write_text("")
    assert check_records(ImageTree(str(tmp_path))).outcome == "failed"


def test_weak_digests_do_not_count_and_no_wheels_is_no_pass(tmp_path: Path) -> None:
    assert check_records(ImageTree(str(tmp_path))).outcome == "skipped"
    record = install_wheel(tmp_path / "site") / "pkg-1.0.dist-info/RECORD"
    record.write_text("pkg/__init__.py,md5=abc,6\n")
    assert "proves nothing" in check_records(ImageTree(str(tmp_path))).details[0]


@needs_gcc
def test_the_process_that_reads_an_image_answers_in_the_order_asked(tmp_path: Path) -> None:
    gone = compile_library(tmp_path / "build/libgone.so")
    compile_library(tmp_path / "root/usr/lib/liba.so", *against(gone))
    wanted = {
        "elf-needed": {},
        "elf-machine": {"ignore": ["/x"]},
        "nccl-unique": {},
        "wheel-record": {},
        "cudart-link": {},
    }
    request = StaticRequest(machine=MACHINE, multiarch=MULTIARCH, outside={"libx": "y"}, wanted=wanted)
    command = [sys.executable, "-m", "uenv_builder.checks.static_child", str(tmp_path / "root")]
    done = subprocess.run(command, input=json.dumps(asdict(request)), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    results = json.loads(done.stdout)
    assert [(result["check"], result["outcome"]) for result in results] == [
        ("elf-needed", "failed"), ("elf-machine", "passed"), ("nccl-unique", "skipped"), ("wheel-record", "skipped"),
        ("cudart-link", "skipped"),
    ]  # fmt: skip
