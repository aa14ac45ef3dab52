"""What a component's build script finds: its places in the sandbox, its variables, and wrappers of the compilers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FOLDER = "/build"
"""Where a build goes on, on every machine: it gets into what is compiled."""
SOURCE, DESTDIR, SYMBOLS = f"{FOLDER}/src", f"{FOLDER}/dest", f"{FOLDER}/symbols"
SCRATCH = f"{FOLDER}/scratch"
SYSROOT = "/sysroot"
"""The image's files where a cross compiler's own are at the root."""
_TRIPLES = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_COMPILERS = {"gcc": "gcc", "g++": "g++", "cc": "gcc", "c++": "g++"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """The compilers for one component.

    `debian` is the Debian architecture of the image, `crossed_on` that of the machine whose cross compilers are used
    (None: its own). `shown` is the folder that debug symbols name for the sources; `python` is the minor version whose
    packages the image has.
    """

    debian: str
    crossed_on: str | None
    prefix: str
    shown: str
    python: str | None
    debug: bool

    @property
    def triple(self) -> str:
        """GNU's name of what is compiled for."""
        return _TRIPLES[self.debian]

    @property
    def sysroot(self) -> str:
        """The folder that stands for the image's root; empty where the root itself does."""
        return SYSROOT if self.crossed_on else ""

    def variables(self, *, jobs: int, epoch: int) -> dict[str, str]:
        """The whole environment of a build script, as docs/how-to/components.md lists it."""
        start = f"{self.triple}-"
        optimize = "-O2 -g" if self.debug else "-O2"
        return {
            **{name: start + program for name, program in _PROGRAMS.items()},
            **self._pkg_config(),
            "CFLAGS": optimize, "CXXFLAGS": optimize, "FFLAGS": optimize, "LDFLAGS": "",
            "CONFIGURE_FLAGS": " ".join(self._configure_flags()),
            "CMAKE_FLAGS": " ".join(self._cmake_flags()),
            "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs), "JOBS": str(jobs), "MAKEFLAGS": f"-j{jobs}",
            "PREFIX": self.prefix, "DESTDIR": DESTDIR, "SYSROOT": self.sysroot,
            "WHEELS": f"{self.sysroot}/usr/local/lib/python{self.python}/dist-packages" if self.python else "",
            "BUILD_WHEELS": f"{FOLDER}/wheels/packages",
            "LD_LIBRARY_PATH": "" if self.crossed_on else f"{self.prefix}/lib",
            "PATH": f"{FOLDER}/bin:{self.prefix}/bin:/usr/local/bin:/usr/bin:/usr/sbin",
            "HOME": f"{FOLDER}/home", "TMPDIR": SCRATCH, "USER": "root", "LOGNAME": "root",
            "LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(epoch), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def wrappers(self) -> dict[str, str]:
        """Scripts by name that stand before the compilers in PATH: what a Makefile may not drop is in them."""
        mapped = f"-ffile-prefix-map={SOURCE}={self.shown}"
        own = [f"{self.triple}-{name}" for name in _COMPILERS] if self.crossed_on else []
        names = own or [*_COMPILERS, *(f"{self.triple}-{name}" for name in _COMPILERS)]
        return {name: self._wrapper(name, mapped) for name in names}

    def _wrapper(self, name: str, mapped: str) -> str:
        program = f"{self.triple}-{_COMPILERS[name.removeprefix(f'{self.triple}-')]}"
        words = [f"/usr/bin/{program}", mapped]
        if self.crossed_on:
            words += [f"--sysroot={SYSROOT}", f"-idirafter{SYSROOT}/usr/local/include", f"-L{SYSROOT}/usr/local/lib"]
        return f'#!/bin/sh\nexec {" ".join(words)} "$@"\n'

    def _pkg_config(self) -> dict[str, str]:
        folders = [f"{self.prefix}/lib/pkgconfig", f"{self.prefix}/share/pkgconfig", "/usr/local/lib/pkgconfig",
                   f"/usr/lib/{self.triple}/pkgconfig", "/usr/share/pkgconfig"]  # fmt: skip
        found = ":".join(self.sysroot + folder for folder in dict.fromkeys(folders))
        more = {"PKG_CONFIG_SYSROOT_DIR": SYSROOT} if self.crossed_on else {}
        return {"PKG_CONFIG": "pkg-config", "PKG_CONFIG_LIBDIR": found, **more}

    def _configure_flags(self) -> Sequence[str]:
        flags = [f"--prefix={self.prefix}", f"--libdir={self.prefix}/lib", "--disable-dependency-tracking"]
        build = _TRIPLES[self.crossed_on or self.debian]
        return [*flags, f"--build={build}", f"--host={self.triple}"]

    def _cmake_flags(self) -> Sequence[str]:
        flags = [f"-DCMAKE_INSTALL_PREFIX={self.prefix}", "-DCMAKE_INSTALL_LIBDIR=lib", "-DCMAKE_BUILD_TYPE=None"]
        return [*flags, f"-DCMAKE_TOOLCHAIN_FILE={FOLDER}/toolchain.cmake"] if self.crossed_on else flags


_PROGRAMS = {
    "CC": "gcc", "CXX": "g++", "AR": "ar", "LD": "ld", "NM": "nm", "RANLIB": "ranlib", "STRIP": "strip",
    "OBJCOPY": "objcopy",
}  # fmt: skip
