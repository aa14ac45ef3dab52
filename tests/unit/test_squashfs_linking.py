"""Trees and images on top of each other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_squashfs import NOISE, Blocks, folder, one_of_each, read_back, superblock, symlink, told, write

from uenv_builder.images.merge import merge_layers
from uenv_builder.images.squashfs import layout
from uenv_builder.images.squashfs.link import link_images
from uenv_builder.images.squashfs.reader import open_squashfs
from uenv_builder.images.squashfs.stacking import merge_trees
from uenv_builder.images.squashfs.tree import FileData, Node, walk
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import IndexEntry, Layer

# Merging


def names(root):
    return sorted(path for path, _ in walk(root))


def test_directories_merge_and_the_rest_is_replaced():
    linked = Node("fifo", 1)
    lower = folder({b"d": folder({b"a": linked, b"b": linked, b"c": linked}), b"x": folder({b"below": linked})}, uid=1)
    upper = folder({b"d": folder({b"b": Node("fifo", 2)}, mode=0o700), b"x": symlink(b"d")}, uid=2)
    merged = merge_trees([lower, upper])
    assert names(merged) == [b"", b"d", b"d/a", b"d/b", b"d/c", b"x"]
    assert (merged.uid, merged.children[b"d"].mode) == (2, 0o700)
    inside = merged.children[b"d"].children
    assert inside[b"a"] is inside[b"c"] is linked
    assert inside[b"b"].mode == 2
    assert merged.children[b"x"].kind == "symlink"
    assert names(lower) == [b"", b"d", b"d/a", b"d/b", b"d/c", b"x", b"x/below"]


def test_whiteouts_remove_what_is_below_only():
    lower = folder(
        {b"a": Node("fifo", 1), b"d": folder({b"old": Node("fifo", 1)}), b"e": folder({b"x": symlink(b"y")})}
    )
    upper = folder(
        {
            b".wh.a": Node("fifo", 0),
            b"d": folder({b".wh..wh..opq": Node("fifo", 0), b"new": Node("fifo", 2)}),
            b".wh.e": Node("fifo", 0),
            b"e": folder({b"z": Node("fifo", 3)}),
        }
    )
    assert names(merge_trees([lower, upper])) == [b"", b"d", b"d/new", b"e", b"e/z"]
    assert names(merge_trees([upper])) == [b"", b"d", b"d/new", b"e", b"e/z"]
    kept = merge_trees([upper], partial=True)
    assert names(kept) == names(upper)


def test_a_directory_that_replaced_a_file_hides_what_is_under_that():
    roots = [folder({b"d": folder({b"a": symlink(b"x")})}), folder({b"d": symlink(b"x")}), folder({b"d": folder()})]
    assert names(merge_trees(roots)) == [b"", b"d"]
    upper = merge_trees(roots[1:], partial=True)
    assert names(upper) == [b"", b"d", b"d/.wh..wh..opq"]
    assert names(merge_trees([roots[0], upper])) == [b"", b"d"]


NAMES = st.sampled_from([b"a", b"b", b"c", b".wh.a", b".wh.b", b".wh..wh..opq"])
LEAVES = st.builds(lambda mode: Node("fifo", mode), st.integers(0, 0o777)) | st.builds(symlink, st.just(b"t"))
TREES = st.recursive(
    st.builds(folder),
    lambda inner: st.builds(
        lambda children, mode: folder(
            {
                name: Node("file", 0, content=FileData(0)) if name.startswith(b".wh.") else node
                for name, node in children.items()
            },
            mode=mode,
        ),
        st.dictionaries(NAMES, inner | LEAVES, max_size=4),
        st.integers(0, 0o777),
    ),
    max_leaves=12,
)


@given(st.lists(TREES, min_size=3, max_size=5), st.data())
@settings(max_examples=300, deadline=None)
def test_merging_is_associative(roots, data):
    whole = told(merge_trees(roots))
    while len(roots) > 1:
        at = data.draw(st.integers(0, len(roots) - 2))
        many = data.draw(st.integers(1, len(roots) - at))
        roots = [*roots[:at], merge_trees(roots[at : at + many], partial=True), *roots[at + many :]]
        if many == 1:
            roots = [merge_trees(roots[:2], partial=True), *roots[2:]]
    assert told(merge_trees(roots)) == whole


@given(st.lists(TREES, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_merging_follows_the_rules_of_layers(roots):
    layers = []
    for root in roots:
        kinds = {"fifo": "file"}
        entries = tuple(
            IndexEntry(path.decode(), kinds.get(node.kind, node.kind), node.mode, node.mtime, 0, 0, 0, "", "")
            for path, node in walk(root)
            if path
        )
        layers.append(Layer(blob=None, digest="", size=0, diff_id="", entries=entries))
    expected = {path: (merged.entry.kind, merged.entry.mode) for path, merged in merge_layers(layers).entries.items()}
    seen = {
        path.decode(): ("file" if node.kind == "fifo" else node.kind, node.mode)
        for path, node in walk(merge_trees(roots))
        if path
    }
    assert seen == expected


# Linking


@pytest.fixture
def two_images(tmp_path):
    """Two images, and what each says."""
    lower, upper = Blocks(tmp_path / "blocks0"), Blocks(tmp_path / "blocks1")
    deep = folder({b"noise": upper.add(NOISE[::-1])})
    roots = [one_of_each(lower), folder({b"small": upper.add(b"later"), b".wh.text": upper.add(b""), b"deep": deep})]
    options = layout.ZSTD_OPTIONS.pack(1)
    said = [
        write(root, tmp_path / f"image{number}", blocks, options=options)
        for number, (root, blocks) in enumerate(zip(roots, [lower, upper], strict=True))
    ]
    return [tmp_path / "image0", tmp_path / "image1"], said


def test_one_image_linked_is_itself(two_images, tmp_path):
    (first, _), (said, _) = two_images
    link_images([first], tmp_path / "linked")
    assert read_back(tmp_path / "linked") == said
    assert (tmp_path / "linked").read_bytes() == first.read_bytes()
    with open_squashfs(tmp_path / "linked") as image:
        assert image.options == layout.ZSTD_OPTIONS.pack(1)


def test_two_images_linked(two_images, tmp_path):
    paths, (lower, upper) = two_images
    written = link_images(paths, tmp_path / "linked", epoch=12)
    seen = read_back(tmp_path / "linked")
    assert sorted(seen) == sorted((lower.keys() | upper.keys()) - {b"text", b".wh.text"})
    for path, fields in seen.items():
        assert fields == (upper if path in upper else lower)[path]
    assert (superblock(tmp_path / "linked").mkfs_time, superblock(tmp_path / "linked").inodes) == (12, written.inodes)
    link_images(paths, paths[0], epoch=12)
    assert paths[0].read_bytes() == (tmp_path / "linked").read_bytes()


def test_partial_links_are_associative(two_images, tmp_path):
    (first, second), _ = two_images
    write(folder({b"small": folder({b"in": symlink(b"x")}), b"text": symlink(b"t"), b".wh.deep": symlink(b"")}),
          tmp_path / "third")  # fmt: skip
    third = tmp_path / "third"
    link_images([first, second, third], tmp_path / "all")
    link_images([first, second], tmp_path / "left", partial=True)
    link_images([tmp_path / "left", third], tmp_path / "all-left")
    link_images([second, third], tmp_path / "right", partial=True)
    link_images([first, tmp_path / "right"], tmp_path / "all-right")
    assert read_back(tmp_path / "all") == read_back(tmp_path / "all-left") == read_back(tmp_path / "all-right")
    assert names_of(tmp_path / "all") >= {b"small/in", b"text", b"noise"}
    assert (tmp_path / "all").read_bytes() == (tmp_path / "all-left").read_bytes()


def names_of(path):
    return set(read_back(path))


def test_images_that_do_not_fit_together(two_images, tmp_path):
    (first, _), _ = two_images
    for name, more in (("blocks", {"block_size": 8192}), ("compressor", {"compressor": "gzip"})):
        write(folder(), tmp_path / name, **more)
        with pytest.raises(BuildError, match=r"image0 of 4096 and zstd: they cannot be linked") as caught:
            link_images([first, tmp_path / name], tmp_path / "linked")
        assert caught.value.diagnostics[0].rule == "squashfs-unsupported"
    assert not (tmp_path / "linked").exists()


def test_data_can_come_first(two_images, tmp_path):
    paths, _ = two_images
    order = [b"not/there", b"small", b"deep", b"zeros", b"noise", b"fifo/x"]
    link_images(paths, tmp_path / "ordered", order=order)
    link_images(paths, tmp_path / "linked")
    assert read_back(tmp_path / "ordered") == read_back(tmp_path / "linked")
    assert (tmp_path / "ordered").stat().st_size == (tmp_path / "linked").stat().st_size
    with open_squashfs(tmp_path / "ordered") as image:
        content = {path: node.content for path, node in walk(image.root) if node.content}
        assert image.source.fragments[content[b"small"].fragment][0] == 0
        deepest = max((path for path in content if path.startswith(b"deep/er/")), key=len)
        places = [content[b"deep/noise"].start, content[b"noise"].start, content[b"block"].start]
        assert places == sorted(places)
        assert image.source.fragments[content[deepest].fragment][0] < places[1]
    link_images([tmp_path / "ordered"], tmp_path / "again")
    assert (tmp_path / "again").read_bytes() != (tmp_path / "linked").read_bytes()
