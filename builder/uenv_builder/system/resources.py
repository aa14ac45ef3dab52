"""The folders that travel with the package: templates, recipes and environments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from uenv_builder.model.errors import BuildError

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_folder(name: Literal["templates", "recipes", "environments"]) -> Path:
    """The folder `name` of the checkout that the package runs from, else the one that was installed with the package.

    An editable install leaves copies in site-packages that nobody renews; the package's own place tells what it is.
    Raises BuildError where neither exists.
    """
    return _find_folder(_PACKAGE, name)


def _find_folder(package: Path, name: str) -> Path:
    checkout = package.parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    if (package / name).is_dir():
        return package / name
    raise BuildError(
        f"the folder {name} of uenv-builder is missing beside {package}",
        rule="incomplete-installation", hint="install the package again",
    )  # fmt: skip
