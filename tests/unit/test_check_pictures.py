"""What `uenv check` prints about recipes, EDF files and batch scripts, as pictures: each silent failure at its place,
with reason, source and remedy, and the mended file beside it that is clean.
"""

import difflib
import re
import shlex

import pytest
from golden_files import GOLDEN, check_golden
from typer.testing import CliRunner

from uenv_builder.cli import app

FOLDER = GOLDEN / "check"
CLEAN = re.compile(r"-good|-mended\.|driver-accepted")
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in {".yaml", ".toml", ".sbatch"})


def options(text):
    line = next((line for line in text.splitlines()[:2] if line.startswith("# options: ")), "# options: ")
    return shlex.split(line.removeprefix("# options: "))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDF_PATH", "edf")
    monkeypatch.delenv("UENV_SYSTEM_PATH", raising=False)
    monkeypatch.chdir(FOLDER)


@pytest.mark.parametrize("name", FILES)
def test_pictures(name):
    outcome = CliRunner().invoke(app, ["check", name, *options((FOLDER / name).read_text(encoding="utf-8"))])
    picture = f"{outcome.stderr}{outcome.stdout}exit code {outcome.exit_code}\n"
    check_golden(f"check/{name}.out", picture)
    if CLEAN.search(name):
        assert picture.startswith(f"{name}: ok")
    else:
        assert re.match(rf"(edf/)?{re.escape(name)}:\d+:\d+: (error|warning|note)\[", picture)


def test_there_are_enough_and_none_without_its_file():
    assert len(FILES) >= 55
    assert sorted(path.name for path in FOLDER.glob("*.out")) == [f"{name}.out" for name in FILES]


MENDED = {
    "recipe-torch-for-cpu.yaml": "recipe-good-hooks.yaml",
    "recipe-torch-for-another-cuda.yaml": "recipe-good-hooks.yaml",
    "recipe-torch-with-another-nccl.yaml": "recipe-good-hooks.yaml",
    "recipe-cuda-newer-than-driver.yaml": "recipe-cuda-newer-than-driver-accepted.yaml",
    "recipe-plugin-older-than-nccl.yaml": "recipe-good-image.yaml",
    "recipe-plugin-newer-than-libfabric.yaml": "recipe-good-image.yaml",
    "recipe-libcxi-newer-than-the-host.yaml": "recipe-good-image.yaml",
    "recipe-image-without-a-network.yaml": "recipe-good-image.yaml",
    "recipe-no-network.yaml": "recipe-good-image.yaml",
    "recipe-hooks-and-an-own-plugin.yaml": "recipe-good-hooks.yaml",
    "recipe-network-annotations.yaml": "recipe-good-image.yaml",
    "recipe-a-base-that-leaks.yaml": "recipe-a-base-that-leaks-mended.yaml",
    "recipe-ll128.yaml": "recipe-ll128-mended.yaml",
    "recipe-plugin-by-name.yaml": "recipe-plugin-by-name-mended.yaml",
    "recipe-quoted-network.yaml": "recipe-plugin-by-name-mended.yaml",
    "recipe-sockets.yaml": "recipe-plugin-by-name-mended.yaml",
    "recipe-two-nccl.yaml": "recipe-good-hooks.yaml",
    "recipe-a-typo.yaml": "recipe-good-hooks.yaml",
    "edf-plugin-by-name.toml": "edf-plugin-by-name-mended.toml",
    "edf-a-typo.toml": "edf-good.toml",
    "edf-hook-without-quotes.toml": "edf-good.toml",
    "job-alt-read-without-network.sbatch": "job-good.sbatch",
    "job-environment-of-the-job.sbatch": "job-good.sbatch",
    "job-a-relative-image.sbatch": "job-good.sbatch",
    "job-both-names-of-the-plugin.sbatch": "job-both-names-of-the-plugin-mended.sbatch",
    "job-srun-in-a-container.sbatch": "job-good.sbatch",
}


@pytest.mark.parametrize("name", MENDED)
def test_only_lines_that_are_told_need_a_change(name):
    picture = (FOLDER / f"{name}.out").read_text(encoding="utf-8")
    told = {int(line) for line in re.findall(rf"^{re.escape(name)}:(\d+):", picture, re.MULTILINE)}
    wrong, right = ((FOLDER / file).read_text(encoding="utf-8").splitlines() for file in (name, MENDED[name]))
    blocks = difflib.SequenceMatcher(None, wrong, right, autojunk=False).get_opcodes()
    changed = {
        number + 1 for kind, first, last, *_ in blocks if kind in {"replace", "delete"} for number in range(first, last)
    }
    assert changed <= told | HEADS.get(name, set())


HEADS = {"recipe-two-nccl.yaml": {17}, "recipe-network-annotations.yaml": {21, 22}}
"""Lines of keys that are empty without what was told below them."""
