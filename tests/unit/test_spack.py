import json
import sys
from pathlib import Path

import pytest

from uenv_builder.core.artefacts import spack_sources
from uenv_builder.model.errors import BuildError, IncompatibleError, LockError, MissingToolError
from uenv_builder.model.spack import SpackExternal
from uenv_builder.model.spack_lock import LockedSpack, LockedSpackRepository, LockedSpackSource
from uenv_builder.sources.spack import (
    FACTS,
    concretize,
    failed_packages,
    first_cause,
    read_activation,
    read_sources,
    read_spack_lock,
    read_version,
    require_machine,
    solver_causes,
)
from uenv_builder.system.process import run

UNSATISFIABLE = """\
==> Error: failed to concretize `a` for the following reasons:
""" + "".join(f"     {number}. cause {number}\n" for number in range(1, 31))
FACTS_OF = {
    "machine": {"target": "zen2", "family": "x86_64", "os": "debian12", "known": True, "fits": True},
    "sources": {
        "aaa": [{"kind": "URLFetchStrategy", "url": "https://x.example/a.tgz", "sha256": "a" * 64, "commit": None,
                 "place": "_source-cache/archive/aa/a.tgz"}],
        "bbb": [{"kind": "GitFetchStrategy", "url": "https://x.example/b.git", "sha256": None, "commit": None,
                 "place": "_source-cache/git/b/v1.tgz"},
                {"kind": "URLFetchStrategy", "url": "https://x.example/c", "sha256": None, "commit": None,
                 "place": "c"}],
    },
}  # fmt: skip


class FakeSpack:
    """A program named spack that answers from a table and writes down how it was called."""

    def __init__(self, folder: Path, answers: dict[str, tuple[int, str, str]]) -> None:
        self.calls = folder / "calls"
        self.program = folder / "spack"
        (folder / "answers.json").write_text(json.dumps(answers))
        self.program.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"answers = json.load(open({str(folder / 'answers.json')!r}))\n"
            f"words = ' '.join(sys.argv[1:])\nopen({str(self.calls)!r}, 'a').write(words + '\\n')\n"
            "code, out, err = next((value for key, value in answers.items() if key in words), (0, '', ''))\n"
            "sys.stdout.write(out)\nsys.stderr.write(err)\nsys.exit(code)\n"
        )
        self.program.chmod(0o755)

    def __call__(self, words):
        return run([str(self.program), *words], check=False)


def facts(name):
    return (0, f"noise\nUENV-FACTS {json.dumps(FACTS_OF[name])}\n", "==> Warning: something\n")


@pytest.fixture
def fake(tmp_path):
    return lambda answers: FakeSpack(tmp_path, answers)


def test_the_order_of_questions_before_a_lock(fake):
    spack = fake({"--version": (0, "1.3.0.dev0 (5817ab96)\n", ""), "machine": facts("machine"),
                  "sources": facts("sources")})  # fmt: skip
    assert read_version(spack).numbers == (1, 3)
    require_machine(spack, "x86_64_v3")
    concretize(spack)
    assert set(read_sources(spack)) == {"aaa", "bbb"}
    assert spack.calls.read_text().splitlines() == [
        "--version", f"python {FACTS} machine x86_64_v3", "-e /uenv/env concretize --force",
        f"-e /uenv/env python {FACTS} sources",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["0.23.1 (abc)\n", "0.22.6\n"])
def test_a_spack_before_1_is_refused(fake, text):
    with pytest.raises(IncompatibleError, match="is older than"):
        read_version(fake({"--version": (0, text, "")}))


def test_a_spack_that_does_not_run_is_missing(fake):
    with pytest.raises(MissingToolError, match="Spack does not run: no python"):
        read_version(fake({"--version": (1, "", "==> Error: no python\n")}))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"known": True, "fits": False, "target": "zen2"}, "this machine's processor is zen2, and the recipe is for x"),
        ({"known": False, "fits": False, "target": "zen2"}, "does not know the processor x"),
    ],
)
def test_another_machine_than_the_target_is_refused(fake, answer, message):
    spack = fake({"machine": (0, f"UENV-FACTS {json.dumps(answer)}\n", "")})
    with pytest.raises(IncompatibleError, match=message):
        require_machine(spack, "x")


def test_of_a_solver_failure_the_first_causes_are_told(fake):
    with pytest.raises(IncompatibleError) as raised:
        concretize(fake({"concretize": (1, "", UNSATISFIABLE)}))
    told = raised.value.diagnostics[0].message
    assert "1. cause 1\n" in told
    assert "8. cause 8" in told
    assert "cause 9" not in told
    assert told.endswith("and 22 more")


def test_a_cause_without_a_list_is_told_too():
    text = "==> Error: Package 'nosuch' not found.\nYou may need to run 'spack clean -m'.\n"
    assert solver_causes(text) == ["Package 'nosuch' not found.", "You may need to run 'spack clean -m'."]


def test_a_missing_solver_is_a_missing_tool(fake):
    text = '==> Error: bootstrapping is currently disabled. Use "spack bootstrap enable" to enable it\n'
    with pytest.raises(MissingToolError, match="clingo"):
        concretize(fake({"concretize": (1, "", text)}))


def test_a_schema_error_names_the_line(fake):
    spack = fake({"concretize": (1, "", "==> Error: /uenv/env/spack.yaml:4: 'x' was unexpected\n")})
    with pytest.raises(BuildError, match=r"spack\.yaml:4: 'x' was unexpected"):
        concretize(spack)


def test_a_failure_without_words_says_how_it_ended(fake):
    assert first_cause(fake({"x": (3, "", "")})(["x"])) == "exit 3"


def test_sources_without_a_checksum_are_named_with_the_reason(fake):
    found = read_sources(fake({"sources": facts("sources")}))
    assert found["aaa"][0].unverified is None
    assert [source.unverified for source in found["bbb"]] == [
        "a tag or branch, which may move", "its package has no sha256 for it",
    ]  # fmt: skip


def lock_text(version=7):
    return json.dumps({
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": version, "specfile-version": 5},
        "roots": [{"hash": "aaa", "spec": "bzip2", "group": "tools"}],
        "concrete_specs": {
            "aaa": {"name": "bzip2", "version": "1.0.8", "dependencies": [{"name": "gcc", "hash": "ccc"}],
                    "arch": {"target": {"name": "neoverse_v2", "features": ["sve"]}}},
            "ccc": {"name": "gcc", "version": "12.2.0", "external": {"path": "/usr"}, "arch": {"target": "x86_64"}},
        },
    })  # fmt: skip


@pytest.mark.parametrize("version", [6, 7])
def test_both_versions_of_the_lock_are_read(fake, version):
    sources = read_sources(fake({"sources": facts("sources")}))
    bzip2, gcc = read_spack_lock(lock_text(version), sources)
    assert (bzip2.name, bzip2.version, bzip2.hash, bzip2.dependencies) == ("bzip2", "1.0.8", "aaa", ("ccc",))
    assert bzip2.sources[0].sha256 == "a" * 64
    assert gcc.external == "/usr"


@pytest.mark.parametrize("text", [lock_text(5), lock_text(8), "{}", "no json", "[]"])
def test_another_lock_is_refused(text):
    with pytest.raises(LockError, match=r"spack\.lock"):
        read_spack_lock(text, {})


def test_an_activation_is_read_as_the_shell_would(fake):
    out = "export SPACK_ENV=/uenv/env;\nalias x='y';\nexport PATH=/m/bin:/usr/bin;\nexport A='b c';\nunset PYTHONPATH;"
    assert read_activation(fake({"activate": (0, out, "")}), "tools") == {
        "SPACK_ENV": "/uenv/env", "PATH": "/m/bin:/usr/bin", "A": "b c", "PYTHONPATH": None,
    }  # fmt: skip


def test_sources_and_commits_of_the_lock_can_be_mirrored():
    nodes = read_spack_lock(lock_text(), {"aaa": (
        LockedSpackSource(url="https://x.example/a.tgz", sha256="a" * 64, place="p"),
        LockedSpackSource(url="https://x.example/b.git", place="q", unverified="a tag or branch, which may move"),
    )})  # fmt: skip
    repository = LockedSpackRepository(name="builtin", path=".", git="https://x.example/p.git", commit="c" * 40)
    locked = LockedSpack(
        version="1.3.0", repositories=(repository,), gcc=SpackExternal(spec="gcc@12", prefix="/usr"), asked="0" * 64,
        lockfile="1" * 64, nodes=nodes,
    )  # fmt: skip
    assert [(source.file, source.sha256 or source.commit) for source in spack_sources(locked)] == [
        ("a.tgz", "a" * 64), ("p.git", "c" * 40),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "bzip2@1.0.8/inugej36n2: /uenv/stage/root/spack-stage-bzip2.log",
        "==> Error: bzip2@1.0.8/inugej36n2: /uenv/stage/root/spack-stage-bzip2.log",
        "[x] inugej3 bzip2@1.0.8 failed: /uenv/stage/root/spack-stage-bzip2.log (1s)",
    ],
)
def test_the_log_of_a_failed_package_is_found(line):
    assert failed_packages(f"noise\n==> Error: The following packages failed to install:\n{line}\n") == {
        "bzip2@1.0.8": "/uenv/stage/root/spack-stage-bzip2.log"
    }
