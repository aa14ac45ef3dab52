"""The layers of a base image as layers of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from uenv_builder.app.session import Session
from uenv_builder.images.merge import merge_layers
from uenv_builder.layers.loader import BaseView
from uenv_builder.layers.oci_layer import Removal, oci_layer_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import LockError
from uenv_builder.model.image import Layer
from uenv_builder.model.lock import Lock, LockedBase
from uenv_builder.model.plan import Step
from uenv_builder.system.download import Download


def base_layer_entries(session: Session, lock: Lock, step: Step) -> Iterator[Entry]:
    """The entries of one layer of the base, fetched if need be, without what the recipe removes."""
    part = _part(lock, step)
    (blob,) = session.fetch_base(part)
    removal = Removal(json.loads(step.options)["remove"])
    return oci_layer_entries(
        blob, media_type=part.layers[0].media_type, diff_id=part.layers[0].diff_id, removal=removal,
        note=session.listener.note,
    )  # fmt: skip


def base_layer_downloads(session: Session, lock: Lock, step: Step) -> list[Download]:
    """What `base_layer_entries` fetches."""
    return session.layer_downloads(_part(lock, step))


def view_base(layers: Sequence[Layer]) -> BaseView:
    """What the image of `layers`, lowest first, shows."""
    tree = merge_layers(layers).entries
    links = {path: merged.entry.target for path, merged in tree.items() if merged.entry.kind == "symlink"}
    return BaseView({path: merged.layer for path, merged in tree.items()}, links)


def _part(lock: Lock, step: Step) -> LockedBase:
    """The locked base with the layer of `step` alone."""
    if lock.base is None:
        raise LockError("the lock holds no base image", rule="lock-stale", hint="write it anew with `uenv lock`")
    digest = json.loads(step.options)["digest"]
    layer = next(layer for layer in lock.base.layers if layer.digest == digest)
    return lock.base.model_copy(update={"layers": (layer,)})
