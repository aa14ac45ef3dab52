"""Roots: who outside of the store refers to what is in it. What a live root names is never removed.

    roots/HASH.json    a build's folder or a lock, by its absolute path, and what it refers to

A root of a build is live while the manifest in its folder names the same plan, one of a lock while the file is there.
What cannot be seen from here counts as live: a path of another host, a disk that is not mounted, a folder of others.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from uenv_builder.model.errors import BuildError
from uenv_builder.system.files import TEMPORARY, write_json
from uenv_builder.system.store_entries import References

RootKind = Literal["build", "lock"]
Verdict = Literal["live", "unseen", "gone"]

_FORMAT = 1
_SHA256 = re.compile(rb"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, slots=True)
class Root:
    """Something that refers to what the store holds, seen from `host`; `mount` is where its disk is mounted there.

    `plan` is the id of the build's plan, "" for a lock. `user` is the store's user that wrote the root: while it is at
    work, the path need not be there yet.
    """

    kind: RootKind
    path: str
    plan: str
    host: str
    mount: str
    user: str
    steps: tuple[str, ...]
    downloads: tuple[str, ...]

    @property
    def references(self) -> References:
        """What it names."""
        return References.of(self.steps, self.downloads)


@dataclass(frozen=True, slots=True)
class JudgedRoot:
    """A root, the file that it lies in, whether it is live, and why it was judged so; `references` hold now."""

    file: Path
    root: Root
    verdict: Verdict
    reason: str
    references: References


def make_root(kind: RootKind, path: Path, references: References, *, plan: str, user: str) -> Root:
    """The root of `path` as it is seen from here."""
    place = path.absolute()
    return Root(
        kind=kind, path=str(place), plan=plan, host=socket.gethostname(), mount=_mount_of(place), user=user,
        steps=tuple(sorted(references.steps)), downloads=tuple(sorted(references.downloads)),
    )  # fmt: skip


def write_root(store: Path, root: Root) -> None:
    """Put it into the store, in place of the one with the same host, path and plan. Raises BuildError."""
    write_json(_file_of(store, root), {"format": _FORMAT, **asdict(root)})


def is_written(store: Path, root: Root) -> bool:
    """Whether the store has this root, whoever wrote it, and what it stands for is there."""
    try:
        written = _read_root(_file_of(store, root))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return replace(written, user=root.user) == root and _look_at(root)[0] == "live"


def root_file(store: Path, kind: RootKind, path: Path, *, plan: str = "") -> Path:
    """Where the root of `path` lies in a store that has it."""
    return _file_of(store, make_root(kind, path, References(), plan=plan, user=""))


def _file_of(store: Path, root: Root) -> Path:
    identity = hashlib.sha256(repr((root.kind, root.host, root.path, root.plan)).encode()).hexdigest()
    return store / "roots" / f"{identity[:32]}.json"


def judge_roots(store: Path, users: AbstractSet[str], forget_hosts: Sequence[str] = ()) -> list[JudgedRoot]:
    """All roots; `users` are the store's living ones. Unseen ones of hosts that match `forget_hosts` count as gone.

    Raises BuildError where a root cannot be read: nobody knows what it refers to.
    """
    return [_judge(file, root, users, forget_hosts) for file, root in _read_roots(store)]


def _read_roots(store: Path) -> Iterable[tuple[Path, Root]]:
    folder = store / "roots"
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        if file.name.startswith(TEMPORARY):
            continue
        try:
            yield file, _read_root(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BuildError(
                f"{file}: cannot be read, hence nobody knows what it refers to: {error}", rule="file-system",
                hint="upgrade uenv-builder if a newer one uses this store, else remove that file and build again",
            ) from error  # fmt: skip


def _read_root(file: Path) -> Root:
    document = json.loads(file.read_bytes())
    if document.pop("format") != _FORMAT:
        raise ValueError("it was written by a newer version")
    root = Root(**document)
    return replace(root, steps=tuple(root.steps), downloads=tuple(root.downloads))


def _judge(file: Path, root: Root, users: AbstractSet[str], forget_hosts: Sequence[str]) -> JudgedRoot:
    if root.user and root.user in users:
        return JudgedRoot(file, root, "live", "its build is at work", root.references)
    verdict, reason, references = _look_at(root)
    if verdict == "unseen" and any(fnmatch.fnmatch(root.host, pattern) for pattern in forget_hosts):
        verdict, reason = "gone", f"it is not to be seen from here, and {root.host} is to be forgotten"
    return JudgedRoot(file, root, verdict, reason, references)


def _look_at(root: Root) -> tuple[Verdict, str, References]:
    return _look_at_build(root) if root.kind == "build" else _look_at_lock(root)


def _look_at_build(root: Root) -> tuple[Verdict, str, References]:
    try:
        document = json.loads(Path(root.path, "manifest.json").read_bytes())
        plan = document.get("plan") if isinstance(document, dict) else None
    except FileNotFoundError:
        return *_absent(root), root.references
    except (OSError, ValueError) as error:
        return "unseen", f"its manifest cannot be read: {error}", root.references
    if plan != root.plan:
        return "gone", "another build lies there now", root.references
    return "live", "the build is there", root.references


def _look_at_lock(root: Root) -> tuple[Verdict, str, References]:
    try:
        text = Path(root.path).read_bytes()
    except FileNotFoundError:
        return *_absent(root), root.references
    except OSError as error:
        return "unseen", f"it cannot be read: {error}", root.references
    # The file may have been edited, or another version checked out: what it names today is what it refers to.
    named = References.of(root.steps, (found.decode() for found in _SHA256.findall(text)))
    return "live", "the lock is there", named


def _absent(root: Root) -> tuple[Verdict, str]:
    if root.host != socket.gethostname():
        return "unseen", f"it is not there on this host; it was on {root.host}"
    if not os.path.ismount(root.mount):
        return "unseen", f"{root.mount} is not mounted"
    return "gone", "it is not there any more"


def _mount_of(path: Path) -> str:
    return next(str(parent) for parent in [path, *path.parents] if os.path.ismount(parent))
