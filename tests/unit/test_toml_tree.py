from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uenv_builder.core.toml_tree import read_toml
from uenv_builder.model.errors import RecipeError

TEXT = """\
a = "xü"
"q ü".b . 'c\\d' = [1, "ü", { x = 1, y.z = true }] # ü
[t."u\\tv"]
k = \"\"\"
several\"\"\"
[[arr]]
x = 1979-05-27T07:32:00Z
[[arr]]
y = inf
[[arr.sub]]
z = 0x1f
[[arr.sub]]
z = [
  "one", # comment
  'two',
]
[annotations]
com.hooks.cxi.enabled = "true"
com.hooks.ssh = { port = "1", enabled = "x" }
"""
# Path, place of the key (None for items of arrays), place of the value.
PLACES = [
    (("a",), (1, 1), (1, 5)),
    (("q ü", "b"), (2, 7), (2, 7)),
    (("q ü", "b", "c\\d"), (2, 11), (2, 19)),
    (("q ü", "b", "c\\d", 1), None, (2, 23)),
    (("q ü", "b", "c\\d", 2), None, (2, 28)),
    (("q ü", "b", "c\\d", 2, "x"), (2, 30), (2, 34)),
    (("q ü", "b", "c\\d", 2, "y", "z"), (2, 39), (2, 43)),
    (("t",), (3, 2), (3, 2)),
    (("t", "u\tv"), (3, 4), (3, 4)),
    (("t", "u\tv", "k"), (4, 1), (4, 5)),
    (("arr", 0), (6, 3), (6, 3)),
    (("arr", 0, "x"), (7, 1), (7, 5)),
    (("arr", 1, "y"), (9, 1), (9, 5)),
    (("arr", 1, "sub", 0, "z"), (11, 1), (11, 5)),
    (("arr", 1, "sub", 1, "z"), (13, 1), (13, 5)),
    (("arr", 1, "sub", 1, "z", 1), None, (15, 3)),
    (("annotations",), (17, 2), (17, 2)),
    (("annotations", "com", "hooks"), (18, 5), (18, 5)),
    (("annotations", "com", "hooks", "cxi", "enabled"), (18, 15), (18, 25)),
    (("annotations", "com", "hooks", "ssh"), (19, 11), (19, 17)),
    (("annotations", "com", "hooks", "ssh", "enabled"), (19, 31), (19, 41)),
]


def lookup(value, path):
    for part in path:
        value = value[part]
    return value


@pytest.mark.parametrize(("path", "key", "value"), PLACES, ids=lambda item: ".".join(map(str, item or ["-"])))
def test_keys_and_values_stand_where_they_are_written(path, key, value):
    tree = read_toml(TEXT.encode(), "f.toml")
    lookup(tree.value, path)
    position = tree.position(path)
    assert (position.file, position.line, position.column) == ("f.toml", *value)
    assert (tree.key_position(path).line, tree.key_position(path).column) == (key or value)


def test_values_are_those_of_the_standard_library():
    assert read_toml(TEXT.encode(), "f").value == tomllib.loads(TEXT)


def test_what_is_not_there_stands_at_its_nearest_parent():
    tree = read_toml(b'[env]\nA = "1"\n', "f")
    assert str(tree.position(("env", "B"))) == "f:1:2"
    assert str(tree.key_position(("env", "B"))) == "f:1:2"
    assert str(tree.position(("mounts", 3))) == "f:1:1"


def test_line_ends_of_dos_do_not_move_columns():
    tree = read_toml(b'a = 1\r\n[b]\r\nc = "\xc3\xbc" \r\n', "f")
    assert str(tree.position(("b", "c"))) == "f:3:5"


ANNOTATED = "[annotations]\ncom.hooks.ssh.port = '1'\n[annotations.com.hooks.ssh]\nenabled = 'true'\n"


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (b"a = \n", "1:5", "not valid TOML: invalid value"),
        (b"a = 1\nb = tru", "2:5", "not valid TOML: invalid value"),
        (b"a = 1\n a = 2", "2:2", "not valid TOML: a is defined a second time"),
        (b"[a]\nx = 1\n[a]\n", "3:2", "not valid TOML: a is defined a second time"),
        (ANNOTATED.encode(), "3:2", "not valid TOML: annotations.com.hooks.ssh is defined a second time"),
        (b"x = {a=1, a=2}", "1:1", "not valid TOML: x is defined a second time"),
        (b"mounts = [\n  '/a'\n  '/b'\n]", "3:3", "not valid TOML: unclosed array"),
        ("ü = 1".encode(), "1:1", "not valid TOML: invalid statement"),
        (b'"\xc3\xbc" = ', "1:7", "not valid TOML: invalid value"),
        (b"a = 1\nb = '\xc3\xbc\xff'", "2:7", "not UTF-8 text: byte 0xff"),
        (b"\xef\xbb\xbfa = 1", "1:1", "not valid TOML: the file begins with a byte order mark"),
        (b"a = " + b"1" * 5000, "1:5005", "not valid TOML: a number has too many digits"),
        (b"a = '", "1:6", 'not valid TOML: expected "\'"'),
    ],
)
def test_what_is_no_toml_is_named_at_its_place(content, place, message):
    with pytest.raises(RecipeError) as caught:
        read_toml(content, "f")
    [finding] = caught.value.diagnostics
    assert (finding.rule, str(finding.position), finding.message) == ("toml-syntax", f"f:{place}", message)
    assert finding.hint


@pytest.mark.parametrize(
    "content",
    [b"a = " + b"[" * 3000, b"a." * 3000 + b"b = 1", b"a = " + b"[" * 40 + b"]" * 40, b"#" * ((1 << 20) + 1)],
    ids=["open", "dotted", "closed", "long"],
)
def test_what_is_too_deep_or_too_large_is_refused(content):
    with pytest.raises(RecipeError) as caught:
        read_toml(content, "f")
    assert caught.value.diagnostics[0].rule == "toml-size"


def test_thirty_levels_are_read():
    assert read_toml(b"a = " + b"[" * 30 + b"]" * 30, "f").positions[("a", *[0] * 29)].column == 34


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text("ab.\"'=[]{}#,\n 1\\é", max_size=60).map(str.encode))
def test_no_bytes_make_it_fail_otherwise(content):
    try:
        tree = read_toml(content, "f")
    except RecipeError:
        return
    assert set(tree.keys) <= set(tree.positions)
