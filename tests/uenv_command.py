"""The command as users start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """How a run of the command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self):
        """Standard output as JSON."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Uenv:
    """Runs the command with a store of its own, as a user would, in a folder of its own."""

    folder: Path
    cache: Path

    def environment(self, **variables: str) -> dict[str, str]:
        return {**os.environ, "UENV_CACHE": str(self.cache), "NO_COLOR": "1", "COLUMNS": "200", **variables}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "uenv_builder.cli", *arguments]

    def run(self, *arguments: str, **variables: str) -> Outcome:
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment(**variables), capture_output=True,
            text=True, check=False, timeout=880, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, **variables: str) -> Outcome:
        outcome = self.run(*arguments, **variables)
        assert outcome.code == 0, f"{' '.join(arguments)} ended with {outcome.code}\n{outcome.stdout}\n{outcome.stderr}"
        return outcome


def refused(outcome: Outcome, code: int, *words: str) -> None:
    """The command ended with `code`, one line that says why, and no traceback; `words` stand on standard error."""
    assert outcome.code == code, f"{outcome.code}\n{outcome.stdout}\n{outcome.stderr}"
    assert "Traceback" not in outcome.stderr
    assert "internal error" not in outcome.stderr
    for word in words:
        assert word in outcome.stderr, outcome.stderr
