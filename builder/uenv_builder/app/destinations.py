"""Where builds can be published to, by the scheme that a destination begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from uenv_builder.app.publishing import Publication, Published
from uenv_builder.app.repository_publishing import publish_to_repository
from uenv_builder.app.session import Session
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import UsageError


class Publish(Protocol):
    """Puts a build into one kind of place."""

    def __call__(self, session: Session, publication: Publication, place: str, /) -> Published:
        """Publish to `place`, which is what follows the scheme and its colon; doing it again changes nothing."""


DESTINATIONS: Mapping[str, Publish] = {"repo": publish_to_repository}
"""By the scheme."""


def publish(session: Session, publication: Publication, destinations: Sequence[str]) -> list[Published]:
    """Publish to all `destinations` (`scheme:place`), in their order; none of them where one is no destination."""
    found = [_destination(text) for text in destinations]
    return [function(session, publication, place) for function, place in found]


def _destination(text: str) -> tuple[Publish, str]:
    scheme, colon, place = text.partition(":")
    if not colon or not place or scheme not in DESTINATIONS:
        known = ", ".join(f"{name}:..." for name in DESTINATIONS)
        raise UsageError(
            f"--to {text}: is no destination", hint=suggest(scheme, list(DESTINATIONS)) or f"destinations: {known}"
        )
    return DESTINATIONS[scheme], place
