"""The folder `meta` of a uenv: what the site's uenv command reads, and what people look up later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from uenv_builder.core.digest import Document
from uenv_builder.core.uenv_meta import PLACE
from uenv_builder.layers.made_entries import make_file, with_parents
from uenv_builder.layers.safe_paths import safe_path
from uenv_builder.model.entry import Entry

RECIPE = "meta/recipe"


def uenv_meta_entries(document: Document, recipe: Mapping[str, bytes], *, epoch: int) -> Iterator[Entry]:
    """meta/env.json with `document`, and the recipe's files by their paths in its folder, all with the time `epoch`."""
    files = [make_file(PLACE, json.dumps(document, indent=1, sort_keys=False) + "\n")]
    for path, content in recipe.items():
        files.append(make_file(f"{RECIPE}/{safe_path(path, artefact='the recipe')}", content))
    yield from with_parents(files, epoch)
