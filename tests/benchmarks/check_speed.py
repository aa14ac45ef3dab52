"""Times `uenv check` of a locked recipe as a whole process, against what else validates such a file.

    python tests/benchmarks/check_speed.py [RECIPE] [--runs N]

Beside it, in the same run: check-jsonschema (installed into a temporary folder), which holds the recipe against its
JSON Schema and knows no rule; an interpreter that only imports typer and pydantic, the floor for a program made with
them; and a bare interpreter. Runs alternate; the figures are the fastest of all, in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uv

ROOT = Path(__file__).parents[2]
FLOOR = "import typer, pydantic\nclass A(pydantic.BaseModel):\n    x: int"


def milliseconds(command: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=ROOT / "recipes/pytorch/2.14")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peer, schema = Path(folder) / "peer", Path(folder) / "recipe.schema.json"
        subprocess.run([uv.find_uv_bin(), "venv", "-q", "--python", sys.executable, peer], check=True)
        install = [uv.find_uv_bin(), "pip", "install", "-q", "--python", peer / "bin/python", "check-jsonschema"]
        subprocess.run(install, check=True)
        uenv = [sys.executable, "-m", "uenv_builder.cli", "check"]
        schema.write_bytes(subprocess.run([*uenv, "--schema"], check=True, stdout=subprocess.PIPE).stdout)
        recipe = options.recipe / "recipe.yaml" if options.recipe.is_dir() else options.recipe
        commands = {
            "uenv check": [*uenv, str(recipe)],
            "check-jsonschema": [str(peer / "bin/check-jsonschema"), "--schemafile", str(schema), str(recipe)],
            "typer and pydantic alone": [sys.executable, "-c", FLOOR],
            "python alone": [sys.executable, "-c", "pass"],
        }
        env = {**os.environ, "PYDANTIC_DISABLE_PLUGINS": "__all__"}
        fastest = dict.fromkeys(commands, float("inf"))
        for _ in range(options.runs):
            for name, command in commands.items():
                fastest[name] = min(fastest[name], milliseconds(command, env))
    ours = fastest["uenv check"]
    for name, time_taken in fastest.items():
        print(f"{name:26} {time_taken:6.0f} ms   uenv check takes {ours / time_taken:.2f} times as long")


if __name__ == "__main__":
    main()
