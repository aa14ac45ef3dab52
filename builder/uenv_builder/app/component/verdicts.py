"""Which rules looked at a component, and what they said."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from uenv_builder.app.component.model import Case, Verdict
from uenv_builder.core.rules.reading import NotedRuntime, Reading, noted_subject
from uenv_builder.core.rules.stories import find_story
from uenv_builder.core.rules.tables import RUNTIME_RULES, SUBJECT_RULES
from uenv_builder.core.rules.verdicts import diagnose
from uenv_builder.core.variable_lint import lint_variables
from uenv_builder.model.errors import Diagnostic


def find_verdicts(case: Case) -> Iterator[Verdict]:
    """What each rule said that looked at the component, in the rules' order; by letting each look, and taking notes."""
    read: set[Reading] = set()
    subject = noted_subject(case.subject, read.add)
    runtime = NotedRuntime.of(subject.runtime, read.add)
    calls = [(rule, partial(judge, subject)) for rule, judge in SUBJECT_RULES.items()]
    calls += [(rule, partial(judge, runtime)) for rule, judge in RUNTIME_RULES.items()]
    for rule, judge in calls:
        read.clear()
        found = tuple(diagnose(rule, finding, case.place) for finding in judge())
        covered = sorted(reading for reading in read if case.identity.covers(reading))
        if covered:
            yield _verdict(case, rule, found, tuple(dict.fromkeys(map(_word_of, covered))))
    yield from _variable_verdicts(case)


def _word_of(reading: Reading) -> str:
    kind, name = reading
    return name if kind == "variable" else "presence" if kind == "presence" else "version"


def _verdict(case: Case, rule: str, findings: tuple[Diagnostic, ...], read: tuple[str, ...]) -> Verdict:
    story = find_story(rule)
    severities = {finding.severity for finding in findings}
    worst = next((one for one in ("error", "warning", "note") if one in severities), "silent")
    if worst not in {"error", "silent"} and rule in case.loaded.recipe.accept:
        worst = "accepted"
    title = " ".join(story.title.split()) if story else ""
    return Verdict(rule=rule, verdict=worst, title=title, read=read, findings=findings)


def _variable_verdicts(case: Case) -> Iterator[Verdict]:
    """Findings about the library's variables that the recipe sets; these rules are one piece, so the silent ones are
    not told apart.
    """
    recipe = case.loaded.recipe
    own = {**recipe.env, **recipe.edf.env}
    names = [name for name in own if case.identity.covers(("variable", name))]
    found = lint_variables(
        {name: own[name] for name in names}, versions=case.subject.runtime.versions,
        locate=lambda name: case.place(("env", name)),
    )  # fmt: skip
    for rule in dict.fromkeys(finding.rule for finding in found):
        findings = tuple(finding for finding in found if finding.rule == rule)
        read = tuple(name for name in names if any(name in finding.message for finding in findings))
        yield _verdict(case, rule, findings, read)
