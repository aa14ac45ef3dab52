"""`uenv ci generate`: the pipelines of a repository as files, and whether those in git are the ones."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.ci.recipes import read_recipes
from uenv_builder.app.session import Session
from uenv_builder.core.ci.pipelines import Forge, PipelineRequest, render_images, render_pipeline
from uenv_builder.core.ci.targets import CiTarget, check_paths
from uenv_builder.model.errors import LockError, UsageError
from uenv_builder.system.files import write_text
from uenv_builder.system.site_systems import read_site_systems
from uenv_builder.system.templates import load_template

_DIFFERENCES = 6
"""How many lines of a difference are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """What the command line asks for; `only` is a file that `uenv ci changed --json` wrote."""

    forge: Forge
    places: Sequence[Path]
    uenv: str = "uenv"
    setup: Sequence[str] = ()
    watch: Sequence[str] = ()
    output: Path | None = None
    only: Path | None = None


def generate(session: Session, asked: Generating) -> str:
    """The pipeline's text. Raises UsageError for what cannot be written into one, and what is wrong with recipes."""
    _check(asked)
    recipes = read_recipes(asked.places, read_site_systems(session.settings.systems))
    for recipe in recipes:
        for line in recipe.left_out:
            session.listener.note(line)
    check_paths([recipe.folder for recipe in recipes])
    targets = [target for recipe in recipes for target, _ in recipe.targets]
    request = PipelineRequest(
        forge=asked.forge, places=[place.as_posix() for place in asked.places], uenv=asked.uenv, setup=asked.setup,
        watch=asked.watch, recipes=[recipe.folder for recipe in recipes], targets=_chosen(asked.only, targets),
        output=asked.output.as_posix() if asked.output else None,
    )  # fmt: skip
    if asked.only:
        return render_images(request, load_template("ci-gitlab-images.yml.j2"))
    return render_pipeline(request, load_template(f"ci-{asked.forge}.yml.j2"))


def write_pipeline(text: str, output: Path) -> bool:
    """Put `text` at `output`; whether anything changed."""
    if _read(output) == text:
        return False
    write_text(output, text)
    return True


def check_pipeline(text: str, output: Path) -> None:
    """Raise LockError, rule `pipeline-stale`, with the first differences, where `output` does not hold `text`."""
    there = _read(output)
    if there == text:
        return
    hint = "run the same command without --check"
    if there is None:
        raise LockError(f"{output}: there is no such file", rule="pipeline-stale", hint=hint)
    changes = difflib.unified_diff(
        there.splitlines(), text.splitlines(), "as it is", "as it should be", lineterm="", n=0
    )
    shown = [line for line in changes if not line.startswith(("---", "+++", "@@"))][:_DIFFERENCES]
    differences = "".join(f"\n    {line}" for line in shown)
    raise LockError(f"{output}: is not what would be written{differences}", rule="pipeline-stale", hint=hint)


def _read(output: Path) -> str | None:
    try:
        return output.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{output}: cannot be read: {error.strerror}") from error


def _check(asked: Generating) -> None:
    for path in (*asked.places, *([asked.output] if asked.output and not asked.only else [])):
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"{path}: means nothing to a pipeline",
                hint="run the command in the repository's folder, and name paths in it",
            )
    for line in (asked.uenv, *asked.setup, *asked.watch):
        if not line.strip() or not line.isprintable():
            raise UsageError(f"{line!r}: is no line of a pipeline", hint="write one line without control characters")
    if asked.only and asked.forge != "gitlab":
        raise UsageError("--only is for --for gitlab", hint="a workflow of GitHub chooses its jobs itself")


def _chosen(only: Path | None, targets: Sequence[CiTarget]) -> list[CiTarget]:
    if only is None:
        return list(targets)
    try:
        document = json.loads(only.read_text(encoding="utf-8"))
        names = {str(entry["id"]) for entry in document["targets"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--only {only}: is not what `uenv ci changed --json` writes: {error}", hint="write it again"
        ) from error
    if unknown := sorted(names - {target.id for target in targets}):
        raise UsageError(f"--only {only}: names {unknown[0]}, which is no target here", hint="write it again")
    return [target for target in targets if target.id in names]
