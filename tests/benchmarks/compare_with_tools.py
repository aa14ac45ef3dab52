"""Times builds against the tools that people use for the same: buildah, pip, uv, mksquashfs, tar and zstd.

    python tests/benchmarks/compare_with_tools.py RECIPE [--runs N] [--case NAME] [--json FILE] [--write-docs PAGE]
    python tests/benchmarks/compare_with_tools.py --json FILE --write-docs PAGE

The second form measures nothing: it writes the page from results that are there. With --json, cases that were measured
before on the same machine with the same recipe stay in the file, so that they can be run one by one.

Cases: cold (an empty store but for the downloads), second (another environment with nine tenths of the wheels in
common), variable (one environment variable changed), unchanged, size (of images), peaks (memory and disk), growth
(memory and disk of payloads of several sizes). Exit codes: 0 measured, 2 cannot begin, 3 two sides did not make the
same, 4 a command failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from comparison.cases import CASES
from comparison.contents import NotComparableError
from comparison.estimate import estimated_seconds
from comparison.machine import builder_commit, describe_machine, missing_tools
from comparison.page import page
from comparison.payload import PayloadError, adopt
from comparison.processes import CommandError
from comparison.report import terminal
from comparison.results import MergeError, Results, load, merge, new_results, save
from comparison.setting import Setting, say
from comparison.sides import Builder
from comparison.workspace import free_bytes, workspace

ROOT = Path(__file__).parents[2]


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", help="a recipe's folder; without it nothing is measured")
    parser.add_argument("--uarch", help="which of the recipe's locks; default: the only one, or this machine's")
    parser.add_argument("--runs", type=int, default=5, help="rounds of each case (default 5)")
    parser.add_argument(
        "--slow-runs", type=int, default=2, help="of these, rounds in which buildah takes part (default 2)"
    )
    parser.add_argument("--no-buildah", action="store_true", help="leave buildah out; it needs root")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be given several times")
    parser.add_argument(
        "--growth", type=float, nargs="+", default=[1, 2, 5, 10], metavar="GB", help="payloads of that case"
    )
    cache = Path(os.environ.get("UENV_CACHE", "~/.cache/uenv-builder")).expanduser()
    parser.add_argument(
        "--cache", type=Path, default=cache, help=f"the store whose downloads are used (default {cache})"
    )
    parser.add_argument(
        "--work", type=Path, help="everything happens in a new folder in here; default: the temporary folder"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results there")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE", help="write the page from the results")
    options = parser.parse_args(words)
    if options.recipe is None and not (options.json and options.write_docs):
        parser.error("give a recipe, or --json FILE with --write-docs PAGE")
    return options


def choose_uarch(recipe: Path, wanted: str | None) -> str:
    """The lock to build from."""
    names = sorted(path.name.removesuffix(".lock.yaml") for path in recipe.glob("*.lock.yaml"))
    if wanted or not names:
        return wanted or "x86_64"
    return os.uname().machine if os.uname().machine in names else names[0]


def measure_all(options: argparse.Namespace) -> Results:
    """Measure the chosen cases; what is done is kept after each of them."""
    with workspace(options.work) as place:
        builder = Builder(place)
        uarch = choose_uarch(options.recipe, options.uarch)
        payload = adopt(options.recipe.resolve(), uarch, place / "recipes" / "original", source=options.cache,
                        downloads=builder.downloads)  # fmt: skip
        if free_bytes(place) < (needed := 4.2 * payload.download_bytes):
            raise PayloadError(
                f"{place}: has not the {needed / 1e9:.1f} GB of free disk that this takes; choose --work"
            )
        results = new_results(describe_machine(place), payload.describe(options.recipe))
        if options.json and options.json.exists():
            results = merge(load(options.json), results)
        slow = 0 if options.no_buildah else min(options.slow_runs, options.runs)
        setting = Setting(
            place, payload, builder, options.runs, slow, tuple(round(size * 1e9) for size in options.growth)
        )
        chosen = [name for name in CASES if name in (options.case or CASES)]
        minutes = estimated_seconds(setting, chosen) / 60
        say(f"{', '.join(chosen)}: about {minutes:.0f} minutes on two cores; in {place}")
        for name in chosen:
            started = time.monotonic()
            case = CASES[name](setting)
            case |= {"measured": time.strftime("%Y-%m-%d"), "builder": builder_commit(ROOT),
                     "minutes": round((time.monotonic() - started) / 60, 1)}  # fmt: skip
            results["cases"][name] = case
            say(f"{name}: done in {case['minutes']} minutes")
            if options.json:
                save(results, options.json)
    return results


def main(words: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    options = parse(words)
    needs_buildah = not options.no_buildah and "cold" in (options.case or CASES)
    if options.recipe and (missing := missing_tools(buildah=needs_buildah)):
        sys.stderr.write("\n".join(missing) + "\n")
        return 2
    try:
        results = measure_all(options) if options.recipe else load(options.json)
    except (PayloadError, MergeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except NotComparableError as error:
        sys.stderr.write(f"not comparable: {error}\n")
        return 3
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
        return 4
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; all is released and removed\n")
        return 130
    print(terminal(results))
    if options.write_docs:
        options.write_docs.write_text(page(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
