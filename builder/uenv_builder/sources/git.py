"""One commit of a git repository, by its id: git itself is asked, and what it brings is what the id says."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from uenv_builder.model.errors import BuildError, LockError, NetworkError
from uenv_builder.system.abandoned import scratch_folder
from uenv_builder.system.events import Listener
from uenv_builder.system.files import remove_tree
from uenv_builder.system.process import Completed, run
from uenv_builder.system.urls import public

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
    """A commit (its whole id), the URLs of the repository (folders and bundles, too), and whether submodules count.

    With `offline`, no URL is asked.
    """

    commit: str
    urls: tuple[str, ...]
    submodules: bool = False
    offline: bool = False


Near = Callable[[str], Iterable[Path]]
"""By a commit, the bundles and repositories on this machine that may have it."""


def _nowhere(commit: str) -> Iterable[Path]:  # noqa: ARG001
    return ()


def fetch_commit(source: GitSource, folder: Path, listener: Listener, *, near: Near = _nowhere) -> None:
    """Put the commit into a bare repository in `folder`, from what is `near`, else from the first URL that has it.

    Submodules come into folders beside it, or, where they are not asked for, are a BuildError (git-submodules).
    Raises NetworkError with what each place said, and MissingToolError without git.
    """
    _fetch(source, folder, listener, near=near, depth=0)


def resolve_ref(url: str, ref: str) -> str:
    """The commit that a branch or tag of a repository is now; raises NetworkError where there is none of that name."""
    done = _git(None, "ls-remote", "--", url, ref, f"{ref}^{{}}")
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    # A tag that is an object of its own leads to its commit by the second row; a branch goes before a tag of its name.
    found = {name: commit for commit, name in rows}
    for name in (f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}"):
        if name in found:
            return found[name]
    reason = _hide(_last_line(done), url) if done.returncode else "it has no branch or tag of that name"
    raise NetworkError(f"{public(url)}: cannot tell which commit {ref} is: {reason}", rule="download",
                       hint="write the commit's id into the recipe, or see whether the URL can be reached")  # fmt: skip


def write_bundle(repository: Path, commit: str, path: Path) -> None:
    """Write a bundle of this one commit, without those before it, from a repository that has it."""
    with _borrowed(repository, commit) as borrowed:
        _require(_git(borrowed, "update-ref", "refs/heads/mirror", commit), commit)
        # One thread: several cut the pack differently each time.
        _require(_git(borrowed, "-c", "pack.threads=1", "bundle", "create", "--quiet", str(path.absolute()),
                      "refs/heads/mirror"), commit)  # fmt: skip


def bundle_damage(path: Path, commit: str) -> str | None:
    """Why a bundle does not give the whole commit, None where it does."""
    with scratch_folder("uenv-bundle-") as folder:
        repository = folder / _REPOSITORY
        _make_empty(repository, commit)
        return _lack(repository, commit, _fetch_near(path, repository, commit))


def list_commits(commit: str, folder: Path) -> list[tuple[str, Path]]:
    """What `fetch_commit` put into `folder`: commits of submodules with their repositories, then the commit's own."""
    repository = folder / _REPOSITORY
    found: list[tuple[str, Path]] = []
    for number, (_, linked) in enumerate(_submodules(repository, commit)):
        found += list_commits(linked, folder / f"submodule-{number}")
    return [*found, (commit, repository)]


def export_commit(commit: str, folder: Path, target: Path) -> int:
    """Write the commit's files, that `fetch_commit` put into `folder`, into the empty folder `target`.

    Returns the commit's time, in seconds since 1970, which all files get. Raises LockError (hash-mismatch) where the
    repository was damaged since.
    """
    repository = folder / _REPOSITORY
    checked = _check(repository, commit)
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


def _fetch(source: GitSource, folder: Path, listener: Listener, *, near: Near, depth: int) -> None:
    repository = folder / _REPOSITORY
    _make_empty(repository, source.commit)
    found = _fetch_any(source, repository, listener, near)
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
        below_it = GitSource(commit=commit, urls=places, submodules=True, offline=source.offline)
        _fetch(below_it, below, listener, near=near, depth=depth + 1)


def _fetch_any(source: GitSource, repository: Path, listener: Listener, near: Near) -> str:
    """Fetch from the first place that has the whole commit, and return its URL: that of its submodules may be relative.

    What a damaged place gave does not stay: git takes what is there, and only then looks whether something is missing.
    """
    tried = []
    for place in near(source.commit):
        reason = _lack(repository, source.commit, _fetch_near(place, repository, source.commit))
        if reason is None:
            return source.urls[0] if source.urls else str(place)
        _make_empty(repository, source.commit)
        listener.note(f"commit {source.commit[:12]}: the mirror's {place.name} cannot be used ({reason})")
        tried.append(f"\n    {place}: {reason}")
    for url in () if source.offline else source.urls:
        with listener.task(f"fetching commit {source.commit[:12]} of {public(url)}"):
            # Servers give single commits only where they are set to; from bundles and old servers everything comes.
            done = _git(repository, "fetch", "--quiet", "--no-tags", "--depth=1", "--", url, source.commit)
            if not _has(repository, source.commit):
                done = _git(repository, "fetch", "--quiet", "--no-tags", "--", url, "+refs/*:refs/fetched/*")
            reason = _lack(repository, source.commit, done)
        if reason is None:
            return url
        _make_empty(repository, source.commit)
        tried.append(f"\n    {public(url)}: {_hide(reason, url)}")
    raise NetworkError(
        f"commit {source.commit} could not be fetched:{''.join(tried) or ' no place is known to have it'}",
        rule="offline" if source.offline else "download",
        hint="check the network, the URLs in component.yaml and the mirrors",
    )  # fmt: skip


def _fetch_near(place: Path, repository: Path, commit: str) -> Completed:
    """Fetch a commit, without those before it, which a mirror's bundle does not have."""
    boundary = repository / "shallow"  # gitrepository-layout(5): the commits whose parents are not looked for
    boundary.write_text(f"{commit}\n", encoding="ascii")
    done = _git(repository, "fetch", "--quiet", "--no-tags", "--", str(place), "+refs/*:refs/fetched/*")
    if not _has(repository, commit):
        boundary.unlink(missing_ok=True)
    return done


@contextmanager
def _borrowed(repository: Path, commit: str) -> Iterator[Path]:
    """A repository for a moment with the objects of another, where the commit has no parents."""
    with scratch_folder("uenv-bundle-") as folder:
        place = folder / _REPOSITORY
        _make_empty(place, commit)
        (place / "objects/info").mkdir(exist_ok=True)
        (place / "objects/info/alternates").write_text(f"{repository.absolute()}/objects\n", encoding="utf-8")
        (place / "shallow").write_text(f"{commit}\n", encoding="ascii")
        yield place


def _lack(repository: Path, commit: str, done: Completed) -> str | None:
    """Why a repository does not have the whole commit after it was fetched, None where it has."""
    if not _has(repository, commit):
        return _last_line(done) if done.returncode else "does not have it"
    checked = _check(repository, commit)
    return f"is damaged: {_last_line(checked)}" if checked.returncode else None


def _check(repository: Path, commit: str) -> Completed:
    """Hash all objects, and look whether any is missing."""
    return _git(repository, "fsck", "--full", "--no-dangling", "--no-progress", commit)


def _make_empty(repository: Path, commit: str) -> None:
    if repository.exists():
        remove_tree(repository)
    _require(_git(None, "init", "--quiet", "--bare", str(repository)), commit)


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
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"git ended with exit {done.returncode}"]
    return next((line for line in lines if line.startswith("fatal:")), lines[-1])


def _hide(text: str, url: str) -> str:
    return text.replace(url, public(url))
