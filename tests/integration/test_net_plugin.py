"""The checks of the network stack on a small plugin of our own over TCP, and on faulty ones, for each verdict."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from uenv_builder.checks import CheckContext, WantedCheck, c_programs
from uenv_builder.checks.network import run_network
from uenv_builder.checks.static import StaticRequest
from uenv_builder.checks.static_child import run_request
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.errors import BuildError
from uenv_builder.model.lock import Lock
from uenv_builder.model.report import CheckResult
from uenv_builder.system.process import Completed

SOURCE = Path(__file__).parents[1] / "fixtures/net_plugin/plugin.c"
FOLDER = "/opt/net/lib"
NATIVE = next(uarch for uarch in load_uarchs().values() if uarch.machine == platform.machine())
FOREIGN = next(uarch for uarch in load_uarchs().values() if uarch.machine != platform.machine())
SMALL = {"ranks": [2], "bytes": [17, 1048579], "elements": [1, 1000]}
pytestmark = pytest.mark.skipif(not shutil.which("gcc") or not shutil.which("bwrap"), reason="needs gcc and bwrap")


def compile_plugin(path: Path, *options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(path), str(SOURCE)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    return compile_plugin(tmp_path_factory.mktemp("plugin") / "libnccl-net.so")


class FolderImage:
    """A folder with this machine's C library and programs beside it, in bubblewrap, with the loopback interface."""

    def __init__(self, root: Path, hidden: Sequence[str] = ()) -> None:
        self.root, self.hidden = root, hidden
        for name in ("usr", "bin", "lib", "lib64", "dev", "proc", "run", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def run_inside(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        binds: Mapping[str, Path] | None = None,
        stdin: str | None = None,
        timeout: float | None = None,
        gpu: bool = False,
    ) -> Completed:
        command = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--bind", str(self.root), "/"]
        for place in ("/usr", "/bin", "/lib", "/lib64"):
            command += ["--ro-bind", os.path.realpath(place), place] if Path(place).exists() else []
        command += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--tmpfs", "/tmp"]
        for name in self.hidden:
            command += ["--ro-bind", "/dev/null", name]
        for target, source in (binds or {}).items():
            command += ["--ro-bind", str(source), target]
        for name, value in env.items():
            command += ["--setenv", name, value]
        try:
            done = subprocess.run([*command, "--", *argv], capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as expired:
            raise BuildError(f"{argv[0]} did not end", rule="timeout") from expired
        missing = done.stderr.startswith("bwrap: execvp")
        return Completed(tuple(argv), 127 if missing else done.returncode, done.stdout, done.stderr)

    def run_beside(self, make_argv: Callable[[Path], Sequence[str]], *, stdin: str | None = None) -> Completed:
        """What the process of its own does, in this one: starting it takes longer than all that it does."""
        argv = make_argv(self.root)
        results = run_request(argv[-1], StaticRequest(**json.loads(stdin or "")))
        return Completed(tuple(argv), 0, json.dumps([asdict(result) for result in results]), "")


def lock_of(nccl: str) -> Lock:
    document = {
        "lock-format": 1, "recipe": {"name": "n", "version": "1", "digest": "0" * 64}, "epoch": 0,
        "target": {"uarch": NATIVE.name, "debian": NATIVE.debian}, "userland": {"releases": [], "packages": []},
        "accelerator": {"torch": "2.14.1", "variant": "cuda", "cuda": "13.0", "nccl": nccl},
    }  # fmt: skip
    return Lock.model_validate_json(json.dumps(document))


def check(
    image: FolderImage, name: str, parameters: Mapping[str, object] | None = None, *, nccl: str = "2.30.7", **env: str
) -> CheckResult:
    outside = {"libc.so.6": "of the machine"}
    context = CheckContext(
        image=image, uarch=NATIVE, lock=lock_of(nccl), allowed_missing=outside,
        env={"PATH": f"/usr/bin:{FOLDER}", "LD_LIBRARY_PATH": FOLDER, **env},
    )  # fmt: skip
    wanted = WantedCheck(name=name, parameters=parameters or {})
    return run_network(context, [wanted])[0]


def image_with(root: Path, plugin: Path, name: str = "libnccl-net.so") -> FolderImage:
    folder = root / FOLDER.lstrip("/")
    folder.mkdir(parents=True)
    shutil.copy(plugin, folder / name)
    return FolderImage(root)


def faulty(tmp_path: Path, fault: int, *options: str) -> FolderImage:
    return image_with(tmp_path / "root", compile_plugin(tmp_path / "bad.so", f"-DFAULT={fault}", *options))


def test_a_good_plugin_passes_and_the_report_says_what_was_tested(tmp_path, good):
    image = image_with(tmp_path, good)
    static = check(image, "net-plugin")
    assert (static.outcome, static.measured["path"]) == ("passed", f"{FOLDER}/libnccl-net.so")
    assert (static.measured["interfaces"], static.measured["interface"]) == ("v10", "v10")
    result = check(image, "net-transport", {**SMALL, "ranks": [2, 3]})
    assert (result.outcome, result.reason) == ("passed", "")
    assert result.measured["network"] == "Plain TCP"
    assert result.measured["messages_2_ranks"] == 2 * (48 + 20)
    assert result.measured["bytes_compared_3_ranks"] == 3 * (48 * 17 + 20 * 1048579)
    assert result.measured["elements_compared_3_ranks"] == 3 * 1001
    assert result.details[-1].endswith("on host memory, not NCCL over CXI")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (1, "rank 0 got 20 wrong: message 0 of 1048579 bytes from rank 1: byte 524289 is"),
        (3, "ended by signal 6 (Aborted)"),
        (4, "message 0 of 17 bytes from rank 1: 16 bytes are reported"),
        (5, "init answered ncclSystemError (2)"),
        (7, "devices: the plugin has none"),
        (8, "wrote behind its end"),
    ],
)
def test_what_a_faulty_plugin_does_is_found(tmp_path, fault, reason):
    result = check(faulty(tmp_path, fault), "net-transport", SMALL)
    assert result.outcome == "failed"
    assert reason in "; ".join(result.details)


@pytest.mark.parametrize(("fault", "stage"), [(2, "messages of 17 bytes"), (6, "connect and accept")])
def test_a_plugin_that_hangs_says_where(tmp_path, monkeypatch, fault, stage):
    monkeypatch.setattr("uenv_builder.checks.network._PATIENCE", 1)
    result = check(faulty(tmp_path, fault), "net-transport", SMALL)
    assert result.outcome == "failed"
    assert f"no progress in {'the exchange of ' if fault == 2 else ''}{stage}" in result.reason


def test_without_a_plugin_all_is_skipped_and_decides_nothing(tmp_path):
    for name in ("net-plugin", "net-choice", "net-transport"):
        result = check(FolderImage(tmp_path), name)
        assert (result.outcome, result.required) == ("skipped", False)
        assert "no NCCL net plugin" in result.reason


def test_what_the_plugin_needs_has_to_be_there(tmp_path, good):
    gone = compile_plugin(tmp_path / "libgone.so.1", "-Wl,-soname,libgone.so.1")
    plugin = compile_plugin(tmp_path / "libneedy.so", "-Wl,--no-as-needed", str(gone))
    image = image_with(tmp_path / "root", plugin)
    result = check(image, "net-plugin")
    assert (result.outcome, result.reason) == (
        "failed",
        f"{FOLDER}/libnccl-net.so needs libgone.so.1, which the loader does not find",
    )
    choice = check(image, "net-choice")
    assert choice.outcome == "failed"
    assert any("libgone.so.1: cannot open shared object file" in step for step in choice.details)
    from_host = check(image, "net-choice", {"allowed_missing": {"libgone.so.1": "of the driver"}})
    assert from_host.outcome == "failed"


def test_interfaces_decide(tmp_path, good):
    old = image_with(tmp_path / "old", compile_plugin(tmp_path / "old.so", "-DSYMBOL=ncclNetPlugin_v4"))
    assert "exports no interface that NCCL 2.30.7 loads" in check(old, "net-plugin").reason
    assert check(old, "net-transport").outcome == "skipped"
    choice = check(old, "net-choice")
    assert (choice.outcome, choice.measured["network"]) == ("failed", "Socket")
    older_nccl = check(image_with(tmp_path / "new", good), "net-plugin", nccl="2.21.5")
    assert older_nccl.outcome == "failed"
    unknown = check(FolderImage(tmp_path / "new"), "net-plugin", nccl="9.9.9")
    assert unknown.outcome == "passed"


def test_the_environment_decides_and_the_reason_is_told(tmp_path, good):
    image = image_with(tmp_path, good)
    named = check(image, "net-choice", NCCL_NET="plain tcp")
    assert (named.outcome, named.measured) == ("passed", {"network": "Plain TCP", "interface": "v10"})
    other = check(image, "net-choice", NCCL_NET="AWS Libfabric")
    assert other.outcome == "failed"
    assert 'NCCL_NET asks for "AWS Libfabric", and the plugin is called "Plain TCP"' in other.reason
    off = check(image, "net-choice", NCCL_NET_PLUGIN="none")
    assert (off.outcome, off.measured["network"]) == ("failed", "Socket")
    silent = check(image, "net-choice")
    assert silent.outcome == "passed"
    assert "in silence" in silent.details[-1]


def test_a_plugin_of_another_name_is_found_by_its_variable_alone(tmp_path, good):
    image = image_with(tmp_path, good, "libnccl-net-ofi.so")
    assert "which the loader does not find" in check(image, "net-plugin").reason
    assert check(image, "net-plugin", NCCL_NET_PLUGIN="ofi").outcome == "passed"


@pytest.mark.parametrize(("tags", "outcome"), [("--disable-new-dtags", "passed"), ("--enable-new-dtags", "failed")])
def test_the_rpath_of_torch_finds_nccl_and_its_plugin_and_a_runpath_only_nccl(tmp_path, good, tags, outcome):
    image = FolderImage(tmp_path)
    site = tmp_path / "opt/site"
    nccl = site / "nvidia/nccl/lib/libnccl.so.2"
    nccl.parent.mkdir(parents=True)
    shutil.copy(good, nccl.parent / "libnccl-net.so")
    empty = ["gcc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-x", "none", "-Wl,--no-as-needed"]
    subprocess.run([*empty, "-Wl,-soname,libnccl.so.2", "-o", str(nccl)], check=True)
    (site / "torch/lib").mkdir(parents=True)
    rpath = ["-Wl,-rpath,$ORIGIN/../../nvidia/nccl/lib", f"-Wl,{tags}"]
    subprocess.run([*empty, str(nccl), *rpath, "-o", str(site / "torch/lib/libtorch_cuda.so")], check=True)
    result = check(image, "net-plugin")
    assert result.outcome == outcome
    if outcome == "passed":
        assert str(result.measured["path"]).endswith("/nvidia/nccl/lib/libnccl-net.so")
        assert "libnccl.so.2" in result.details[0]


def test_without_a_compiler_here_the_images_own_serves(tmp_path, good, monkeypatch):
    monkeypatch.setattr(c_programs, "find_compiler", lambda _: None)
    assert check(image_with(tmp_path / "root", good), "net-choice").outcome == "passed"
    names = [f"/usr/bin/{name}" for name in ("gcc", "cc") if Path("/usr/bin", name).exists()]
    bare = FolderImage(tmp_path / "root", hidden=sorted({os.path.realpath(name) for name in names}))
    result = check(bare, "net-transport")
    assert (result.outcome, result.required) == ("skipped", True)


def test_providers_are_read_from_the_images_own_program(tmp_path, good):
    image = image_with(tmp_path, good)
    assert "no fi_info" in check(image, "net-providers").reason
    program = tmp_path / FOLDER.lstrip("/") / "fi_info"
    listing = "tcp:\\n    version: 206.0\\nshm:\\n    version: 206.0\\n"
    program.write_text(f"#!/bin/sh\n[ -z $FI_PROVIDER ] || exit 3\nprintf '{listing}'\n")
    program.chmod(0o755)
    result = check(image, "net-providers", FI_PROVIDER="cxi")
    assert (result.outcome, result.reason) == ("failed", "libfabric was built without the provider cxi")
    assert check(image, "net-providers", {"providers": ["tcp"]}).measured["providers"] == "tcp, shm"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 61\n")
    assert check(image, "net-providers").reason == "fi_info -l ended with exit 61"
