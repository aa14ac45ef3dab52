"""The store as its owner sees it: how much it holds, whether it is sound, how to make room, and who refers to what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from uenv_builder.core.artefacts import artefacts_of, spack_commits
from uenv_builder.core.component_planning import git_step_id
from uenv_builder.core.digest import Document
from uenv_builder.core.spack_planning import checkout_id
from uenv_builder.model.errors import UsageError
from uenv_builder.model.lock import Lock
from uenv_builder.model.plan import Plan, Step
from uenv_builder.system.events import Listener
from uenv_builder.system.store import Collected, Limits, References, Store

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DAY = 86400.0


def references_of(plan: Plan, lock: Lock) -> References:
    """All that a build of this plan may look for in the store while it runs."""
    return References.of([*(step.id for step in plan.steps), *commits_of(lock)], _hashes(lock))


def keep_build(store: Store, folder: Path, plan: Plan) -> None:
    """Keep the results of all steps as long as `folder` is a build of this plan. Raises BuildError."""
    store.add_root("build", folder, References.of(step.id for step in plan.lasting()), plan=plan.id)


def keep_lock(store: Store, file: Path, lock: Lock) -> None:
    """Keep the downloads and commits that the lock names as long as `file` is there. Raises BuildError."""
    store.add_root("lock", file, References.of(commits_of(lock), _hashes(lock)))


def result_label(step: Step, image: str) -> str:
    """What a step's result is one of: `wheel numpy`, or `squashfs pytorch` for the image with that name."""
    return f"{step.kind} {step.name.partition(' ')[0] if step.kind in {'wheel', 'component'} else image}"


def _hashes(lock: Lock) -> list[str]:
    return [artefact.sha256 for artefact in artefacts_of(lock) if artefact.sha256]


def describe(store: Store) -> Document:
    """Counts and bytes by kind."""
    return asdict(store.info())


def lines(document: Document) -> list[str]:
    """The same for people."""
    return [
        f"{key.replace('_', ' '):20} {size_text(value) if key.endswith('bytes') else value}"
        for key, value in document.items()
    ]


def verify(store: Store, listener: Listener, *, jobs: int) -> Document:
    """Read everything; what is damaged is dropped and named."""
    damages = store.verify(listener, jobs=jobs)
    return {"damaged": [asdict(damage) for damage in damages]}


def damage_lines(document: Document) -> list[str]:
    """The same for people."""
    return [
        f"{'dropped' if damage['dropped'] else 'damaged, and not ours to drop:'} {damage['entry']}: {damage['reason']}"
        for damage in document["damaged"]
    ] or ["everything in the store is sound"]


def collect(
    store: Store, *, keep_last: int | None, max_size: str | None, older_than_days: float | None,
    forget_hosts: Sequence[str] = (), dry_run: bool = False,
) -> Document:  # fmt: skip
    """Remove leftovers, then what nobody refers to and is over the limits; `max_size` is a text such as 50G."""
    limits = Limits(
        keep_last=keep_last,
        older_than=None if older_than_days is None else older_than_days * _DAY,
        max_bytes=None if max_size is None else parse_size(max_size),
    )
    collected = store.collect(limits, forget_hosts=forget_hosts, dry_run=dry_run)
    return _collected_document(collected, dry_run=dry_run)


def _collected_document(collected: Collected, *, dry_run: bool) -> Document:
    return {
        "dry_run": dry_run,
        "removed": collected.removed,
        "freed_bytes": collected.freed_bytes,
        "busy": bool(collected.blocked),
        "blocked": collected.blocked,
        "left_bytes": collected.left_bytes,
        "protected": collected.protected,
        "protected_bytes": collected.protected_bytes,
        "over_bytes": collected.over_bytes,
        "dropped_roots": list(collected.dropped_roots),
        "unseen_roots": list(collected.unseen_roots),
        "entries": [asdict(removal) for removal in collected.removals],
    }


def collected_lines(document: Document) -> list[str]:
    """The same for people; a dry run lists the entries."""
    would = "would have " if document["dry_run"] else ""
    found = [
        f"{entry['kind']:9} {entry['key'][:16]}  {size_text(entry['size']):>10}  {entry['reason']}"
        for entry in document["entries"]
        if document["dry_run"]
    ]
    found += [f"{would}removed {document['removed']} entries, {size_text(document['freed_bytes'])}"]
    found += [f"{would}forgotten {path}: it is gone, or another build lies there" for path in document["dropped_roots"]]
    found += [f"kept what this refers to, which cannot be seen from here: {text}" for text in document["unseen_roots"]]
    if document["blocked"]:
        return [*found, f"only leftovers: {document['blocked']}"]
    left, safe = size_text(document["left_bytes"]), size_text(document["protected_bytes"])
    found += [f"{left} left; builds, locks and processes refer to {safe} of it"]
    if over := document["over_bytes"]:
        found += [
            f"this is {size_text(over)} more than --max-size: remove builds or locks that are not needed any more"
        ]
    return found


def size_text(count: int) -> str:
    """Bytes for people, in powers of ten."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def parse_size(text: str) -> int:
    """Bytes of `50G`, `500M`, `1.5T`: powers of ten, as disks are sold."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if not match:
        raise UsageError(f'"{text}" is not a size', hint="write it as 50G, 500M or 1.5T")
    return int(float(match[1]) * _UNITS[match[2]])


def commits_of(lock: Lock) -> dict[str, str]:
    """The store's ids of the commits that the lock names, each with the component that it is a source of."""
    components = lock.build.components if lock.build else ()
    commits = list(spack_commits(lock.spack)) if lock.spack else []
    return {
        **{git_step_id(source): f"commit {source.file}" for source in commits},
        **{checkout_id(source.commit or ""): f"files of {source.file}" for source in commits},
    } | {
        git_step_id(source): f"source of {component.name} {component.version}"
        for component in components
        for source in component.sources
        if source.commit
    }
