"""The comparison with other tools: its numbers, tables, page and made wheels; what it measures is not run here."""

import csv
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import yaml

from benchmarks.comparison import results as results_module
from benchmarks.comparison.contents import Content, NotComparableError, count, require_same
from benchmarks.comparison.figures import FIGURES, Goal, text_of, verdict
from benchmarks.comparison.page import page
from benchmarks.comparison.payload import Payload, choose_changed, pin_of, with_variable, without_bytecode
from benchmarks.comparison.processes import CommandError, Cost, measure, output_of, run, run_together, watch
from benchmarks.comparison.report import columns, markdown, terminal
from benchmarks.comparison.results import MergeError, add_run, median_of, merge, new_results, ratio_of
from benchmarks.comparison.wheels import bump, make_wheels
from benchmarks.comparison.workspace import workspace
from uenv_builder.app.lock_files import require_fresh
from uenv_builder.app.recipes import load_recipe
from uenv_builder.core.systems import load_uarchs
from uenv_builder.layers.wheel import Installation, wheel_entries
from uenv_command import ROOT

MACHINE = {"processor": "one", "cores": "2"}
PAYLOAD = {
    "recipe": "a/1.0", "uarch": "gh200", "level": 3, "block_size": 262144, "packages": 2, "wheels": 3,
    "download_bytes": 4 * 10**9,
}  # fmt: skip


def results_with(name, **sides):
    """Results of one case: wall seconds of each side, round by round."""
    results = new_results(MACHINE, PAYLOAD)
    case = {"measured": "2026-11-23", "builder": "0.1 (abc)"}
    for side, walls in sides.items():
        for number, wall in enumerate(walls, 1):
            add_run(case, side.replace("_", "-"), number, Cost(wall, 2 * wall))
    results["cases"][name] = case
    return results


def figure(case, words):
    return next(figure for figure in FIGURES if figure.case == case and words in figure.title)


def test_a_ratio_is_the_median_of_the_rounds_that_both_ran():
    results = results_with("cold", ours=[1, 2, 10, 1, 1], by_hand=[3, 2, 10])
    assert ratio_of(results, "cold", "by-hand", "ours") == 1  # of 3, 1, 1; the medians' own would be 3
    assert median_of(results, "cold", "ours") == 1
    assert median_of(results, "cold", "ours", "cpu") == 2
    assert figure("cold", "both sides").runs(results) == 3


def test_what_was_not_measured_is_not_claimed():
    results = results_with("cold", ours=[1.0])
    assert ratio_of(results, "cold", "by-hand", "ours") is None
    assert median_of(results, "variable", "ours") is None
    assert {verdict(each, results) for each in FIGURES} == {"not measured"}
    assert "reached" not in page(results).replace("| Reached |", "")


def test_goals_are_held_in_their_direction():
    assert Goal("at least", 5).holds(5)
    assert not Goal("at least", 5).holds(4.999)
    assert Goal("at most", 1.5).holds(1.5)
    assert not Goal("at most", 1.5).holds(1.501)
    assert not Goal("under", 0.5).holds(0.5)


@pytest.mark.parametrize(("theirs", "expected"), [([20.0, 21.0, 22.0], "reached"), ([19.0, 19.9, 40.0], "NOT reached")])
def test_verdicts_of_a_figure_that_should_be_large(theirs, expected):
    results = results_with("variable", ours=[1.0, 1.0, 1.0], by_hand=theirs)
    assert verdict(figure("variable", "all of it"), results) == expected


@pytest.mark.parametrize(("ours", "expected"), [(1.4, "reached"), (1.6, "NOT reached")])
def test_verdicts_of_a_figure_that_should_be_small(ours, expected):
    results = results_with("variable", ours=[ours], cp=[1.0])
    assert verdict(next(each for each in FIGURES if each.title == "cp of the image"), results) == expected


def test_figures_are_written_in_their_units():
    assert text_of(5.432, "times") == "5.43 x"
    assert text_of(54.32, "times") == "54.3 x"
    assert text_of(1.004, "share") == "+0.40 %"
    assert text_of(0.98, "share") == "-2.00 %"
    assert text_of(0.456, "s") == "0.46 s"
    assert text_of(1234.5, "MB") == "1,234 MB"


def test_every_goal_of_the_page_is_there_once():
    goals = sorted((each.case, each.goal.kind, each.goal.value) for each in FIGURES if each.goal)
    assert goals == [
        ("cold", "at least", 1.25), ("cold", "at least", 1.8), ("cold", "at least", 5), ("cold", "at most", 1.2),
        ("peaks", "under", 1.2), ("peaks", "under", 600), ("second", "at least", 8), ("size", "at most", 1.01),
        ("unchanged", "under", 0.5), ("variable", "at least", 20), ("variable", "at least", 20),
        ("variable", "at most", 1.5), ("variable", "at most", 1.5),
    ]  # fmt: skip


def test_merging_keeps_other_cases_and_replaces_the_same_one():
    old = results_with("cold", ours=[1.0])
    old["cases"]["second"] = results_with("second", ours=[2.0])["cases"]["second"]
    merged = merge(old, results_with("cold", ours=[3.0]))
    assert median_of(merged, "cold", "ours") == 3
    assert median_of(merged, "second", "ours") == 2


@pytest.mark.parametrize("name", ["machine", "payload"])
def test_results_of_another_machine_or_payload_are_not_mixed_in(name):
    old = results_with("cold", ours=[1.0])
    old[name] = {**old[name], "cores": "64"}
    with pytest.raises(MergeError, match="cores: 64 there"):
        merge(old, results_with("second", ours=[1.0]))


def test_results_come_back_from_their_file(tmp_path):
    results = results_with("cold", ours=[1.25])
    results_module.save(results, tmp_path / "results.json")
    assert results_module.load(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(MergeError, match="does not hold results"):
        results_module.load(tmp_path / "other.json")


def test_tables_are_aligned():
    assert columns([["", "s"], ["ours", "1.00"], ["b", "12.00"]]) == "          s\nours   1.00\nb     12.00"
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def full_results():
    results = results_with("cold", ours=[10.0, 12.0], by_hand=[20.0, 18.0], pip_enroot=[60.0])
    results["cases"]["cold"]["contents"] = {"ours": Content(10, 5_000_000, 2, 1_000_000).document()}
    steps = {"uv": Cost(1.0, 1.0), "mksquashfs": Cost(2.5, 5.0)}
    add_run(results["cases"]["cold"], "by-hand-plain", 1, steps)
    peak = {"payload": 5e9, "image": 2.9e9, "memory": 4e8, "process": 3e8, "disk": 6e9}
    info = {"measured": "2026-11-23", "builder": "0.1 (abc)"}
    sizes = {"image": 1e9, "mksquashfs": 1e9, "oci": 1e9, "tar-zstd": 2e9, "image-ratio": 1.0, "oci-ratio": 0.5}
    results["cases"]["size"] = {"values": sizes, **info}
    results["cases"]["peaks"] = {
        "builds": {"cold": peak},
        "values": {"cold-memory": 400, "cold-disk-ratio": 1.07},
        **info,
    }
    results["cases"]["growth"] = {"builds": {"1 GB": peak}, **info}
    return results


def test_the_page_has_each_figure_with_goal_and_verdict():
    text = page(full_results())
    assert "| cold | buildah, pip, squashfs as enroot makes it | 6.00 x | at least 5.00 x | yes | 1 |" in text
    assert "| cold | best pipeline by hand, both sides byte-compile | 1.75 x | at least 1.25 x | yes | 2 |" in text
    assert "| second | best pipeline by hand, nine tenths in common |  | at least 8.00 x | not measured |  |" in text
    assert "| size | squashfs, against mksquashfs of the same tree | +0.00 % | at most +1.00 % | yes |  |" in text
    assert "| by hand | 19.00 | 18.00 | 20.00 | 38.00 | 2 |" in text
    assert "- by hand, without byte code: uv 1.0, mksquashfs 2.5" in text
    assert "| cold | 5,000 MB | 2,900 MB | 400 MB | 300 MB | 6,000 MB | 1.07 x |" in text
    assert "| processor | one |" in text
    assert "Measured: 2026-11-23 with uenv-builder 0.1 (abc)." in text


def test_the_terminal_has_the_same_figures():
    text = terminal(full_results())
    assert "6.00 x" in text
    assert "not measured" in text


def test_the_page_in_the_documentation_is_what_the_program_writes():
    kept = ROOT / "tests/benchmarks/results.json"
    results = results_module.load(kept) if kept.exists() else new_results({}, {})
    assert (ROOT / "docs/performance.md").read_text(encoding="utf-8") == page(results)


def test_contents_that_differ_are_not_compared():
    one = count([("usr/a.py", 1000), ("usr/a.pyc", 500), ("etc/passwd", 70), ("./var/lib/dpkg/status", 9000)])
    assert one == Content(files=2, bytes=1500, compiled_files=1, compiled_bytes=500)
    require_same(one, Content(2, 1520, 1, 500), "here")
    with pytest.raises(NotComparableError, match="here: compiled bytes: 500 here and 400 there"):
        require_same(one, Content(2, 1500, 1, 400), "here")


def test_commands_are_timed_and_their_failures_told():
    cost = measure(lambda: run([sys.executable, "-c", "import time; time.sleep(0.2)"]))
    assert cost.wall >= 0.2
    assert cost.cpu < cost.wall
    with pytest.raises(CommandError, match=r"(?s)ended with 3.*it broke"):
        run(["sh", "-c", "echo it broke; exit 3"])
    with pytest.raises(CommandError, match="ended with 4"):
        run_together([["true"], ["sh", "-c", "exit 4"]])
    assert output_of(["echo", "a"]) == "a\n"


def test_memory_of_children_and_files_without_a_name_are_seen(tmp_path):
    grow = f"""
import subprocess, sys, tempfile, time
child = subprocess.Popen([sys.executable, "-c", "x = b'1' * 60_000_000; import time; time.sleep(0.8)"])
with tempfile.TemporaryFile(dir={str(tmp_path)!r}) as file:
    file.write(b"1" * 8_000_000)
    file.flush()
    x = b"1" * 40_000_000
    child.wait()
"""
    peaks = watch([sys.executable, "-c", grow], [tmp_path])
    assert 100_000_000 < peaks.memory < 160_000_000
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # A process begins with the memory of the one that it comes from, and the kernel counts that, too.
    assert 40_000_000 < peaks.process <= max(100_000_000, own)
    assert 8_000_000 <= peaks.disk < 9_000_000
    assert list(tmp_path.iterdir()) == []


def test_what_runs_ends_with_the_workspace(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from benchmarks.comparison.processes import run
from benchmarks.comparison.workspace import workspace
with workspace(Path({str(tmp_path)!r})) as place:
    run(["sh", "-c", 'echo $$ > "$0/pid"; sleep 60', place])
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (found := [path.read_text() for path in tmp_path.glob("*/pid") if path.read_text()]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    assert process.wait(20) != 0
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):  # killed at once, but there until its new parent has asked how it ended
        while time.monotonic() < deadline:
            os.kill(int(found[0]), 0)
            time.sleep(0.02)


def test_a_workspace_is_removed_where_it_ends_well(tmp_path):
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with workspace(tmp_path) as place:
            (place / "file").touch()
    finally:
        for number, action in kept.items():
            signal.signal(number, action)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([100, 1], [1]),
        ([50, 9, 30, 8, 3], [9]),
        ([100] * 10 + [40, 60, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5], [60, 40, 5]),
    ],
)
def test_about_a_tenth_of_the_wheels_is_changed(sizes, expected):
    pins = [{"name": str(number), "size": size} for number, size in enumerate(sizes)]
    chosen = [int(pin["size"]) for pin in choose_changed(pins)]
    assert len(chosen) <= 3
    assert abs(sum(chosen) - sum(sizes) / 10) <= abs(sum(expected) - sum(sizes) / 10)


def wheel_payload(tmp_path):
    """A store with one wheel, and a payload whose lock names it."""
    file = tmp_path / "thing-1.2-py3-none-any.whl"
    files = {
        "thing/__init__.py": "import sys\n" * 50, "thing/data.bin": "x" * 1000,
        "thing-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.2\n",
        "thing-1.2.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }  # fmt: skip
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        rows = "".join(f"{name},,\n" for name in [*files, "thing-1.2.dist-info/RECORD"])
        archive.writestr("thing-1.2.dist-info/RECORD", rows)
    payload = Payload(tmp_path, "x86_64", tmp_path / "downloads")
    pin = pin_of(file, "thing", "1.2")
    payload.lock_file.write_text(yaml.safe_dump({"python": {"version": "3.13", "wheels": [pin]}}))
    payload.download(pin).parent.mkdir(parents=True)
    file.rename(payload.download(pin))
    return payload, pin


def entries_of(payload, pin):
    target = Installation(prefix="usr/local", packages="p", python="/usr/bin/python3")
    return {entry.path: entry.size for entry in wheel_entries(payload.download(pin), target, name=pin["file"])}


def test_a_newer_version_of_a_wheel_is_a_whole_wheel(tmp_path):
    payload, pin = wheel_payload(tmp_path)
    newer = bump(payload, pin, 7, tmp_path)
    assert newer["file"] == "thing-1.2+bumped7-py3-none-any.whl"
    assert newer["sha256"] != pin["sha256"]
    entries = entries_of(payload, newer)
    assert entries["p/thing/__init__.py"] == 550
    assert "p/thing-1.2+bumped7.dist-info/METADATA" in entries
    assert not any("thing-1.2.dist-info" in path for path in entries)
    with zipfile.ZipFile(payload.download(newer)) as archive:
        record = archive.read("thing-1.2+bumped7.dist-info/RECORD").decode()
        assert sorted(row[0] for row in csv.reader(record.splitlines())) == sorted(archive.namelist())


def test_made_wheels_have_the_size_and_no_two_equal_files(tmp_path):
    payload, _ = wheel_payload(tmp_path)
    contents = []
    for pin in make_wheels(payload, 2, 50_000, tmp_path, jobs=1):
        entries = entries_of(payload, pin)
        assert 50_000 <= sum(entries.values()) < 65_000
        with zipfile.ZipFile(payload.download(pin)) as archive:
            contents += [archive.read(name) for name in archive.namelist() if not name.endswith("/WHEEL")]
    assert len(set(contents)) == len(contents)


def test_variants_of_a_recipe_have_a_lock_that_fits(tmp_path):
    payload = Payload(ROOT / "recipes/python-mpi/1.0", "x86_64", tmp_path)
    uarch = load_uarchs()["x86_64"]
    plain = load_recipe(without_bytecode(payload, tmp_path / "plain").recipe / "recipe.yaml")
    assert not plain.recipe.python.byte_compile
    assert len(require_fresh(plain, uarch).python.wheels) == 3
    changed = load_recipe(with_variable(payload, tmp_path / "variable", 5).recipe / "recipe.yaml")
    assert changed.recipe.env == {"COMPARISON": "5"}
    require_fresh(changed, uarch)
