"""Runs rules and turns what they answer into diagnostics; takes out what a recipe accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.stories import chapter_names, find_story, load_chapter
from uenv_builder.core.yaml_tree import Path, suggest
from uenv_builder.model.errors import Diagnostic, Position

Locate = Callable[[Path], Position | None]
_Subject = TypeVar("_Subject")


def diagnose(rule: str, finding: Finding, locate: Locate) -> Diagnostic:
    """The diagnostic of a rule's finding: what it does not say itself comes from the rule's story."""
    story = find_story(rule)
    return Diagnostic(
        rule=rule,
        message=finding.message,
        severity=finding.severity or (story.severity if story else "error"),
        position=locate(finding.at),
        hint=finding.hint or (story.remedy if story else None),
        source=finding.source or (story.sources[0] if story else None),
    )


def run_rules(
    rules: Mapping[str, Callable[[_Subject], Iterable[Finding]]], subject: _Subject, locate: Locate
) -> Iterator[Diagnostic]:
    """What `rules` say about `subject`; `locate` gives the place of a finding's path."""
    for rule, judge in rules.items():
        for finding in judge(subject):
            yield diagnose(rule, finding, locate)


def accept(
    findings: Iterable[Diagnostic], accepted: Mapping[str, str], locate: Locate, *, everything: bool = True
) -> list[Diagnostic]:
    """`findings` without the warnings and notes that a recipe accepts, and with what is wrong about its accepting.

    `everything`: whether the rules had all that they look at, a lock above all; only then what is accepted for nothing
    is known.
    """
    found = list(findings)
    kept = [finding for finding in found if finding.severity == "error" or finding.rule not in accepted]
    return [*kept, *_acceptance_findings(found, accepted, locate, everything=everything)]


def without_repetition(findings: Iterable[Diagnostic]) -> list[Diagnostic]:
    """`findings` in the order of their places, errors first at each, and each once: several targets of a recipe often
    share a fault.
    """
    once = dict.fromkeys(findings)
    return sorted(once, key=lambda finding: (*_order(finding.position), finding.severity != "error"))


def is_incompatible(findings: Iterable[Diagnostic]) -> bool:
    """Whether all errors among `findings` say that things cannot work together, and none that a file is wrong."""
    errors = [finding.rule for finding in findings if finding.severity == "error"]
    stories = [find_story(rule) for rule in errors]
    return bool(errors) and all(story is not None and story.compatibility for story in stories)


def _order(position: Position | None) -> tuple[str, int, int]:
    return (position.file, position.line, position.column) if position else ("", 0, 0)


def _acceptance_findings(
    found: list[Diagnostic], accepted: Mapping[str, str], locate: Locate, *, everything: bool
) -> Iterator[Diagnostic]:
    errors = {finding.rule for finding in found if finding.severity == "error"}
    others = {finding.rule for finding in found} - errors
    for rule in accepted:
        answer = Diagnostic(rule="accept", message="", position=locate(("accept", rule)))
        if rule in errors:
            yield replace(
                answer, message=f"{rule} is an error, and errors cannot be accepted",
                hint="mend what it is about, and leave it out here",
            )  # fmt: skip
        elif find_story(rule) is None:
            known = [name for chapter in chapter_names() for name in load_chapter(chapter).stories]
            yield replace(
                answer, message=f'there is no rule "{rule}"',
                hint=suggest(rule, known) or "copy the id from the brackets of a warning",
            )  # fmt: skip
        elif everything and rule not in others:
            yield replace(
                answer, severity="note", message=f"{rule} has nothing to say about this recipe", hint="leave it out"
            )
