"""Reports as files: JSON for programs, JUnit XML for CI systems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree as ET

from uenv_builder.core.xml_text import xml_text
from uenv_builder.model.report import CheckResult, Report
from uenv_builder.system.files import write_json, write_text


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.xml` into `folder`, which exists; each appears whole or not at all."""
    document = {**asdict(report), "outcome": report.outcome}
    json_file, xml_file = folder / "report.json", folder / "report.xml"
    write_json(json_file, document)
    write_text(xml_file, junit_xml(report))
    return json_file, xml_file


def read_report(path: Path) -> Report:
    """The report that `write_report` wrote as JSON to `path`; ValueError or TypeError if it is another document."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise TypeError(f"{path}: not a report")
    document.pop("outcome", None)
    results = tuple(CheckResult(**{**item, "details": tuple(item["details"])}) for item in document.pop("results"))
    return Report(**document, results=results)


def junit_xml(report: Report) -> str:
    """One test suite with a test case for each result: inconclusive is JUnit's error, figures are its properties."""
    counts = Counter(result.outcome for result in report.results)
    suite = ET.Element("testsuite", {
        "name": xml_text(report.label), "tests": str(len(report.results)), "failures": str(counts["failed"]),
        "errors": str(counts["inconclusive"]), "skipped": str(counts["skipped"]),
        "time": f"{sum(result.seconds for result in report.results):.3f}", "timestamp": report.started,
    })  # fmt: skip
    facts = {"image": report.image, "plan": report.plan, "ran_on": report.ran_on, "emulated": report.emulated}
    _add_properties(suite, {**facts, "outcome": report.outcome})
    for result in report.results:
        _add_case(suite, result)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, result: CheckResult) -> None:
    attributes = {"classname": "uenv.checks", "name": result.check, "time": f"{result.seconds:.3f}"}
    case = ET.SubElement(suite, "testcase", attributes)
    _add_properties(case, result.measured)
    tag = {"failed": "failure", "inconclusive": "error", "skipped": "skipped"}.get(result.outcome)
    text = xml_text("\n".join(result.details))
    if tag:
        ET.SubElement(case, tag, {"message": xml_text(result.reason)}).text = text
    elif text:
        ET.SubElement(case, "system-out").text = text


def _add_properties(element: ET.Element, values: Mapping[str, object]) -> None:
    if values:
        properties = ET.SubElement(element, "properties")
        for name, value in values.items():
            ET.SubElement(properties, "property", {"name": xml_text(name), "value": xml_text(str(value))})
