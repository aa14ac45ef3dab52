"""What `uenv explain` tells: the story of a rule, and what a job's log says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from uenv_builder.core.digest import Document
from uenv_builder.core.logs.failures import fill_in, load_failures
from uenv_builder.core.logs.reading import LINE_LIMIT, LogFinding, LogReading, read_log
from uenv_builder.core.rules.stories import Story, chapter_names, find_story, load_chapter
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import UsageError


def story_of(rule: str) -> Story:
    """The story of a rule, or of a failure of jobs; raises UsageError with the closest id where there is none."""
    if (story := find_story(rule)) is not None:
        return story
    if (failure := load_failures().by_id.get(rule)) is not None:
        title = f"A message of {failure.component} in a job's log"
        return Story(
            severity="note" if failure.severity == "good" else failure.severity, title=title,
            why=fill_in(failure.cause, {}), remedy=fill_in(failure.remedy, {}),
            sources=(failure.source or load_failures().source,),
        )  # fmt: skip
    known = [name for chapter in chapter_names() for name in load_chapter(chapter).stories]
    raise UsageError(
        f'there is no rule "{rule}"', rule="unknown-rule",
        hint=suggest(rule, known) or "the id of a rule stands in the brackets of what `uenv check` prints",
    )  # fmt: skip


def story_document(rule: str, story: Story) -> Document:
    """A story as JSON."""
    return {"rule": rule, **story.model_dump(mode="json")}


def story_lines(rule: str, story: Story) -> list[str]:
    """A story for people."""
    return [
        f"{rule} ({story.severity}): {story.title.strip()}", "", story.why.strip(), "",
        f"What to do: {story.remedy.strip()}", "", *(f"Source: {source}" for source in story.sources),
    ]  # fmt: skip


def read_log_file(path: Path) -> LogReading:
    """What is known of the messages in the log at `path`; raises UsageError where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            return read_log(iter(lambda: file.readline(LINE_LIMIT), ""))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", rule="unreadable") from error


def log_document(path: Path, reading: LogReading) -> Document:
    """A reading as JSON, the likely cause first."""
    facts = reading.facts
    return {
        "log": str(path),
        "lines": reading.lines,
        "versions": {
            "nccl": list(facts.nccl), "aws_ofi_nccl": list(facts.aws_ofi_nccl), "libfabric": list(facts.libfabric),
            "cuda_driver": list(facts.cuda_driver),
        },
        "networks": list(facts.networks),
        "providers": list(facts.providers),
        "nodes": facts.nodes,
        "findings": [_finding_document(finding) for finding in reading.ranked],
    }  # fmt: skip


def log_lines(path: Path, reading: LogReading) -> Iterator[str]:
    """A reading for people, the likely cause first."""
    for finding in reading.ranked:
        times = f" ({finding.count} times)" if finding.count > 1 else ""
        yield f"{path}:{finding.line}: {finding.severity}[{finding.failure.id}]{times}: {finding.excerpt}"
        yield f"  cause: {finding.cause.strip()}"
        yield f"  remedy: {finding.remedy.strip()}"
        if finding.failure.rule:
            yield f"  more: uenv explain {finding.failure.rule}"
    facts = reading.facts
    seen = {
        "NCCL": facts.nccl, "aws-ofi-nccl": facts.aws_ofi_nccl, "libfabric": facts.libfabric,
        "network": facts.networks, "providers": facts.providers,
    }  # fmt: skip
    for name, values in seen.items():
        if values:
            yield f"{name}: {', '.join(values)}"
    if not reading.findings:
        yield f"{path}: nothing known in {reading.lines} lines; with NCCL_DEBUG=INFO a job's log tells more"


def _finding_document(finding: LogFinding) -> Document:
    return {
        "failure": finding.failure.id,
        "component": finding.failure.component,
        "severity": finding.severity,
        "line": finding.line,
        "count": finding.count,
        "excerpt": finding.excerpt,
        "cause": finding.cause,
        "remedy": finding.remedy,
        "rule": finding.failure.rule,
        "source": finding.failure.source,
    }
