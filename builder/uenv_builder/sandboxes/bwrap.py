"""bubblewrap on a squashfs that is mounted in a mount namespace of its own: whatever dies, nothing stays mounted.

The chain of one run, each link replaced by the next: `setpriv` asks the kernel to end it when the builder ends;
`unshare` makes the namespaces, and its death ends the whole process tree, since that tree's first process goes with it;
a shell script mounts the image below a throw-away writable layer; for code of another machine `unshare` once more, for
a user namespace in which a second script registers qemu; then `bwrap`, then the command.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from uenv_builder.model.errors import BuildError, MissingToolError
from uenv_builder.sandboxes.emulation import ELF_MACHINES, Emulation, find_emulation, is_foreign
from uenv_builder.sandboxes.gpu_driver import add_driver_folder, driver_arguments, find_driver
from uenv_builder.sandboxes.interface import TIMEOUT_RULE, Command, Problem, Recording
from uenv_builder.sandboxes.recording import read_recording, recorder_command
from uenv_builder.sandboxes.trial import EXIT_CODE, PROGRAM, trial_image
from uenv_builder.system.abandoned import scratch_folder
from uenv_builder.system.process import Completed, find_program, install_hint, run, start

_PREFIX = "uenv-sandbox: "
_SETUP_FAILED = 125
_NOT_FOUND = 127
# Standing folders that the namespace may hide: the image is mounted below one that nothing in the run needs.
_AREAS = ("/mnt", "/media", "/srv", "/opt", "/home")

# Arguments: image, area, rw or ro, whether it gets the machine's resolv.conf, command... The image's files are then in
# $area/root. Overlays in user namespaces store their marks in user.* attributes (userxattr, Linux 5.11).
_MOUNT = """\
set -u
image=$1 area=$2 mode=$3 resolver=$4; shift 4
fail() { printf '%s%s\\n' 'uenv-sandbox: ' "$1" >&2; exit 125; }
mount -t tmpfs -o mode=0755 tmpfs "$area" || fail "no tmpfs can be mounted at $area"
mkdir "$area/image" "$area/upper" "$area/work" "$area/root" "$area/binfmt"
if ! why=$(mount -t squashfs -o loop,ro "$image" "$area/image" 2>&1); then
    command -v squashfuse >/dev/null || fail "the image cannot be mounted: $why; and squashfuse is not installed"
    more=$(squashfuse "$image" "$area/image" 2>&1) || fail "the image cannot be mounted: $why; squashfuse: $more"
fi
layers="lowerdir=$area/image,upperdir=$area/upper,workdir=$area/work"
if [ "$mode" = rw ] && { mount -t overlay -o "$layers" overlay "$area/root" ||
                         mount -t overlay -o "$layers,userxattr" overlay "$area/root"; } 2>/dev/null; then
    [ "$resolver" = no ] || cp -L --remove-destination /etc/resolv.conf "$area/root/etc/resolv.conf" 2>/dev/null
else
    mount --bind "$area/image" "$area/root" || fail "the image cannot be bound"
    [ "$mode" = ro ] || for folder in var/tmp root; do
        [ ! -d "$area/root/$folder" ] || mount -t tmpfs -o mode=1777 tmpfs "$area/root/$folder"
    done
fi
exec "$@"
"""

# Arguments: a folder to mount binfmt_misc on, the rule, command...
_REGISTER = """\
set -u
folder=$1 rule=$2; shift 2
fail() { printf '%s%s\\n' 'uenv-sandbox: ' "$1" >&2; exit 125; }
mount -t binfmt_misc binfmt_misc "$folder" ||
    fail "binfmt_misc cannot be mounted in a user namespace: that needs Linux 6.7 or newer"
printf '%s' "$rule" >"$folder/register" || fail "binfmt_misc refuses the rule for qemu"
exec "$@"
"""


@dataclass(slots=True)
class BwrapSandbox:
    """Runs images of `machine`, by default this machine's; `qemu_cpu` is the core that qemu emulates for others."""

    machine: str = field(default_factory=platform.machine)
    qemu_cpu: str | None = None
    name: ClassVar[str] = "bwrap"

    def run(self, image: Path, command: Command) -> Completed:
        """See `Sandbox.run`. Inside, the user is root without capabilities; a command that is missing ends with 127."""
        chain = self._command_chain(image, command)
        if command.interactive:
            return _attach(chain)
        completed = _execute(chain, stdin=command.stdin, timeout=command.timeout, what=command.argv[0])
        return _judge(completed, command)

    def record(self, image: Path, command: Command) -> Recording:
        """See `Sandbox.record`. A process of the namespace serves the image's file, and sees all reads of it."""
        with scratch_folder("uenv-record-") as folder:
            result = folder / "reads.json"
            completed = _attach(self._command_chain(image, command, record=result))
            if not result.exists():
                message = f"what the command reads could not be recorded (exit {completed.returncode})"
                hint = "see the messages above; recording needs /dev/fuse, readable and writable for you"
                raise BuildError(message, rule="sandbox", hint=hint)
            return read_recording(result, completed.returncode)

    def _command_chain(self, image: Path, command: Command, *, record: Path | None = None) -> list[str]:
        emulation = find_emulation(self.machine) if is_foreign(self.machine) else None
        programs = [find_program("bwrap"), *([emulation.interpreter] if emulation else [])]
        needed = [image, *map(Path, programs), *(bind.source for bind in command.binds)]
        area = _choose_area([*needed, *([*_python_folders(), record] if record else [])])
        inner = [programs[0], *self._options(f"{area}/root", command, emulated=emulation is not None)]
        watch = recorder_command(image.resolve(), Path(area) / "image", record) if record else []
        return _chain(
            image, area, "rw", [*inner, "--", *command.argv], emulation=emulation, resolver=command.network, watch=watch
        )  # fmt: skip

    def look(self, image: Path, make_argv: Callable[[Path], Sequence[str]], *, stdin: str | None = None) -> Completed:
        """See `Sandbox.look`."""
        area = _choose_area([image, *_python_folders()])
        argv = make_argv(Path(area) / "root")
        completed = _execute(_chain(image, area, "ro", argv), stdin=stdin, timeout=None, what=argv[0])
        _raise_setup(completed)
        return Completed(tuple(argv), completed.returncode, completed.stdout, completed.stderr)

    def problems(self, machine: str) -> list[Problem]:
        """See `Sandbox.problems`: programs that are missing, else the reason why the smallest image does not run."""
        missing = [Problem(name, f"{name} is not installed", install_hint(name)) for name in _missing_programs()]
        if machine not in ELF_MACHINES:
            return [*missing, Problem("qemu", f"{machine} is not a machine that images are for", "choose another")]
        if missing:
            return missing
        with scratch_folder("uenv-trial-") as folder:
            image = folder / "trial.squashfs"
            image.write_bytes(trial_image(machine))
            try:
                trial = BwrapSandbox(machine=machine)
                completed = trial.run(image, Command(argv=(PROGRAM,), env={}, timeout=60))
            except MissingToolError as error:
                return [Problem(f"qemu-{machine}", error.diagnostics[0].message, error.diagnostics[0].hint or "")]
            except BuildError as error:
                return [_explain(machine, error.diagnostics[0].message)]
        if completed.returncode == EXIT_CODE:
            return []
        return [_explain(machine, (completed.stderr.strip() or f"exit {completed.returncode}").splitlines()[-1])]

    def _options(self, root: str, command: Command, *, emulated: bool) -> list[str]:
        options = ["--bind", root, "/", "--dev", "/dev", "--proc", "/proc"]
        # NCCL and MPI read there which processors and devices there are. qemu 7.2 reads it, too, and crashes.
        options += [] if emulated else ["--ro-bind-try", "/sys", "/sys"]
        for folder, mode in (("/tmp", "1777"), ("/dev/shm", "1777"), ("/run", "0755")):  # noqa: S108  (inside)
            options += ["--perms", mode, "--tmpfs", folder]
        options += ["--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--hostname", "localhost", "--clearenv"]
        options += ["--share-net"] if command.network else []
        options += [] if command.interactive else ["--new-session"]
        env = dict(command.env)
        if emulated and self.qemu_cpu:
            env.setdefault("QEMU_CPU", self.qemu_cpu)
        driver = find_driver() if command.gpu and not emulated else None
        if driver:
            options += driver_arguments(driver)
            env["LD_LIBRARY_PATH"] = add_driver_folder(env.get("LD_LIBRARY_PATH", ""))
        for bind in command.binds:
            options += ["--bind" if bind.writable else "--ro-bind", str(bind.source.resolve()), bind.target]
        return [*options, *_set_variables(env), "--chdir", command.workdir]


def _python_folders() -> list[Path]:
    """What a Python program of ours needs of this machine."""
    return [Path(sys.prefix), Path(sys.base_prefix), Path(__file__), Path.cwd()]


def _set_variables(env: Mapping[str, str]) -> list[str]:
    return [word for name, value in sorted(env.items()) for word in ("--setenv", name, value)]


def _chain(
    image: Path,
    area: str,
    mode: str,
    inner: Sequence[str],
    *,
    emulation: Emulation | None = None,
    resolver: bool = False,
    watch: Sequence[str] = (),
) -> list[str]:
    is_root = os.geteuid() == 0
    chain = ["setpriv", "--pdeathsig", "KILL", find_program("unshare")]
    # bwrap finds its child in /proc by number: that has to be the /proc of the same process namespace.
    chain += ["--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]
    chain += [] if is_root else ["--user", "--map-root-user"]
    shell = find_program("sh")
    chain += [*watch, shell, "-c", _MOUNT, "sh", str(image.resolve()), area, mode, "yes" if resolver else "no"]
    if emulation and emulation.rule:
        # Mounting through a loop device needs the machine's own root; a binfmt_misc of one's own, a user namespace.
        again = [find_program("unshare"), "--user", "--map-root-user", "--mount", "--propagation", "private"]
        chain += again if is_root else []
        chain += [shell, "-c", _REGISTER, "sh", f"{area}/binfmt", emulation.rule]
    return [*chain, *inner]


def _choose_area(needed: Sequence[Path]) -> str:
    """A folder of this machine that holds none of `needed`, to mount on in the private namespace."""
    resolved = [path.resolve() for path in needed]
    for area in _AREAS:
        folder = Path(area)
        if folder.is_dir() and not folder.is_symlink() and not any(path.is_relative_to(folder) for path in resolved):
            return area
    raise BuildError(f"no folder to mount the image on: {', '.join(_AREAS)} are missing or in use", rule="sandbox")


def _execute(chain: Sequence[str], *, stdin: str | None, timeout: float | None, what: str) -> Completed:
    try:
        return run(chain, input=stdin, timeout=timeout, check=False)
    except BuildError as error:
        expired = error.__cause__
        if expired is None:
            raise
        # The exception of a timeout carries what was read until then.
        output = getattr(expired, "stderr", None) or getattr(expired, "output", None) or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else str(output)
        tail = "".join(f"\n    {line}" for line in text.strip().splitlines()[-20:])
        raise BuildError(f"{what} did not end within {timeout:g} s{tail}", rule=TIMEOUT_RULE) from expired


def _attach(chain: Sequence[str]) -> Completed:
    process = start(chain, stdin=None)
    while True:
        try:
            return Completed(tuple(chain), process.wait(), "", "")
        except KeyboardInterrupt:
            # The terminal has sent the interrupt to the command as well; it decides what that means.
            continue
        except BaseException:
            process.kill()
            process.wait()
            raise


def _judge(completed: Completed, command: Command) -> Completed:
    """The command's own end; raises BuildError where the sandbox failed before the command ran."""
    _raise_setup(completed)
    if completed.returncode == 1 and completed.stderr.startswith("bwrap: execvp"):
        return Completed(command.argv, _NOT_FOUND, completed.stdout, completed.stderr)
    if completed.returncode == 1 and completed.stderr.startswith("bwrap: "):
        raise BuildError(f"bubblewrap could not start {command.argv[0]}: {completed.stderr.strip()}", rule="sandbox")
    return Completed(command.argv, completed.returncode, completed.stdout, completed.stderr)


def _raise_setup(completed: Completed) -> None:
    hint = "uenv doctor says what is missing"
    message = completed.stderr.strip()
    if completed.returncode == _SETUP_FAILED and _PREFIX in message:
        raise BuildError(message.split(_PREFIX)[-1], rule="sandbox", hint=hint)
    if completed.returncode == 1 and message.startswith(("unshare: ", "setpriv: ")):
        raise BuildError(f"no namespaces can be made: {message}", rule="sandbox", hint=hint)


def _missing_programs() -> list[str]:
    missing = []
    for name in ("setpriv", "unshare", "mount", "bwrap"):
        try:
            find_program(name)
        except MissingToolError:
            missing.append(name)
    return missing


def _explain(machine: str, reason: str) -> Problem:
    if "namespace" in reason and "binfmt" not in reason:
        remedy = "run as root, or allow user namespaces (sysctl user.max_user_namespaces)"
        return Problem("unshare", reason, remedy)
    if "binfmt" in reason:
        remedy = f"use a newer kernel, or have qemu-{machine} registered by root: apt-get install binfmt-support"
        return Problem("binfmt_misc", reason, remedy)
    if "mounted" in reason:
        remedy = "apt-get install squashfuse, with /dev/fuse readable and writable for you; or run as root"
        return Problem("squashfuse", reason, remedy)
    return Problem("bwrap", reason, "see the message; in a container, allow user namespaces and mounting /proc")
