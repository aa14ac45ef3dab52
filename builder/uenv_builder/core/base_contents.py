"""What the files of a base image say of it: its C library, its Python, the packages that it has, and what it leaks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from uenv_builder.core.base_leaks import find_leaks
from uenv_builder.core.environment import DEFAULT_PATH
from uenv_builder.core.link_paths import resolve_links
from uenv_builder.model.lock import LockedContents, LockedInterpreter

_DPKG = re.compile(r"var/lib/dpkg/(status|status\.d/[^/]+)")
_METADATA = re.compile(r"(?P<folder>.+)/[^/]+\.(dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_LIBC = re.compile(r"(usr/)?lib(64)?/([^/]+/)?libc(-2\.\d+)?\.so(\.6)?")
_PYVENV = "pyvenv.cfg"
_RELEASE = re.compile(rb"GNU C Library [^\n]{0,200}release version (\d+\.\d+)")
_HEADER = re.compile(r"^(Name|Version):[ \t]*(\S+)[ \t]*\r?$", re.MULTILINE)
_INSTALLED = re.compile(r"^Status:.* installed$", re.MULTILINE)
_PYTHON = re.compile(r"python(3\.\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFiles:
    """The files of a base image, without what the recipe removes; paths have no leading slash.

    `paths` are all of them, `links` the texts of the symbolic links, `contents` those files that `is_telling`.
    """

    paths: AbstractSet[str]
    links: Mapping[str, str]
    contents: Mapping[str, bytes]

    def resolve(self, path: str) -> str:
        """Where `path` leads to."""
        return resolve_links(path, self.links)

    def has(self, path: str) -> bool:
        """Whether there is something where `path` leads to."""
        return self.resolve(path) in self.paths


def is_telling(path: str) -> bool:
    """Whether the content of the file at `path` says something of the image."""
    patterns = (_DPKG, _METADATA, _LIBC)
    return path.endswith(f"/{_PYVENV}") or any(pattern.fullmatch(path) for pattern in patterns)


def read_contents(
    files: BaseFiles, env: Mapping[str, str], *, python: str | None = None, unused: tuple[str, ...] = ()
) -> LockedContents:
    """What `files` and the image's variables say. `python` (3.13) is the version to prefer if there are several;
    `unused` goes into the answer as it is.
    """
    interpreter = _find_python(files, env.get("PATH") or ":".join(DEFAULT_PATH), python)
    return LockedContents(
        glibc=_find_glibc(files),
        shell="/bin/bash" if files.has("bin/bash") else "/bin/sh",
        python=interpreter,
        packages=dict(sorted(_read_packages(files))),
        distributions=dict(sorted(_read_distributions(files, interpreter))) if interpreter else {},
        leaks=tuple(leak.what.lstrip("/") for leak in find_leaks(files.paths, {})),
        unused=unused,
    )


def _find_glibc(files: BaseFiles) -> str | None:
    for path, content in sorted(files.contents.items()):
        if _LIBC.fullmatch(path) and (found := _RELEASE.search(content)):
            return found[1].decode()
    return None


def _find_python(files: BaseFiles, search: str, wanted: str | None) -> LockedInterpreter | None:
    """The interpreter that a job of this image starts; the wanted one where PATH has it, else the first in PATH."""
    names = [*([f"python{wanted}"] if wanted else []), "python3", "python"]
    for name in names:
        for folder in search.split(":"):
            place = files.resolve(folder)
            program = f"{place}/{name}"
            if folder.startswith("/") and files.has(program) and (found := _describe(files, place, program)):
                return found
    return None


def _describe(files: BaseFiles, place: str, program: str) -> LockedInterpreter | None:
    """The interpreter `program` in the folder `place`, and where packages that are added to it go."""
    real = files.resolve(program)
    version = _PYTHON.fullmatch(real.rpartition("/")[2])
    if version is None:
        return None
    own, home = place.rpartition("/")[0], real.rpartition("/")[0].rpartition("/")[0]
    if f"{own}/{_PYVENV}" in files.paths:
        prefix, packages, real = own, "site-packages", program
    elif home == "usr":
        # Debian's own Python looks for what is added in /usr/local/lib/python3.X/dist-packages (README.python.gz of its
        # package), Fedora's and Enterprise Linux' in site-packages there.
        debian = files.has("usr/lib/python3/dist-packages")
        prefix, packages = "usr/local", "dist-packages" if debian else "site-packages"
    else:
        prefix, packages = home, "site-packages"
    return LockedInterpreter(
        version=version[1], executable=f"/{real}", prefix=f"/{files.resolve(prefix)}",
        packages=f"/{files.resolve(f'{prefix}/lib/python{version[1]}/{packages}')}",
    )  # fmt: skip


def _package_folders(files: BaseFiles, python: LockedInterpreter) -> list[str]:
    """Where the interpreter looks for packages, in the order in which it does."""
    found = [python.packages.strip("/")]
    settings = files.contents.get(f"{python.prefix.strip('/')}/{_PYVENV}")
    if settings is None or re.search(rb"include-system-site-packages\s*=\s*true", settings):
        name = f"python{python.version}"
        found += [f"usr/local/{lib}/{name}/{kind}" for lib in ("lib", "lib64") for kind in ("dist", "site")]
        found = [folder if folder.endswith("packages") else f"{folder}-packages" for folder in found]
        if settings is not None or python.executable.startswith("/usr/bin/"):
            found += ["usr/lib/python3/dist-packages"]
            found += [f"usr/{lib}/{name}/site-packages" for lib in ("lib", "lib64")]
        elif not python.prefix.startswith("/usr/local"):
            found = found[:1]
    return list(dict.fromkeys(files.resolve(folder) for folder in found))


def _read_distributions(files: BaseFiles, python: LockedInterpreter) -> Iterator[tuple[str, str]]:
    by_folder: dict[str, list[tuple[str, str]]] = {}
    for path, content in sorted(files.contents.items()):
        if match := _METADATA.fullmatch(path):
            fields = dict(_HEADER.findall(content.decode(errors="replace").partition("\n\n")[0]))
            if fields.keys() >= {"Name", "Version"}:
                by_folder.setdefault(match["folder"], []).append((canonicalize_name(fields["Name"]), fields["Version"]))
    seen: set[str] = set()
    for folder in _package_folders(files, python):
        for name, version in by_folder.get(folder, ()):
            if name not in seen:
                seen.add(name)
                yield name, version


def _read_packages(files: BaseFiles) -> Iterator[tuple[str, str]]:
    for path, content in files.contents.items():
        match = _DPKG.fullmatch(path)
        for stanza in content.decode(errors="replace").split("\n\n") if match else ():
            fields = dict(re.findall(r"^(Package|Version): *(\S+)$", stanza, re.MULTILINE))
            installed = _INSTALLED.search(stanza) or (match and match[1] != "status")
            if installed and fields.keys() == {"Package", "Version"}:
                yield fields["Package"], fields["Version"]
