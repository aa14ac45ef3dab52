"""What a build would have to fetch and cannot: told as a whole, before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from uenv_builder.app.session import Session
from uenv_builder.app.storing import size_text
from uenv_builder.core.artefacts import Artefact
from uenv_builder.model.errors import Diagnostic, NetworkError
from uenv_builder.system.download import FILL_A_MIRROR
from uenv_builder.system.mirrors import bundle_place, file_place
from uenv_builder.system.reach import find_in_mirrors, find_unreachable


def require_reachable(session: Session, wanted: Sequence[Artefact]) -> None:
    """Raise NetworkError where some of `wanted`, which the store lacks, can be had from nowhere.

    They are had from a mirror or, unless the session is offline, from a server that can be connected to. Each has a
    finding of its own with name, size, sha256 or commit, and origin; the last finding sums up, and says what to do.
    Takes seconds.
    """
    places = {_place_of(item): item.size for item in wanted}
    mirrored = find_in_mirrors(session.artefact_mirrors, places, session.listener.note) if wanted else set()
    left = [item for item in wanted if _place_of(item) not in mirrored]
    if missing := left if session.offline else _out_of_reach(session, left):
        raise NetworkError.collect(_findings(missing, offline=session.offline))


def _place_of(item: Artefact) -> str:
    return file_place(item.sha256) if item.sha256 else bundle_place(item.commit)


def _out_of_reach(session: Session, wanted: Sequence[Artefact]) -> list[Artefact]:
    """Those of which no server can be connected to."""
    servers = {item.key: _servers(session, item) for item in wanted}
    silent = find_unreachable({url for urls in servers.values() for url in urls})
    return [item for item in wanted if silent.issuperset(servers[item.key])]


def _servers(session: Session, item: Artefact) -> Sequence[str]:
    """Empty where this machine knows of none."""
    try:
        return session.servers(item)
    except NetworkError as error:
        session.listener.note(str(error))
        return ()


def _findings(missing: Sequence[Artefact], *, offline: bool) -> Iterable[Diagnostic]:
    for item in missing:
        size = "" if item.size is None else f" {item.size:,} bytes,"
        known = f"{size} sha256 {item.sha256}" if item.sha256 else " a git commit"
        yield Diagnostic(
            rule="offline" if offline else "network", message=f"{item.name}:{known}; it is had from {item.origin}"
        )
    total = size_text(sum(item.size or 0 for item in missing))
    reason = "--offline forbids to fetch them" if offline else "the servers that have them cannot be reached"
    yield Diagnostic(
        rule="offline" if offline else "network",
        message=f"missing in the store and in mirrors: {len(missing)} of the build's files ({total}); {reason}",
        hint=FILL_A_MIRROR if offline else f"check network and proxy; {FILL_A_MIRROR}",
    )
