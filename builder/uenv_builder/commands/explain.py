"""`uenv explain`: the story behind a rule, the messages of a job's log, and what is behind a component's version."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uenv_builder.app import explaining
from uenv_builder.commands.shared import DebugOption, JsonOption, UarchOption, print_json
from uenv_builder.core.digest import Document
from uenv_builder.core.finding_formats import to_document
from uenv_builder.model.errors import Position, UsageError

if TYPE_CHECKING:
    from uenv_builder.app.component.model import Asked, Explanation, Verdict

EPILOG = (
    "Examples: uenv explain srun-network; uenv explain recipes/pytorch/2.14 nccl; uenv explain --log slurm-4711.out"
)
_SHOWN_CHAINS, _SHOWN_NAMES = 5, 8


def explain(
    rule: Annotated[
        str | None,
        typer.Argument(metavar="RULE|RECIPE", help="The id in the brackets of a finding; or a recipe, as for build."),
    ] = None,
    component: Annotated[
        str | None,
        typer.Argument(metavar="COMPONENT", help="Of a recipe: a pin, a wheel or a Debian package, by its name."),
    ] = None,
    *,
    log: Annotated[Path | None, typer.Option("--log", help="A job's output: which known messages it holds.")] = None,
    uarch: UarchOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Tell why a rule is there and what to do about it, what the messages in a job's log mean, or what is behind a
    component of a recipe: its version, who asked for it, which rules looked at it, and what would change it.
    """
    if (rule is None) == (log is None):
        raise UsageError("name either a rule or a log", hint="for example: uenv explain srun-network")
    if component is None and uarch is not None:
        raise UsageError("--uarch is for a component", hint="for example: uenv explain recipes/pytorch/2.14 nccl")
    if log is not None:
        reading = explaining.read_log_file(log)
        document = explaining.log_document(log, reading)
        lines = list(explaining.log_lines(log, reading))
    elif component is not None:
        document, lines = _explain_component(rule or "", component, uarch)
    else:
        name = rule or ""
        _refuse_recipe(name)
        story = explaining.story_of(name)
        document, lines = explaining.story_document(name, story), explaining.story_lines(name, story)
    if as_json:
        print_json(document)
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)


def _refuse_recipe(name: str) -> None:
    if "/" in name and Path(name).exists():
        raise UsageError(f"{name} is no rule", hint=f"name a component behind a recipe: uenv explain {name} nccl")


def _explain_component(recipe: str, component: str, uarch: str | None) -> tuple[Document, list[str]]:
    from uenv_builder.app.component.explaining import explain_component

    path, explanations = explain_component(recipe, component, uarch=uarch)
    document: Document = {
        "recipe": str(path), "component": component,
        "explanations": [_explanation_document(one) for one in explanations],
    }  # fmt: skip
    lines = [line for one in explanations for line in ("", *_explanation_lines(path, component, one))]
    return document, lines[1:]


def _explanation_document(one: Explanation) -> Document:
    return {
        "targets": list(one.targets),
        "lock": one.lock,
        "version": one.version,
        "decided_by": [
            {"by": said.by, "version": said.version, "text": said.text, "source": said.source, **_place(said.position)}
            for said in one.decisions
        ],
        "asked_by": [
            {
                "text": asked.text, **_place(asked.position),
                "links": [{"by": link.by, "name": link.name, "text": link.text} for link in asked.links],
            }
            for asked in one.asked_by
        ],
        "rules": [
            {
                "rule": said.rule, "verdict": said.verdict, "title": said.title, "read": list(said.read),
                "findings": [to_document(finding) for finding in said.findings],
            }
            for said in one.verdicts
        ],
        "changes": list(one.changes),
        "notes": list(one.notes),
    }  # fmt: skip


def _place(position: Position | None) -> Document:
    if position is None:
        return {"file": None, "line": None, "column": None}
    return {"file": position.file, "line": position.line, "column": position.column}


def _explanation_lines(path: Path, component: str, one: Explanation) -> Iterator[str]:
    version = one.version or "no version is decided"
    yield f"{component} in {path} for {' and '.join(one.targets)}: {version}"
    yield from (f"note: {note}" for note in one.notes)
    decided = [
        line
        for said in one.decisions
        for line in (f"{said.by:6} {said.text}{_at(said.position)}", *_if_any("       source: ", said.source))
    ]
    yield from _section(
        "decided by", decided or ["nobody: no pin, no lock and none of the host's hooks names a version"]
    )
    yield from _section("asked for by", list(_asked_lines(one)))
    verdicts = sorted(one.verdicts, key=lambda said: said.verdict == "silent")
    yield from _section("rules that looked at it", [line for said in verdicts for line in _verdict_lines(said)])
    yield from _section("what would change it", one.changes)


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield title
    yield from (f"  {line}" for line in lines or ["nothing"])


def _asked_lines(one: Explanation) -> Iterator[str]:
    for asked in one.asked_by[:_SHOWN_CHAINS]:
        yield from _chain_lines(asked)
    if more := one.asked_by[_SHOWN_CHAINS:]:
        names = sorted({asked.links[-1].by for asked in more if asked.links})
        others = ", ..." if len(names) > _SHOWN_NAMES else ""
        yield f"and {len(more)} more chains, by {', '.join(names[:_SHOWN_NAMES])}{others}; --json has all"
    if not one.asked_by and one.decisions and one.decisions[0].by == "hooks":
        yield "nobody: the host brings it"
    elif not one.asked_by:
        yield "not recorded" if one.notes else "nobody"


def _chain_lines(asked: Asked) -> Iterator[str]:
    yield f"{asked.text}{_at(asked.position)}"
    yield from (f"  {link.by} asks for {link.text}" for link in asked.links)


def _verdict_lines(said: Verdict) -> Iterator[str]:
    yield f"{said.verdict:8} {said.rule}: {said.title}"
    yield from (f"         {finding.message}{_at(finding.position)}" for finding in said.findings)


def _at(position: Position | None) -> str:
    return f" ({position})" if position else ""


def _if_any(label: str, text: str | None) -> Iterator[str]:
    if text:
        yield f"{label}{text}"
