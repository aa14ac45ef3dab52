"""A virtual environment in a uenv, on the Python that a view of it has: where wheels go that the image brings.

The image's root is what is mounted, so that paths of entries are below the mount point; those in files are absolute.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from uenv_builder.layers.made_entries import make_file, make_folder, make_link, with_parents
from uenv_builder.layers.wheel import Installation
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError

FOLDER = "venv"
_VERSION = re.compile(r"3\.\d+\.\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualEnvironment:
    """Where it is: `mount` of the uenv, the folder below it, and `python`, the absolute path of the interpreter that it
    is made on (in a view, so that the view's own Python packages are seen), with its whole `version`.
    """

    mount: str
    python: str
    version: str
    folder: str = FOLDER

    def __post_init__(self) -> None:
        inside = posixpath.normpath(self.python) == self.python and self.python.startswith(f"{self.mount}/")
        if not inside or not _VERSION.fullmatch(self.version):
            raise BuildError(
                f"wheels need a Python of the image: {self.python} {self.version} is none", rule="uenv-python",
                hint="add python to the specs of the environment whose view has it",
            )  # fmt: skip

    @property
    def minor(self) -> str:
        """Such as 3.12."""
        return self.version.rpartition(".")[0]

    @property
    def place(self) -> str:
        """Its absolute path on a node."""
        return f"{self.mount}/{self.folder}"

    @property
    def installation(self) -> Installation:
        """Where its wheels go."""
        return Installation(
            prefix=self.folder, packages=f"{self.folder}/lib/python{self.minor}/site-packages",
            python=f"{self.place}/bin/python{self.minor}",
        )  # fmt: skip


def virtual_environment_entries(made: VirtualEnvironment, *, epoch: int) -> Iterator[Entry]:
    """The virtual environment without packages, as Python's venv makes it, with the time `epoch`.

    Packages that the interpreter has beside it are seen, and give way to those of the environment. It does not say
    where it was made, and works at its mount point alone.
    """
    configuration = "".join(
        f"{key} = {value}\n"
        for key, value in {
            "home": posixpath.dirname(made.python),
            "include-system-site-packages": "true",
            "version": made.version,
            "executable": made.python,
        }.items()
    )
    folder = made.folder
    yield from with_parents(
        [
            make_file(f"{folder}/pyvenv.cfg", configuration),
            make_link(f"{folder}/bin/python{made.minor}", made.python),
            make_link(f"{folder}/bin/python3", f"python{made.minor}"),
            make_link(f"{folder}/bin/python", f"python{made.minor}"),
            make_link(f"{folder}/lib64", "lib"),
            make_folder(made.installation.packages),
        ],
        epoch,
    )
