"""`uenv publish --to repo:PATH`: images of uenvs into a repository of the site's uenv command."""

from __future__ import annotations

from pathlib import Path

from uenv_builder.app.publishing import Publication, Published
from uenv_builder.app.session import Session
from uenv_builder.app.uenv_image import UenvFiles, read_uenv
from uenv_builder.core.uenv_meta import PLACE
from uenv_builder.model.errors import UsageError
from uenv_builder.publishers.uenv_repository import Added, RepositoryImage, add_to_repository

_LOOKED_UP_AS_ID = {16, 64}


def publish_to_repository(session: Session, publication: Publication, place: str) -> Published:
    """Have the label lead to the build's image in the repository at `place`; raises as `add_to_repository`, and
    UsageError for an image that is no uenv.
    """
    label = publication.label
    name = label.name or ""
    if len(name) in _LOOKED_UP_AS_ID and name.isalnum() and name.islower():
        session.listener.note(f'the uenv command looks "{name}" up as an image\'s id, too, by its length')
    uenv = require_uenv(publication)
    added = add_to_repository(
        Path(place).expanduser(),
        RepositoryImage(
            file=publication.build.image, sha256=publication.build.digest, mount=uenv.meta.mount, meta=uenv.files,
            published={"plan": publication.build.manifest["plan"], **publication.proof.document()},
        ),
        label,
        move=publication.move,
        listener=session.listener,
    )  # fmt: skip
    return _described(publication, place, added, uenv)


def require_uenv(publication: Publication) -> UenvFiles:
    """What the build's image has below `meta`; raises UsageError for an image that is no uenv."""
    uenv = read_uenv(publication.build.image)
    if uenv is None:
        raise UsageError(
            f"{publication.build.image}: is no uenv: there is no {PLACE} in it", rule="not-a-uenv",
            hint="build it with `kind: uenv` or `kind: both` in the recipe; containers go to `oci:` or `edf:`",
        )  # fmt: skip
    return uenv


def _described(publication: Publication, place: str, added: Added, uenv: UenvFiles) -> Published:
    label, digest = str(publication.label), publication.build.digest
    lines = [f"{label} is {digest[:16]} in {place}"]
    if added.label.change == "there":
        lines = [f"{label} is {digest[:16]} in {place} already"]
    if added.label.replaced:
        lines.append(f"it was {added.label.replaced[:16]} before")
    if added.label.orphaned:
        lines.append(
            f"no label leads there any more; remove {added.file.parent.with_name(str(added.label.replaced))} "
            "when no job runs in it"
        )
    views = f" --view={uenv.meta.default_view or next(iter(uenv.meta.views))}" if uenv.meta.views else ""
    lines.append(f"start it: uenv --repo={Path(place).expanduser().absolute()} start{views} {label}")
    document = {
        "label": label, "sha256": digest, "file": str(added.file.absolute()), "repository-created": added.created,
        "stored": added.stored, "change": added.label.change, "replaced": added.label.replaced,
        "orphaned": added.label.orphaned, "mount": uenv.meta.mount, "views": list(uenv.meta.views),
    }  # fmt: skip
    return Published(destination=f"repo:{place}", document=document, lines=tuple(lines))
