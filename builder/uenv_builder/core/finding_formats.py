"""Findings as other programs read them: JSON, SARIF 2.1.0 for code scanning, JUnit XML for CI systems."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote
from xml.etree import ElementTree as ET

from uenv_builder.core.digest import Document
from uenv_builder.core.rules.stories import Story, find_story
from uenv_builder.core.xml_text import xml_text
from uenv_builder.model.errors import Diagnostic

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_SURROGATES = re.compile("[\ud800-\udfff]")
_NOWHERE: Final = "uenv check"
"""The test suite of findings without a file."""


def to_document(finding: Diagnostic) -> Document:
    """A finding as a JSON object; every key is always there, null where the finding says nothing."""
    place = finding.position
    return {
        "severity": finding.severity,
        "rule": finding.rule,
        "message": finding.message,
        "hint": finding.hint,
        "source": finding.source,
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
    }


def to_sarif(findings: Sequence[Diagnostic], *, version: str, root: str | None = None) -> Document:
    """A SARIF 2.1.0 log of one run of uenv-builder `version`.

    Relative files, and those below the absolute folder `root`, get relative URIs, as code scanning asks for; only
    files elsewhere keep an absolute one. Columns count Unicode characters from 1. Findings without a file are
    notifications of the run: code scanning refuses a whole log for one result that has no place.
    """
    placed = [finding for finding in findings if finding.position]
    examples = {finding.rule: finding for finding in reversed(placed)}
    rules = list(dict.fromkeys(finding.rule for finding in placed))
    driver = {"name": "uenv-builder", "version": version, "rules": [_sarif_rule(examples[rule]) for rule in rules]}
    notices = [_sarif_notice(finding) for finding in findings if not finding.position]
    run: Document = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notices}],
        "results": list(_sarif_results(placed, {rule: number for number, rule in enumerate(rules)}, root)),
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def to_junit(findings: Sequence[Diagnostic], *, files: Sequence[str]) -> str:
    """JUnit XML: a test suite for each of `files`, then for every other file that a finding names.

    Each finding is a test case: errors fail, warnings and notes pass and say so in system-out. A clean file is one
    passing case. Control characters, which XML cannot hold, become U+FFFD.
    """
    by_file: dict[str, list[Diagnostic]] = {file: [] for file in files}
    for finding in findings:
        by_file.setdefault(finding.position.file if finding.position else _NOWHERE, []).append(finding)
    root = ET.Element("testsuites")
    root.extend(_junit_suite(file, found) for file, found in by_file.items())
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _sarif_rule(example: Diagnostic) -> Document:
    """A reporting descriptor: from the rule's story where it has one, else from the first of its findings."""
    story = find_story(example.rule)
    if story is None:
        words = xml_text(example.rule.replace("-", " "))
        return {
            "id": xml_text(example.rule),
            "shortDescription": {"text": words},
            "fullDescription": {"text": words},
            "help": {"text": xml_text(example.hint or words)},
            "defaultConfiguration": {"level": example.severity},
        }
    return {
        "id": example.rule,
        "shortDescription": {"text": story.title},
        "fullDescription": {"text": story.why},
        "help": {"text": _help_text(story), "markdown": _help_markdown(example.rule, story)},
        "defaultConfiguration": {"level": story.severity},
        "properties": {"tags": ["compatibility" if story.compatibility else "correctness"]},
    }


def _sarif_notice(finding: Diagnostic) -> Document:
    text = xml_text(f"{finding.rule}: {_message(finding)}")
    return {"level": finding.severity, "message": {"text": text}}


def _help_text(story: Story) -> str:
    return f"{story.why}\n\nWhat to do: {story.remedy}\n\nSources: {'; '.join(story.sources)}"


def _help_markdown(rule: str, story: Story) -> str:
    sources = "\n".join(f"- {source}" for source in story.sources)
    return f"**{story.title}**\n\n{story.why}\n\n**What to do:** {story.remedy}\n\n**Sources**\n\n{sources}\n\n`{rule}`"


def _sarif_results(findings: Sequence[Diagnostic], numbered: Mapping[str, int], root: str | None) -> Iterable[Document]:
    seen: Counter[str] = Counter()
    for finding in findings:
        if (place := finding.position) is None:
            continue
        uri = _uri(place.file, root)
        identity = _fingerprint(finding, uri)
        seen[identity] += 1
        # Lines and columns start at 1 in SARIF; a finding about a whole file may say 0.
        region = {"startLine": max(place.line, 1), "startColumn": max(place.column, 1)}
        yield {
            "ruleId": xml_text(finding.rule),
            "ruleIndex": numbered[finding.rule],
            "level": finding.severity,
            "message": {"text": xml_text(_message(finding))},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}],
            # The count keeps equal findings of one file apart, whatever lines they move to.
            "partialFingerprints": {"uenvFinding/v1": f"{identity}:{seen[identity]}"},
        }


def _message(finding: Diagnostic) -> str:
    parts = [finding.message]
    if finding.hint:
        parts.append(f"hint: {finding.hint}")
    if finding.source:
        parts.append(f"source: {finding.source}")
    return "\n".join(parts)


def _fingerprint(finding: Diagnostic, uri: str) -> str:
    text = f"{finding.rule}\0{uri}\0{finding.message}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def _uri(file: str, root: str | None) -> str:
    path = _SURROGATES.sub("\ufffd", file.replace("\\", "/"))
    if root is not None:
        path = path.removeprefix(root.rstrip("/") + "/") or "."
    if path.startswith("/"):
        return "file://" + quote("/" + path.lstrip("/"), safe="/-._~")
    return quote(str(PurePosixPath(path)), safe="/-._~")


def _junit_suite(file: str, findings: Sequence[Diagnostic]) -> ET.Element:
    failures = sum(finding.severity == "error" for finding in findings)
    suite = ET.Element("testsuite", {
        "name": xml_text(file), "tests": str(max(len(findings), 1)), "failures": str(failures), "errors": "0",
        "skipped": "0", "time": "0.000",
    })  # fmt: skip
    for finding in findings:
        _add_case(suite, file, finding)
    if not findings:
        ET.SubElement(suite, "testcase", {"classname": "uenv.check", "name": "no findings", "time": "0.000"})
    return suite


def _add_case(suite: ET.Element, file: str, finding: Diagnostic) -> None:
    place = finding.position
    name = f"{finding.rule} ({place.line}:{place.column})" if place else finding.rule
    attributes = {"classname": "uenv.check", "name": xml_text(name), "time": "0.000"}
    if place:
        attributes |= {"file": xml_text(file), "line": str(place.line)}
    case = ET.SubElement(suite, "testcase", attributes)
    if finding.severity == "error":
        failure = ET.SubElement(case, "failure", {"message": xml_text(finding.message), "type": xml_text(finding.rule)})
        failure.text = xml_text(str(finding))
    else:
        ET.SubElement(case, "system-out").text = xml_text(str(finding))
