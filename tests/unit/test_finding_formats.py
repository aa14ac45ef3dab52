"""Findings as JSON, SARIF and JUnit XML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uenv_builder.core import finding_formats
from uenv_builder.core.finding_formats import to_document, to_junit, to_sarif
from uenv_builder.core.rules.stories import Story
from uenv_builder.model.errors import Diagnostic, Position

STORY = Story(
    severity="warning",
    title="NCCL_NET is not set on a Slingshot system",
    why="NCCL goes on over TCP in silence where the plugin does not load.",
    remedy="set NCCL_NET to AWS Libfabric",
    sources=("NVIDIA/nccl v2.30.7-1, src/plugin/net.cc", "eth-cscs/cscs-docs 80abed13"),
    compatibility=True,
)
ERROR = Diagnostic(
    rule="version", message="'13' is no version", position=Position("recipes/a b/recipe.yaml", 4, 9),
    hint="quote it", source="docs",
)  # fmt: skip
WARNING = Diagnostic(
    rule="nccl-net-unset", message="NCCL_NET is not set", severity="warning",
    position=Position("./recipes/ä#/job.sh", 12, 1),
)  # fmt: skip
NOTE = Diagnostic(rule="env-typo", message="\x1b[31mFI_CXI_FOO\x00 \ud800", severity="note")
FINDINGS = (ERROR, WARNING, NOTE, replace(ERROR, position=Position("recipes/a b/recipe.yaml", 40, 2)))


@pytest.fixture(autouse=True)
def _one_story(monkeypatch):
    monkeypatch.setattr(finding_formats, "find_story", {"nccl-net-unset": STORY}.get)


def results(findings=FINDINGS, **options):
    document = to_sarif(findings, version="0.1.0", **options)
    assert json.loads(json.dumps(document)) == document
    (run,) = document["runs"]
    return run


def uri(finding, **options):
    (result,) = results([finding], **options)["results"]
    return result["locations"][0]["physicalLocation"]["artifactLocation"]


def at(file):
    return replace(ERROR, position=Position(file, 1, 1))


def test_a_document_has_every_key_and_nulls():
    assert to_document(ERROR) == {
        "severity": "error", "rule": "version", "message": "'13' is no version", "hint": "quote it", "source": "docs",
        "file": "recipes/a b/recipe.yaml", "line": 4, "column": 9,
    }  # fmt: skip
    assert to_document(NOTE) == {
        "severity": "note", "rule": "env-typo", "message": NOTE.message, "hint": None, "source": None,
        "file": None, "line": None, "column": None,
    }  # fmt: skip


def test_sarif_names_its_version_schema_and_tool():
    document = to_sarif(FINDINGS, version="1.2.3")
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("/sarif-schema-2.1.0.json")
    driver = document["runs"][0]["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("uenv-builder", "1.2.3")
    assert document["runs"][0]["columnKind"] == "unicodeCodePoints"


def test_sarif_rules_are_named_once_and_results_point_to_them():
    run = results()
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["version", "nccl-net-unset"]
    assert [result["ruleIndex"] for result in run["results"]] == [0, 1, 0]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])
    assert [result["level"] for result in run["results"]] == ["error", "warning", "error"]


def test_sarif_rules_tell_their_story():
    plain, told = results()["tool"]["driver"]["rules"]
    assert plain == {
        "id": "version", "shortDescription": {"text": "version"}, "fullDescription": {"text": "version"},
        "help": {"text": "quote it"}, "defaultConfiguration": {"level": "error"},
    }  # fmt: skip
    assert told["shortDescription"] == {"text": STORY.title}
    assert told["fullDescription"] == {"text": STORY.why}
    assert told["defaultConfiguration"] == {"level": "warning"}
    assert told["help"]["text"].endswith(
        "What to do: set NCCL_NET to AWS Libfabric\n\n"
        "Sources: NVIDIA/nccl v2.30.7-1, src/plugin/net.cc; eth-cscs/cscs-docs 80abed13"
    )
    assert "- eth-cscs/cscs-docs 80abed13" in told["help"]["markdown"]
    assert told["properties"] == {"tags": ["compatibility"]}


def test_sarif_messages_carry_hint_and_source():
    run = results()
    assert run["results"][0]["message"]["text"] == "'13' is no version\nhint: quote it\nsource: docs"
    assert run["results"][1]["message"]["text"] == "NCCL_NET is not set"


def test_sarif_places():
    run = results()
    assert run["results"][0]["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "recipes/a%20b/recipe.yaml"},
                "region": {"startLine": 4, "startColumn": 9},
            }
        }
    ]
    (whole_file,) = results([replace(ERROR, position=Position("x.toml", 0, 0))])["results"]
    region = whole_file["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 1}


def test_findings_without_a_file_are_notices_as_code_scanning_refuses_results_without_a_place():
    run = results([NOTE, ERROR])
    assert [result["ruleId"] for result in run["results"]] == ["version"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["version"]
    (invocation,) = run["invocations"]
    text = "env-typo: \ufffd[31mFI_CXI_FOO\ufffd \ufffd"
    notice = {"level": "note", "message": {"text": text}}
    assert invocation == {"executionSuccessful": True, "toolExecutionNotifications": [notice]}


def test_sarif_uris_are_relative_to_the_root():
    assert uri(WARNING) == {"uri": "recipes/%C3%A4%23/job.sh"}
    assert uri(at("recipes\\win\\recipe.yaml")) == {"uri": "recipes/win/recipe.yaml"}
    assert uri(at("a:b.toml")) == {"uri": "a%3Ab.toml"}
    assert uri(at("/src/recipes/x.yaml"), root="/src") == {"uri": "recipes/x.yaml"}
    assert uri(at("/src/recipes/x.yaml"), root="/src/") == {"uri": "recipes/x.yaml"}
    assert uri(at("recipes/x.yaml"), root="/src") == {"uri": "recipes/x.yaml"}
    assert uri(at("/src-2/x.yaml"), root="/src") == {"uri": "file:///src-2/x.yaml"}
    assert uri(at("/my src/x.yaml")) == {"uri": "file:///my%20src/x.yaml"}


def test_fingerprints_survive_moved_lines_and_tell_findings_apart():
    first, other, second = (result["partialFingerprints"]["uenvFinding/v1"] for result in results()["results"])
    assert len({first, other, second}) == 3
    moved = results([replace(ERROR, position=Position("recipes/a b/recipe.yaml", 99, 1))])["results"][0]
    assert moved["partialFingerprints"]["uenvFinding/v1"] == first
    elsewhere = results([at("other.yaml")])["results"][0]
    assert elsewhere["partialFingerprints"]["uenvFinding/v1"] != first


def test_no_findings_are_an_empty_run():
    run = results([])
    assert run["results"] == []
    assert run["tool"]["driver"]["rules"] == []


def suites(findings, files):
    return ET.fromstring(to_junit(findings, files=files)).findall("testsuite")


def test_junit_has_a_suite_a_file_and_a_case_a_finding():
    found = suites(FINDINGS, ["clean.toml", "recipes/a b/recipe.yaml"])
    assert [suite.get("name") for suite in found] == [
        "clean.toml", "recipes/a b/recipe.yaml", "./recipes/ä#/job.sh", "uenv check",
    ]  # fmt: skip
    assert [(suite.get("tests"), suite.get("failures")) for suite in found] == [
        ("1", "0"), ("2", "2"), ("1", "0"), ("1", "0"),
    ]  # fmt: skip
    assert all((suite.get("errors"), suite.get("skipped")) == ("0", "0") for suite in found)
    assert all(int(suite.get("tests")) == len(suite.findall("testcase")) for suite in found)


def test_a_clean_file_is_one_passing_case():
    (suite,) = suites([], ["clean.toml"])
    (case,) = suite
    assert (case.get("name"), case.get("classname"), list(case)) == ("no findings", "uenv.check", [])


def test_errors_fail_and_the_rest_is_said():
    (suite,) = suites([ERROR, replace(WARNING, position=ERROR.position)], ["recipes/a b/recipe.yaml"])
    error, warning = suite
    assert error.get("name") == "version (4:9)"
    assert (error.get("file"), error.get("line")) == ("recipes/a b/recipe.yaml", "4")
    (failure,) = error
    assert (failure.tag, failure.get("message"), failure.get("type")) == ("failure", "'13' is no version", "version")
    assert failure.text == str(ERROR)
    (said,) = warning
    assert said.tag == "system-out"
    assert said.text == "recipes/a b/recipe.yaml:4:9: warning[nccl-net-unset]: NCCL_NET is not set"


def test_control_characters_do_not_break_the_xml():
    (suite,) = suites([replace(NOTE, severity="error")], [])
    failure = suite.find("testcase/failure")
    assert failure.get("message") == "\ufffd[31mFI_CXI_FOO\ufffd \ufffd"
    assert "\\x1b[31m" in failure.text


texts = st.text(max_size=40)
diagnostics = st.builds(
    Diagnostic, rule=st.from_regex(r"[a-z]{1,3}(-[a-z])?", fullmatch=True), message=texts,
    severity=st.sampled_from(["error", "warning", "note"]),
    position=st.none() | st.builds(Position, texts, st.integers(-1, 10**6), st.integers(-1, 10**6)),
    hint=st.none() | texts, source=st.none() | texts,
)  # fmt: skip


@given(st.lists(diagnostics, max_size=5), st.none() | st.just("/src"))
def test_whatever_a_finding_says_the_files_are_well_formed(findings, root):
    run = to_sarif(findings, version="1", root=root)["runs"][0]
    json.dumps(run).encode()
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    notices = run["invocations"][0]["toolExecutionNotifications"]
    assert len(notices) == sum(finding.position is None for finding in findings)
    prints = [result["partialFingerprints"]["uenvFinding/v1"] for result in run["results"]]
    assert len(set(prints)) == len(findings) - len(notices)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"error", "warning", "note"}
        for place in result["locations"]:
            found = place["physicalLocation"]["artifactLocation"]
            assert re.fullmatch(r"file:///[A-Za-z0-9%/._~-]*|[A-Za-z0-9%/._~-]+", found["uri"])
            unquote(found["uri"], errors="strict")
            assert min(place["physicalLocation"]["region"].values()) >= 1
    ET.fromstring(to_junit(findings, files=["a.toml"]))
