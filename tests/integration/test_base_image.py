"""A base image from a registry, end to end: locked, checked, built, run, mirrored; and what can be wrong with it."""

import gzip
import hashlib
import io
import json
import platform
import re
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
import zstandard
from faulty_server import FaultyServer, serving

from made_listings import listing_of_oci, listing_of_squashfs
from small_recipes import OfflineUenv
from uenv_builder.system.registry_login import INDEX_TYPES, MANIFEST_TYPES
from uenv_command import refused

EPOCH = 1_700_000_000
PYTHON = Path("/usr/bin/python3")
pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the base is made of this machine's x86_64 programs"),
    pytest.mark.skipif(not PYTHON.is_file(), reason="Debian's python3 is not installed"),
]
TYPES = {"zstd": "tar+zstd", "gzip": "tar+gzip", "plain": "tar"}
LEFT_OUT = {"test", "idlelib", "lib2to3", "pydoc_data", "tkinter", "ensurepip", "turtledemo", "distutils", "asyncio",
            "lib-dynload", "__pycache__", "unittest"}  # fmt: skip
MODULES = ("_bz2", "_json", "_posixsubprocess", "_random")
HARMFUL = {
    "opt/hpcx/lib/libhpx.so": b"x", "opt/amazon/ofi-nccl/lib/libnccl-net.so": b"x",
    "usr/lib/aarch64-linux-gnu/libnccl.so.2.28.3": b"x", "etc/pip/constraint.txt": b"numpy==1\n",
}  # fmt: skip
CONFIG = {
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "NCCL_NET_PLUGIN=spcx", "PIP_CONSTRAINT=/etc/pip/constraint.txt",
            "BASE=1"],
    "WorkingDir": "/srv", "Entrypoint": ["/usr/bin/env", "ENTERED=yes"],
}  # fmt: skip
RECIPE = """\
name: on-base
version: "1.0"
description: A wheel on a base image
targets:
  - {{system: generic-x86_64, uarch: x86_64}}
  - {{system: generic-aarch64, uarch: aarch64}}
base:
  oci:
    image: {image}
    remove: [/opt/hpcx, /opt/amazon, "/usr/lib/*/libnccl.so*", /etc/pip/constraint.txt]
    unset: [NCCL_NET_PLUGIN, PIP_CONSTRAINT]
pins:
  python: "{python}"
python:
  requirements: [thing]
env:
  OWN: "2"
checks:
  imports: {{modules: [thing, basepkg, bz2]}}
"""


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Base:
    """An image in the files of a server; `digests` are its manifests' by architecture, `layers` those of amd64."""

    files: dict
    index: str
    digests: dict
    layers: list


class Tar:
    """A layer in the making."""

    def __init__(self):
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w")  # noqa: SIM115
        self._there = set()

    def add(self, path, content=b"", *, mode=0o644, kind=tarfile.REGTYPE, target=""):
        for parent in reversed(Path(path).parents):
            if str(parent) != "." and parent not in self._there:
                self._there.add(parent)
                self._add(str(parent), b"", 0o755, tarfile.DIRTYPE, "")
        if Path(path) not in self._there:
            self._there.add(Path(path))
            self._add(path, content, mode, kind, target)

    def link(self, path, target):
        self.add(path, mode=0o777, kind=tarfile.SYMTYPE, target=target)

    def _add(self, path, content, mode, kind, target):
        member = tarfile.TarInfo(path)
        member.mode, member.type, member.linkname, member.size, member.mtime = mode, kind, target, len(content), EPOCH
        self._tar.addfile(member, io.BytesIO(content))

    def bytes(self):
        self._tar.close()
        return self._out.getvalue()


def wheel_files(name, version, requires=""):
    info = f"{name}-{version}.dist-info"
    return {
        f"{name}/__init__.py": f"VERSION = {version!r}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n".encode(),
    }


def shared_libraries(*programs):
    found = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r"(/\S+\.so\S*) \(", found)))


def lowest():
    """Programs of this machine; libbz2 lies where only the loader's configuration finds it."""
    tar, real = Tar(), PYTHON.resolve()
    for name in ("bin", "sbin", "lib", "lib64"):
        tar.link(name, f"usr/{name}")
    programs = [Path(f"/usr/bin/{name}") for name in ("bash", "cat", "env", "ls")]
    for program in (real, *programs):
        tar.add(f"usr/bin/{program.name}", program.read_bytes(), mode=0o755)
    tar.link("usr/bin/sh", "bash")
    tar.link("usr/bin/python3", real.name)
    library = Path(f"/usr/lib/{real.name}")
    for path in sorted(library.rglob("*.py")):
        if not LEFT_OUT & set(path.relative_to(library).parts) and not str(path.name).startswith("_sysconfigdata"):
            tar.add(str(path)[1:], path.read_bytes())
    modules = [found for name in MODULES for found in library.glob(f"lib-dynload/{name}.*.so")]
    for path in modules:
        tar.add(str(path)[1:], path.read_bytes())
    for text in shared_libraries(real, *programs, *modules):
        folder = "opt/own/lib" if "libbz2" in text else f"usr{Path(text).parent}".replace("usr/usr", "usr")
        tar.add(f"{folder}/{Path(text).name}", Path(text).read_bytes(), mode=0o755)
    tar.add("etc/ld.so.conf", b"/opt/own/lib\n/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n")
    tar.add("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n")
    packages = "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n"  # noqa: E501
    tar.add("var/lib/dpkg/status", packages.encode())
    tar.add("usr/lib/python3/dist-packages/README", b"x")
    # Its makers took out what its installer had written down: that is theirs.
    own = {"basepkg-1.2.dist-info/INSTALLER": b"pip\n", "basepkg-1.2.dist-info/RECORD": b"basepkg/tests.py,,5\n"}
    for path, content in (wheel_files("basepkg", "1.2") | own).items():
        tar.add(f"usr/local/lib/{real.name}/dist-packages/{path}", content)
    for path, content in {**HARMFUL, "etc/gone": b"x", "srv/old/a": b"x", "srv/old/b/c": b"x"}.items():
        tar.add(path, content)
    return tar.bytes()


def middle():
    tar = Tar()
    tar.add("etc/.wh.gone")
    tar.add("srv/old/.wh..wh..opq")
    tar.add("srv/old/new", b"new\n")
    return tar.bytes()


def highest():
    tar = Tar()
    tar.add("srv/top", b"top\n")
    return tar.bytes()


def small():
    """Nothing that runs; but its files tell the same."""
    tar, python = Tar(), PYTHON.resolve().name
    tar.add(f"usr/bin/{python}", b"", mode=0o755)
    tar.link("usr/bin/python3", python)
    tar.add("usr/lib/python3/dist-packages/README", b"x")
    tar.add("usr/lib/aarch64-linux-gnu/libc.so.6", b"GNU C Library (made) stable release version 2.36.\n")
    for path, content in wheel_files("basepkg", "1.2").items():
        tar.add(f"usr/local/lib/{python}/dist-packages/{path}", content)
    tar.add("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n")
    for path, content in HARMFUL.items():
        tar.add(path, content)
    return tar.bytes()


PACK = {
    "zstd": zstandard.ZstdCompressor(level=1).compress,
    "gzip": lambda tar: gzip.compress(tar, 1, mtime=0),
    "plain": lambda tar: tar,
}


@pytest.fixture(scope="module")
def base():
    """A real system for amd64, with one layer twice as builders of images leave it, and one that leaks for arm64."""
    contents = {
        "amd64": [("zstd", lowest()), ("gzip", middle()), ("plain", highest()), ("plain", highest())],
        "arm64": [("gzip", small())],
    }
    files, digests, layers, index = {}, {}, {}, []

    def put(kind, content):
        digest = f"sha256:{sha256(content)}"
        files[f"/v2/base/{kind}/{digest}"] = content
        return {"digest": digest, "size": len(content)}

    for architecture, tars in contents.items():
        config = {"os": "linux", "architecture": architecture, "created": "2026-02-03T04:05:06Z", "config": CONFIG,
                  "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(tar)}" for _, tar in tars]}}  # fmt: skip
        layers[architecture] = [
            {"mediaType": f"application/vnd.oci.image.layer.v1.{TYPES[kind]}", **put("blobs", PACK[kind](tar))}
            for kind, tar in tars
        ]
        document = {
            "schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "layers": layers[architecture],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       **put("blobs", json.dumps(config).encode())},
        }  # fmt: skip
        manifest = put("manifests", json.dumps(document).encode())
        digests[architecture] = manifest["digest"]
        index.append({"mediaType": MANIFEST_TYPES[0], **manifest,
                      "platform": {"os": "linux", "architecture": architecture}})  # fmt: skip
    both = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": index}).encode()
    return Base(files, put("manifests", both)["digest"], digests, [layer["digest"] for layer in layers["amd64"]])


@dataclass(frozen=True)
class Place:
    """The command with its settings, and a server that has the base."""

    uenv: OfflineUenv
    server: FaultyServer
    image: str

    def recipe(self, name, *changes, image=None):
        folder = self.uenv.folder / name
        folder.mkdir()
        minor = PYTHON.resolve().name.removeprefix("python")
        text = RECIPE.format(image=image or self.image, python=minor)
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (folder / "recipe.yaml").write_text(text)
        return folder

    def lock(self, folder, uarch="x86_64"):
        return yaml.safe_load((folder / f"{uarch}.lock.yaml").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("base")
    index = folder / "index"
    index.mkdir()
    for name, version, requires in (("thing", "1.0", "Requires-Dist: basepkg>=1"), ("basepkg", "2.0", "")):
        with (index / f"{name}-{version}-py3-none-any.whl").open("wb") as file:
            file.write(pack_wheel(wheel_files(name, version, requires)))
    config = folder / "config/uenv-builder"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(f'python-index = "{index}"\n')
    (folder / "here").mkdir()
    with serving() as server:
        server.files.update(base.files)
        host = server.url("").removeprefix("http://")
        uenv = OfflineUenv(folder / "here", folder / "store", folder / "config")
        yield Place(uenv, server, f"{host}/base@{base.index}")


def pack_wheel(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 5, 6, 7, 8, 10)), content)
    return out.getvalue()


@pytest.fixture(scope="module")
def recipe(place):
    folder = place.recipe("recipe")
    place.uenv.ok("lock", str(folder))
    return folder


@pytest.fixture(scope="module")
def build(place, recipe):
    return place.uenv.ok("build", str(recipe), "--uarch", "x86_64", "--locked", "--json").document


def entries(folder):
    return listing_of_oci(folder / "oci"), listing_of_squashfs(folder / "image.squashfs", folder.parent / "tree")


def test_the_lock_says_what_the_base_is_and_has(place, recipe, base):
    minor = PYTHON.resolve().name.removeprefix("python")
    for uarch, architecture in (("x86_64", "amd64"), ("aarch64", "arm64")):
        assert f"sha256:{place.lock(recipe, uarch)['base']['manifest_digest']}" == base.digests[architecture]
    lock = place.lock(recipe)
    assert f"sha256:{lock['base']['index_digest']}" == base.index
    assert [layer["digest"] for layer in lock["base"]["layers"]] == [digest[7:] for digest in base.layers]
    contents = lock["base"]["contents"]
    assert contents["python"]["packages"] == f"/usr/local/lib/python{minor}/dist-packages"
    assert contents["packages"] == {"libc6": "2.36-9"}
    assert contents["distributions"] == {"basepkg": "1.2"}
    assert re.fullmatch(r"2\.\d+", contents["glibc"])
    assert contents["leaks"] == []
    assert [wheel["name"] for wheel in lock["python"]["wheels"]] == ["thing"]
    assert lock["epoch"] == 1770091506
    assert "userland" not in lock
    assert "127.0.0.1" not in recipe.joinpath("x86_64.lock.yaml").read_text().replace(place.image, "")


def test_checks_name_what_leaks_with_the_lines_that_take_it_out(place):
    leaky = place.recipe(
        "leaky", ("  - {system: generic-x86_64, uarch: x86_64}\n  - {system: generic-aarch64, uarch: aarch64}\n",
                  "  - {system: daint, uarch: gh200}\nnetwork: hook-host\n"),
        ("    remove:", "    #"), ("    unset:", "    #"),
    )  # fmt: skip
    outcome = place.uenv.run("lock", str(leaky))
    refused(outcome, 4, "base-leak")
    for line in ("add /opt/amazon/ofi-nccl to remove:", "add NCCL_NET_PLUGIN to unset:", "add /opt/hpcx to remove:",
                 "add PIP_CONSTRAINT to unset:"):  # fmt: skip
        assert line in outcome.stderr, outcome.stderr
    assert not (leaky / "gh200.lock.yaml").exists()


def test_a_build_passes_its_checks_inside(place, build):
    folder = place.uenv.folder / build["folder"]
    report = json.loads((folder / "report.json").read_text())
    outcomes = {result["check"]: result["outcome"] for result in report["results"]}
    assert report["outcome"] == "passed", report
    assert outcomes["python-starts"] == outcomes["imports"] == outcomes["wheel-record"] == "passed"


def test_programs_run_with_what_base_and_recipe_set(place, build):
    run = ["exec", build["folder"], "--"]
    code = "import thing, basepkg, bz2, os; print(thing.VERSION, basepkg.VERSION, os.getcwd(), os.environ['PATH'])"
    shown = place.uenv.ok(*run, "python3", "-c", code).stdout.split()
    assert shown == ["1.0", "1.2", "/srv", "/usr/local/bin:/usr/bin:/bin"]
    env = dict(line.split("=", 1) for line in place.uenv.ok(*run, "env").stdout.splitlines())
    assert (env["BASE"], env["OWN"]) == ("1", "2")
    assert not {"NCCL_NET_PLUGIN", "PIP_CONSTRAINT"} & env.keys()
    manifest = json.loads((place.uenv.folder / build["folder"] / "manifest.json").read_text())
    assert manifest["config"]["entrypoint"] == ["/usr/bin/env", "ENTERED=yes"]
    assert manifest["packages"] == [["libc6", "2.36-9"]]
    assert "'/usr/bin/env' 'ENTERED=yes' \"$@\"" in place.uenv.ok(*run, "cat", "/etc/rc").stdout
    assert "entrypoint = true" in (place.uenv.folder / build["folder"] / "edf/on-base.toml").read_text()


def test_both_images_hold_the_base_without_what_goes(place, build):
    oci, squashfs = entries(place.uenv.folder / build["folder"])
    assert oci == squashfs
    assert {"srv/top", "srv/old/new", "etc/passwd", "opt/own/lib"} <= oci.keys()
    gone = {"etc/gone", "srv/old/a", "srv/old/b", "opt/hpcx", "opt/amazon", "etc/pip/constraint.txt"}
    assert not gone & oci.keys()
    assert not [path for path in oci if "libnccl.so" in path or ".wh." in path]
    assert oci["bin"] == ("link", "usr/bin")


def test_a_mirror_serves_the_whole_image_offline(place, recipe, build, base, tmp_path):
    mirror = tmp_path / "mirror"
    done = place.uenv.ok("mirror", str(recipe), str(mirror), "--uarch", "x86_64", "--json").document
    assert done["added"] == 3 + len(set(base.layers)) + 1  # index, manifest, config; the wheel
    there = {path.name for path in (mirror / "sha256").rglob("*") if path.is_file()}
    assert {digest[7:] for digest in (base.index, base.digests["amd64"], *base.layers)} <= there
    other = OfflineUenv(tmp_path, tmp_path / "store", place.uenv.config)
    command = ["build", str(recipe), "--uarch", "x86_64", "--locked", "--offline", "--no-test", "--json"]
    layer = mirror / "sha256" / base.layers[1][7:9] / base.layers[1][7:]
    whole = layer.read_bytes()
    layer.unlink()
    told = ["layer 2 of 4 of 127.0.0.1", f"sha256 {base.layers[1][7:]}", "missing in the store and in mirrors: 1 of"]
    refused(other.run(*command, "--mirror", str(mirror)), 9, *told)
    layer.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(other.run(*command, "--mirror", str(mirror)), 5, base.layers[1][7:])
    layer.write_bytes(whole)
    asked = len(place.server.asked)
    again = other.ok(*command, "--mirror", str(mirror)).document
    assert [again["manifest"][image] for image in ("squashfs", "oci")] == [
        build["manifest"][image] for image in ("squashfs", "oci")
    ]
    assert len(place.server.asked) == asked


def test_a_damaged_layer_of_the_registry_is_refused(place, recipe, base, tmp_path):
    path = f"/v2/base/blobs/{base.layers[0]}"
    content = place.server.files[path]
    other = OfflineUenv(tmp_path, tmp_path / "store", place.uenv.config)
    command = ["build", str(recipe), "--uarch", "x86_64", "--locked", "--no-test"]
    try:
        place.server.files[path] = content[:-1] + bytes([content[-1] ^ 1])
        refused(other.run(*command), 5, base.layers[0][7:])
    finally:
        place.server.files[path] = content


@pytest.mark.parametrize(
    ("image", "code", "words"),
    [
        ("{name}@sha256:" + "1" * 64, 9, ["image-not-found", "not found (HTTP 404)", "check the name, the tag"]),
        ("{name}:none", 9, ["image-not-found"]),
    ],
)
def test_what_cannot_be_had_is_named_at_its_line(place, image, code, words, tmp_path):
    name = place.image.partition("@")[0]
    folder = place.recipe(f"bad-{sha256(image.encode())[:8]}", image=image.format(name=name))
    refused(place.uenv.run("lock", str(folder), "--uarch", "x86_64"), code, *words, "recipe.yaml:9:12")


def test_an_image_without_the_architecture(place, base):
    name = place.image.partition("@")[0]
    folder = place.recipe("one-architecture", image=f"{name}@{base.digests['arm64']}")
    outcome = place.uenv.run("lock", str(folder), "--uarch", "x86_64")
    refused(outcome, 4, "base-architecture", "is for linux/arm64, and linux/amd64 is needed", "recipe.yaml:9:12")


def test_wheels_do_not_lie_over_packages_of_the_base_unless_it_is_freed_of_them(place):
    folder = place.recipe("twice", ("requirements: [thing]", "requirements: [thing, basepkg>=2]"))
    outcome = place.uenv.run("lock", str(folder), "--uarch", "aarch64")
    refused(outcome, 4, "base-package", "basepkg 2.0 is asked for, and", "has basepkg 1.2", "recipe.yaml:15:25")
    freed = place.recipe(
        "freed", ("requirements: [thing]", "requirements: [thing, basepkg>=2]"),
        ("remove: [", "remove: [/usr/local/lib/*/dist-packages/basepkg*, /opt/nothing, "),
        ("unset: [", "unset: [NOTHING, "),
    )  # fmt: skip
    told = place.uenv.ok("lock", str(freed), "--uarch", "aarch64").stderr
    wheels = place.lock(freed, "aarch64")["python"]["wheels"]
    assert {wheel["name"]: wheel["version"] for wheel in wheels} == {"thing": "1.0", "basepkg": "2.0"}
    assert "has no /opt/nothing" in told
    assert "does not set NOTHING" in told


def test_a_tag_stays_what_it_was_locked_as(place, base):
    name = place.image.partition("@")[0]
    path = "/v2/base/manifests/moving"
    place.server.files[path] = place.server.files[f"/v2/base/manifests/{base.index}"]
    folder = place.recipe("tagged", image=f"{name}:moving")
    place.uenv.ok("lock", str(folder), "--uarch", "aarch64")
    first = (folder / "aarch64.lock.yaml").read_text()
    del place.server.files[path]
    place.uenv.ok("lock", str(folder), "--uarch", "aarch64")
    assert (folder / "aarch64.lock.yaml").read_text() == first
    refused(place.uenv.run("lock", str(folder), "--uarch", "aarch64", "--upgrade-all"), 9, "image-not-found")
