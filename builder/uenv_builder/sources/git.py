"""One commit of a git repository, by its id: git itself is asked, and what it brings is what the id says."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from uenv_builder.model.errors import BuildError, LockError, NetworkError
from uenv_builder.system.events import Listener
from uenv_builder.system.process import Completed, run
from uenv_builder.system.transfer import public

_REPOSITORY = "repository.git"
_LINK_MODE = "160000"
_MAX_DEPTH = 8
_OPTIONS = (
    "-c", "safe.directory=*",
    "-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null", "-c", "core.attributesFile=/dev/null",
    "-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false",
    "-c", "advice.detachedHead=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
    "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60",
)  # fmt: skip
"""What the user's own settings must not change: the content of files. How servers are reached stays theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource:
    """A commit (its whole id), the URLs of the repository (folders and bundles, too), and whether submodules count."""

    commit: str
    urls: tuple[str, ...]
    submodules: bool = False


def fetch_commit(source: GitSource, folder: Path, listener: Listener) -> None:
    """Put the commit into a bare repository in the empty `folder`, from the first URL that has it.

    Submodules come into folders beside it, or, where they are not asked for, are a BuildError (git-submodules).
    Raises NetworkError with what each URL said, and MissingToolError without git.
    """
    _fetch(source, folder, listener, depth=0)


def export_commit(commit: str, folder: Path, target: Path) -> int:
    """Write the commit's files, that `fetch_commit` put into `folder`, into the empty folder `target`.

    Returns the commit's time, in seconds since 1970, which all files get. Raises LockError (hash-mismatch) where the
    repository was damaged since.
    """
    repository = folder / _REPOSITORY
    checked = _git(repository, "fsck", "--full", "--no-dangling", "--no-progress", commit)
    if checked.returncode != 0:
        raise LockError(
            f"the stored repository of commit {commit} is damaged: {_last_line(checked)}", rule="hash-mismatch",
            hint="`uenv cache verify` drops it; build again",
        )  # fmt: skip
    _require(_git(repository, f"--work-tree={target.absolute()}", "checkout", "--force", commit, "--", "."), commit)
    time = int(_require(_git(repository, "log", "-1", "--format=%ct", commit), commit).stdout)
    for number, (path, linked) in enumerate(_submodules(repository, commit)):
        below = target / path
        below.mkdir(parents=True, exist_ok=True)
        export_commit(linked, folder / f"submodule-{number}", below)
    for place, folders, files in os.walk(target):
        for name in [*folders, *files]:
            os.utime(Path(place) / name, (time, time), follow_symlinks=False)
    return time


def _fetch(source: GitSource, folder: Path, listener: Listener, *, depth: int) -> None:
    repository = folder / _REPOSITORY
    _require(_git(None, "init", "--quiet", "--bare", str(repository)), source.commit)
    found = _fetch_any(source, repository, listener)
    links = _submodules(repository, source.commit)
    if not links:
        return
    if not source.submodules:
        paths = ", ".join(path for path, _ in links)
        raise BuildError(
            f"commit {source.commit} of {public(found)} has submodules: {paths}", rule="git-submodules",
            hint="set `submodules: true` for this source in component.yaml, or name each as a source with its folder",
        )  # fmt: skip
    if depth == _MAX_DEPTH:
        raise BuildError(f"submodules of {public(found)} go deeper than {_MAX_DEPTH} levels", rule="git-submodules",
                         hint="name what is needed of them as sources with their folders")  # fmt: skip
    urls = _submodule_urls(repository, source.commit)
    for number, (path, commit) in enumerate(links):
        if path not in urls:
            raise BuildError(f"commit {source.commit} of {public(found)} names no URL for its submodule {path}",
                             rule="git-submodules", hint="name it as a source with its folder")  # fmt: skip
        places = tuple(dict.fromkeys(_absolute(url, urls[path]) for url in (found, *source.urls)))
        below = folder / f"submodule-{number}"
        below.mkdir()
        _fetch(GitSource(commit=commit, urls=places, submodules=True), below, listener, depth=depth + 1)


def _fetch_any(source: GitSource, repository: Path, listener: Listener) -> str:
    """Fetch from the first URL that has the commit, and return that URL."""
    tried = []
    for url in source.urls:
        with listener.task(f"fetching commit {source.commit[:12]} of {public(url)}"):
            # Servers give single commits only where they are set to; from bundles and old servers everything comes.
            done = _git(repository, "fetch", "--quiet", "--no-tags", "--depth=1", "--", url, source.commit)
            if not _has(repository, source.commit):
                done = _git(repository, "fetch", "--quiet", "--no-tags", "--", url, "+refs/*:refs/fetched/*")
        if _has(repository, source.commit):
            return url
        reason = _last_line(done) if done.returncode else "does not have it"
        tried.append(f"\n    {public(url)}: {_hide(reason, url)}")
    raise NetworkError(
        f"commit {source.commit} could not be fetched:{''.join(tried) or ' no place is known to have it'}",
        rule="download", hint="check the network, the URLs in component.yaml and the mirrors",
    )  # fmt: skip


def _has(repository: Path, commit: str) -> bool:
    done = _git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    return done.returncode == 0 and done.stdout.strip() == commit


def _submodules(repository: Path, commit: str) -> list[tuple[str, str]]:
    listing = _require(_git(repository, "ls-tree", "-r", "-z", "--full-tree", commit), commit).stdout
    rows = [entry.partition("\t") for entry in listing.split("\0") if entry.startswith(_LINK_MODE)]
    return [(path, words.split()[2]) for words, _, path in rows]


def _submodule_urls(repository: Path, commit: str) -> dict[str, str]:
    listing = _git(repository, "config", f"--blob={commit}:.gitmodules", "--list", "-z").stdout
    values = dict(entry.partition("\n")[::2] for entry in listing.split("\0") if entry)
    paths = {key.removesuffix(".path"): path for key, path in values.items() if key.endswith(".path")}
    return {path: values[f"{name}.url"] for name, path in paths.items() if f"{name}.url" in values}


def _absolute(base: str, url: str) -> str:
    """A submodule's URL, which may be relative to that of its repository (gitmodules(5))."""
    if not re.match(r"\.\.?/", url):
        return url
    parts = urlsplit(base)
    if parts.scheme:
        return urlunsplit(parts._replace(path=posixpath.normpath(posixpath.join(parts.path, url))))
    return posixpath.normpath(posixpath.join(base, url))


def _git(repository: Path | None, *arguments: str) -> Completed:
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key == "GIT_SSH_COMMAND"}
    env = {**own, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    place = [f"--git-dir={repository.absolute()}"] if repository else []
    return run(["git", *_OPTIONS, *place, *arguments], env=env, check=False, what="git")


def _require(done: Completed, commit: str) -> Completed:
    if done.returncode != 0:
        raise BuildError(f"git could not read commit {commit}: {_last_line(done)}", rule="git",
                         hint="`uenv cache verify` drops a damaged repository; build again")  # fmt: skip
    return done


def _last_line(done: Completed) -> str:
    lines = done.stderr.strip().splitlines() or [f"git ended with exit {done.returncode}"]
    return next((line for line in lines if line.startswith("fatal:")), lines[-1])


def _hide(text: str, url: str) -> str:
    return text.replace(url, public(url))
