"""Reports as JSON and as JUnit XML."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from uenv_builder.model.report import CheckResult, Report
from uenv_builder.system.report_files import junit_xml, read_report, write_report

RESULTS = (
    CheckResult(check="elf-machine", outcome="passed", seconds=1.25, measured={"elf_files": 3}, details=("a note",)),
    CheckResult(check="imports", outcome="failed", reason='"x" < & \x1b[0m', seconds=2.0, details=("line 1", "line 2")),
    CheckResult(check="allreduce-nccl", outcome="skipped", reason="no GPU on this machine", required=False),
    CheckResult(check="torch", outcome="inconclusive", reason="no sandbox"),
)
REPORT = Report(
    image="ab" * 32, label="pytorch/2.14@clariden%gh200", plan="cd" * 32, ran_on="x86_64", emulated=True,
    started="2026-11-23T07:00:00+00:00", results=RESULTS,
)  # fmt: skip


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    path, _ = write_report(REPORT, tmp_path)
    assert read_report(path) == REPORT
    document = json.loads(path.read_text())
    assert document["outcome"] == "failed"
    assert document["image"] == "ab" * 32
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.json", "report.xml"]


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(REPORT, tmp_path)]
    assert [path.read_bytes() for path in write_report(REPORT, tmp_path)] == first


def test_other_documents_are_refused(tmp_path: Path) -> None:
    for text in ("[]", '{"results": [], "image": "x"}', "{"):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises((TypeError, ValueError)):
            read_report(tmp_path / "report.json")


def test_junit_counts_and_names(tmp_path: Path) -> None:
    _, path = write_report(REPORT, tmp_path)
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert suite.get("name") == REPORT.label
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert [child.tag for child in cases["elf-machine"]] == ["properties", "system-out"]
    failure = cases["imports"].find("failure")
    assert failure is not None
    assert failure.get("message") == '"x" < & \ufffd[0m'
    assert failure.text == "line 1\nline 2"
    assert cases["torch"].find("error").get("message") == "no sandbox"  # type: ignore[union-attr]
    assert cases["allreduce-nccl"].find("skipped") is not None
    properties = {item.get("name"): item.get("value") for item in suite.find("properties") or []}
    assert properties["outcome"] == "failed"
    assert properties["emulated"] == "True"


def test_junit_is_valid_for_every_character() -> None:
    text = "".join(chr(number) for number in range(0x250)) + "\ud800"
    result = CheckResult(check="x", outcome="failed", reason=text, details=(text,))
    report = Report(image="", label=text, plan="", ran_on="", emulated=False, started="", results=(result,))
    ET.fromstring(junit_xml(report))
