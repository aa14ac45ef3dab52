"""The records of starts that lie beside a recipe."""

from __future__ import annotations

from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.core.start_record import parse_start
from uenv_builder.model.errors import RecipeError
from uenv_builder.model.start import StartRecord


def read_start(loaded: LoadedRecipe, uarch: str) -> StartRecord | None:
    """What was recorded of a start of this recipe on `uarch`, or None; raises RecipeError for what is no record."""
    path = loaded.start_path(uarch)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "make it readable, or remove it"
        raise RecipeError(f"{path}: cannot be read: {error.strerror}", rule="start-invalid", hint=hint) from error
    return parse_start(content, str(path))
