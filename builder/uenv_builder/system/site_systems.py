"""A site's own systems: files beside those that come with the builder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uenv_builder.model.errors import Position, RecipeError, UsageError


def read_site_systems(folders: Sequence[str]) -> dict[str, tuple[bytes, str]]:
    """Content and file name of every NAME.yaml in `folders`, by the system's name, as `load_systems` takes them.

    An empty name of a folder is passed over, `~` is the user's home. Raises UsageError for a folder or file that
    cannot be read, and RecipeError where two files are of one system.
    """
    found: dict[str, tuple[bytes, str]] = {}
    for text in dict.fromkeys(folders):
        for path in _files(Path(text).expanduser()) if text else []:
            if path.stem in found:
                raise RecipeError(
                    f'there is another file of system "{path.stem}": {found[path.stem][1]}',
                    rule="duplicate-system", position=Position(str(path), 1, 1),
                    hint="keep one of the two, or give one another name",
                )  # fmt: skip
            found[path.stem] = (_read(path), str(path))
    return found


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".yaml" and not path.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"the folder of systems {folder} cannot be read: {error.strerror}",
            rule="settings", hint="correct `systems` in the settings, or $UENV_SYSTEM_PATH",
        ) from error  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}", rule="settings", hint="make it readable, or move it away"
        ) from error
