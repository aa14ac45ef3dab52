"""Starts recorded in real images, images laid out by them, and what is read ahead."""

import hashlib
import io
import json
import mmap
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uenv_builder.app.reading_ahead import read_ahead
from uenv_builder.images.squashfs.from_layers import write_squashfs
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.start_part import read_extents
from uenv_builder.images.squashfs.start_reads import start_files
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import UsageError
from uenv_builder.model.image import SquashfsOptions
from uenv_builder.model.start import StartFile
from uenv_builder.sandboxes import Command
from uenv_builder.sandboxes.bwrap import BwrapSandbox
from uenv_builder.sandboxes.trial import EXIT_CODE, PROGRAM, trial_image
from uenv_builder.system.events import Silent
from uenv_builder.system.layer_blob import write_layer
from uenv_builder.system.page_cache import cached_bytes, cached_pages, drop_cached

NATIVE = platform.machine()
FOREIGN = "aarch64" if NATIVE == "x86_64" else "x86_64"
BLOCK = 64 << 10
EPOCH = 1_700_000_000


def noise(name, size):
    return hashlib.shake_256(name.encode()).digest(size)


def need_recording(machine=NATIVE):
    problems = BwrapSandbox().problems(machine)
    if problems:
        pytest.skip("; ".join(f"{problem.reason} ({problem.remedy})" for problem in problems))
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse cannot be used: recording needs it")


def entries():
    for path in ("bin", "data", "etc", "tmp", "root"):
        yield Entry(path=path, kind="dir", mode=0o755, mtime=EPOCH)
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    contents = {"bin/busybox": busybox, "data/big": noise("big", 64 * BLOCK + 9)}
    contents |= {f"data/small{number:02}": b"%d" % number * 700 for number in range(40)}
    contents |= {"data/unread": noise("unread", 3 * BLOCK), "data/zeros": bytes(5 * BLOCK), "data/empty": b""}
    for path, content in contents.items():
        yield Entry(path=path, kind="file", mode=0o755, mtime=EPOCH, size=len(content), content=io.BytesIO(content))
    for name in ("sh", "cat", "dd"):
        yield Entry(path=f"bin/{name}", kind="symlink", mode=0o777, mtime=EPOCH, target="busybox")


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    if not shutil.which("busybox"):
        pytest.skip("needs busybox-static")
    folder = tmp_path_factory.mktemp("layer")
    return write_layer(entries(), folder, block_size=BLOCK)


def link(layer, out, start=()):
    write_squashfs([layer], out, SquashfsOptions(block_size=BLOCK), epoch=EPOCH, listener=Silent(), start=start)
    return out


def shell(script):
    return Command(argv=("/bin/sh", "-c", script), env={"PATH": "/bin"}, interactive=True)


def recorded(image, script):
    recording = BwrapSandbox().record(image, shell(script))
    assert recording.returncode == 0
    assert recording.seconds > 0
    with open_squashfs(image) as opened:
        reads = [(read.start, read.length) for read in recording.reads]
        return start_files(opened, reads, set(recording.files))


SCRIPT = (
    "cat data/small31 data/zeros data/empty && dd if=data/big of=/dev/null bs=1 skip=3000000 count=1 && "
    "cat data/small02"
)
READ = ["bin/busybox", "data/small31", "data/big", "data/small02", "data/zeros"]


def test_a_recording_has_exactly_the_files_that_are_read_and_is_the_same_from_the_image_made_of_it(
    layer, tmp_path, capfd
):
    need_recording()
    files = recorded(link(layer, tmp_path / "plain"), f"({SCRIPT}) >/dev/null 2>&1")
    found = {file.path: file.parts for file in files}
    assert sorted(found) == sorted(READ)
    assert files[0].path == "bin/busybox"
    assert list(found).index("data/small31") < list(found).index("data/big")
    (start, end), tail = found["data/big"]
    assert tail == (64 * BLOCK, 64 * BLOCK + 9)  # its fragment is that of the small files
    assert start <= 3_000_000 < end
    assert (end - start) < 40 * BLOCK
    ordered = link(layer, tmp_path / "ordered", files)
    again = recorded(ordered, f"({SCRIPT}) >/dev/null 2>&1")
    assert {file.path for file in again} == set(READ)
    with open_squashfs(ordered) as image:
        contents = image.root.children[b"bin"].children[b"busybox"].content
        assert contents.start == 0
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(tmp_path) not in mounts


def test_code_of_another_machine_is_recorded_too(tmp_path):
    need_recording(FOREIGN)
    image = tmp_path / "image"
    image.write_bytes(trial_image(FOREIGN))
    recording = BwrapSandbox(machine=FOREIGN).record(image, Command(argv=(PROGRAM,), env={}, interactive=True))
    assert recording.returncode == EXIT_CODE
    assert recording.files == [PROGRAM.lstrip("/")]


def a_build(layer, folder, start=()):
    folder.mkdir()
    link(layer, folder / "image.squashfs", start)
    config = {"env": {"PATH": "/bin"}, "workdir": "/", "cmd": ["/bin/sh"]}
    (folder / "manifest.json").write_text(
        json.dumps({"format": 1, "label": "demo/1", "uarch": NATIVE, "config": config})
    )
    return folder


def test_profile_start_writes_a_record_that_a_linker_takes(uenv, layer):
    need_recording()
    a_build(layer, uenv.folder / "b")
    outcome = uenv.ok("exec", "--profile-start", "out.start.txt", "b", "--", "cat", "/data/small07")
    assert outcome.stdout == "7" * 700
    text = (uenv.folder / "out.start.txt").read_text()
    assert text.startswith("uenv-start 1\n# demo/1: cat /data/small07\n# 2 files, ")
    assert text.endswith("\nbin/busybox\ndata/small07\n")
    assert "2 files, " in outcome.stderr
    assert " s while recording" in outcome.stderr


def test_a_command_that_fails_records_nothing(uenv, layer):
    need_recording()
    a_build(layer, uenv.folder / "b")
    (uenv.folder / "out").write_text("as it was")
    outcome = uenv.run("exec", "--profile-start", "out", "b", "--", "sh", "-c", "exit 3")
    assert outcome.code == 3
    assert "nothing is recorded" in outcome.stderr
    assert (uenv.folder / "out").read_text() == "as it was"


def test_a_recording_that_is_killed_leaves_nothing(uenv, layer):
    need_recording()
    folder = a_build(layer, uenv.folder / "b")
    command = uenv.command("exec", "--profile-start", "out", "b", "--", "sh", "-c", "echo ready; read line")
    process = subprocess.Popen(
        command, cwd=uenv.folder, env=uenv.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while (left := left_of(str(folder))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert not (uenv.folder / "out").exists()


def left_of(mark):
    """Processes with `mark` in their arguments, and loop devices whose file has it in its path."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        found += [process.name] if mark.encode() in command else []
    loops = Path("/sys/block").glob("loop*/loop/backing_file")
    return found + [str(loop) for loop in loops if loop.exists() and mark in loop.read_text()]


# Reading ahead


def on_disk(folder):
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout.strip()
    if kind == "tmpfs":
        pytest.skip("the temporary folder lies in memory, where nothing can be read ahead")


def test_reading_ahead_puts_what_is_recorded_into_memory_and_little_else(layer, tmp_path):
    on_disk(tmp_path)
    start = [StartFile("bin/busybox"), StartFile("data/big", ((0, BLOCK), (40 * BLOCK, 41 * BLOCK)))]
    image = link(layer, tmp_path / "image", start)
    assert drop_cached(image) == cached_bytes(image) == 0
    extents = read_extents(image)
    document = read_ahead(image)
    assert document["bytes"] == sum(length for _, length in extents) > 0
    with image.open("rb") as file:
        pages = cached_pages(file.fileno(), image.stat().st_size)
    for first, length in extents:
        covered = pages[first // mmap.PAGESIZE : -(-(first + length) // mmap.PAGESIZE)]
        assert set(covered) == {1}
    assert 0 in pages  # the file's other blocks


def test_exec_reads_ahead_by_itself(uenv, layer):
    on_disk(uenv.folder)
    need_recording()
    folder = a_build(layer, uenv.folder / "b", [StartFile("data/unread"), StartFile("data/big")])
    image = folder / "image.squashfs"
    extents = read_extents(image)
    drop_cached(image)
    uenv.ok("exec", "b", "--", "sh", "-c", "sleep 0.3 2>/dev/null; exit 0")
    assert cached_bytes(image) >= 64 * BLOCK
    assert extents[1][1] > 64 * BLOCK
    drop_cached(image)
    uenv.ok("exec", "--no-read-ahead", "b", "--", "sh", "-c", "sleep 0.3 2>/dev/null; exit 0")
    assert cached_bytes(image) < 64 * BLOCK


def test_read_ahead_as_users_run_it(uenv, layer):
    a_build(layer, uenv.folder / "b", [StartFile("data/unread")])
    a_build(layer, uenv.folder / "plain")
    document = uenv.ok("read-ahead", "b", "--json").document
    assert document["recorded"]
    assert document["bytes"] > 3 * BLOCK
    outcome = uenv.ok("read-ahead", "plain/image.squashfs")
    assert "no recorded start" in outcome.stdout
    with pytest.raises(UsageError, match="there is no such image"):
        read_ahead(uenv.folder / "nowhere")


def test_reading_ahead_needs_nothing_but_python(layer, tmp_path):
    image = link(layer, tmp_path / "image", [StartFile("data/unread")])
    program = f"""
import pathlib, sys
from uenv_builder.app.reading_ahead import read_ahead
print(read_ahead(pathlib.Path({str(image)!r}))["bytes"])
for name in ("yaml", "pydantic", "zstandard"):
    assert name not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3 * BLOCK
