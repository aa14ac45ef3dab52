"""The tasks of a job array that builds recipes: which recipe each builds, and the script that does it on its node."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from uenv_builder.app.building import default_output
from uenv_builder.app.preparing import Prepared
from uenv_builder.model.errors import UsageError
from uenv_builder.system.files import write_json, write_text

TASKS, COMMAND, RESULT = "tasks.json", "build.sh", "result.json"
_FORMAT = 1
_REFUSED = 8
# Each refusal is the document that --json would print, so that all ends are read in one way.
_SCRIPT = """\
# Builds {label} on the node that Slurm chose.
refuse() {{ cat >"$here/{result}" && exit {refused}; }}
here=$PWD
[ "$(cat {proof} 2>/dev/null)" = {word} ] || refuse <<'END'
{store_refusal}
END
{machine}cd {place} || refuse <<'END'
{place_refusal}
END
export UENV_CACHE={store}
exec {command} >"$here/{result}"
"""
_MACHINE = """\
[ "$(uname -m)" = {machine} ] || refuse <<'END'
{refusal}
END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildTask:
    """One build of the array: its recipe's file, its label, and the folder that it writes; absolute paths.

    `machine` is what `uname -m` has to print on its node, where something is compiled; None: any node will do.
    """

    recipe: str
    label: str
    output: str
    machine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What all builds of a job are told. `mirror` as on the command line."""

    offline: bool = False
    no_test: bool = False
    jobs: int | None = None
    mirror: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """As options of `uenv build`."""
        given = {"--offline": self.offline, "--no-test": self.no_test}
        words = [name for name, wanted in given.items() if wanted]
        words += [f"--jobs={self.jobs}"] if self.jobs else []
        return [*words, *(f"--mirror={mirror}" for mirror in self.mirror)]


def plan_tasks(prepared: Sequence[Prepared], output: Path | None) -> list[BuildTask]:
    """One task for each of `prepared`; UsageError where two would write one folder, or the nodes differ in type."""
    if output is not None and len(prepared) > 1:
        raise UsageError("--output names the folder of one build", hint="leave it out, or build one recipe")
    kinds = sorted({f"{one.selection.system.name}%{one.selection.uarch.name}" for one in prepared})
    if len(kinds) > 1:
        raise UsageError(
            f"a job array takes nodes of one type, and the recipes are for {', '.join(kinds)}",
            hint="choose by --system and --uarch, and submit one array for each",
        )
    tasks = [_task(one, output) for one in prepared]
    places: dict[str, BuildTask] = {}
    for task in tasks:
        other = places.setdefault(task.output, task)
        if other is not task:
            raise UsageError(
                f"{other.recipe} and {task.recipe} would both write {task.output}", hint="give one of them another name"
            )
    return tasks


def _task(prepared: Prepared, output: Path | None) -> BuildTask:
    compiles = prepared.lock.build is not None or prepared.lock.spack is not None
    return BuildTask(
        recipe=str(prepared.loaded.path.absolute()), label=str(prepared.selection.label),
        output=str((output or default_output(prepared)).absolute()),
        machine=prepared.selection.uarch.machine if compiles else None,
    )  # fmt: skip


def write_tasks(
    folder: Path, tasks: Sequence[BuildTask], options: BuildOptions, *, store: Path, proof: tuple[Path, str]
) -> Path:
    """Write the list of tasks, and a folder with a script for each, named by its number; the path of the list."""
    for number, task in enumerate(tasks):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        write_text(place / COMMAND, _script(task, options, store, proof))
    write_json(folder / TASKS, {"format": _FORMAT, "tasks": [asdict(task) for task in tasks]})
    return folder / TASKS


def read_tasks(path: Path) -> list[BuildTask]:
    """The tasks of the list at `path`; UsageError where it is none that this version reads."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise ValueError("its format is not known")
        return [BuildTask(**task) for task in document["tasks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: is no list of builds: {error}", hint="submit the builds again") from error


def _script(task: BuildTask, options: BuildOptions, store: Path, proof: tuple[Path, str]) -> str:
    path, word = proof
    command = [
        sys.executable, "-m", "uenv_builder.cli", "build", task.recipe, task.label, "--output", task.output,
        "--locked", "--json", "--verbose", *options.words(),
    ]  # fmt: skip
    place = os.getcwd()  # noqa: PTH109  (as the user named it: links stay links)
    return _SCRIPT.format(
        label=task.label, result=RESULT, refused=_REFUSED, proof=shlex.quote(str(path)), word=word,
        store=shlex.quote(str(store)), place=shlex.quote(place), command=shlex.join(command), machine=_machine(task),
        store_refusal=_refusal(
            "store-not-shared", f"the store {store} that this node sees is not the one of the job's submitter",
            "set UENV_CACHE, or the setting `cache`, to a folder on a file system that all nodes share",
        ),
        place_refusal=_refusal(
            "folder-not-shared", f"this node does not see the folder {place}",
            "submit from a folder on a file system that all nodes share",
        ),
    )  # fmt: skip


def _machine(task: BuildTask) -> str:
    if task.machine is None:
        return ""
    refusal = _refusal(
        "node-type", f"this node cannot run what is compiled for {task.label}: its machine is not {task.machine}",
        "ask for nodes of the target's type with --partition or --constraint, or in the system's file",
    )  # fmt: skip
    return _MACHINE.format(machine=task.machine, refusal=refusal)


def _refusal(rule: str, message: str, hint: str) -> str:
    return json.dumps({"diagnostics": [{"rule": rule, "message": message, "hint": hint}]})
