from __future__ import annotations

from pathlib import Path

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from uenv_builder.core.edf.file_rules import EdfContext, check_edf
from uenv_builder.core.rules.stories import find_story
from uenv_builder.core.systems import load_systems

ROOT = Path(__file__).parents[2]
SYSTEMS = load_systems()
DIGEST = "@sha256:" + "0" * 64
IMAGE = f'image = "registry.example/team/tool:1.0{DIGEST}"\n'
SARUS = IMAGE + "entrypoint = false\n"
NCCL = "com.hooks.aws_ofi_nccl.enabled"
EXTENDED = f'image = "ghcr.io/eth-cscs/alps-extended-images/ngc-pytorch:26.02-py3-alps6{DIGEST}"\n'
CUDA = f"""\
image = "nvidia/cuda:12.8.1-devel-ubuntu24.04{DIGEST}"
[annotations]
{NCCL} = "true"
com.hooks.aws_ofi_nccl.variant = "VARIANT"
"""
DAINT = {"system": SYSTEMS["daint"]}


def check(text, dialect="ce", files=None, **known):
    files = files or {}

    def read(name):
        return (files[name].encode(), f"{name}.toml") if name in files else None

    content = text if isinstance(text, bytes) else text.encode()
    return check_edf(content, "x.toml", EdfContext(dialect=dialect, read=read, **known))


def verdicts(text, dialect="ce", files=None, **known):
    found = []
    for finding in check(text, dialect, files, **known)[1]:
        mark = {"error": "", "warning": "?", "note": "."}[finding.severity]
        file = finding.position.file.removesuffix(".toml")
        place = f"{finding.position.line}:{finding.position.column}"
        found.append(f"{finding.rule}{mark} {place if file == 'x' else f'{file}:{place}'}")
    return found


# Text, and rule with place: `?` marks a warning, `.` a note.
CE = {
    "nothing wrong": (IMAGE, []),
    "syntax": ("image = /a", ["toml-syntax 1:9"]),
    "table twice": (
        IMAGE + "[annotations]\ncom.hooks.ssh.enabled = 'true'\n[annotations.com.hooks.ssh]\nport = '1'\n",
        ["toml-syntax 4:2"],
    ),
    "no image": ('workdir = "/"\n', ["edf-image-missing? 1:1"]),
    "empty image": ('\nimage = ""\n', ["edf-image-missing? 2:9"]),
    "a typo of a key": (IMAGE + 'mount = ["/a"]\n', ["edf-key 2:1"]),
    "an unknown key": (IMAGE + "[zzz]\nx = 1\n", ["edf-key? 2:2"]),
    "devices": (IMAGE + 'devices = ["/dev/gdrdrv"]\n', ["edf-engine? 2:1"]),
    "a switch as a text": (IMAGE + 'writable = "true"\n', ["edf-type 2:12"]),
    "a switch as a number": (IMAGE + "entrypoint = 1\n", ["edf-type 2:14"]),
    "an image as a table": ("[image]\nname = 'x'\n", ["edf-type 1:2"]),
    "mounts as a text": (IMAGE + 'mounts = "/capstor"\n', ["edf-type 2:10"]),
    "mounts with a number": (IMAGE + 'mounts = ["/capstor", 1]\n', ["edf-type 2:23"]),
    "env as an array": (IMAGE + "env = []\n", ["edf-type 2:7"]),
    "a number in env": (IMAGE + "[env]\nOMP_NUM_THREADS = 72\n", ["edf-type 3:19"]),
    "a table in env": (IMAGE + "[env.A]\nB = '1'\n", ["edf-type 2:6"]),
    "a number as base": (IMAGE + "base_environment = 3\n", ["edf-type 2:20"]),
    "a date as workdir": (IMAGE + "workdir = 2026-01-01\n", ["edf-type 2:11"]),
    "a switch in annotations": (IMAGE + "[annotations]\ncom.hooks.cxi.enabled = true\n", ["edf-type? 3:25"]),
    "an array in annotations": (IMAGE + "annotations = {com.x = [1]}\n", ["edf-type? 2:24"]),
    "upper case": (f'image = "registry.example/Team/tool{DIGEST}"\n', ["edf-image 1:9"]),
    "a file without folder": ('image = "pytorch.sqsh"\n', ["edf-image 1:9"]),
    "a file in a folder": ('image = "images/pytorch.squashfs"\n', ["edf-image 1:9"]),
    "a file at home": ('image = "~/pytorch.sqsh"\n', ["edf-image 1:9"]),
    "a relative file": ('image = "./pytorch.sqsh"\n', ["edf-relative-path? 1:9"]),
    "a local file": ('image = "/capstor/store/pytorch.sqsh"\n', []),
    "a file below a variable": ('image = "${SCRATCH}/ce-images/ngc-pytorch+25.06.sqsh"\n', []),
    "podman": ('image = "podman://ubuntu:24.04"\n', ["edf-image 1:9"]),
    "docker": (f'image = "docker://ubuntu:24.04{DIGEST}"\n', []),
    "a blank": ('image = "ubuntu 24.04"\n', ["edf-image 1:9"]),
    "a short digest": ('image = "ubuntu:24.04@sha256:abc"\n', ["edf-image 1:9"]),
    "user and registry": (f'image = "me@registry.example#team/tool:1{DIGEST}"\n', []),
    "latest": ('image = "ubuntu:latest"\n', ["edf-image-tag? 1:9"]),
    "no tag": ('image = "ubuntu"\n', ["edf-image-tag? 1:9"]),
    "a moving tag": ('image = "registry.example#a/b:26.02-dev"\n', ["edf-image-tag? 1:9"]),
    "a tag": ('image = "nvcr.io#nvidia/pytorch:26.02-py3"\n', ["edf-image-tag. 1:9"]),
    "a variable in a tag": ('image = "registry.example/a/b:${TAG}"\n', ["edf-image-tag. 1:9"]),
    "no braces in an image": ('image = "$SCRATCH/x.sqsh"\n', ["edf-expansion 1:9", "edf-image 1:9"]),
    "alpine": (f'image = "alpine:3.19{DIGEST}"\n', ["musl-base? 1:9"]),
    "alpine with NCCL": (
        f'image = "alpine:3.19{DIGEST}"\nannotations.{NCCL} = "true"\n', ["musl-base 1:9"]
    ),
    "alpine without hooks": (
        f'image = "alpine:3.19{DIGEST}"\nannotations.com.hooks.cxi.enabled = "false"\nenv.ENROOT_SLURM_HOOK = "0"\n',
        [],
    ),
    "a relative workdir": (IMAGE + 'workdir = "./work"\n', ["edf-relative-path? 2:11"]),
    "no path as workdir": (IMAGE + 'workdir = "work"\n', ["edf-relative-path 2:11"]),
    "four fields": (IMAGE + 'mounts = ["/a:/b:ro:x"]\n', ["edf-mount 2:11"]),
    "an empty field": (IMAGE + 'mounts = ["/a::ro"]\n', ["edf-mount 2:11"]),
    "a relative source": (IMAGE + 'mounts = ["./data:/data"]\n', ["edf-relative-path? 2:11"]),
    "a relative target": (IMAGE + 'mounts = [\n  "/ok",\n  "/a:data",\n]\n', ["edf-mount 4:3"]),
    "no path at all": (IMAGE + 'mounts = ["data"]\n', ["edf-mount 2:11"]),
    "no braces in a mount": (IMAGE + 'mounts = ["$SCRATCH:/scratch"]\n', ["edf-expansion 2:11"]),
    "an unknown flag": (IMAGE + 'mounts = ["/a:/b:readonly"]\n', ["edf-mount? 2:11"]),
    "a typo of a flag": (IMAGE + 'mounts = ["/a:/b:privat"]\n', ["edf-mount 2:11"]),
    "two flags": (IMAGE + 'mounts = ["/a:/b:ro+private"]\n', []),
    "the other separator": (IMAGE + 'mounts = ["/a:/b:ro,private"]\n', ["edf-mount 2:11"]),
    "a squashfs": (IMAGE + 'mounts = ["${SCRATCH}/data.sqsh:/data:sqsh"]\n', []),
    "a squashfs with a flag": (IMAGE + 'mounts = ["/d.sqsh:/data:sqsh+ro"]\n', ["edf-mount 2:11"]),
    "one target twice": (IMAGE + 'mounts = ["/a:/x", "/ü:/y", "/b:/x/"]\n', ["edf-mount 2:29"]),
    "one mount twice": (IMAGE + 'mounts = ["/capstor", "/capstor"]\n', ["edf-mount? 2:23"]),
    "over /usr": (IMAGE + 'mounts = ["/a:/usr"]\n', ["edf-mount 2:11"]),
    "over /opt": (IMAGE + 'mounts = ["/a:/opt"]\n', ["edf-mount? 2:11"]),
    "a home": (IMAGE + 'mounts = ["/users/${USER}:/data"]\n', ["edf-mount-home? 2:11"]),
    "tmpfs": (IMAGE + 'mounts = ["tmpfs:/cache"]\n', []),
    "tmpfs nowhere": (IMAGE + 'mounts = ["tmpfs"]\n', ["edf-mount 2:11"]),
    "a command": (IMAGE + '[env]\nA = "$(id)"\n', ["edf-expansion 3:5"]),
    "a literal": (IMAGE + '[env]\nA = "$${USER}; \\"quoted\\""\n', []),
    "a line end": (IMAGE + '[env]\nA = """\na\nb"""\n', ["edf-expansion 3:5"]),
    "a variable of the table": (IMAGE + '[env]\nA = "1"\nB = "${A}/x"\n', ["edf-env-reference 4:5"]),
    "a name": (IMAGE + '[env]\n"A-B" = "1"\n', ["env-name 3:9"]),
    "a name of enroot": (IMAGE + '[env]\nENROOT_MOUNT_HOME = "y"\n', ["env-reserved? 3:21"]),
    "no GPU": (IMAGE + '[env]\nNVIDIA_VISIBLE_DEVICES = "void"\n', ["edf-gpu-hidden? 3:26"]),
    "an unknown hook": (
        IMAGE + "[annotations.com.hooks.cxi]\nenable = 'true'\n", ["edf-annotation-unknown? 3:10"]
    ),
    "a value in upper case": (IMAGE + "[annotations]\ncom.hooks.cxi.enabled = 'True'\n", ["edf-annotation 3:25"]),
    "a value by a variable": (IMAGE + "[annotations]\ncom.hooks.cxi.enabled = '${CXI:-true}'\n", []),
    "a key instead of its file": (
        IMAGE + '[annotations]\ncom.hooks.ssh.authorize_ssh_key = "ssh-ed25519 AAAA"\n', ["edf-annotation 3:35"]
    ),
    "an annotation of Sarus": (IMAGE + '[annotations]\ncom.sarus.perfmon = "true"\n', ["edf-engine? 3:21"]),
    "NCCL without CXI": (
        IMAGE + f'[annotations]\ncom.hooks.cxi.enabled = "false"\n{NCCL} = "true"\n', ["edf-hooks 4:34"]
    ),
    "NCCL alone": (IMAGE + f'[annotations]\n{NCCL} = "true"\n', []),
    "a variant alone": (IMAGE + '[annotations]\ncom.hooks.aws_ofi_nccl.variant = "cuda13"\n', ["edf-hooks? 3:34"]),
    "a variant of an artifact": (
        IMAGE + f'[annotations]\n{NCCL} = "true"\ncom.hooks.aws_ofi_nccl.variant = "cuda13"\n'
        'com.hooks.netstack.source = "artifact"\n',
        ["edf-hooks? 4:34"],
    ),
    "a variant of another CUDA": (
        CUDA.replace("VARIANT", "cuda13"),
        ["edf-hooks 4:34"],
    ),
    "a runtime image": (
        CUDA.replace("VARIANT", "cuda-dl").replace("devel", "runtime"),
        ["edf-cudart? 1:9"],
    ),
    "SSH in a read-only container": (
        IMAGE + "writable = false\n[annotations]\ncom.hooks.ssh.enabled = 'true'\n", ["edf-hooks 4:25"]
    ),
    "MPS in a read-only container": (
        IMAGE + "writable = false\n[annotations.com.hooks]\nnvidia_cuda_mps.enabled = 'true'\n", ["edf-hooks 4:27"]
    ),
    "an extended image": (
        EXTENDED,
        ["edf-self-contained 1:1", "edf-self-contained 1:1"],
    ),
    "an extended image with hooks": (
        EXTENDED + f'entrypoint = false\n[annotations]\ncom.hooks.cxi.enabled = "true"\n{NCCL} = "true"\n',
        ["edf-self-contained 2:14", "edf-self-contained 4:25", "edf-self-contained 5:34"],
    ),
    "a stack of one's own": (
        IMAGE + '[env]\nFI_PROVIDER = "cxi"\n[annotations]\ncom.hooks.cxi.enabled = "false"\n',
        ["edf-self-contained? 1:1"],
    ),
}  # fmt: skip
FOR_SARUS = {
    "nothing wrong": (SARUS, []),
    "no image": ('workdir = "/"\n', ["edf-image-missing 1:1"]),
    "entrypoint left open": (IMAGE, ["edf-entrypoint. 1:1"]),
    "a file": ('image = "/a/x.sqsh"\nentrypoint = true\n', ["edf-image 1:9"]),
    "a relative file": ('image = "./x.sqsh"\nentrypoint = true\n', ["edf-image 1:9"]),
    "a hash sign": (f'image = "nvcr.io#nvidia/pytorch{DIGEST}"\nentrypoint = true\n', ["edf-image 1:9"]),
    "a variable in the image": ('image = "${REG}/a:1"\nentrypoint = true\n', ["edf-image 1:9"]),
    "a user": (f'image = "me@registry.example/a{DIGEST}"\nentrypoint = true\n', ["edf-image 1:9"]),
    "a tag": ('image = "debian:trixie"\nentrypoint = true\n', ["edf-image-tag. 1:9"]),
    "a mount without target": (SARUS + 'mounts = ["/capstor"]\n', ["edf-mount 3:11"]),
    "two flags": (SARUS + 'mounts = ["/a:/b:ro,z"]\n', []),
    "the other separator": (SARUS + 'mounts = ["/a:/b:ro+private"]\n', ["edf-mount 3:11"]),
    "a squashfs": (SARUS + 'mounts = ["/a.sqsh:/b:sqsh"]\n', ["edf-mount 3:11"]),
    "tmpfs": (SARUS + 'mounts = ["tmpfs:/b"]\n', ["edf-mount 3:11"]),
    "a default in a mount": (SARUS + 'mounts = ["${A:-/a}:/b"]\n', ["edf-mount 3:11"]),
    "a dollar in a mount": (SARUS + 'mounts = ["/a$$b:/b"]\n', ["edf-expansion 3:11"]),
    "a semicolon in a mount": (SARUS + 'mounts = ["/a;b:/b"]\n', ["edf-expansion 3:11"]),
    "a semicolon in env": (SARUS + '[env]\nA = "a;b"\n', ["edf-expansion? 4:5"]),
    "no braces": (SARUS + '[env]\nA = "$USER"\n', ["edf-expansion. 4:5"]),
    "a form of the shell": (SARUS + '[env]\nA = "${USER%x}"\n', ["edf-expansion. 4:5"]),
    "braces that stay open": (SARUS + '[env]\nA = "${USER"\n', ["edf-expansion 4:5"]),
    "a dollar alone": (SARUS + '[env]\nA = "5 $"\n', ["edf-expansion? 4:5"]),
    "a command": (SARUS + '[env]\nA = "$(id)"\n', ["edf-expansion 4:5"]),
    "no command": (SARUS + "[env]\nA = '\\$(id) \\\"x\\\"'\n", []),
    "a relative workdir": (SARUS + 'workdir = "./work"\n', ["edf-relative-path 3:11"]),
    "devices": (SARUS + 'devices = ["nvidia.com/gpu=all", "/dev/gdrdrv", "hpe.com/cxi=all"]\n', []),
    "a runtime image": (
        CUDA.replace("com.hooks.aws_ofi_nccl.variant", "com.hooks.cxi.enabled")
        .replace("VARIANT", "true").replace("devel", "runtime").replace("[ann", "entrypoint = false\n[ann"),
        ["edf-cudart? 1:9"],
    ),
    "an unknown device": (SARUS + 'devices = ["/dev/gdrdrv", "gpu0"]\n', ["edf-devices 3:27"]),
    "netstack": (SARUS + '[annotations]\ncom.hooks.netstack.source = "host"\n', ["edf-engine? 4:29"]),
    "SSH": (SARUS + 'writable = false\n[annotations.com.hooks.ssh]\nenabled = "true"\n', ["edf-engine? 5:11"]),
    "MPS in a read-only container": (
        SARUS + 'writable = false\n[annotations]\ncom.hooks.nvidia_cuda_mps.enabled = "true"\n', ["edf-hooks 5:37"]
    ),
    "a variant": (
        SARUS + '[annotations.com.hooks]\ncxi.enabled = "true"\naws_ofi_nccl = {enabled = "true", variant = "x"}\n',
        ["edf-engine? 5:45"],
    ),
    "NCCL alone": (SARUS + f'[annotations]\n{NCCL} = "true"\n', ["edf-hooks 4:34"]),
    "a parameter": (SARUS + '[annotations]\ncom.sarus.perfmon = "true"\n', []),
    "an unknown parameter": (SARUS + '[annotations]\ncom.sarus.perfmn = "true"\n', ["edf-annotation-unknown? 4:20"]),
    "an extended image": (
        EXTENDED + "entrypoint = true\n", []
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CE)
def test_verdicts_for_container_engine(name):
    text, expected = CE[name]
    assert verdicts(text) == expected


@pytest.mark.parametrize("name", FOR_SARUS)
def test_verdicts_for_sarus_suite(name):
    text, expected = FOR_SARUS[name]
    assert verdicts(text, "sarus") == expected


CHAIN = {
    "one base": ("fragment", {"fragment": 'image = "/a.sqsh"\n[env]\nA = "1"\n'}, []),
    "several": ("[a, b]", {"a": 'image = "ubuntu"\n', "b": IMAGE}, []),
    "a fault in a base": ("a", {"a": IMAGE + '[env]\nA = "$B"\n'}, ["edf-expansion a:3:5"]),
    "a fault that another file corrects": ("[a, b]", {"a": 'image = "Ubuntu"', "b": IMAGE}, []),
    "no TOML": ("a", {"a": "image = x"}, ["toml-syntax a:1:9"]),
    "a typo in a base": ("a", {"a": IMAGE + 'wrkdir = "/"\n'}, ["edf-key a:2:1"]),
    "not there": ("[a, c]", {"a": IMAGE}, ["edf-base 1:26"]),
    "a circle": ("a", {"a": 'base_environment = "b"', "b": IMAGE + 'base_environment = ["a"]'}, ["edf-base b:2:21"]),
    "neither there nor a name": ("~/a", {}, ["edf-base 1:20"]),
    "with suffix": ("common.toml", {"common.toml": IMAGE}, ["edf-base 1:20"]),
    "in a folder of the path": ("sub/a", {"sub/a": IMAGE}, ["edf-base 1:20"]),
    "relative": ("./a.toml", {"./a.toml": IMAGE}, ["edf-relative-path? 1:20"]),
    "absolute": ("/e/a.toml", {"/e/a.toml": IMAGE}, []),
    "one mount twice by two bases": ("[a, b]", {"a": IMAGE + 'mounts = ["/a:/x"]', "b": 'mounts = ["/b:/x"]'},
                                     ["edf-mount b:1:11"]),
    "a shared base": ("[a, b]", {"a": 'base_environment = "c"', "b": 'base_environment = "c"',
                                 "c": IMAGE + 'mounts = ["/a"]'}, []),
    "a variable of a base": ("a", {"a": IMAGE + 'env.A = "${FROM_X}"'}, ["edf-env-reference a:2:9"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAIN)
def test_verdicts_with_bases(name):
    bases, files, expected = CHAIN[name]
    items = [f'"{base}"' for base in bases.strip("[]").split(", ")]
    value = f"[{', '.join(items)}]" if bases.startswith("[") else items[0]
    assert verdicts(f'base_environment = {value}\n[env]\nFROM_X = "1"\n', files=files) == expected


def test_what_is_merged_comes_from_the_last_file_that_says_it():
    files = {
        "a": 'image = "/a.sqsh"\nmounts = ["/a"]\nwritable = false\n[env]\nA = "a"\nB = "a"\n',
        "b": 'image = "/b.sqsh"\nmounts = ["/b"]\n[env]\nB = "b"\n[annotations.com.hooks]\ncxi.enabled = "true"\n',
    }
    text = 'base_environment = ["a", "b"]\nmounts = ["/x"]\nenv = {C = "x"}\nworkdir = "/w"\n'
    edf, found = check(text, files=files)
    assert found == []
    assert (edf.image, edf.workdir, edf.writable, edf.entrypoint) == ("/b.sqsh", "/w", False, None)
    assert edf.mounts == ("/a", "/b", "/x")
    assert edf.env == {"A": "a", "B": "b", "C": "x"}
    assert edf.annotations == {"com.hooks.cxi.enabled": "true"}
    places = {
        ("image",): "b.toml:1:9",
        ("mounts", 0): "a.toml:2:11",
        ("mounts", 2): "x.toml:2:11",
        ("env", "A"): "a.toml:5:5",
        ("env", "B"): "b.toml:4:5",
        ("env", "C"): "x.toml:3:12",
        ("annotations", "com.hooks.cxi.enabled"): "b.toml:6:15",
        ("entrypoint",): "x.toml:1:1",
    }
    assert {path: str(edf.position(path)) for path in places} == places
    assert str(edf.key_position(("env", "C"))) == "x.toml:3:8"
    assert str(edf.key_position(("env", "B"))) == "b.toml:4:1"


def test_what_is_no_toml_has_one_finding_and_no_settings():
    for dialect in ("ce", "sarus"):
        edf, found = check("image = x", dialect, network="image", **DAINT)
        assert [finding.rule for finding in found] == ["toml-syntax"]
        assert (edf.image, edf.env, edf.readable) == (None, {}, False)


def test_what_a_missing_base_may_say_is_not_missed():
    text = f'base_environment = "gone"\n[annotations]\n{NCCL} = "true"\ncom.hooks.aws_ofi_nccl.variant = "x"\n'
    assert verdicts(text, "sarus", network="hook-artifact", **DAINT) == ["edf-base 1:20", "edf-engine? 4:34"]
    assert verdicts(f'base_environment = "gone"\n{MUSL}', network="image", **DAINT) == ["edf-base 1:20"]


def test_large_values_take_no_time():
    for text in (":" * 9999, "$${" * 9999, "${" * 9999, "a@" * 9999, "a/" * 9999, "[" * 30, "a:1@" * 9999):
        check(f'image = "{text}"\nmounts = ["{text}"]\n', "ce")
        check(f'image = "{text}"\nmounts = ["{text}"]\n', "sarus")


@pytest.mark.parametrize(("length", "expected"), [(10, []), (11, ["edf-base f9:1:20"])])
def test_ten_files_may_stand_in_one_line(length, expected):
    files = {f"f{number}": f'base_environment = "f{number + 1}"' for number in range(1, length - 1)}
    files[f"f{length - 1}"] = IMAGE
    assert verdicts('base_environment = "f1"', files=files) == expected


def test_a_line_is_measured_where_a_file_is_read_a_second_time():
    files = {f"f{number}": f'base_environment = "f{number + 1}"' for number in range(1, 9)}
    files |= {"f9": IMAGE, "g": 'base_environment = "f1"'}
    assert verdicts('base_environment = ["f1", "g"]', files=files) == ["edf-base g:1:20"]


def test_sarus_suite_wants_an_image_or_a_base_in_each_file():
    text = 'base_environment = ["a"]\nentrypoint = true\n' + IMAGE
    assert verdicts(text, "sarus", {"a": "writable = true\n"}) == ["edf-base a:1:1"]
    assert verdicts(text, "sarus", {"a": "base_environment = []\nwritable = true\n"}) == []
    assert verdicts(text, "ce", {"a": "writable = true\n"}) == []


def test_sarus_suite_fills_bases_in_twice():
    files = {"a": IMAGE + 'entrypoint = true\n[env]\nA = "$$x"\n'}
    assert verdicts('base_environment = "a"', "sarus", files) == ["edf-expansion a:4:5"]
    assert verdicts(files["a"], "sarus") == []


def test_the_name_of_a_base_for_sarus_suite():
    assert verdicts('base_environment = "sub/a"', "sarus", {"sub/a": SARUS}) == []
    assert verdicts('base_environment = "a.toml"', "sarus", {"a.toml": SARUS}) == ["edf-relative-path? 1:20"]


def test_variables_of_the_host_are_looked_up_where_they_are_known():
    text = IMAGE + 'base_environment = "${E}/a.toml"\nmounts = ["${SCRATCH}", "${X:-/y}:/z"]\nworkdir = "${W}"\n'
    host = {"SCRATCH": "/scratch", "E": "/e"}
    assert verdicts(text) == [], "an unknown host has any variable"
    assert verdicts(text, files={"/e/a.toml": ""}, host_env=host) == ["edf-variable 4:11"]
    found = verdicts(text, host_env={"W": "/"})
    assert found == ["edf-variable 2:20", "edf-variable 3:11"]
    assert verdicts(IMAGE + '[env]\nA = "${SLURM_JOB_ID}$${B}"\n', host_env={}) == []


def test_the_search_path_differs():
    text = SARUS + 'base_environment = "a"\n'
    known = {"files": {"a": SARUS}, "host_env": {"EDF_PATH": "/e:/f"}}
    assert verdicts(text, "sarus", **known) == ["edf-search-path? 3:20"]
    assert verdicts(text, "ce", **known) == []
    assert verdicts(text, "ce", {"a": SARUS}, host_env={"EDF_PATH": "/e:f"}) == ["edf-search-path? 3:20"]
    _, [finding] = check('base_environment = "a"', search_path=("/e", "/f"))
    assert finding.message == 'base_environment: there is no EDF "a" in /e, /f'


MUSL = f'image = "alpine:3.19{DIGEST}"\n'
MODES = {
    "hook mode": (IMAGE, "hook-artifact", ["edf-hooks? 1:1"]),
    "hook mode with its hook": (IMAGE + f'annotations.{NCCL} = "true"\n', "hook-artifact", []),
    "another source": (
        IMAGE + f'[annotations]\n{NCCL} = "true"\ncom.hooks.netstack.source = "host"\n', "hook-artifact",
        ["edf-hooks 4:29"],
    ),
    "image mode": (IMAGE, "image", ["edf-self-contained 1:1", "edf-self-contained 1:1"]),
    "image mode as it should be": (
        IMAGE + 'entrypoint = true\n[annotations]\ncom.hooks.cxi.enabled = "false"\n', "image", []
    ),
    "musl": (MUSL, None, ["musl-base 1:9"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_verdicts_on_daint(name):
    text, network, expected = MODES[name]
    assert verdicts(text, network=network, **DAINT) == expected


def test_machines_without_slingshot_have_no_hooks():
    assert verdicts(MUSL, system=SYSTEMS["generic-x86_64"]) == []


# What stands there, the hint, and what stands there for who follows it.
HINTS = [
    ("ce", 'mount = ["/a"]', 'did you mean "mounts"?', 'mounts = ["/a"]'),
    ("ce", 'writable = "False"', "write writable = false, without quotes", "writable = false"),
    ("ce", "env.A = 72", 'write it in quotes: A = "72"', 'env.A = "72"'),
    ("ce", 'mounts = ["/a:/b:ro,private"]', "write /a:/b:ro+private", 'mounts = ["/a:/b:ro+private"]'),
    ("ce", 'mounts = ["/a:/b:sqsh+ro"]',
     "Container Engine mounts a squashfs only where sqsh stands alone: write /a:/b:sqsh", 'mounts = ["/a:/b:sqsh"]'),
    ("sarus", 'mounts = ["/a:/b:ro+z"]', "write /a:/b:ro,z", 'mounts = ["/a:/b:ro,z"]'),
    ("sarus", 'mounts = ["/capstor"]', "write /capstor:/capstor", 'mounts = ["/capstor:/capstor"]'),
    ("ce", 'mounts = ["$SCRATCH:/s"]', "write ${SCRATCH}", 'mounts = ["${SCRATCH}:/s"]'),
    ("sarus", 'env.A = "$USER"', "write ${USER}", 'env.A = "${USER}"'),
    ("sarus", f'annotations.{NCCL} = "true"', 'write com.hooks.cxi.enabled = "true" beside it',
     'annotations.com.hooks = {aws_ofi_nccl.enabled = "true", cxi.enabled = "true"}'),
    ("ce", 'annotations.com.hooks.aws_ofi_nccl.variant = "cuda-dl"',
     f'write {NCCL} = "true" beside it, or leave it out',
     'annotations.com.hooks.aws_ofi_nccl = {variant = "cuda-dl", enabled = "true"}'),
]  # fmt: skip
IMAGE_HINTS = [
    ("sarus", f"nvcr.io#a/b:1{DIGEST}", f"write nvcr.io/a/b:1{DIGEST}"),
    ("ce", f"nvcr.io/NVIDIA/pytorch:26.02-Py3{DIGEST}", f"write nvcr.io/nvidia/pytorch:26.02-Py3{DIGEST}"),
    ("ce", f"Ubuntu{DIGEST}", f"write ubuntu{DIGEST}"),
    ("ce", f"podman://ubuntu:24.04{DIGEST}", f"write ubuntu:24.04{DIGEST}"),
    ("ce", "my/x.sqsh", "give the file's absolute path, such as ${SCRATCH}/x.sqsh"),
]


@pytest.mark.parametrize(("dialect", "line", "hint", "right"), HINTS)
def test_who_follows_a_hint_is_clean(dialect, line, hint, right):
    [finding] = check(f"{SARUS}{line}\n", dialect)[1]
    assert finding.hint == hint
    assert verdicts(f"{SARUS}{right}\n", dialect) == []


@pytest.mark.parametrize(("dialect", "image", "hint"), IMAGE_HINTS)
def test_who_follows_a_hint_about_the_image_is_clean(dialect, image, hint):
    [finding] = check(f'image = "{image}"\nentrypoint = true\n', dialect)[1]
    assert (finding.rule, finding.hint) == ("edf-image", hint)
    assert verdicts(f'image = "{hint.split()[-1]}"\nentrypoint = true\n', dialect) == []


DOCUMENTED = {
    "NGC with hooks": """\
image = "nvcr.io/nvidia/pytorch:26.02-py3"
mounts = ["/capstor", "/iopsstor", "${SCRATCH}:${SCRATCH}"]
workdir = "${SCRATCH}"

[env]
HF_HOME = "${SCRATCH}/huggingface"
PATH = "${PATH}:/custom/bin"
TRITON_CACHE_DIR = ""

[annotations]
com.hooks.aws_ofi_nccl.enabled = "true"
com.hooks.aws_ofi_nccl.variant = "cuda-dl"
""",
    "a local image with SSH": """\
# Made with podman build and enroot import.
base_environment = "common"
image = "${SCRATCH}/ce-images/ngc-pytorch+26.02.sqsh"
writable = true

[annotations.com.hooks.ssh]
enabled = "true"
authorize_ssh_key = "/capstor/scratch/cscs/${USER}/keys/authorized_keys"

[annotations.com.hooks]
nvidia_cuda_mps.enabled = "true"
""",
    "an extended image": """\
image = "jfrog.svc.cscs.ch/docker-group-csstaff/alps-images/ngc-pytorch:26.02-py3-alps6"
mounts = [
    "/capstor/",
    "/iopsstor/", # and a comment
]
writable = true
entrypoint = true
[env]
PMIX_MCA_psec = "native"
[annotations]
com.hooks.cxi.enabled = "false"
""",
}


def is_clean(found):
    """Without errors and warnings; a tag without a digest is a note."""
    return [str(finding) for finding in found if finding.severity != "note"] == []


@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.parametrize("known", [{}, DAINT], ids=["anywhere", "daint"])
def test_files_as_they_are_documented_are_clean(name, known):
    edf, found = check(DOCUMENTED[name], files={"common": 'mounts = ["/capstor"]\n'}, **known)
    assert is_clean(found)
    assert {finding.rule for finding in found} <= {"edf-image-tag"}
    assert edf.image in DOCUMENTED[name]


def test_files_as_they_are_documented_for_sarus_suite_are_clean():
    text = EXTENDED.replace(DIGEST, "") + 'mounts = ["${SCRATCH}:${SCRATCH}"]\n\n[env]\nPMIX_MCA_psec = "native"\n'
    assert verdicts(text, "sarus", **DAINT) == ["edf-entrypoint. 1:1", "edf-image-tag. 1:9"]


WRITTEN = {
    "pytorch": {"system": SYSTEMS["clariden"], "network": "hook-artifact"},
    "python-mpi": {"system": SYSTEMS["generic-x86_64"], "network": "none"},
}


@pytest.mark.parametrize("dialect", ["ce", "sarus"])
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "environments").iterdir()))
def test_files_of_this_repository_are_clean(name, dialect):
    path = ROOT / f"environments/{name}/edf/{name}{'.sarus' if dialect == 'sarus' else ''}.toml"
    assert is_clean(check(path.read_bytes(), dialect)[1])
    assert is_clean(check(path.read_bytes(), dialect, **WRITTEN[name])[1])


def test_a_file_for_one_engine_is_not_clean_for_the_other():
    folder = ROOT / "environments/pytorch/edf"
    assert not is_clean(check((folder / "pytorch.toml").read_bytes(), "sarus")[1])
    assert not is_clean(check((folder / "pytorch.sarus.toml").read_bytes(), "ce")[1])


def test_every_rule_that_fires_has_a_story():
    tables = [(text, "ce") for text, _ in CE.values()] + [(text, "sarus") for text, _ in FOR_SARUS.values()]
    found = {finding.rule for text, dialect in tables for finding in check(text, dialect)[1]}
    assert len(found) > 20
    assert [rule for rule in found if find_story(rule) is None] == []


VALUES = st.recursive(
    st.booleans()
    | st.integers(-9, 99)
    | st.floats()
    | st.dates()
    | st.text("ab/:$={}.~,+ro\n", max_size=12)
    | st.sampled_from(
        ["${A}", "$$", "true", "/a:/b:ro", "./x", "alpine", "A/b:latest", "x@sha256:1", "a://b", "#", "@", ""]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("com.x$", max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["image", "mounts", "env", "annotations", "base_environment", "workdir", "entrypoint", "writable", "devices", "x"]
)


def survives(content):
    for dialect in ("ce", "sarus"):
        context = EdfContext(
            dialect=dialect, read=lambda name: (content, name), host_env={"A": "a"}, network="hook-artifact", **DAINT
        )
        edf, found = check_edf(content, "x.toml", context)
        assert all(finding.position and finding.hint for finding in found)
        assert all(isinstance(value, str) for value in edf.env.values())


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_values_make_it_fail(document):
    survives(tomlkit.dumps(document).encode())


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.binary(max_size=100) | st.text("ab.$\"'=[]{}:/,\n", max_size=60).map(lambda text: f"image = {text}".encode()))
def test_no_bytes_make_it_fail(content):
    survives(content)
