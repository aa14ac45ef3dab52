from __future__ import annotations

import pytest

from uenv_builder.core.label import Label
from uenv_builder.model.errors import UsageError


@pytest.mark.parametrize(
    "text",
    [
        "pytorch/2.14:v1@daint%gh200",
        "pytorch/2.14@daint%gh200",
        "pytorch",
        "pytorch:v1",
        "pytorch/2.14",
        "deploy::pytorch/v2.8.0:2033219404@*%gh200",
        "@daint",
        "%gh200",
        "_a/1.0-rc.1",
        "0a/B_c",
    ],
)
def test_labels_come_back_as_they_were(text):
    assert str(Label.parse(text)) == text


def test_all_parts_are_told_apart():
    assert Label.parse("deploy::pytorch/2.14:v1@daint%gh200") == Label(
        namespace="deploy", name="pytorch", version="2.14", tag="v1", system="daint", uarch="gh200"
    )
    assert Label.parse("a@*") == Label(name="a", system="*")


def test_system_and_uarch_stand_in_any_order():
    assert str(Label.parse("a/1%gh200@daint")) == "a/1@daint%gh200"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        ("deploy::", "the text is empty"),
        ("pytorch/v2.9.1+cu129@daint", r'unexpected "\+" at character 15'),
        ("-a", 'unexpected "-" at character 1'),
        (".a/1", 'unexpected "." at character 1'),
        ("a/.1", r'unexpected "\." at character 3'),
        ("a b", 'unexpected " " at character 2'),
        ("a/", "ends where its version is expected"),
        ("a/1:", "ends where its tag is expected"),
        ("a/1@", "ends where its system is expected"),
        ("a@x@y", 'unexpected "@" at character 4'),
        ("a:t/1", 'unexpected "/" at character 4'),
        ("a@d:t", 'unexpected ":" at character 4'),
        ("a%*", r'unexpected "\*" at character 3'),
        ("a/*", r'unexpected "\*" at character 3'),
        ("a@*x", 'unexpected "x" at character 4'),
        ("::a", 'unexpected ":" at character 1'),
        ("a/b::c", 'unexpected "/" at character 2'),
        ("a\n", r'unexpected "\\n" at character 2'),
        ("pytörch", 'unexpected "ö" at character 4'),
        ("file:///x", 'unexpected "/" at character 6'),
    ],
)
def test_what_is_no_label_is_refused_at_its_place(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        Label.parse(text)
    assert "pytorch/2.14:v1@daint%gh200" in str(caught.value)


def test_missing_parts_are_named():
    label = Label.parse("pytorch/2.14@daint")
    assert label.require("name", "version", "system") is label
    with pytest.raises(UsageError, match=r'"pytorch/2\.14@daint" lacks tag and uarch'):
        label.require("name", "tag", "uarch")
