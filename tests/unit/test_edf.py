from __future__ import annotations

import re
import tomllib

import pytest
from golden_files import check_golden

from uenv_builder.core.edf.render import EdfRequest, render_edf
from uenv_builder.core.edf.rules import lint_edf_settings
from uenv_builder.core.systems import load_systems
from uenv_builder.model.errors import IncompatibleError, Position, UsageError
from uenv_builder.model.recipe import EdfSection

SYSTEMS = load_systems()
SETTINGS = EdfSection(
    mounts=["/capstor", "${SCRATCH}/data:/data:ro"],
    workdir="/workspace",
    env={"HF_HOME": "${SCRATCH}/hf", "NCCL_DEBUG": "WARN", "UNSET_ME": "", "BLANKS": "a  b #c"},
    annotations={"com.hooks.ssh.enabled": "true", "com.hooks.ssh.authorize_ssh_key": "${HOME}/.ssh/id.pub"},
)
PATH = "/capstor/store/images/pytorch-2.14.squashfs"
REFERENCE = "registry.example:5000/uenv/pytorch@sha256:" + "0" * 64
REQUEST = EdfRequest(
    label="pytorch/2.14:v1@daint%gh200", content="0123456789abcdef" * 4, dialect="ce", image=PATH,
    system=SYSTEMS["daint"], network="hook-artifact", settings=SETTINGS,
)  # fmt: skip


def request(**changes: object) -> EdfRequest:
    fields = {name: getattr(REQUEST, name) for name in EdfRequest.__slots__}
    return EdfRequest(**{**fields, **changes})


def render(**changes: object) -> dict:
    return tomllib.loads(render_edf(request(**changes)))


def flatten(table: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in table.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_the_text_for_each_engine():
    check_golden("daint-hook-artifact/pytorch.ce.toml", render_edf(REQUEST))
    check_golden("daint-hook-artifact/pytorch.sarus.toml", render_edf(request(dialect="sarus", image=REFERENCE)))


CASES = [
    (name, mode, dialect) for name, system in SYSTEMS.items() for mode in system.networks for dialect in ("ce", "sarus")
]


@pytest.mark.parametrize(("name", "mode", "dialect"), CASES)
@pytest.mark.parametrize("settings", [EdfSection(), SETTINGS], ids=["empty", "full"])
def test_every_edf_keeps_the_rules_of_its_engine(name, mode, dialect, settings):
    edf = render(system=SYSTEMS[name], network=mode, dialect=dialect, image=REFERENCE, settings=settings)
    assert set(edf) <= {"image", "mounts", "devices", "workdir", "entrypoint", "writable", "env", "annotations"}
    assert edf["image"] == REFERENCE
    assert edf["entrypoint"] is (mode == "image"), "the engines' defaults differ"
    assert edf["writable"] is True
    assert all(isinstance(value, str) for value in edf.get("env", {}).values())
    annotations = flatten(edf.get("annotations", {}))
    assert all(isinstance(value, str) for value in annotations.values())
    for mount in edf.get("mounts", []):
        assert re.fullmatch(r"[^:]+:[^:]+(:[^:]+)?", mount), "the pattern of raster's schema"
    if dialect == "sarus":
        assert not [key for key in annotations if ".netstack." in key or ".ssh." in key or key.endswith(".variant")]
    else:
        assert "devices" not in edf
    if annotations.get("com.hooks.aws_ofi_nccl.enabled") == "true":
        assert annotations.get("com.hooks.cxi.enabled", "true" if dialect == "ce" else None) == "true"


def test_the_hooks_of_each_mode():
    assert flatten(render(network="hook-artifact", settings=EdfSection())["annotations"]) == {
        "com.hooks.aws_ofi_nccl.enabled": "true",
        "com.hooks.netstack.source": "artifact",
    }
    assert flatten(render(network="hook-host", settings=EdfSection())["annotations"]) == {
        "com.hooks.aws_ofi_nccl.enabled": "true",
        "com.hooks.aws_ofi_nccl.variant": "cuda-dl",
        "com.hooks.netstack.source": "host",
    }
    assert flatten(render(network="image", settings=EdfSection())["annotations"]) == {"com.hooks.cxi.enabled": "false"}
    sarus = render(dialect="sarus", image=REFERENCE, settings=EdfSection())
    assert flatten(sarus["annotations"]) == {
        "com.hooks.aws_ofi_nccl.enabled": "true",
        "com.hooks.cxi.enabled": "true",
    }
    assert sarus["devices"] == ["nvidia.com/gpu=all", "/dev/gdrdrv"]


def test_values_come_through_as_they_are():
    edf = render()
    assert edf["env"] == SETTINGS.env
    assert edf["workdir"] == "/workspace"
    assert edf["mounts"] == ["/capstor:/capstor", "${SCRATCH}/data:/data:ro"]
    assert flatten(edf["annotations"])["com.hooks.ssh.authorize_ssh_key"] == "${HOME}/.ssh/id.pub"


def test_quotes_and_backslashes_are_escaped():
    env = {"A": 'a "b" \\ c', "B": "it's", "C": "ü"}
    assert render(settings=EdfSection(env=env))["env"] == env


def test_flags_are_joined_as_the_engine_reads_them():
    settings = EdfSection(mounts=["/a:/b:ro+private"])
    assert render(settings=settings)["mounts"] == ["/a:/b:ro+private"]
    assert render(settings=settings, dialect="sarus", image=REFERENCE)["mounts"] == ["/a:/b:ro,private"]
    squashfs = EdfSection(mounts=["/a.sqsh:/b:sqsh"])
    assert render(settings=squashfs)["mounts"] == ["/a.sqsh:/b:sqsh"]
    with pytest.raises(IncompatibleError, match=r"cannot mount the squashfs /a\.sqsh"):
        render(settings=squashfs, dialect="sarus", image=REFERENCE)


def test_an_image_with_an_entrypoint_runs_it():
    assert render(entrypoint=True)["entrypoint"] is True


def test_base_environments_come_first():
    text = render_edf(request(settings=EdfSection(base_environment=["common", "/a/b.toml"])))
    assert tomllib.loads(text)["base_environment"] == ["common", "/a/b.toml"]


@pytest.mark.parametrize(
    "image",
    [
        PATH,
        "${SCRATCH}/my images/x.squashfs",
        "ubuntu",
        "ubuntu:24.04",
        "registry.example/a/b_c/d:1.0-x",
        "registry.example#a/b:1",
        REFERENCE,
    ],
)
def test_images_that_container_engine_takes(image):
    assert render(image=image)["image"] == image


@pytest.mark.parametrize(
    ("image", "dialect"),
    [
        ("image.squashfs", "ce"),
        ("./image.squashfs", "ce"),
        ("$SCRATCH/image.squashfs", "ce"),
        ("registry.example/A/Upper:1", "ce"),
        ("docker://ubuntu", "ce"),
        ("podman://ubuntu", "ce"),
        ("ubuntu:", "ce"),
        ("a b", "ce"),
        ("/a\nb", "ce"),
        ("", "ce"),
        (PATH, "sarus"),
        ("${SCRATCH}/x", "sarus"),
        ("registry.example#a/b:1", "sarus"),
    ],
)
def test_images_that_an_engine_would_not_find(image, dialect):
    with pytest.raises(UsageError) as caught:
        render(image=image, dialect=dialect)
    assert caught.value.diagnostics[0].rule == "edf-image"
    assert caught.value.diagnostics[0].hint


def rules(severity: str = "error", **settings: object) -> set[str]:
    return {finding.rule for finding in lint_edf_settings(EdfSection(**settings)) if finding.severity == severity}


def test_good_settings_have_no_findings():
    assert lint_edf_settings(EdfSection(), system=SYSTEMS["daint"], network="image") == []
    quiet = SETTINGS.model_copy(update={"env": {"PATH": "${PATH}:/opt/bin", "A": "${B:-x}"}})
    assert lint_edf_settings(quiet, system=SYSTEMS["daint"], network="hook-artifact") == []


@pytest.mark.parametrize(
    "mount",
    [
        "",
        ":/a",
        "/a:",
        "/a:/b:ro:x",
        "a:/b",
        "./a:/b",
        "/a:b",
        "tmpfs:/x",
        "/a:/b:roo",
        "/a:/etc",
        "/a:/",
        "/a:/usr/",
        "/etc",
        "/a:/b:sqsh+ro",
        "${X:-/a}:/b",
    ],
)
def test_mounts_that_do_not_do_what_they_say(mount):
    assert rules(mounts=[mount]) == {"edf-mount"}


def test_two_mounts_at_one_place():
    assert rules(mounts=["/a:/x", "/b:/x/"]) == {"edf-mount"}


def test_mounting_a_home_is_a_warning():
    assert rules("warning", mounts=["/users"]) == rules("warning", mounts=["${HOME}"]) == {"edf-mount-home"}


@pytest.mark.parametrize("value", ["$HOME/x", "$(id)", "`id`", "$$x", "${x", "${1x}", "${}", "a\nb", "x$"])
@pytest.mark.parametrize("field", ["mount", "env", "annotation", "base", "workdir"])
def test_expansions_are_in_braces_and_run_nothing(value, field):
    settings = {
        "mount": {"mounts": [f"/{value}:/b"]},
        "env": {"env": {"A": value}},
        "annotation": {"annotations": {"com.example.x": value}},
        "base": {"base_environment": [f"/{value}"]},
        "workdir": {"workdir": f"/{value}"},
    }[field]
    section = EdfSection.model_construct(**{**EdfSection().model_dump(), **settings})
    assert "edf-expansion" in {finding.rule for finding in lint_edf_settings(section)}


def test_variables_of_the_edf_come_from_the_host():
    assert rules(env={"A": "x", "B": "${A}/y"}) == {"edf-env-reference"}
    assert rules(env={"1A": "x"}) == {"env-name"}


@pytest.mark.parametrize("base", ["./common", "common.toml", "sub/common"])
def test_bases_do_not_depend_on_a_folder(base):
    assert rules(base_environment=[base]) == {"edf-base"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("com.hooks.cxi.enabled", "True"),
        ("com.hooks.cxi.enabled", "1"),
        ("com.hooks.aws_ofi_nccl.variant", "cuda11"),
        ("com.hooks.netstack.source", "image"),
        ("com.hooks.ssh.authorize_ssh_key", "ssh-ed25519 AAAA"),
        ("com.hooks.ssh.port", "x"),
        ("com..x", "1"),
        ("com.x y", "1"),
    ],
)
def test_annotation_values_that_no_hook_reads(key, value):
    assert rules(annotations={key: value}) == {"edf-annotation"}


def test_unknown_hooks_are_a_warning_with_the_nearest_name():
    (finding,) = lint_edf_settings(EdfSection(annotations={"com.hooks.cxi.enable": "true"}))
    assert (finding.rule, finding.severity) == ("edf-annotation-unknown", "warning")
    assert finding.hint == 'did you mean "com.hooks.cxi.enabled"?'


def test_a_key_cannot_be_value_and_table():
    assert rules(annotations={"com.x": "1", "com.x.y": "2"}) == {"edf-annotation"}


@pytest.mark.parametrize(
    ("network", "settings", "severity"),
    [
        ("image", {"annotations": {"com.hooks.cxi.enabled": "true"}}, "error"),
        ("image", {"annotations": {"com.hooks.aws_ofi_nccl.enabled": "true"}}, "error"),
        ("hook-artifact", {"annotations": {"com.hooks.netstack.source": "host"}}, "error"),
        ("hook-host", {"annotations": {"com.hooks.cxi.enabled": "false"}}, "error"),
        ("hook-artifact", {"annotations": {"com.hooks.aws_ofi_nccl.variant": "cuda13"}}, "warning"),
        ("image", {"annotations": {"com.hooks.aws_ofi_nccl.variant": "cuda13"}}, "warning"),
        ("none", {"annotations": {"com.hooks.ssh.enabled": "true"}, "writable": False}, "error"),
    ],
)
def test_annotations_that_contradict_each_other(network, settings, severity):
    found = lint_edf_settings(EdfSection(**settings), system=SYSTEMS["daint"], network=network)
    assert {(finding.rule, finding.severity) for finding in found} == {("edf-hooks", severity)}


def test_findings_stand_at_their_place():
    found = lint_edf_settings(
        EdfSection(mounts=["/ok", "bad"], env={"A": "$X"}), lambda *path: Position(".".join(map(str, path)), 1, 1)
    )
    assert [finding.position.file for finding in found] == ["mounts.1", "mounts.1", "env.A"]
