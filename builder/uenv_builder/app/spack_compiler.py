"""The machine's own gcc: as the recipe or the system describes it, else as it answers."""

from __future__ import annotations

import re
import shutil

from uenv_builder.model.errors import MissingToolError
from uenv_builder.model.spack import SpackExternal, SpackSection
from uenv_builder.model.system import System
from uenv_builder.system.process import run

_LANGUAGES = {"c": "gcc", "cxx": "g++", "fortran": "gfortran"}
_NAMES = {"c": "c", "cxx": "c++", "fortran": "fortran"}
"""Of the languages, in Spack's variant of gcc."""


def system_gcc(section: SpackSection, system: System) -> SpackExternal:
    """The compiler that builds everything, or the compilers that build the rest.

    Raises MissingToolError where neither recipe nor system has one and this machine has none in /usr/bin.
    """
    described = section.externals.get("gcc") or system.spack.externals.get("gcc")
    if described:
        return described[0]
    found = {language: shutil.which(program, path="/usr/bin") for language, program in _LANGUAGES.items()}
    compilers = {language: place for language, place in found.items() if place}
    if not {"c", "cxx"} <= compilers.keys():
        raise MissingToolError(
            "there is no gcc with C++ in /usr/bin, and Spack compiles with the machine's own compiler",
            hint="install it: apt-get install gcc g++; or describe another: `spack: externals: gcc`",
        )  # fmt: skip
    version = run([compilers["c"], "-dumpfullversion"]).stdout.strip()
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise MissingToolError(f"{compilers['c']} does not tell its version: {version}", hint="install gcc anew")
    languages = ",".join(_NAMES[language] for language in compilers)
    return SpackExternal(
        spec=f"gcc@{version} languages:='{languages}'", prefix="/usr", extra_attributes={"compilers": compilers}
    )
