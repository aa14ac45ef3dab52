"""Two recipes that share layers, built by whole commands that are killed at random moments.

Ten moments by default. More of them, another seed, or recipes of one's own (folders with locks, and a mirror that
`uenv mirror` has filled for them) by hand, as docs/how-to/store.md says:

    UENV_KILL_MOMENTS=200 pytest tests/integration/test_kill_builds.py -s
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import dying_command
from small_recipes import OfflineUenv, SmallRecipes, build_command, make_small_recipes
from uenv_builder.system.events import Silent
from uenv_builder.system.store import Store

MOMENTS = int(os.environ.get("UENV_KILL_MOMENTS", "10"))
SEED = int(os.environ.get("UENV_KILL_SEED") or random.SystemRandom().randrange(2**32))


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> SmallRecipes:
    given = os.environ.get("UENV_KILL_RECIPES")
    if not given:
        return make_small_recipes(tmp_path_factory.mktemp("recipes"))
    alpha, beta, mirror = map(Path, given.split(":"))
    config = tmp_path_factory.mktemp("config")
    (config / "uenv-builder").mkdir()
    (config / "uenv-builder/config.toml").write_text(f'mirrors = ["{mirror}"]\n')
    return SmallRecipes(alpha, beta, mirror, config)


@dataclass
class Proof:
    """Builds of both recipes in one store, what they must come to, and what became of those that were killed."""

    uenv: OfflineUenv
    recipes: tuple[Path, ...]
    chance: random.Random
    temporary: Path
    digests: dict[Path, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0
    changes: int = 0
    endings: Counter[str] = field(default_factory=Counter)

    def start(self, recipe: Path, *, dies_at: int | None = None) -> subprocess.Popen[str]:
        """A build in a session of its own, by which what it has started is told."""
        arguments = build_command(recipe, "--output", f"build/{self.recipes.index(recipe)}")
        command = self.uenv.command(*arguments)
        variables = {"TMPDIR": str(self.temporary), "PYTHONDONTWRITEBYTECODE": "1"}
        if dies_at is not None:
            command = [sys.executable, dying_command.__file__, *arguments]
            variables |= {"UENV_TEST_DIE_AT": str(dies_at), "UENV_TEST_COUNT": str(self.uenv.folder / "count")}
        return subprocess.Popen(
            command, cwd=self.uenv.folder, env=self.uenv.environment(**variables), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def measure(self) -> None:
        """How long both builds take at once, and how often each changes the file system."""
        begun = time.monotonic()
        self.build_both(together=True)
        self.seconds = time.monotonic() - begun
        self.begin_anew()
        self.finish(self.recipes[0], self.start(self.recipes[0], dies_at=0))
        self.changes = int((self.uenv.folder / "count").read_text())
        self.begin_anew()

    def finish(self, recipe: Path, process: subprocess.Popen[str]) -> None:
        """Wait for a build that is left alone: it ends well, with the digests that it always has."""
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        manifest = json.loads(output)["manifest"]
        found = (manifest["squashfs"]["sha256"], manifest["oci"]["digest"])
        assert self.digests.setdefault(recipe, found) == found

    def build_both(self, *, together: bool) -> None:
        """Both builds to their ends, and nothing is left of anybody."""
        if together:
            for recipe, process in [(recipe, self.start(recipe)) for recipe in self.recipes]:
                self.finish(recipe, process)
        else:
            for recipe in self.recipes:
                self.finish(recipe, self.start(recipe))
        assert self.leftovers() == []

    def leftovers(self) -> list[str]:
        """What a finished run must not leave, of its own or of others: unfinished files, users, partial downloads."""
        places = [self.uenv.cache, self.uenv.folder, self.temporary]
        found = [path for place in places for path in place.rglob("*") if path.name.startswith((".tmp-", "uenv-"))]
        found += [*self.uenv.cache.rglob("*.part"), *self.uenv.cache.rglob("*.partial")]
        return [*map(str, found), *map(str, (self.uenv.cache / "users").iterdir())]

    def kill(self) -> None:
        """One moment: one build or both at once, and one of them is killed, or both: after some time, or before some
        change of the file system."""
        victims = self.chance.choice([[0], [1], [0, 1]])
        started = sorted(set(victims) | ({0, 1} if self.chance.random() < 0.3 else set()))
        timed = self.chance.random() < 0.5
        processes = {
            number: self.start(
                self.recipes[number],
                dies_at=None if timed or number not in victims else self.chance.randint(1, self.changes),
            )
            for number in started
        }
        if timed:
            time.sleep(self.chance.uniform(0.0, 1.1) * self.seconds)
            for number in victims:
                processes[number].kill()
        for number, process in processes.items():
            if number in victims:
                process.communicate(timeout=60)
                assert process.returncode in {0, -signal.SIGKILL}
                self.endings["killed" if process.returncode else "finished before"] += 1
            else:
                self.finish(self.recipes[number], process)
                self.endings["left alone"] += 1
        assert wait_until(lambda: not members_of({process.pid for process in processes.values()}))
        assert mounts_below(self.uenv.folder, self.uenv.cache) == []
        assert Store(self.uenv.cache).verify(Silent()) == []

    def begin_anew(self) -> None:
        """Take out of the store all that is in it, or what happens to be its older part, as a user would."""
        shutil.rmtree(self.uenv.folder / "build", ignore_errors=True)
        size = self.chance.choice(["0", "0", "1M"])
        document = self.uenv.ok("cache", "gc", "--max-size", size, "--json").document
        assert not document["blocked"]


def members_of(sessions: set[int]) -> list[int]:
    """Processes, by number, of these sessions."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) in sessions and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def mounts_below(*places: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if any(Path(point).is_relative_to(place) for place in places)]


def wait_until(condition) -> bool:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.timeout(max(900, MOMENTS * 60))
def test_builds_that_are_killed_leave_nothing_corrupt_and_always_come_to_the_same(recipes, tmp_path):
    print(f"\nUENV_KILL_SEED={SEED}")
    uenv = recipes.uenv(tmp_path / "here", tmp_path / "store")
    (tmp_path / "tmp").mkdir()
    proof = Proof(uenv, (recipes.alpha, recipes.beta), random.Random(SEED), tmp_path / "tmp")
    proof.measure()
    for moment in range(MOMENTS):
        proof.kill()
        if proof.chance.random() < 0.3:
            proof.build_both(together=proof.chance.random() < 0.5)
            proof.begin_anew()
        if MOMENTS > 20 and moment % 10 == 9:
            print(f"{moment + 1} moments: {dict(proof.endings)}", flush=True)
    proof.build_both(together=True)
    assert uenv.ok("cache", "verify", "--json").document == {"damaged": []}
    assert uenv.ok("cache", "info", "--json").document["unfinished"] == 0
