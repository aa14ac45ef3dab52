"""docs/performance.md: written from the results, so that it says nothing that was not measured."""

# ruff: noqa: E501  (prose)
from __future__ import annotations

from collections.abc import Sequence

from .figures import FIGURES, goal_text, text_of, verdict
from .report import CASES, content_rows, markdown, peak_rows, step_lines, time_rows
from .results import Results

_HEAD = """# Performance

<!-- Written by tests/benchmarks/compare_with_tools.py; changes belong there. -->

How long builds take, what they need, and how that compares with the tools that people use for the same. All figures come
from one machine; the sides take turns, and a ratio is the median of the ratios of single rounds. To measure on your own
machine, and to write this page anew:

```sh
python tests/benchmarks/compare_with_tools.py recipes/pytorch/2.14 --json results.json --write-docs docs/performance.md
```

## Figures and goals

Times as ratios: where the goal is *at least*, the other side takes so many times as long as `uenv build`; where it is
*at most*, `uenv build` takes so many times as long as the other side.
"""
_NOTHING = """Nothing has been measured yet for this page."""
_METHOD = """## How it is measured

- Times are those of whole processes, from start to exit. Before each of them `sync` runs, so that nobody has to wait for
  what somebody else has written.
- Both sides start from the same downloaded packages and wheels, which are in the page cache. Nothing is downloaded.
- `uenv build` runs with `--no-test`: no tool on the other side tests anything.
- `uenv build` checks the hashes of all that it reads, which the tools do not. What either side leaves for the kernel to
  write is not counted; `uenv build` writes its squashfs past the page cache where that is faster, the tools never do.
- *By hand* is the shortest way that is known to us: `dpkg-deb -x` in all cores; `uv pip install` with a cache in which all
  wheels lie unpacked, so that it only makes hard links; `compileall` in all cores, with the same Python that `uenv build`
  uses; one `mksquashfs`, and one `tar | zstd`, both with the level (and block size) of our image, in all cores.
- *buildah* makes a container from a tar of the same userland, which was made beforehand. pip runs in the container (chroot
  isolation) if that is for the machine's own architecture; for another one it would be emulated, and runs on the host with
  `--platform` and `--target` instead, as uv always does. Byte code is made as by hand, which is faster than pip's own way.
  `buildah commit` writes an OCI layout without compression, and mksquashfs reads the mounted container: a registry, or
  enroot's import, would have to compress and unpack the layers on top of that.
- *enroot's squashfs* is `mksquashfs -comp lzo -noD`; *stackinator's* is `mksquashfs -comp zstd -Xcompression-level 3`.
- *Inflate, byte-compile, zstd at once* runs the three at the same time, each in all cores: inflating all packages and wheels
  (these with ISA-L) into nothing, compiling all modules, and `tar | zstd` of the finished tree into a file.
- *A second environment* has new versions of at most a tenth of the wheels, with about a tenth of the bytes. Neither side has
  unpacked or compiled these before.
- *One variable changed*: by hand, either the whole pipeline runs again, or the tree was kept and is only packed again.
- Before a ratio is taken, the images of both sides are listed: files, bytes and byte code may differ by 2 %, without
  `/etc` and dpkg's database, which trees of unpacked packages lack. If they differ by more, the program stops.
- Memory is the sum of the proportional set sizes (PSS) of all processes, looked at twenty times a second, in a build of
  its own that is not timed; beside it is the largest resident set of one process, as the kernel records it.
- Disk is the most that store, build folder and temporary files (also open ones without a name) take beyond what they took
  before the build; downloads are not in it. The finished squashfs is in it: what is beyond that is the layers, which
  are the OCI image at the same time, and the Python that compiles.
"""
_LIMITS = """## What limits the builds

A profile (`perf record`, 2026-11-24, on a slower machine of two cores) of a cold build of `pytorch/2.14` for GH200, as shares of
the processor time:

| What | Share |
|---|---|
| zstd, level 3, once for both images | 23 % |
| byte code of all modules, by the image's own Python | 19 % |
| Python: headers, names, the zip and tar formats | 16 % |
| sha256: downloads, every file, each layer packed and unpacked, the squashfs | 12 % |
| the kernel: pages of the cache, writes | 8 % |
| inflating the wheels (ISA-L) | 7 % |
| xz of 158 Debian packages | 6 % |
| the rest | 8 % |

A cold build cannot take less than its processor time (the table below) divided by the cores. The goals for cold builds ask for
less than that, but for the one against the pipeline by hand with byte code: they would need a build without hashes or byte code,
which is none of ours. What remains between that bound and the measured time is the beginning and the end, where one layer or the
link of the squashfs keeps one core only.

Linking reads every frame, verifies it, writes it, and takes the sha256 of the image, which is the digest that everything else
refers to. One core hashes 1 to 2 GB/s: for an image of 3 GB that alone takes longer than `cp`, where `cp` only fills the page
cache. With the disk's own time counted on both sides, the two are closer. So the goals for a changed variable and for a second
environment depend on what a machine's memory and disk do: on one where writing is the slower part, linking takes hardly longer than `cp`.
"""


def page(results: Results) -> str:
    """The whole page."""
    cases = results["cases"]
    parts = [_HEAD, markdown(_figure_rows(results)) if cases else _NOTHING, "", _METHOD, *_measured(results)]
    if "cold" in cases:
        parts += [_LIMITS]
    if "size" in cases:
        parts += ["## Sizes", "", *_sizes(results), ""]
    for case, title in {"peaks": "## Memory and disk", "growth": "## Growth with the payload"}.items():
        if case in cases:
            parts += [title, "", *([_GROWTH] if case == "growth" else []), markdown(peak_rows(results, case)), ""]
    if cases:
        parts += ["## The machine", "", *_machine(results)]
    return "\n".join(parts).rstrip() + "\n"


_GROWTH = """Cold builds with wheels that were made for this: the files of the recipe's own wheels in a mixed order, no two of them
equal, about 500 MB unpacked a wheel, on the recipe's userland.
"""


def _figure_rows(results: Results) -> list[list[str]]:
    rows = [["Case", "Figure", "Measured", "Goal", "Reached", "Rounds"]]
    for figure in FIGURES:
        value = figure.read(results)
        found = verdict(figure, results)
        reached = {"reached": "yes", "NOT reached": "**no**"}.get(found, found)
        measured = "" if value is None else text_of(value, figure.unit)
        rounds = figure.runs(results)
        rows.append([figure.case, figure.title, measured, goal_text(figure), reached, str(rounds) if rounds else ""])
    return rows


def _measured(results: Results) -> Sequence[str]:
    parts: list[str] = []
    for case, title in CASES.items():
        if case not in results["cases"]:
            continue
        parts += [f"## {title}", "", markdown(time_rows(results, case)), ""]
        if lines := list(step_lines(results, case)):
            parts += ["Seconds of the single steps:", "", *(f"- {line}" for line in lines), ""]
        contents = content_rows(results, case)
        if len(contents) > 1:
            parts += ["What the images hold:", "", markdown(contents), ""]
        if case == "second":
            parts += [_second(results["cases"][case]["values"]), ""]
    return parts


def _second(values: dict[str, float | str]) -> str:
    new = f"Of {values['wheels']} wheels, {values['changed-wheels']} are new ({values['changed']})"
    return f"{new}, with {float(values['changed-share']) * 100:.0f} % of the bytes of all."


def _sizes(results: Results) -> Sequence[str]:
    values = results["cases"]["size"]["values"]
    rows = [["", "MB"]]
    for name, title in {
        "image": "squashfs of `uenv build`", "mksquashfs": "mksquashfs of the same tree",
        "oci": "OCI layers of `uenv build`", "tar-zstd": "tar and zstd of the same tree",
    }.items():  # fmt: skip
        rows.append([title, f"{values[name] / 1e6:,.1f}"])
    return [markdown(rows)]


def _machine(results: Results) -> Sequence[str]:
    machine, payload = results["machine"], results["payload"]
    numbers = (
        f"{payload['packages']} packages and {payload['wheels']} wheels, {payload['download_bytes'] / 1e6:,.0f} MB"
    )
    settings = f"zstd level {payload['level']}, blocks of {payload['block_size'] >> 10} KiB"
    dates = sorted({f"{case['measured']} with uenv-builder {case['builder']}" for case in results["cases"].values()})
    return [
        markdown([["What", "Which"], *([name, value] for name, value in machine.items())]),
        "",
        f"Payload: {payload['recipe']} for {payload['uarch']}: {numbers} to download; {settings}.",
        "",
        f"Measured: {'; '.join(dates)}.",
    ]
