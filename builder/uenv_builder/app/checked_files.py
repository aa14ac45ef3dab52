"""Which kind of file `uenv check` was given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

FileKind = Literal["recipe", "edf", "script"]

_SCRIPT_SUFFIXES = {".sbatch", ".slurm", ".sh", ".job"}


def kind_of(path: Path) -> FileKind:
    """The kind of the file at `path`: by its suffix, a script also by its first bytes; else a recipe."""
    if not path.is_file():
        return "recipe"
    if path.suffix == ".toml":
        return "edf"
    if path.suffix in _SCRIPT_SUFFIXES:
        return "script"
    try:
        with path.open("rb") as file:
            return "script" if file.read(2) == b"#!" else "recipe"
    except OSError:
        return "recipe"
