"""The EDF files of this machine, as jobs name them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path


def read_edf_variables(name: str) -> Mapping[str, str] | None:
    """The variables that the EDF of that path or name sets, as eth-cscs/cscs-docs 80abed13,
    docs/software/container-engine/run.md finds it: a path begins with / or ./, a name is looked up in EDF_PATH, by
    default ~/.edf.

    None where they are not known: no such file, not TOML, on top of another EDF, or with the host's variables in it.
    """
    path = _find(name)
    if path is None:
        return None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    variables = document.get("env", {})
    if "base_environment" in document or not isinstance(variables, dict):
        return None
    return {key: value for key, value in variables.items() if isinstance(value, str) and "${" not in value}


def _find(name: str) -> Path | None:
    if name.startswith(("/", "./")):
        candidates = [Path(name)]
    else:
        folders = os.environ.get("EDF_PATH") or str(Path.home() / ".edf")
        candidates = [Path(folder) / f"{name}.toml" for folder in folders.split(":") if folder]
    return next((path for path in candidates if path.is_file()), None)
