import pytest

from uenv_builder.layers.safe_paths import SymlinkGuard, is_merged_link, merge_usr, safe_path
from uenv_builder.model.errors import BuildError


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./usr/bin/", "usr/bin"),
        ("usr//lib/./x", "usr/lib/x"),
        ("..hidden/a..b", "..hidden/a..b"),
        ("a" * 255, "a" * 255),
        ("café/ü", "café/ü"),
        ("a\\b", "a\\b"),
    ],
)
def test_good_names_become_plain_paths(name, path):
    assert safe_path(name, artefact="x.deb") == path


@pytest.mark.parametrize(
    "name",
    ["", ".", "./", "/etc/passwd", "//x", "../x", "a/../../x", "a/..", "./..", "a\0b", "a" * 256, "ü" * 128,
     "/".join(["a" * 200] * 21), "bad\udcff"],
)  # fmt: skip
def test_bad_names_are_refused_with_the_artefact_named(name):
    with pytest.raises(BuildError) as caught:
        safe_path(name, artefact="evil_1.0_all.deb")
    assert caught.value.diagnostics[0].rule == "unsafe-path"
    assert "evil_1.0_all.deb" in str(caught.value)


def test_merged_usr():
    assert merge_usr("lib/x.so") == "usr/lib/x.so"
    assert merge_usr("lib64") == "usr/lib64"
    assert merge_usr("library/x") == "library/x"
    assert merge_usr("usr/lib/x") == "usr/lib/x"
    assert is_merged_link("lib", "usr/lib")
    assert is_merged_link("bin", "/usr/bin")
    assert not is_merged_link("bin", "usr/sbin")
    assert not is_merged_link("etc", "usr/etc")


def refused(guard, path, kind):
    with pytest.raises(BuildError) as caught:
        guard.admit(path, kind)
    return caught.value.diagnostics[0].rule == "unsafe-path"


def test_nothing_is_written_through_a_link_or_a_file():
    guard = SymlinkGuard("x.whl")
    guard.admit("a", "symlink")
    assert refused(guard, "a/b", "file")
    assert refused(guard, "a/b/c/d", "dir")
    guard.admit("f", "file")
    assert refused(guard, "f/x", "file")
    guard.admit("ab/c", "file")


def test_a_link_cannot_take_the_place_of_a_folder_nor_the_other_way_round():
    guard = SymlinkGuard("x.whl")
    guard.admit("a/b/c", "file")
    assert refused(guard, "a/b", "symlink")
    assert refused(guard, "a", "file")
    guard.admit("a", "dir")
    guard.admit("a", "dir")
    guard.admit("l", "symlink")
    assert refused(guard, "l", "dir")
    assert refused(guard, "l", "symlink")
    assert refused(guard, "a/b/c", "file")
    assert guard.kind("l") == "symlink"
    assert guard.kind("a/b") == "dir"
    assert guard.kind("nothing") is None
