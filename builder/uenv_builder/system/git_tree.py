"""Reading a git repository through git itself: where it is, which commit a name means, and a commit's files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from uenv_builder.model.errors import BuildError, UsageError
from uenv_builder.system.process import Completed, run

_SECONDS = 300
_NOTHING = re.compile(r"0{40}([0-9a-f]{24})?|")
"""What pipelines give for the commit before the first one."""
_HINT = "fetch the whole history (GIT_DEPTH: 0, fetch-depth: 0), or leave --base empty"


def is_no_commit(name: str) -> bool:
    """Whether `name` says that there is no commit: nothing, or only zeros."""
    return _NOTHING.fullmatch(name.strip()) is not None


def repository_root(folder: Path) -> Path:
    """The top of the work tree that `folder` is in; UsageError where it is in none."""
    done = _git(folder, "rev-parse", "--show-toplevel")
    if done.returncode:
        raise UsageError(f"{folder}: is in no git repository: {_words(done)}", hint="leave --base out")
    return Path(done.stdout.rstrip("\n"))


def branching_point(folder: Path, name: str) -> str:
    """The commit where the work tree's own left the history of `name` (a branch, tag or commit).

    Raises UsageError, rule `base-unknown`, where there is no such name, or nothing in common.
    """
    asked = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    commit = asked.stdout.strip()
    if asked.returncode or not commit:
        raise UsageError(f"--base {name}: git does not know this commit", rule="base-unknown", hint=_HINT)
    done = _git(folder, "merge-base", commit, "HEAD")
    if done.returncode:
        raise UsageError(f"--base {name}: has no commit in common with HEAD", rule="base-unknown", hint=_HINT)
    return done.stdout.split()[0]


def export_commit(folder: Path, commit: str, place: Path) -> None:
    """Write the files of `commit` below `place`, an empty folder, as a checkout would; git's index stays as it is."""
    index = place.parent / f"{place.name}.index"
    env = {**os.environ, "GIT_INDEX_FILE": str(index)}
    try:
        for words in (["read-tree", commit], ["checkout-index", "--all", "--quiet", f"--prefix={place}/"]):
            done = run(["git", "-C", str(folder), *words], env=env, timeout=_SECONDS, check=False)
            if done.returncode:
                raise BuildError(f"git {words[0]} of {commit} failed: {_words(done)}", rule="file-system")
    finally:
        index.unlink(missing_ok=True)


def _git(folder: Path, *words: str) -> Completed:
    return run(["git", "-C", str(folder), *words], timeout=_SECONDS, check=False)


def _words(done: Completed) -> str:
    """What git said, in one line: where it does not trust a folder's owner, the remedy stands in its last."""
    return " ".join(done.stderr.split()) or f"exit {done.returncode}"
