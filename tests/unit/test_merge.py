"""Layers on top of each other: what is left, where its content comes from, and in which order it streams."""

import io

import pytest

from uenv_builder.images.merge import merge_layers, merged_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.system.layer_blob import write_layer


@pytest.fixture
def stack(tmp_path):
    """Layers from short descriptions: {path: content | None for a directory | '-> target' | '= target' | Entry}."""

    def build(*descriptions):
        layers = []
        for number, description in enumerate(descriptions):
            folder = tmp_path / str(number)
            folder.mkdir()
            layers.append(write_layer([entry(path, what, number) for path, what in description.items()], folder))
        return layers

    return build


def entry(path, what, number):
    if isinstance(what, Entry):
        return what
    if what is None:
        return Entry(path=path, kind="dir", mode=0o700 + number, mtime=100 + number, uid=number)
    if what.startswith("-> "):
        return Entry(path=path, kind="symlink", mode=0o777, mtime=100 + number, target=what[3:])
    if what.startswith("= "):
        return Entry(path=path, kind="hardlink", mode=0o644, mtime=100 + number, target=what[2:])
    return Entry(
        path=path, kind="file", mode=0o644, mtime=100 + number, size=len(what), content=io.BytesIO(what.encode())
    )


def shown(layers):
    """The merged stream in the same short form, after checking its promises and that the plan foretold it."""
    found, metadata = {}, {}
    for item in merged_entries(layers):
        assert item.path not in found, "a path came twice"
        parent = item.path.rpartition("/")[0]
        assert not parent or found[parent] is None, "a parent came late or is no directory"
        if item.kind == "hardlink":
            assert not found[item.target].startswith(("-> ", "= "))
        content = {"dir": None, "symlink": f"-> {item.target}", "hardlink": f"= {item.target}"}
        found[item.path] = content[item.kind] if item.kind != "file" else item.content.read().decode()
        metadata[item.path] = (item.kind, item.mode, item.mtime, item.uid, item.size, item.target)
    planned = merge_layers(layers).entries
    assert sorted(planned) == sorted(found)
    for path, merged in planned.items():
        at = merged.entry
        assert metadata[path] == (at.kind, at.mode, at.mtime, at.uid, at.size, at.target)
    return found


def test_directories_merge_and_the_upper_ones_attributes_win(stack):
    layers = stack({"d": None, "d/a": "A", "e": None}, {"d": None, "d/b": "B"})
    assert shown(layers) == {"d": None, "d/a": "A", "d/b": "B", "e": None}
    merged = merge_layers(layers).entries
    assert (merged["d"].entry.mode, merged["d"].entry.mtime, merged["d"].entry.uid) == (0o701, 101, 1)
    assert (merged["e"].layer, merged["d"].layer) == (0, 1)


def test_an_upper_file_replaces_file_and_link(stack):
    assert shown(stack({"a": "old", "b": "-> a", "c": "old"}, {"a": "new", "b": "new", "c": "-> a"})) == {
        "a": "new",
        "b": "new",
        "c": "-> a",
    }


def test_a_file_replaces_a_directory_and_all_below_and_the_other_way_round(stack):
    assert shown(stack({"d": None, "d/e": None, "d/e/f": "x", "g": "file"}, {"d": "-> e", "g": None, "g/h": "y"})) == {
        "d": "-> e",
        "g": None,
        "g/h": "y",
    }


def test_missing_parents_are_added_with_the_time_of_what_needs_them(stack):
    layers = stack({"x": "x"}, {"a/b/c": "C"})
    assert shown(layers) == {"x": "x", "a": None, "a/b": None, "a/b/c": "C"}
    parent = merge_layers(layers).entries["a/b"].entry
    assert (parent.mode, parent.mtime, parent.uid) == (0o755, 101, 0)


def test_a_parent_may_come_after_its_children_and_below_another_layer(stack):
    layers = stack({"a": "file"}, {"a/b": "B", "a": None})
    assert shown(layers) == {"a": None, "a/b": "B"}
    assert merge_layers(layers).entries["a"].entry.mode == 0o701


def test_an_implied_directory_keeps_the_lower_layers_attributes(stack):
    layers = stack({"tmp": None}, {"tmp/x": "x"})
    assert merge_layers(layers).entries["tmp"].entry.mode == 0o700


def test_an_entry_below_a_lower_layers_symlink_is_refused(stack):
    with pytest.raises(BuildError, match="'lib' is a symlink in a layer below") as caught:
        merge_layers(stack({"lib": "-> usr/lib"}, {"lib/x.so": "x"}))
    assert caught.value.diagnostics[0].rule == "layer-conflict"


def test_whiteouts_remove_what_is_below_and_nothing_of_their_own_layer(stack):
    lower = {"d": None, "d/a": "A", "d/b": None, "d/b/c": "C", "o": None, "o/x": "x", "o/y": None, "o/y/z": "z"}
    upper = {"d/a": "again", "d/.wh.a": "", "d/.wh.b": "", "o/new": "n", "o/.wh..wh..opq": "", "no/.wh.thing": ""}
    assert shown(stack(lower, upper)) == {"d": None, "d/a": "again", "o": None, "o/new": "n"}


def test_an_unnamed_directory_stays_when_its_content_is_removed(stack):
    assert shown(stack({"a/b": "B"}, {"a/.wh.b": ""})) == {"a": None}


def test_hard_links_outlive_their_target(stack):
    lower = {"z": "content", "b": "= z", "a": "= z", "sub": None, "sub/l": "= z"}
    layers = stack(lower, {"z": "other"})
    assert shown(layers[:1]) == lower
    assert shown(layers) == {"z": "other", "b": "content", "a": "= b", "sub": None, "sub/l": "= b"}
    assert merge_layers(layers).entries["b"].source == "z"


def test_links_of_an_upper_layer_replace_those_of_a_lower_one(stack):
    assert shown(stack({"a": "1", "b": "= a"}, {"b": "2", "a": "= b"})) == {"b": "2", "a": "= b"}


def test_the_same_layer_twice_is_as_good_as_once(stack):
    (layer,) = stack({"d": None, "d/a": "A", "d/l": "= d/a", "s": "-> d"})
    assert shown([layer, layer]) == shown([layer])


def test_no_layers_make_an_empty_tree():
    assert merge_layers([]).entries == {}
    assert list(merged_entries([])) == []


def test_sizes_count_each_content_once(stack):
    assert merge_layers(stack({"a": "12345", "b": "= a"}, {"a": "12"})).size == 7


def test_damage_in_overridden_content_is_found_too(stack):
    layers = stack({"a": "old" * 1000}, {"a": "new"})
    content = bytearray(layers[0].blob.read_bytes())
    content[-1] ^= 1
    layers[0].blob.write_bytes(content)
    with pytest.raises(LockError, match="damaged"):
        shown(layers)
