"""`uenv explain RECIPE COMPONENT`: on the repository's recipes with their locks, and on small ones with a store."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import socket
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from uenv_builder import cli
from uenv_builder.app.component.explaining import explain_component
from uenv_builder.app.lock_files import read_lock
from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.lock_file import dump_lock, recipe_digest
from uenv_builder.core.rules.reading import NotedRuntime, noted_subject
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.tables import RUNTIME_RULES, SUBJECT_RULES
from uenv_builder.core.systems import load_system, load_uarchs
from uenv_builder.model.lock import Lock
from uenv_builder.system.store import Store
from uenv_command import ROOT, Outcome, refused

PYTORCH = str(ROOT / "recipes/pytorch/2.14")
SMALL = str(ROOT / "recipes/python-mpi/1.0")
GPU = """\
name: demo
version: "1.0"
description: For a test
targets:
  - {system: daint, uarch: gh200}
base:
  debian:
    suite: trixie
    packages: [python3]
pins:
  python: "3.13"
  cuda: "13.0"
  nccl: "2.30.7"
  pytorch: "2.14.1"
network: hook-artifact
"""
CPU = """\
name: demo
version: "1.0"
description: For a test
targets:
  - {system: generic-x86_64, uarch: x86_64}
base:
  debian:
    suite: trixie
    essential: false
    packages: [shell]
pins:
  python: "3.13"
python:
  requirements: ["top[fast]>=1", side]
"""


@dataclass(frozen=True)
class Explain:
    """The command inside this process, without network, in a folder of its own and with a store of its own."""

    folder: Path
    store: Store
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        shown = self.capture.readouterr()
        return Outcome(ended.value.code, shown.out, shown.err)

    def text(self, *arguments: str) -> str:
        outcome = self.run("explain", *arguments)
        assert outcome.code == 0, outcome.stderr
        assert outcome.stderr == ""
        return outcome.stdout

    def all(self, *arguments: str):
        """The explanations of the JSON document."""
        return json.loads(self.text(*arguments, "--json"))["explanations"]

    def one(self, *arguments: str):
        [explanation] = self.all(*arguments)
        return explanation

    def write(self, content: str, name: str = "mine") -> str:
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "recipe.yaml").write_text(content, encoding="utf-8")
        return name

    def copy(self, recipe: str, name: str = "mine") -> Path:
        """The recipe with its locks in the current folder; its file."""
        shutil.copytree(recipe, self.folder / name)
        return self.folder / name / "recipe.yaml"

    def keep(self, content: bytes) -> dict[str, str | int]:
        """Put a file into the store; what a lock says of it."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.store.download_path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"sha256": sha256, "size": len(content)}


@pytest.fixture
def explain(tmp_path, capsys, monkeypatch) -> Explain:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UENV_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return Explain(tmp_path, Store(tmp_path / "store"), capsys)


def verdicts(explanation) -> dict[str, str]:
    return {said["rule"]: said["verdict"] for said in explanation["rules"]}


def chains(explanation) -> list[tuple[str, ...]]:
    return [(asked["text"], *(link["text"] for link in asked["links"])) for asked in explanation["asked_by"]]


def line_of(recipe: str, text: str) -> int:
    lines = (Path(recipe) / "recipe.yaml").read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


def wheel(name: str, *requires: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        lines = "".join(f"Requires-Dist: {text}\n" for text in requires)
        archive.writestr(f"{name}/vendored-1.dist-info/METADATA", "Requires-Dist: not-this\n")
        archive.writestr(
            f"{name.replace('-', '_')}-1.0.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{lines}\nRequires-Dist: nor-this-of-the-description\n",
        )
    return out.getvalue()


def deb(name: str, **fields: str) -> bytes:
    stanza = {"Package": name, "Version": "1.0", "Architecture": "amd64", **fields}
    text = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in stanza.items()).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("./control")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    out = b"!<arch>\n"
    for member, content in {"debian-binary": b"2.0\n", "control.tar.gz": gzip.compress(archive.getvalue())}.items():
        out += f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def lock_of(explain: Explain, recipe: str, wheels: dict[str, bytes], debs: dict[str, bytes]) -> Lock:
    """A lock of the recipe on x86_64, of these wheels and packages, all of which are put into the store."""
    loaded = load_recipe(Path(recipe) / "recipe.yaml")
    digest = recipe_digest(loaded.recipe, load_uarchs()["x86_64"])
    lock = Lock.model_validate_json(
        json.dumps(
            {
                "lock-format": 1, "recipe": {"name": "demo", "version": "1.0", "digest": digest},
                "target": {"uarch": "x86_64", "debian": "amd64"}, "epoch": 1,
                "userland": {
                    "releases": [],
                    "packages": [
                        {
                            "name": name, "version": "1.0", "architecture": "amd64", "suite": "trixie",
                            "path": f"pool/{name}.deb", **explain.keep(content),
                        }
                        for name, content in debs.items()
                    ],
                },
                "python": {
                    "version": "3.13", "platform": "x86_64-manylinux_2_40",
                    "wheels": [
                        {"name": name, "version": "1.0", "file": f"{name}-1.0-py3-none-any.whl", **explain.keep(zipped)}
                        for name, zipped in wheels.items()
                    ],
                },
            }
        )
    )  # fmt: skip
    loaded.lock_path("x86_64").write_text(dump_lock(lock), encoding="utf-8")
    return lock


@pytest.fixture
def locked(explain) -> str:
    """A small recipe whose wheels and packages the store has."""
    recipe = explain.write(CPU)
    wheels = {
        "top": wheel(
            "top", 'middle>=1; extra == "fast"', 'slow; extra == "slow"', 'arm; platform_machine == "aarch64"'
        ),
        "side": wheel("side", "Low==1.0"),
        "middle": wheel("middle", "low (>=0.5)"),
        "low": wheel("low"),
    }
    debs = {
        "shell": deb("shell", Depends="library (>= 1)", Pre_Depends="editor | reader"),
        "library": deb("library"),
        "vi": deb("vi", Provides="editor", Depends="library"),
        "left": deb("left"),
    }
    lock_of(explain, recipe, wheels, debs)
    return recipe


def test_nccl_is_pinned_locked_and_asked_for_by_torch(explain):
    found = explain.one(PYTORCH, "nccl")
    assert found["targets"] == ["clariden%gh200", "daint%gh200"]
    assert (found["lock"], found["version"]) == ("fresh", "2.30.7")
    pin, locked, torch = found["decided_by"]
    assert (pin["by"], pin["version"], pin["line"]) == ("pin", "2.30.7", line_of(PYTORCH, "nccl:"))
    assert (locked["by"], locked["version"]) == ("lock", "2.30.7")
    assert "nvidia-nccl-cu13 2.30.7: nvidia_nccl_cu13-2.30.7-" in locked["text"]
    assert (torch["by"], torch["version"]) == ("torch", "2.30.7")
    assert torch["source"]
    [asked] = found["asked_by"]
    assert (asked["text"], asked["line"]) == ("torch==2.14.1", line_of(PYTORCH, "pytorch:"))
    assert asked["links"] == [{"by": "torch", "name": "nvidia-nccl-cu13", "text": "nvidia-nccl-cu13==2.30.7"}]


def test_exactly_the_rules_that_look_at_it_are_named(explain):
    nccl = verdicts(explain.one(PYTORCH, "nccl"))
    looked = {"torch-nccl", "nccl-two-wheels", "nccl-plugin-interface", "known-bad", "wheel-glibc", "nccl-net"}
    others = {"cuda-driver", "torch-cuda", "torch-cudnn", "torch-python", "torch-cpu-wheel", "base-python"}
    assert looked <= set(nccl)
    assert not others & set(nccl)
    assert set(nccl.values()) == {"silent"}
    cuda = verdicts(explain.one(PYTORCH, "cuda"))
    assert {"cuda-driver", "cuda-minor-version", "torch-cuda"} <= set(cuda)
    assert not {"torch-nccl", "nccl-two-wheels", "nccl-net", "base-python"} & set(cuda)
    assert "torch-nccl" not in verdicts(explain.one(PYTORCH, "cudnn"))
    python = verdicts(explain.one(PYTORCH, "python"))
    assert {"base-python", "torch-python"} <= set(python)
    assert "nccl-net" not in python
    assert set(verdicts(explain.one(PYTORCH, "filelock"))) == {"wheel-glibc"}
    assert set(verdicts(explain.one(PYTORCH, "less"))) == set()
    assert "wheel-glibc" in verdicts(explain.one(PYTORCH, "libc6"))


def test_a_rule_about_cudnn_looks_where_the_recipe_asks_for_one(explain):
    recipe = explain.write(GPU + 'python: {requirements: ["nvidia-cudnn-cu13==9.20.0.48"]}\n')
    found = explain.one(recipe, "cudnn")
    assert chains(found)[0] == ("nvidia-cudnn-cu13==9.20.0.48",)
    assert chains(found)[1][0] == "torch==2.14.1"


def test_what_a_rule_read_is_told(explain):
    read = {said["rule"]: said["read"] for said in explain.one(PYTORCH, "nccl")["rules"]}
    assert read["torch-nccl"] == ["version"]
    assert read["nccl-net"] == ["NCCL_NET"]
    assert read["gpu-aware-mpi"] == ["presence"]


@pytest.mark.parametrize(
    "names",
    [("pytorch", "torch", "Torch"), ("nccl", "NCCL", "nvidia-nccl-cu13", "nvidia_nccl_cu13"), ("numpy", "NumPy"),
     ("aws_ofi_nccl", "aws-ofi-nccl")],
)  # fmt: skip
def test_one_component_has_many_names(explain, names):
    first, *others = [explain.one(PYTORCH, name) for name in names]
    assert all(other == first for other in others)


def test_what_hooks_bring_has_their_source_and_nobody_asks_for_it(explain):
    hooks = load_system("daint").hooks["hook-artifact"]
    found = explain.one(PYTORCH, "libfabric")
    [said] = found["decided_by"]
    assert (said["by"], said["version"], found["version"]) == ("hooks", hooks.libfabric, hooks.libfabric)
    assert said["source"] == hooks.source
    assert found["asked_by"] == []
    assert "asked for by\n  nobody: the host brings it\n" in explain.text(PYTORCH, "libfabric")


def test_another_network_mode_brings_what_is_told(explain):
    recipe = explain.copy(PYTORCH)
    [change] = [one for one in explain.one("mine", "libfabric")["changes"] if "hook-host" in one]
    told = re.search(r"`network: hook-host`, whose hooks bring ([0-9.]+)", change)
    recipe.write_text(recipe.read_text().replace("network: hook-artifact", "network: hook-host"))
    assert explain.one("mine", "libfabric")["version"] == told[1]


@pytest.mark.parametrize("component", ["nccl", "pytorch", "cuda", "cudnn"])
def test_who_follows_a_change_of_torch_ends_without_errors(explain, component):
    recipe = explain.copy(PYTORCH)
    before = recipe.read_text()
    changes = [one for one in explain.one("mine", component)["changes"] if one.startswith("pin pytorch")]
    assert changes
    for change in changes:
        text = before.replace("${{ torch }}", '"2.14.1"')
        for pin, version in re.findall(r'(\w+): "([0-9.]+)"', change):
            text = re.sub(rf"^  {pin}: .*$", f'  {pin}: "{version}"', text, flags=re.MULTILINE)
        assert text != before
        recipe.write_text(text)
        outcome = explain.run("check", "mine")
        assert outcome.code == 0, f"{change}\n{outcome.stderr}"
        for rule in re.findall(r"warning\[([a-z-]+)\]", outcome.stderr):
            assert f"{rule} would warn" in change or f"and {rule}" in change, change
        recipe.write_text(before)


def test_who_follows_a_change_of_python_ends_without_errors(explain):
    recipe = explain.copy(PYTORCH)
    before = recipe.read_text()
    changes = explain.one("mine", "python")["changes"]
    assert changes
    for change in changes:
        suite, python = re.search(r"suite: (\w+)` with `pins: \{python: \"([0-9.]+)\"\}", change).groups()
        recipe.write_text(before.replace("suite: trixie", f"suite: {suite}").replace('"3.13"', f'"{python}"'))
        assert explain.run("check", "mine").code == 0


def test_targets_that_differ_are_told_apart_and_uarch_picks_one(explain):
    both = explain.all(SMALL, "mpich")
    assert [one["targets"] for one in both] == [["generic-x86_64%x86_64"], ["generic-aarch64%aarch64"]]
    assert "x86_64" in both[0]["decided_by"][0]["text"]
    assert explain.one(SMALL, "mpich", "--uarch", "aarch64") == both[1]
    assert explain.text(SMALL, "mpich").count("what would change it") == 2


def test_chains_over_extras_and_markers_are_read_from_wheels_in_the_store(explain, locked):
    low = explain.one(locked, "LOW")
    assert low["notes"] == []
    assert chains(low) == [("side", "Low==1.0"), ("top[fast]>=1", 'middle>=1; extra == "fast"', "low (>=0.5)")]
    assert [asked["line"] for asked in low["asked_by"]] == [line_of(locked, "requirements:")] * 2
    assert low["changes"] == ["another side, which asks for `Low==1.0` and takes no other version"]
    middle = explain.one(locked, "middle")
    assert chains(middle) == [("top[fast]>=1", 'middle>=1; extra == "fast"')]
    assert middle["changes"] == [
        '`python: {constraints: ["middle<VERSION"]}`, a bound for all who ask, then `uenv lock mine`',
        "`uenv lock mine --upgrade middle`, for the newest version that all requirements allow",
    ]
    assert chains(explain.one(locked, "top")) == [("top[fast]>=1",)]


def test_chains_of_debian_packages_are_read_from_the_store(explain, locked):
    library = explain.one(locked, "library")
    assert chains(library) == [("shell", "library (>= 1)"), ("shell", "editor | reader", "library")]
    assert [one.partition(",")[0] for one in library["changes"]] == [
        "`uenv lock mine --upgrade library`", "`library=VERSION` under `base: debian: packages:`",
    ]  # fmt: skip
    assert chains(explain.one(locked, "shell")) == [("shell",)]
    left = explain.one(locked, "left")
    assert left["asked_by"] == []
    assert left["notes"] == ["nothing that the recipe asks for leads to it"]


def test_without_the_files_it_is_said_that_nothing_is_recorded(explain, locked):
    shutil.rmtree(explain.store.root)
    for component, count in {"low": "4 of 4 wheels", "library": "4 of 4 Debian packages"}.items():
        found = explain.one(locked, component)
        assert found["version"] == "1.0"
        assert found["asked_by"] == []
        assert count in found["notes"][0]
        assert "asked for by\n  not recorded\n" in explain.text(locked, component)
    assert chains(explain.one(locked, "side")) == [("side",)]


def test_damaged_files_in_the_store_count_as_missing(explain, locked):
    for path in (explain.store.root / "downloads").glob("*/*"):
        path.write_bytes(path.read_bytes()[:40])
    assert "4 of 4 wheels" in explain.one(locked, "low")["notes"][0]
    assert "4 of 4 Debian packages" in explain.one(locked, "library")["notes"][0]


def test_a_constraint_is_something_to_change(explain):
    recipe = explain.write(CPU + "  constraints: [low<2]\n")
    lock_of(explain, recipe, {"side": wheel("side", "low"), "low": wheel("low")}, {})
    low = explain.one(recipe, "low")
    place = f"mine/recipe.yaml:{line_of(recipe, 'constraints:')}:17"
    assert low["changes"][0] == f"the constraint `low<2`, at {place}, then `uenv lock mine`"
    assert "--upgrade low" in low["changes"][1]


def test_without_a_lock_pins_and_facts_speak(explain):
    explain.write(GPU)
    found = explain.one("mine", "nccl")
    assert (found["lock"], found["version"]) == ("missing", "2.30.7")
    assert "gh200.lock.yaml: there is no lock yet" in found["notes"][0]
    assert [said["by"] for said in found["decided_by"]] == ["pin", "torch"]
    assert chains(found) == [("torch==2.14.1", "nvidia-nccl-cu13==2.30.7")]
    explain.write(GPU.replace('  nccl: "2.30.7"\n', ""))
    found = explain.one("mine", "nccl")
    assert [said["by"] for said in found["decided_by"]] == ["torch"]
    assert found["version"] == "2.30.7"


def test_an_exact_requirement_decides_where_nothing_is_pinned(explain):
    recipe = explain.write(
        GPU.replace('  pytorch: "2.14.1"\n', "") + "python: {requirements: [torch==2.14.1, numpy>=2]}\n"
    )
    found = explain.one(recipe, "pytorch")
    [said] = found["decided_by"]
    assert (said["by"], said["version"], said["line"]) == ("recipe", "2.14.1", line_of(recipe, "python: {"))
    assert any(one.startswith("require torch==2.14.0 ") for one in found["changes"])
    numpy = explain.one(recipe, "numpy")
    assert (numpy["version"], numpy["decided_by"]) == (None, [])


def test_a_pin_of_what_the_hooks_bring_can_only_go(explain):
    recipe = explain.write(GPU.replace("pins:\n", 'pins:\n  libfabric: "2.6.0"\n'))
    found = explain.one(recipe, "libfabric")
    assert [said["by"] for said in found["decided_by"]] == ["pin", "hooks"]
    assert verdicts(found)["hook-own-stack"] == "error"
    place = f"mine/recipe.yaml:{line_of(recipe, 'libfabric:')}:3"
    brings = load_system("daint").hooks["hook-artifact"].libfabric
    assert found["changes"] == [f"without the pin at {place}, the host's hooks bring {brings}"]


def test_without_a_lock_requirements_and_packages_of_the_recipe_are_known(explain):
    recipe = explain.write(CPU)
    assert chains(explain.one(recipe, "side")) == [("side",)]
    assert explain.one(recipe, "side")["changes"] == [
        f"the requirement `side`, at mine/recipe.yaml:{line_of(recipe, 'requirements:')}:34, then `uenv lock mine`"
    ]
    assert chains(explain.one(recipe, "shell")) == [("shell",)]
    refused(explain.run("explain", recipe, "low"), 2, "unknown-component", "there is no lock yet")


def test_a_stale_lock_is_told_and_rules_do_not_see_it(explain):
    recipe = explain.copy(PYTORCH)
    recipe.write_text(recipe.read_text().replace("    - numpy\n", "    - numpy<3\n"))
    found = explain.one("mine", "numpy")
    assert found["lock"] == "stale"
    assert "is stale" in found["notes"][0]
    assert found["version"]
    assert chains(found) == [("numpy<3",)]
    assert found["rules"] == []
    assert "note: " in explain.text("mine", "numpy")


def test_a_lock_that_cannot_be_read_is_told(explain):
    explain.copy(PYTORCH)
    (explain.folder / "mine/gh200.lock.yaml").write_text("<<<<<<< ours\n")
    found = explain.one("mine", "nccl")
    assert found["lock"] == "unreadable"
    assert "not a lock" in found["notes"][0]
    assert found["version"] == "2.30.7"


def test_findings_are_told_with_their_place_and_come_first(explain):
    recipe = explain.write(GPU.replace("2.30.7", "2.29.7"))
    found = explain.one(recipe, "nccl")
    assert verdicts(found)["torch-nccl"] == "error"
    [finding] = next(said["findings"] for said in found["rules"] if said["rule"] == "torch-nccl")
    assert (finding["line"], finding["severity"]) == (line_of(recipe, "nccl:"), "error")
    lines = explain.text(recipe, "nccl").splitlines()
    first = lines[lines.index("rules that looked at it") + 1]
    assert first.startswith("  error    torch-nccl: ")


def test_variables_that_the_recipe_sets_are_judged_too_and_accepted_warnings_are_told(explain):
    wrong = GPU + 'env: {NCCL_DEBUGG: "INFO"}\n'
    recipe = explain.write(wrong)
    said = verdicts(explain.one(recipe, "nccl"))
    assert said["variable-unknown"] in {"warning", "error"}
    assert "variable-unknown" not in verdicts(explain.one(recipe, "libfabric"))
    if said["variable-unknown"] == "warning":
        explain.write(wrong + 'accept: {variable-unknown: "for a test"}\n')
        assert verdicts(explain.one(recipe, "nccl"))["variable-unknown"] == "accepted"


def test_a_pin_that_nothing_is_built_from_says_so(explain):
    found = explain.one(PYTORCH, "gdrcopy")
    assert (found["version"], found["decided_by"]) == (None, [])
    assert "no version is decided" in explain.text(PYTORCH, "gdrcopy").splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((PYTORCH, "ncll"), 2, ["unknown-component", 'did you mean "nccl"?']),
        ((PYTORCH, "nunpy"), 2, ['did you mean "numpy"?']),
        ((PYTORCH, "libnuma2"), 2, ['did you mean "libnuma1"?']),
        ((PYTORCH, "zzzzzz"), 2, ["unknown-component", "hint: name a pin"]),
        (("nowhere", "nccl"), 2, ["no-recipe"]),
        ((PYTORCH, "nccl", "--uarch", "a100"), 2, ["no-target", "clariden%gh200"]),
        ((PYTORCH,), 2, ["is no rule", f"uenv explain {PYTORCH} nccl"]),
        (("nccl-net", "--uarch", "gh200"), 2, ["--uarch is for a component"]),
        ((PYTORCH, "nccl", "--log", "slurm.out"), 2, ["name either"]),
        (("no-such-rule",), 2, ["unknown-rule"]),
        ((), 2, ["name either"]),
    ],
    ids=lambda value: " ".join(map(str, value)).replace(str(ROOT), "") if isinstance(value, tuple) else None,
)
def test_what_makes_no_sense_is_refused_with_a_remedy(explain, arguments, code, words):
    refused(explain.run("explain", *arguments), code, *words)


def test_a_recipe_that_is_not_valid_is_refused(explain):
    explain.write(GPU.replace("nccl:", "ncll:"))
    refused(explain.run("explain", "mine", "nccl"), 3, "mine/recipe.yaml:")


def test_a_rule_is_still_explained(explain):
    assert explain.text("nccl-net").startswith("nccl-net (")


@pytest.mark.parametrize("recipe", [PYTORCH, SMALL])
def test_every_wheel_and_every_pin_can_be_explained(explain, recipe):
    locks = [read_lock(load_recipe(Path(recipe) / "recipe.yaml"), uarch) for uarch in load_uarchs().values()]
    wheels = {wheel.name for lock in locks if lock for wheel in lock.python.wheels}
    pins = ["python", "cuda", "nccl", "pytorch", "aws_ofi_nccl", "libfabric", "libcxi", "gdrcopy", "openmpi"]
    for name in [*pins, *sorted(wheels), "libc6"]:
        _, found = explain_component(recipe, name)
        for one in found:
            assert one.changes, name
            assert name not in wheels or one.version, name


@pytest.mark.parametrize(
    "change", [("", ""), ("2.30.7", "2.29.7"), ("13.0", "12.8"), ("2.14.1", "2.9.1"), ("hook-artifact", "none")]
)
def test_taking_notes_does_not_change_what_rules_say(explain, change):
    for locked in (True, False):
        loaded = load_recipe(Path(PYTORCH) / "recipe.yaml")
        text = GPU.replace(*change) if change[0] else GPU
        recipe = load_recipe(Path(explain.write(text)) / "recipe.yaml").recipe
        uarch = load_uarchs()["gh200"]
        subject = Subject(recipe, load_system("daint"), uarch, read_lock(loaded, uarch) if locked else None)
        noted = noted_subject(subject, lambda _: None)
        runtime = NotedRuntime.of(subject.runtime, lambda _: None)
        for rule, judge in SUBJECT_RULES.items():
            assert list(judge(noted)) == list(judge(subject)), rule
        for rule, judge in RUNTIME_RULES.items():
            assert list(judge(runtime)) == list(judge(subject.runtime)), rule


def test_the_command_as_users_start_it(alone):
    outcome = alone.ok("explain", PYTORCH, "nccl")
    assert outcome.stdout.startswith(f"nccl in {PYTORCH}/recipe.yaml for clariden%gh200 and daint%gh200: 2.30.7\n")
    for title in ("decided by", "asked for by", "rules that looked at it", "what would change it"):
        assert f"\n{title}\n  " in outcome.stdout
    assert not alone.cache.exists()
