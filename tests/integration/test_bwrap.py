"""Commands inside real squashfs images, of this machine's kind and of aarch64, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from uenv_builder.model.errors import BuildError
from uenv_builder.sandboxes import SANDBOXES, Bind, Command, OpenImage
from uenv_builder.sandboxes.bwrap import BwrapSandbox
from uenv_builder.sandboxes.emulation import binfmt_rule, find_emulation, find_static_qemu
from uenv_builder.sandboxes.gpu_driver import add_driver_folder, driver_arguments, find_driver
from uenv_builder.sandboxes.trial import EXIT_CODE, PROGRAM, trial_image, trial_program

NATIVE = platform.machine()
FOREIGN = "aarch64" if NATIVE == "x86_64" else "x86_64"


def skip_unless_runnable(machine: str) -> None:
    problems = BwrapSandbox().problems(machine)
    if problems:
        pytest.skip("; ".join(f"{problem.reason} ({problem.remedy})" for problem in problems))


def make_image(tree: Path, image: Path) -> Path:
    command = ["mksquashfs", str(tree), str(image), "-comp", "zstd", "-all-root", "-quiet", "-no-progress"]
    subprocess.run(command, check=True, capture_output=True)
    return image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox of this machine, with its commands as links."""
    skip_unless_runnable(NATIVE)
    busybox = shutil.which("busybox")
    if not busybox or not shutil.which("mksquashfs"):
        pytest.skip("needs busybox-static and squashfs-tools")
    folder = tmp_path_factory.mktemp("native")
    tree = folder / "tree"
    for name in ("bin", "etc", "tmp", "root", "srv"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin" / "busybox")
    for name in ("sh", "cat", "env", "ls", "sleep", "touch", "id", "mkdir", "true", "ifconfig", "wget"):
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "etc" / "kept").write_text("from the image\n")
    return make_image(tree, folder / "image.squashfs")


def shell(script: str, **options: object) -> Command:
    return Command(argv=("/bin/sh", "-c", script), env={"PATH": "/bin"}, **options)  # type: ignore[arg-type]


def processes_with(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in command and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def wait_until_gone(mark: str) -> list[int]:
    deadline = time.monotonic() + 20
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def loops() -> set[str]:
    """The backing files of all loop devices. One that is let go of while we look has none any more."""
    found = set()
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found.add(file.read_text().strip())
    return found


def test_exit_code_and_output_come_through(image: Path) -> None:
    completed = BwrapSandbox().run(image, shell("echo out; echo err >&2; exit 7"))
    assert (completed.returncode, completed.stdout, completed.stderr) == (7, "out\n", "err\n")


def test_a_command_killed_by_a_signal_is_not_a_success(image: Path) -> None:
    assert BwrapSandbox().run(image, shell("kill -SEGV $$")).returncode == 128 + signal.SIGSEGV


def test_missing_command_ends_with_127(image: Path) -> None:
    completed = BwrapSandbox().run(image, Command(argv=("no-such-program",), env={"PATH": "/bin"}))
    assert completed.returncode == 127
    assert "no-such-program" in completed.stderr


def test_environment_is_exactly_the_commands(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKED", "yes")
    env = {"PATH": "/bin", "A": "with 'quotes' and $dollar", "EMPTY": ""}
    completed = BwrapSandbox().run(image, Command(argv=("/bin/env",), env=env, workdir="/etc"))
    seen = dict(line.split("=", 1) for line in completed.stdout.splitlines())
    assert seen == {**env, "PWD": "/etc"}


def test_arguments_are_not_read_by_a_shell(image: Path) -> None:
    words = ("$(id)", "a b", "'", '"', "--", "-x", "")
    completed = BwrapSandbox().run(
        image, Command(argv=("/bin/sh", "-c", 'for w; do echo "[$w]"; done', "sh", *words), env={})
    )
    assert completed.stdout.splitlines() == [f"[{word}]" for word in words]


def test_standard_input_reaches_the_command(image: Path) -> None:
    completed = BwrapSandbox().run(image, Command(argv=("/bin/cat",), env={}, stdin="zeile\n"))
    assert completed.stdout == "zeile\n"


def test_what_a_command_writes_is_thrown_away(image: Path) -> None:
    before = image.read_bytes()
    first = BwrapSandbox().run(image, shell("echo changed >/etc/kept; echo new >/srv/new; cat /etc/kept /srv/new"))
    assert first.stdout == "changed\nnew\n"
    second = BwrapSandbox().run(image, shell("cat /etc/kept; ls /srv"))
    assert second.stdout == "from the image\n"
    assert image.read_bytes() == before


def test_binds_are_read_only_unless_asked(image: Path, tmp_path: Path) -> None:
    readable, writable = tmp_path / "readable", tmp_path / "writable"
    for folder in (readable, writable):
        folder.mkdir()
    binds = (Bind(readable, "/data/in"), Bind(writable, "/data/out", writable=True))
    completed = BwrapSandbox().run(
        image, shell("echo x >/data/out/made && ! touch /data/in/made 2>/dev/null", binds=binds)
    )
    assert completed.returncode == 0
    assert (writable / "made").read_text() == "x\n"
    assert not list(readable.iterdir())


def test_network_is_loopback_only(image: Path) -> None:
    completed = BwrapSandbox().run(image, shell("cat /proc/net/dev; ifconfig lo"))
    names = [line.split(":")[0].strip() for line in completed.stdout.splitlines() if ":" in line and "|" not in line]
    assert names[0] == "lo"
    assert not [name for name in names if name.startswith(("eth", "en", "wl", "docker"))]
    assert "UP LOOPBACK RUNNING" in completed.stdout


def test_network_when_asked_for(image: Path) -> None:
    completed = BwrapSandbox().run(image, shell("cat /proc/net/dev", network=True))
    outside = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    assert {line.split(":")[0].strip() for line in completed.stdout.splitlines()[2:]} == outside


def test_the_machine_is_not_visible(image: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    completed = BwrapSandbox().run(image, shell(f"ls / ; ls {tmp_path} 2>&1; ls /sys /mnt 2>&1"))
    assert "secret" not in completed.stdout
    assert {"bin", "dev", "proc", "tmp"} <= set(completed.stdout.split())


def test_the_processors_and_devices_can_be_looked_at_and_not_changed(image: Path) -> None:
    there = Path("/sys/devices/system/cpu/possible")
    if not there.is_file():
        pytest.skip("this machine shows no /sys")
    command = shell("cat /sys/devices/system/cpu/possible; touch /sys/devices/x 2>/dev/null && echo written; true")
    assert BwrapSandbox().run(image, command).stdout == there.read_text()


def test_capabilities_are_gone(image: Path) -> None:
    completed = BwrapSandbox().run(image, shell("cat /proc/self/status"))
    fields = dict(line.split(":\t") for line in completed.stdout.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == 0
    assert fields["Uid"].split()[0] == "0"


def test_timeout_ends_everything_inside_and_shows_the_last_lines(image: Path) -> None:
    mark = "31.4159"
    with pytest.raises(BuildError, match="did not end within 1 s") as raised:
        BwrapSandbox().run(image, shell(f"echo stuck here >&2; sleep {mark} & sleep {mark}", timeout=1))
    assert raised.value.diagnostics[0].rule == "timeout"
    assert "stuck here" in str(raised.value)
    assert not wait_until_gone(mark)


RUNNER = """
import sys
from pathlib import Path
from uenv_builder.sandboxes import SANDBOXES, Command
argv = ("/bin/sh", "-c", "sleep {mark} & sleep {mark}; true")
interactive = {interactive}
SANDBOXES["bwrap"]().run(Path(sys.argv[1]), Command(argv=argv, env={{"PATH": "/bin"}}, interactive=interactive))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("interactive", [False, True])
def test_whatever_ends_the_runner_ends_all_and_leaves_no_mount(
    image: Path, number: signal.Signals, interactive: bool
) -> None:
    if interactive and number == signal.SIGINT:
        pytest.skip("an interactive command decides itself what an interrupt means")
    mounts = Path("/proc/mounts").read_text()
    mark = f"{200 + number}.{int(interactive)}271828"
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(mark=mark, interactive=interactive), str(image)],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while len(processes_with(f"sleep\0{mark}")) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(processes_with(f"sleep\0{mark}")) == 2
        if os.geteuid() == 0:
            assert str(image) in loops()
        runner.send_signal(number)
        assert runner.wait(timeout=20) != 0
    finally:
        runner.kill()
        runner.wait()
    assert not wait_until_gone(mark)
    assert Path("/proc/mounts").read_text() == mounts
    deadline = time.monotonic() + 10
    while str(image) in loops() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert str(image) not in loops()


def test_nothing_stays_mounted_after_a_normal_end(image: Path) -> None:
    mounts = Path("/proc/mounts").read_text()
    BwrapSandbox().run(image, shell("true"))
    assert Path("/proc/mounts").read_text() == mounts


def test_an_interactive_command_uses_the_callers_streams(image: Path) -> None:
    script = RUNNER.replace("sleep {mark} & sleep {mark}; true", "cat; exit 3").replace(
        "SANDBOXES[", "done = SANDBOXES["
    )
    script = script.format(interactive=True) + "sys.exit(done.returncode)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(image)], input="typed", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "typed")


def test_a_broken_image_is_the_sandboxes_error_and_not_the_commands(tmp_path: Path) -> None:
    skip_unless_runnable(NATIVE)
    broken = tmp_path / "broken.squashfs"
    broken.write_bytes(b"hsqs" + bytes(8192))
    with pytest.raises(BuildError, match="cannot be mounted"):
        BwrapSandbox().run(broken, Command(argv=("/bin/true",), env={}))


def test_looking_into_an_image_with_a_program_of_this_machine(image: Path) -> None:
    script = (
        "import sys, pathlib; r = pathlib.Path(sys.argv[1]); print((r / 'etc/kept').read_text() + sys.stdin.read())"
    )
    opened = OpenImage(SANDBOXES["bwrap"](), image)
    done = opened.run_beside(lambda root: [sys.executable, "-c", script, str(root)], stdin="and asked\n")
    assert (done.returncode, done.stdout) == (0, "from the image\nand asked\n\n")
    done = opened.run_beside(lambda root: ["touch", str(root / "etc" / "made")])
    assert done.returncode != 0
    assert "Read-only" in done.stderr


def test_process_numbers_and_proc_belong_together(image: Path) -> None:
    """bwrap looks its child up in /proc; in the machine's own it would find another process, or by bad luck none."""
    done = BwrapSandbox().look(
        image, lambda _root: ["sh", "-c", 'read number rest </proc/self/stat; echo "$number" $$']
    )
    number, own = done.stdout.split()
    assert number == own


def test_an_open_image_runs_commands_with_read_only_binds(image: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("content")
    opened = OpenImage(BwrapSandbox(), image)
    done = opened.run_inside(["/bin/cat", "/run/given"], env={}, binds={"/run/given": tmp_path / "given"})
    assert done.stdout == "content"


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_trial_image_is_a_valid_squashfs(machine: str, tmp_path: Path) -> None:
    if not shutil.which("unsquashfs"):
        pytest.skip("needs squashfs-tools")
    file = tmp_path / "trial.squashfs"
    file.write_bytes(trial_image(machine))
    subprocess.run(["unsquashfs", "-q", "-n", "-d", str(tmp_path / "out"), str(file)], check=True, capture_output=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dev", "proc", "run", "tmp", "trial"]
    assert (tmp_path / "out" / "trial").read_bytes() == trial_program(machine)


def test_foreign_code_runs_under_qemu(tmp_path: Path) -> None:
    skip_unless_runnable(FOREIGN)
    rules = subprocess.run(["ls", "/proc/sys/fs/binfmt_misc"], capture_output=True, text=True, check=False).stdout
    image = tmp_path / "foreign.squashfs"
    image.write_bytes(trial_image(FOREIGN))
    completed = BwrapSandbox(machine=FOREIGN, qemu_cpu="max").run(image, Command(argv=(PROGRAM,), env={}))
    assert completed.returncode == EXIT_CODE
    after = subprocess.run(["ls", "/proc/sys/fs/binfmt_misc"], capture_output=True, text=True, check=False).stdout
    assert after == rules


def test_foreign_code_fails_without_emulation(tmp_path: Path) -> None:
    """What makes the test above mean something: without a rule the kernel refuses the program."""
    skip_unless_runnable(NATIVE)
    if os.path.exists("/proc/sys/fs/binfmt_misc/status"):  # noqa: PTH110
        pytest.skip("this machine may have a rule of its own")
    image = tmp_path / "foreign.squashfs"
    image.write_bytes(trial_image(FOREIGN))
    assert BwrapSandbox(machine=NATIVE).run(image, Command(argv=(PROGRAM,), env={})).returncode == 127


@pytest.mark.network
def test_debians_busybox_for_arm64(tmp_path: Path) -> None:
    """A real program of another machine, with children of its own, and the core that was asked for."""
    skip_unless_runnable("aarch64")
    deb = download_deb("busybox-static", "arm64", tmp_path)
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True)
    busybox = next(path for path in (tree / "usr/bin/busybox", tree / "bin/busybox") if path.exists())
    inside = f"/{busybox.relative_to(tree)}"
    image = make_image(tree, tmp_path / "arm64.squashfs")
    sandbox = BwrapSandbox(machine="aarch64", qemu_cpu="neoverse-n1")
    script = f"{inside} uname -m; {inside} env; ({inside} sh -c 'exit 9'); echo child $?"
    completed = sandbox.run(image, Command(argv=(inside, "sh", "-c", script), env={"A": "b"}))
    lines = completed.stdout.splitlines()
    assert lines[0] == "aarch64"
    assert {"A=b", "QEMU_CPU=neoverse-n1"} <= set(lines)
    assert lines[-1] == "child 9"


def download_deb(package: str, architecture: str, folder: Path) -> Path:
    """A package of this machine's own mirror for another architecture, without touching apt's own state."""
    state = folder / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").write_text("")
    options = [
        f"APT::Architecture={architecture}", f"APT::Architectures={architecture}", f"Dir::State::lists={state}/lists",
        f"Dir::State::status={state}/status", f"Dir::Cache={state}", "APT::Sandbox::User=",
    ]  # fmt: skip
    flags = [word for option in options for word in ("-o", option)]
    subprocess.run(["apt-get", *flags, "update"], check=True, capture_output=True)
    subprocess.run(["apt-get", *flags, "download", package], check=True, capture_output=True, cwd=folder)
    return next(folder.glob(f"{package}_*.deb"))


def test_existing_rule_with_flag_f_is_used(tmp_path: Path) -> None:
    header = trial_program("aarch64")[:20].hex()
    text = f"enabled\ninterpreter /opt/qemu\nflags: {{}}\noffset 0\nmagic {header}\nmask {'ff' * 20}\n"
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "qemu-arm").write_text(text.format("POCF"))
    found = find_emulation("aarch64", tmp_path)
    assert (found.interpreter, found.rule) == ("/opt/qemu", None)


@pytest.mark.parametrize("change", [("flags: POCF", "flags: OC"), ("enabled", "disabled"), ("b700", "f300")])
def test_unfit_rules_are_not_used(tmp_path: Path, change: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    header = trial_program("aarch64")[:20].hex()
    text = f"enabled\ninterpreter /opt/qemu\nflags: POCF\noffset 0\nmagic {header}\nmask {'ff' * 20}\n"
    (tmp_path / "qemu-arm").write_text(text.replace(*change))
    program = tmp_path / "bin" / "qemu-aarch64"
    program.parent.mkdir()
    program.write_bytes(trial_program("x86_64"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    found = find_emulation("aarch64", tmp_path)
    assert found.interpreter == str(program)
    assert found.rule == binfmt_rule("aarch64", str(program))


def test_a_dynamic_qemu_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy("/bin/sh", tmp_path / "qemu-aarch64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="static qemu-aarch64") as raised:
        find_static_qemu("aarch64")
    assert "apt-get install" in str(raised.value)


def test_problems_name_program_and_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    problems = BwrapSandbox().problems(NATIVE)
    bwrap = next(problem for problem in problems if problem.program == "bwrap")
    assert bwrap.remedy == "install it: apt-get install bubblewrap"


AS_USER = """
import json, os, sys
from pathlib import Path
from uenv_builder.sandboxes import SANDBOXES, Command
# After the imports: this Python may lie where other users may not read.
os.chdir("/"); os.setgroups([]); os.setgid(65534); os.setuid(65534)
sandbox = SANDBOXES["bwrap"]()
result = {"problems": [p.reason for p in sandbox.problems(sys.argv[2])]}
if not result["problems"]:
    image = Path(sys.argv[1])
    result["code"] = SANDBOXES["bwrap"](machine=sys.argv[2]).run(image, Command(argv=("/trial",), env={})).returncode
print(json.dumps(result))
"""


@pytest.mark.root
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_an_ordinary_user_runs_images_through_squashfuse(machine: str, tmp_path: Path) -> None:
    """As nobody, in a mount namespace where /dev/fuse is open to all as on a usual machine."""
    if os.geteuid() != 0 or not shutil.which("squashfuse"):
        pytest.skip("needs root, to become another user, and squashfuse")
    skip_unless_runnable(machine)
    image = tmp_path / "trial.squashfs"
    image.write_bytes(trial_image(machine))
    script = textwrap.dedent("""\
        set -e
        mount -t tmpfs -o mode=0755,dev tmpfs /srv
        mknod -m 666 /srv/fuse c 10 229
        mount --bind /srv/fuse /dev/fuse
        cp "$1" /srv/image; chmod 644 /srv/image
        exec "$2" -c "$3" /srv/image "$4"
    """)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    command += [str(image), sys.executable, AS_USER, machine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"problems": [], "code": EXIT_CODE}, done.stderr


def test_gpu_driver_is_found_by_device_and_loader_cache(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    assert find_driver(tmp_path, "") is None
    for name in ("nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    libraries = tmp_path / "usr/lib/aarch64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "libcuda.so.1").touch()
    listing = textwrap.dedent("""\
        3 libs found in cache `/etc/ld.so.cache'
        \tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1
        \tlibcuda.so.1 (libc6,AArch64) => /usr/lib/aarch64-linux-gnu/libcuda.so.1
        \tlibnvidia-ml.so.1 (libc6,AArch64) => /usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1
        \tlibc.so.6 (libc6,AArch64) => /usr/lib/aarch64-linux-gnu/libc.so.6
    """)
    driver = find_driver(tmp_path, listing)
    assert driver is not None
    assert [device.name for device in driver.devices] == ["nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"]
    assert driver.libraries == {"libcuda.so.1": libraries / "libcuda.so.1"}
    arguments = driver_arguments(driver)
    assert arguments[-3:] == ["--ro-bind", str(libraries / "libcuda.so.1"), "/usr/local/nvidia/lib64/libcuda.so.1"]
    assert arguments[:3] == ["--dev-bind", str(tmp_path / "dev/nvidiactl"), "/dev/nvidiactl"]
    assert add_driver_folder("/opt/lib") == "/opt/lib:/usr/local/nvidia/lib64"
    assert add_driver_folder("") == "/usr/local/nvidia/lib64"
