"""Which checks run, what becomes of programs that crash, hang or say nothing, and of machines that cannot run them."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from uenv_builder.checks import CHECKS, CheckContext, WantedCheck
from uenv_builder.checks.run import complete_wanted, run_checks
from uenv_builder.checks.static import make_request
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.errors import BuildError, RecipeError
from uenv_builder.model.lock import Lock
from uenv_builder.system.events import Silent
from uenv_builder.system.process import Completed

NATIVE = next(uarch for uarch in load_uarchs().values() if uarch.machine == platform.machine())
FOREIGN = next(uarch for uarch in load_uarchs().values() if uarch.machine != platform.machine())
VERSIONS = {"torch": "2.14.1+cu130", "cuda": "13.0", "nccl_loaded": 23007, "gpus": 0}


def say(answer: object) -> str:
    """As the programs inside print it."""
    return json.dumps({"answer": answer})


class FakeImage:
    """Answers what it is told; every static check passes."""

    def __init__(
        self, returncode: int = 0, stdout: str = "", stderr: str = "", error: BuildError | None = None
    ) -> None:
        self.completed, self.error = Completed((), returncode, stdout, stderr), error
        self.commands: list[tuple[tuple[str, ...], dict]] = []

    def run_inside(self, argv: Sequence[str], **options: object) -> Completed:
        self.commands.append((tuple(argv), options))
        if self.error:
            raise self.error
        return self.completed

    def run_beside(self, make_argv: Callable[[Path], Sequence[str]], *, stdin: str | None = None) -> Completed:
        wanted = json.loads(stdin or "{}")["wanted"]
        results = [{"check": name, "outcome": "passed", "seconds": 0.5, "details": []} for name in wanted]
        return Completed(tuple(make_argv(Path("/x"))), 0, json.dumps(results), "")


def lock_of(accelerator: Mapping[str, str] | None = None) -> Lock:
    document: dict = {
        "lock-format": 1, "recipe": {"name": "n", "version": "1", "digest": "0" * 64},
        "target": {"uarch": NATIVE.name, "debian": NATIVE.debian}, "epoch": 0,
        "userland": {"releases": [], "packages": []},
        "python": {"version": "3.13", "platform": "p", "wheels": [
            {"name": "numpy", "version": "1", "file": "numpy-1-py3-none-any.whl", "size": 1, "sha256": "0" * 64}]},
        "accelerator": accelerator,
    }  # fmt: skip
    return Lock.model_validate_json(json.dumps(document))


CUDA = {"torch": "2.14.1", "variant": "cuda", "cuda": "13.0", "nccl": "2.30.7"}


def context(image: FakeImage, **options: object) -> CheckContext:
    given = {"uarch": NATIVE, "env": {"PATH": "/usr/bin"}, **options}
    return CheckContext(image=image, **given)  # type: ignore[arg-type]


def run(
    image: FakeImage, name: str, parameters: dict | None = None, *, required: bool = True, **options: object
) -> dict:
    wanted = [WantedCheck(name=name, parameters=parameters or {}, required=required)]
    return {result.check: result for result in run_checks(context(image, **options), wanted, Silent())}


def test_what_runs_on_every_image_follows_from_the_lock() -> None:
    def names(lock: Lock | None, *wanted: str) -> list[str]:
        checks = [WantedCheck(name=name) for name in wanted]
        return [check.name for check in complete_wanted(context(FakeImage(), lock=lock), checks)]

    assert names(None) == ["elf-machine", "elf-needed"]
    assert names(lock_of()) == ["elf-machine", "elf-needed", "python-starts", "wheel-record"]
    assert names(lock_of(CUDA))[-2:] == ["nccl-unique", "cudart-link"]
    base = lock_of(CUDA).model_copy(update={"base": "an image with an NCCL of its own"})
    assert "nccl-unique" not in names(base)
    assert names(None, "elf-needed") == ["elf-machine", "elf-needed"]


def test_unknown_checks_are_refused() -> None:
    with pytest.raises(RecipeError, match='unknown check "alreduce"'):
        run(FakeImage(), "alreduce")


def test_every_check_says_what_it_proves() -> None:
    for name, kind in CHECKS.items():
        assert kind.proves, name
        assert all(kind.parameters.values()), name


def test_the_last_json_line_counts_whatever_was_printed_before() -> None:
    answer = {"python": "3.13.1", "machine": platform.machine(), "modules": {"numpy": {"ok": True, "version": "2.4"}}}
    image = FakeImage(stdout=f'a banner\n{{not json\n{say(answer)}\n{{"of a": "module"}}\n[]\n{{torn')
    result = run(image, "imports", {"modules": ["numpy"]})["imports"]
    assert (result.outcome, result.measured) == ("passed", {"numpy": "2.4"})
    argv, options = image.commands[-1]
    assert argv[:2] == ("python3", "-B")
    assert options["env"] == {"PATH": "/usr/bin"}
    assert json.loads(options["stdin"]) == ["numpy"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (FakeImage(139, stderr="importing torch\n"), "imports_program.py ended with signal 11"),
        (FakeImage(127, stderr="bwrap: execvp python3: No such file"), "imports_program.py ended with exit 127"),
        (FakeImage(0, stdout="hello"), "imports_program.py printed no result"),
        (FakeImage(error=BuildError("python3 did not end within 3 s\n    importing torch", rule="timeout")),
         "python3 did not end within 3 s"),
    ],
)  # fmt: skip
def test_programs_that_crash_or_hang_fail_and_show_their_last_lines(image: FakeImage, reason: str) -> None:
    result = run(image, "imports", {"modules": ["torch"]})["imports"]
    assert (result.outcome, result.reason) == ("failed", reason)
    assert result.details


def test_a_machine_that_cannot_run_the_image_is_inconclusive_and_not_failed() -> None:
    image = FakeImage(error=BuildError("no namespaces can be made", rule="sandbox"))
    results = run(image, "torch")
    assert (results["torch"].outcome, results["torch"].reason) == ("inconclusive", "no namespaces can be made")
    assert results["elf-machine"].outcome == "passed"


def test_wrong_python_is_found() -> None:
    answer = say({"python": "3.12.4", "machine": platform.machine(), "modules": {}})
    result = run(FakeImage(stdout=answer), "python-starts", lock=lock_of())["python-starts"]
    assert result.reason == "the image has Python 3.12.4, the lock has 3.13"
    answer = say({"python": "3.13.4", "machine": "sparc", "modules": {}})
    assert run(FakeImage(stdout=answer), "python-starts", lock=lock_of())["python-starts"].outcome == "failed"


def torch_answer(**changes: object) -> FakeImage:
    findings = [{"wrong": [], "compared": 1, "algbw_GBps": 1.0}] * 2
    run_of_two = {"ranks": 2, "late": [], "broken": {}, "findings": findings}
    return FakeImage(stdout=say({"versions": VERSIONS, "gloo": [run_of_two], "nccl": [], **changes}))


def test_one_start_of_torch_serves_versions_and_all_reduce() -> None:
    image = torch_answer(python="3.13.1", machine=platform.machine())
    wanted = [WantedCheck(name="torch"), WantedCheck(name="allreduce", parameters={"ranks": [2]})]
    results = run_checks(context(image, lock=lock_of(CUDA)), wanted, Silent())
    outcomes = {result.check: result.outcome for result in results}
    assert outcomes["torch"] == outcomes["allreduce-gloo"] == "passed"
    assert outcomes["allreduce-nccl"] == "skipped"
    torch_starts = [options for argv, options in image.commands if argv[2].endswith("torch_program.py")]
    assert len(torch_starts) == 1
    assert json.loads(torch_starts[0]["stdin"])["ranks"] == [2]
    assert torch_starts[0]["gpu"] is True


def test_nccl_without_gpus_decides_only_where_the_recipe_requires_it() -> None:
    assert not run(torch_answer(), "allreduce")["allreduce-nccl"].required
    assert run(torch_answer(), "allreduce", {"nccl": "required"})["allreduce-nccl"].required
    one_gpu = run(torch_answer(versions={**VERSIONS, "gpus": 1}), "allreduce")["allreduce-nccl"]
    assert one_gpu.reason == "needs at least 2 GPUs, this machine has 1"


def test_optional_checks_are_marked_in_all_their_results() -> None:
    results = run(torch_answer(), "allreduce", required=False)
    assert not results["allreduce-gloo"].required
    assert not results["allreduce-nccl"].required
    assert results["elf-machine"].required


def test_ranks_that_do_not_know_of_each_other_are_no_all_reduce() -> None:
    answer = {"ranks": 1, "library": "MPI", "findings": [{"wrong": [], "compared": 1}]}
    result = run(FakeImage(stdout=say(answer)), "mpi")["allreduce-mpi"]
    assert result.outcome == "failed"
    assert "do not know of each other" in result.reason


def test_emulated_programs_get_more_time() -> None:
    limits = []
    for uarch in (NATIVE, FOREIGN):
        image = FakeImage(1, stderr="x")
        run(image, "mpi", {"timeout": 10}, uarch=uarch)
        limits.append(image.commands[-1][1]["timeout"])
    assert limits == [10, 40]


@pytest.mark.parametrize(
    ("check", "parameters"),
    [
        ("imports", {"modules": "numpy"}),
        ("imports", {"modules": [1]}),
        ("imports", {"modules": ["x"], "timeout": 0}),
        ("mpi", {"ranks": []}),
        ("allreduce", {"ranks": [0]}),
        ("elf-needed", {"allowed_missing": ["libx.so"]}),
    ],
)
def test_parameters_of_a_wrong_type_are_refused(check: str, parameters: dict) -> None:
    with pytest.raises(RecipeError, match=f'check "{check}"'):
        run(torch_answer(), check, parameters)


def test_the_static_request_has_all_names_from_outside_with_reasons() -> None:
    ctx = context(
        FakeImage(), lock=lock_of(CUDA), driver_libraries=["libcuda.so.1"], hook_libraries=["libfabric.so.1"],
        allowed_missing={"libx.so": "of the site"}, env={"LD_LIBRARY_PATH": "/opt/lib::relative"},
    )  # fmt: skip
    wanted = [
        WantedCheck(name="elf-needed", parameters={"allowed_missing": {"liby.so": "never used"}, "ignore": ["/a"]})
    ]
    request = make_request(ctx, wanted)
    assert request.outside == {
        "libcuda.so.1": "comes from the host's GPU driver", "libfabric.so.1": "comes from the host's network hook",
        "libx.so": "of the site", "liby.so": "never used",
    }  # fmt: skip
    assert (request.nccl, request.cuda, request.library_path) == ("2.30.7", "13.0", ["/opt/lib"])
    assert request.wanted == {"elf-needed": {"ignore": ("/a",)}}
