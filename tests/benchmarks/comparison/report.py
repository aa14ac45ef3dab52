"""Results for people: the table at the end of a run, and the page in the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .figures import FIGURES, goal_text, text_of, verdict
from .results import Results, median_of, median_steps, runs_of

SIDES = {
    "ours": "uenv build",
    "ours-plain": "uenv build, without byte code",
    "ours-sync": "uenv build, then sync",
    "by-hand": "by hand",
    "by-hand-plain": "by hand, without byte code",
    "by-hand-pack": "by hand, packing only",
    "parts": "inflate, byte-compile, zstd at once",
    "pip-enroot": "buildah, pip, enroot's squashfs",
    "pip-stackinator": "buildah, pip, stackinator's squashfs",
    "uv-enroot": "buildah, uv, enroot's squashfs",
    "uv-stackinator": "buildah, uv, stackinator's squashfs",
    "cp": "cp of the image",
    "cp-sync": "cp of the image, then sync",
}
CASES = {
    "cold": "Nothing built yet, downloads at hand",
    "second": "A second environment with nine tenths of the wheels in common",
    "variable": "One environment variable changed",
    "unchanged": "Nothing changed",
}


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text; the first column to the left, the others to the right."""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table, the first one its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def figure_rows(results: Results) -> list[list[str]]:
    """Case, figure, value, goal, verdict, runs."""
    rows = [["case", "figure", "measured", "goal", "", "runs"]]
    for figure in FIGURES:
        value = figure.read(results)
        measured = "" if value is None else text_of(value, figure.unit)
        runs = figure.runs(results)
        rows.append(
            [
                figure.case,
                figure.title,
                measured,
                goal_text(figure),
                verdict(figure, results),
                str(runs) if runs else "",
            ]
        )
    return rows


def time_rows(results: Results, case: str) -> list[list[str]]:
    """Median, fastest and slowest wall time and median processor time of each side."""
    rows = [["", "wall s", "from", "to", "CPU s", "runs"]]
    for side, title in SIDES.items():
        runs = runs_of(results, case, side)
        wall, cpu = median_of(results, case, side), median_of(results, case, side, "cpu")
        if wall is None or cpu is None:
            continue
        walls = [run["wall"] for run in runs]
        rows.append([title, *(f"{value:.2f}" for value in (wall, min(walls), max(walls), cpu)), str(len(runs))])
    return rows


def step_lines(results: Results, case: str) -> Iterable[str]:
    """What the times of sides with several steps consist of."""
    for side, title in SIDES.items():
        if steps := median_steps(results, case, side):
            yield f"{title}: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in steps.items())


def content_rows(results: Results, case: str) -> list[list[str]]:
    """What was in the images that were compared."""
    rows = [["", "files", "MB", "of these byte code", "MB"]]
    for name, content in results["cases"].get(case, {}).get("contents", {}).items():
        numbers = [f"{content['files']:,}", f"{content['bytes'] / 1e6:,.0f}"]
        rows.append([name, *numbers, f"{content['compiled_files']:,}", f"{content['compiled_bytes'] / 1e6:,.0f}"])
    return rows


def peak_rows(results: Results, case: str) -> list[list[str]]:
    """Memory and disk of each build that was watched; megabytes, and what is beyond the image as a multiple of it."""
    rows = [["build", "payload", "image", "memory", "largest process", "disk", "beyond the image"]]
    for name, peak in results["cases"].get(case, {}).get("builds", {}).items():
        numbers = [peak[key] / 1e6 for key in ("payload", "image", "memory", "process", "disk")]
        beyond = f"{(peak['disk'] - peak['image']) / peak['image']:.2f} x" if peak["disk"] >= peak["image"] else ""
        rows.append([name, *(f"{number:,.0f} MB" for number in numbers), beyond])
    return rows


def terminal(results: Results) -> str:
    """The tables at the end of a run."""
    parts = []
    for case, title in CASES.items():
        if case in results["cases"]:
            parts += [title, columns(time_rows(results, case)), *step_lines(results, case), ""]
    for case in ("peaks", "growth"):
        if case in results["cases"]:
            parts += [case, columns(peak_rows(results, case)), ""]
    return "\n".join([*parts, "Figures", columns(figure_rows(results))])
