import json
import os
import socket

import pytest

from uenv_builder.layers.spack import spack_entries
from uenv_builder.model.errors import BuildError

EPOCH = 1_000_000_000


def make_tree(root, time, umask=0o022):
    """What two builds of one spack.lock leave: the same software, and notes of when and where it was built."""
    package = root / "linux/lz4-1.9.4-aaa"
    files = {
        ".spack-db/index.json": {"database": {"installs": {"aaa": {"installed": True, "installation_time": time}}}},
        ".spack-db/index_verifier": str(time),
        ".spack-db/lock": "",
        "linux/lz4-1.9.4-aaa/.spack/spec.json": {"name": "lz4"},
        "linux/lz4-1.9.4-aaa/.spack/install_manifest.json": {
            "/m/linux/lz4-1.9.4-aaa/bin/lz4": {"mode": 1, "time": time, "hash": "x"},
            "/m/linux/lz4-1.9.4-aaa/.spack/sbom/spdx-2.3.json": {"time": time, "hash": str(time)},
            "/m/linux/lz4-1.9.4-aaa/.spack/spack-build-env.txt": {"time": time, "hash": "y"},
        },
        "linux/lz4-1.9.4-aaa/.spack/sbom/spdx-2.3.json": {"creationInfo": {"created": str(time), "creators": ["S"]}},
        "linux/lz4-1.9.4-aaa/.spack/spack-build-out.txt.gz": f"log of {time}",
        "linux/lz4-1.9.4-aaa/.spack/spack-build-env.txt": "export HOME=/somebody",
        "linux/lz4-1.9.4-aaa/.spack/install_environment.json": {"hostname": str(time)},
        "linux/lz4-1.9.4-aaa/bin/lz4": "program",
        "modules/lz4/1.9.4": f"#%Module1.0\n## Module file created by spack (s) on 2026-11-24 04:33:{10 + time}.7\n",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(0o666 & ~umask)
        os.utime(path, (time, time))
    (package / "bin/lz4").chmod(0o777 & ~umask)
    os.link(package / "bin/lz4", package / "bin/unlz4")
    (package / "bin/lz4c").symlink_to("lz4")
    view = root / "env/tools/bin"
    view.mkdir(parents=True)
    (view / "lz4").symlink_to("/m/linux/lz4-1.9.4-aaa/bin/lz4")
    package.chmod(0o2775)
    return root


def read(tree, **options):
    return [
        (entry.path, entry.kind, entry.mode, entry.mtime, entry.target, entry.content.read() if entry.content else b"")
        for entry in spack_entries(tree, epoch=EPOCH, **options)
    ]


def test_two_builds_are_the_same_to_the_byte(tmp_path):
    first, second = make_tree(tmp_path / "a", 1), make_tree(tmp_path / "b", 2, umask=0o077)
    assert read(first) == read(second)


def test_what_differs_is_left_out_or_gets_the_layers_time(tmp_path):
    found = {path: (kind, mode, content) for path, kind, mode, _, _, content in read(make_tree(tmp_path / "a", 7))}
    package = "linux/lz4-1.9.4-aaa"
    assert not [path for path in found if "build-out" in path or "build-env" in path or "environment" in path]
    assert ".spack-db/lock" not in found
    database = json.loads(found[".spack-db/index.json"][2])
    assert database["database"]["installs"]["aaa"] == {"installed": True, "installation_time": float(EPOCH)}
    manifest = json.loads(found[f"{package}/.spack/install_manifest.json"][2])
    assert manifest == {"/m/linux/lz4-1.9.4-aaa/bin/lz4": {"mode": 1, "time": float(EPOCH), "hash": "x"}}
    bill = json.loads(found[f"{package}/.spack/sbom/spdx-2.3.json"][2])
    assert bill["creationInfo"]["created"] == "2001-09-09T01:46:40Z"
    assert found[f"{package}/bin/lz4"] == ("file", 0o755, b"program")
    assert found[f"{package}/bin/unlz4"][0] == "hardlink"
    assert found[package][1] == 0o755


def test_entries_are_below_a_prefix_each_after_its_folder(tmp_path):
    paths = [path for path, *_ in read(make_tree(tmp_path / "a", 1), prefix="user-environment")]
    assert paths[0] == "user-environment"
    for number, path in enumerate(paths[1:], 1):
        assert path.rpartition("/")[0] in paths[:number]


def test_a_socket_is_refused(tmp_path):
    tree = make_tree(tmp_path / "a", 1)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tree / "linux/x"))
        with pytest.raises(BuildError, match="linux/x: is neither a file nor a folder nor a link"):
            read(tree)


def test_a_database_that_is_none_is_refused(tmp_path):
    tree = make_tree(tmp_path / "a", 1)
    (tree / ".spack-db/index.json").write_text("{}")
    with pytest.raises(BuildError, match=r"\.spack-db/index\.json: is not as Spack writes it"):
        read(tree)
