"""The last layer: the files that are generated from the recipe's environment, and the working directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from uenv_builder.layers.made_entries import make_file, make_folder, with_parents
from uenv_builder.model.entry import Entry


def finish_entries(generated: Mapping[str, tuple[str, int]], *, workdir: str, epoch: int) -> Iterator[Entry]:
    """The entries of the last layer; `generated` are texts and modes by path, as in the plan, times are `epoch`."""
    made = [make_file(path, text, mode) for path, (text, mode) in generated.items()]
    if folder := workdir.strip("/"):
        made.append(make_folder(folder))
    yield from with_parents(made, epoch)
