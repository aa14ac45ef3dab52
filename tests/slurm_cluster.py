"""A Slurm of two nodes and one more on this machine: Debian's daemons on loopback, with keys and files of their own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NODES = ("n1", "n2", "n3")
"""The first two are the usual partition, the third is for what takes long, and has a folder that others do not see."""
OWN = "of-n3"
"""This folder of the cluster's is another one on n3, where the system lets us mount one."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "salloc", "scontrol", "sinfo", "sbatch")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
ReturnToService=2
KillWait=2
UnkillableStepTimeout=20
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 State=UNKNOWN
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=8 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=slow Nodes=n3 MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing_programs() -> list[str]:
    """What is not installed; empty where the cluster can be started."""
    return [name for name in PROGRAMS if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


@contextmanager
def running_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; gives the variables that clients need. All that it started is dead afterwards."""
    for name in ("state", OWN, *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(CONFIGURATION.format(folder=folder, user=user, host=host, ports=free_ports(4)))
    client = {"SLURM_CONF": str(configuration)}
    env = {**os.environ, **client, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    # They end with the tests, however these end.
    bound = ["setpriv", "--pdeathsig", "TERM"]
    munge = [
        "munged", "--foreground", "--force", "--num-threads=1", f"--socket={folder}/munge.socket",
        f"--key-file={make_key(folder)}", f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log",
        f"--seed-file={folder}/munge.seed",
    ]  # fmt: skip
    commands = [
        [*bound, *munge],
        [*bound, "slurmctld", "-D"],
        *([*bound, *with_own_folder(node, folder), "slurmd", "-D", "-N", node] for node in NODES),
    ]
    processes = []
    try:
        for number, command in enumerate(commands):
            if number == 1:
                wait_for_file(folder / "munge.socket")
            with (folder / f"{number}.out").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                    )
                )
        wait_until_idle(env, folder)
        yield client
    finally:
        end_steps(configuration)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def with_own_folder(node: str, folder: Path) -> list[str]:
    """The beginning of a command that gives n3, in a mount namespace of its own, a file system that is its own."""
    if node != NODES[-1] or not can_mount():
        return []
    mount = f'mount -t tmpfs none {shlex.quote(str(folder / OWN))} && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh"]


def can_mount() -> bool:
    """Whether we may mount in a namespace of our own."""
    command = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def make_key(folder: Path) -> Path:
    """The key by which munged signs who somebody is."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    return key


def wait_until_idle(env: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 30
    said = ""
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%N=%t"], env=env, capture_output=True, text=True, timeout=30, check=False
        )
        said = done.stdout.strip() or done.stderr
        if sorted(said.split()) == [f"{node}=idle" for node in NODES]:
            return
        time.sleep(0.2)
    logs = "".join(path.read_text() for path in sorted(folder.glob("*.out")))
    raise AssertionError(f"the nodes are not idle: {said}\n{logs}")


def end_steps(configuration: Path) -> None:
    """The processes that steps leave, slurmstepd included: known by the configuration in their environment."""
    for process in marked(f"SLURM_CONF={configuration}"):
        name = Path(f"/proc/{process}/comm")
        with contextlib.suppress(OSError):
            if name.read_text().strip() not in {"munged", "slurmctld", "slurmd", "pytest"} and process != os.getpid():
                os.kill(process, signal.SIGKILL)


def marked(variable: str) -> list[int]:
    """The processes of this machine that have NAME=VALUE in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
