"""Spack as a program: asked for what the builder needs to know, and its failures told by their first causes.

Spack ends with 1 whatever went wrong; what it was stands behind `==> Error:` on its standard error.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from uenv_builder.core.spack_file import ENVIRONMENT
from uenv_builder.model.errors import BuildError, IncompatibleError, LockError, MissingToolError
from uenv_builder.model.spack_lock import LockedSpackNode, LockedSpackSource
from uenv_builder.system.process import Completed

RunSpack = Callable[[Sequence[str]], Completed]
"""Runs Spack with these words, in a sandbox, and returns how it ended; a failure is not raised."""

FACTS = "/uenv/programs/spack_facts.py"
"""Where the sandbox has the program that Spack's own Python runs for us."""
_MARK = "UENV-FACTS "
_CAUSES = 8
_OLDEST = (1, 0)
_LOCK_VERSIONS = (6, 7)
_ERROR = "==> Error: "
_SOLVER = "following reasons:"
_EXPORT = re.compile(r"export ([A-Za-z_][A-Za-z0-9_]*)=(.*?);?$")
_UNSET = re.compile(r"unset ([A-Za-z_][A-Za-z0-9_]*);?$")
_FAILED = re.compile(r"(?:==> Error: )?(?:\[x\] \S+ )?([A-Za-z0-9_.-]+@[^\s/:]+)(?:/\S+| failed): (/\S+)")
_NUMBERED = re.compile(r"\s*\d+\.\s")
_NEEDED = "spack lock files of versions 6 and 7 are read: use a released Spack from 1.0 on"


@dataclass(frozen=True, slots=True)
class SpackVersion:
    """What `spack --version` says: `text` as it is printed, `numbers` the first two."""

    text: str
    numbers: tuple[int, int]


def read_version(run: RunSpack) -> SpackVersion:
    """The version of Spack; raises MissingToolError where it does not run, and IncompatibleError below 1.0."""
    done = run(["--version"])
    found = re.match(r"(\d+)\.(\d+)", done.stdout.strip())
    if done.returncode != 0 or found is None:
        raise MissingToolError(
            f"Spack does not run: {first_cause(done)}", hint="see whether `spack --version` runs on this machine",
        )  # fmt: skip
    numbers = (int(found[1]), int(found[2]))
    text = done.stdout.strip().split()[0]
    if numbers < _OLDEST:
        raise IncompatibleError(
            f"Spack {text} is older than 1.0, and describes compilers and packages in another way",
            rule="spack-version", hint="use Spack 1.2 or newer",
        )  # fmt: skip
    return SpackVersion(text, numbers)


def require_machine(run: RunSpack, target: str) -> None:
    """Raise IncompatibleError where this machine does not run programs for `target`, a processor as Spack names it.

    Spack's solver looks at the machine that it runs on, and finds nothing for a processor of another family.
    """
    machine = _facts(run, ["python", FACTS, "machine", target])
    if not machine["known"]:
        raise IncompatibleError(
            f"Spack does not know the processor {target}", rule="spack-target", hint="use a newer Spack"
        )
    if not machine["fits"]:
        raise IncompatibleError(
            f"this machine's processor is {machine['target']}, and the recipe is for {target}: Spack's solver finds "
            "nothing for another processor than the one that it runs on", rule="spack-target",
            hint="lock and build on a node of the target, for example in an allocation there",
        )  # fmt: skip


def concretize(run: RunSpack) -> None:
    """Have Spack solve the environment; raises IncompatibleError with the first causes where there is no solution."""
    done = run(["-e", ENVIRONMENT, "concretize", "--force"])
    if done.returncode == 0:
        return
    if _SOLVER in done.stderr or "failed to concretize" in done.stderr:
        raise IncompatibleError(
            f"Spack's solver found no solution:{_listed(solver_causes(done.stderr))}", rule="spack-unsatisfiable",
            hint="the first cause is mostly the true one: `spack info PACKAGE` lists versions and variants",
        )  # fmt: skip
    if "clingo" in done.stderr or "bootstrapping is currently disabled" in done.stderr:
        raise MissingToolError(
            "Spack's solver is missing: the Python that the builder runs with has no clingo",
            hint="install the builder anew: clingo is one of its dependencies",
        )  # fmt: skip
    refuse(done, "Spack could not solve the environment")


def refuse(done: Completed, what: str, *, rule: str = "spack") -> NoReturn:
    """Raise BuildError with what Spack says was wrong."""
    raise BuildError(
        f"{what}: {first_cause(done)}", rule=rule, hint=f"the command was: spack {' '.join(done.command[1:])}"
    )


def first_cause(done: Completed) -> str:
    """What Spack says behind its first `==> Error:`, in at most 8 lines; else its last line."""
    text = done.stderr.strip() or done.stdout.strip()
    _, mark, told = text.partition(_ERROR)
    if not mark:
        return (text.splitlines() or [f"exit {done.returncode}"])[-1]
    lines = [line for line in told.split("\n==>", 1)[0].splitlines() if line.strip()]
    return "\n    ".join(lines[:_CAUSES]) + ("\n    ..." if len(lines) > _CAUSES else "")


def failed_packages(text: str) -> dict[str, str]:
    """The packages that Spack says it could not install, as NAME@VERSION, each with the path of its log."""
    return {match[1]: match[2] for line in text.splitlines() if (match := _FAILED.match(line))}


def solver_causes(text: str) -> list[str]:
    """The causes that the solver gives, the first 8: what follows is mostly derived from them."""
    _, _, told = text.partition(_SOLVER)
    causes = [line.strip() for line in (told or text).splitlines() if _NUMBERED.match(line)]
    if not causes:
        causes = [line.strip() for line in text.partition(_ERROR)[2].splitlines() if line.strip()]
    more = [f"and {len(causes) - _CAUSES} more"] if len(causes) > _CAUSES else []
    return [*causes[:_CAUSES], *more]


def read_sources(run: RunSpack) -> dict[str, tuple[LockedSpackSource, ...]]:
    """By the hash of each package of the environment that is to be built, its sources."""
    facts = _facts(run, ["-e", ENVIRONMENT, "python", FACTS, "sources"])
    return {spec: tuple(_source(found) for found in sources) for spec, sources in facts.items()}


def _source(found: dict[str, Any]) -> LockedSpackSource:
    unverified = None
    if not found["sha256"] and not found["commit"]:
        git = "git" in found["kind"].lower()
        unverified = "a tag or branch, which may move" if git else "its package has no sha256 for it"
    return LockedSpackSource(
        url=found["url"], sha256=found["sha256"], commit=found["commit"], place=found["place"], unverified=unverified
    )


def _facts(run: RunSpack, words: Sequence[str]) -> dict[str, Any]:
    done = run(words)
    line = next((line for line in done.stdout.splitlines() if line.startswith(_MARK)), None)
    if done.returncode != 0 or line is None:
        refuse(done, "Spack's Python could not be asked")
    answer: dict[str, Any] = json.loads(line.removeprefix(_MARK))
    return answer


def read_spack_lock(text: str, sources: dict[str, tuple[LockedSpackSource, ...]]) -> tuple[LockedSpackNode, ...]:
    """The packages in a spack.lock, sorted by name and hash; raises LockError for one of another version."""
    try:
        document = json.loads(text)
        version = document["_meta"]["lockfile-version"]
        specs = document["concrete_specs"]
    except (ValueError, KeyError, TypeError) as error:
        raise LockError(f"spack.lock is not one: {error}", rule="spack-lock", hint=_NEEDED) from error
    if version not in _LOCK_VERSIONS:
        raise LockError(f"spack.lock has version {version}", rule="spack-lock", hint=_NEEDED)
    nodes = [
        LockedSpackNode(
            name=node["name"],
            version=str(node.get("version") or ""),
            hash=spec,
            external=(node["external"].get("path") or "") if node.get("external") else None,
            dependencies=tuple(sorted({one["hash"] for one in node.get("dependencies", ())})),
            sources=sources.get(spec, ()),
        )
        for spec, node in specs.items()
    ]
    return tuple(sorted(nodes, key=lambda node: (node.name, node.hash)))


def _listed(causes: Sequence[str]) -> str:
    return "".join(f"\n    {cause}" for cause in causes)


def read_activation(run: RunSpack, view: str) -> dict[str, str | None]:
    """The variables that activating a view of the environment sets, and those that it takes away (None)."""
    done = run(["env", "activate", "-d", ENVIRONMENT, "--with-view", view, "--sh"])
    if done.returncode != 0:
        refuse(done, f'Spack does not activate its view "{view}"')
    found: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        if match := _EXPORT.match(line):
            found[match[1]] = "".join(shlex.split(match[2]))
        elif match := _UNSET.match(line):
            found[match[1]] = None
    return found
