"""`uenv build --launcher slurm` and `--resume`: which recipes the words name, and what is told of their jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uenv_builder.app.batch.options import BatchOptions
from uenv_builder.app.recipes import find_recipe, load_recipe
from uenv_builder.commands.run import Run, prepare_target
from uenv_builder.model.errors import Diagnostic, UenvError, UsageError

if TYPE_CHECKING:
    from uenv_builder.app.preparing import Prepared

_LABEL = re.compile(r"[@%:]")
"""A word with one of these is a label, unless there is a file of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmRequest:
    """What the command line asks for."""

    words: Sequence[str]
    resume: str | None
    options: BatchOptions
    wait: float | None
    report: Path | None
    output: Path | None
    uarch: str | None
    system: str | None
    locked: bool
    no_test: bool
    offline: bool
    jobs: int | None
    mirror: tuple[str, ...]


def run_by_slurm(run: Run, request: SlurmRequest) -> int:
    """Submit and wait, or only wait; the exit code is that of the worst build."""
    from uenv_builder.app.batch.build_tasks import BuildOptions
    from uenv_builder.app.batch.building import resume_builds, submit_builds

    if request.resume is not None:
        if request.words:
            raise UsageError("--resume knows the recipes of its job", hint="leave RECIPE out")
        built = resume_builds(run.session, request.resume, patience=request.wait)
    else:
        options = BuildOptions(
            offline=request.offline, no_test=request.no_test, jobs=request.jobs, mirror=request.mirror
        )
        built = submit_builds(
            run.session, _prepare_all(run, request), request.options, options,
            output=request.output, report=request.report, patience=request.wait,
        )  # fmt: skip
    run.show(built.document(), built.lines())
    return built.exit_code


def _prepare_all(run: Run, request: SlurmRequest) -> list[Prepared]:
    """All targets, checked and locked here: on a node nobody would see what is wrong until the job ends there."""
    prepared: list[Prepared] = []
    found: list[Diagnostic] = []
    first: UenvError | None = None
    for recipe, label in _recipes(run, request):
        try:
            prepared.append(
                prepare_target(
                    run, recipe, label, uarch=request.uarch, system=request.system, locked=request.locked
                )
            )  # fmt: skip
        except UenvError as error:
            first = first or error
            found += error.diagnostics
    if first is not None:
        raise type(first).collect(found)
    return prepared


def _recipes(run: Run, request: SlurmRequest) -> Iterator[tuple[str, str | None]]:
    """Each recipe with its label, folders of recipes replaced by what is in them for the chosen target."""
    pairs: list[tuple[str, str | None]] = []
    for word in request.words:
        if not _LABEL.search(word) or Path(word).exists():
            pairs.append((word, None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], word)
        else:
            raise UsageError(f"{word}: is a label, and stands behind no recipe", hint="RECIPE LABEL RECIPE LABEL ...")
    if not pairs:
        raise UsageError("there is no RECIPE", hint="name folders with a recipe.yaml; or --resume JOB")
    for word, label in pairs:
        below = [] if _is_recipe(Path(word)) else sorted(Path(word).rglob("recipe.yaml"))
        if below and label is not None:
            raise UsageError(f"{label}: is the label of one image, and {word} holds several recipes")
        if below:
            yield from ((recipe, label) for recipe in _fitting(run, below, request))
        else:
            yield word, label


def _is_recipe(place: Path) -> bool:
    return not place.is_dir() or (place / "recipe.yaml").is_file()


def _fitting(run: Run, files: Sequence[Path], request: SlurmRequest) -> list[str]:
    """Those of a folder that have a target such as is asked for, or that cannot be read, which is told later."""
    fitting: list[str] = []
    others: list[str] = []
    for file in files:
        (fitting if _fits(run, file, request) else others).append(str(file.parent))
    wanted = f"{request.system or '*'}%{request.uarch or '*'}"
    for other in others:
        run.session.listener.note(f"{other}: has no target {wanted}, and is left out")
    if not fitting:
        raise UsageError(f"no recipe there has a target {wanted}", rule="no-target", hint="see `targets:` there")
    return fitting


def _fits(run: Run, file: Path, request: SlurmRequest) -> bool:
    try:
        loaded = load_recipe(find_recipe(str(file), run.session.settings.recipe_path))
    except UenvError:
        return True
    return any(
        request.system in {None, target.system} and request.uarch in {None, target.uarch}
        for target in loaded.recipe.targets
    )
