"""The EDF files of this machine, as jobs name them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.core.edf.engine import Dialect
from uenv_builder.core.edf.file import EdfContext, read_edf

_SYSTEM_FOLDERS: dict[Dialect, tuple[str, ...]] = {"ce": (), "sarus": ("/etc/edf",)}


@dataclass(frozen=True, slots=True)
class EdfFolders:
    """Where names of EDF files are looked up, for one engine.

    Container Engine: the folders of EDF_PATH, by default ~/.edf (eth-cscs/cscs-docs 80abed13,
    docs/software/container-engine/run.md). Sarus Suite: EDF_PATH as one folder, by default ~/.edf, then /etc/edf, and a
    name that ends in .toml is a path (sarus-suite/raster, src/lib.rs).
    """

    dialect: Dialect = "ce"

    @property
    def folders(self) -> tuple[str, ...]:
        """In the order in which they are tried."""
        own = os.environ.get("EDF_PATH") or str(Path.home() / ".edf")
        listed = own.split(":") if self.dialect == "ce" else [own]
        return (*(folder for folder in listed if folder), *_SYSTEM_FOLDERS[self.dialect])

    def find(self, name: str) -> Path | None:
        """The file of that path or name; None where there is none."""
        is_path = name.startswith(("/", ".")) or (self.dialect == "sarus" and name.endswith(".toml"))
        candidates = [Path(name)] if is_path else [Path(folder) / f"{name}.toml" for folder in self.folders]
        return next((path for path in candidates if path.is_file()), None)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """The content of the file of that path or name, and its path; None where it cannot be read."""
        path = self.find(name)
        try:
            return (path.read_bytes(), str(path)) if path else None
        except OSError:
            return None


def read_edf_variables(name: str) -> Mapping[str, str] | None:
    """The variables that the EDF of that path or name sets for Container Engine, with those of its bases, and without
    those whose values depend on the host's; None where they are not known, since a file is missing or wrong.
    """
    folders = EdfFolders()
    found = folders.read(name)
    if found is None:
        return None
    edf, _ = read_edf(*found, EdfContext(dialect="ce", read=folders.read, search_path=folders.folders))
    if not edf.complete:
        return None
    return {key: value for key, value in edf.env.items() if "${" not in value}
