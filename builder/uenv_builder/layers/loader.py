"""The loader's layer, what can only be known when all below it are: its cache, and CUDA's links."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from uenv_builder.core.link_paths import resolve_links
from uenv_builder.layers.loader_cache import SharedLibrary, search_folders, soname_of, write_loader_cache
from uenv_builder.layers.made_entries import make_file, make_link, with_parents
from uenv_builder.model.entry import Entry
from uenv_builder.model.image import Layer
from uenv_builder.model.system import Machine
from uenv_builder.system.layer_blob import layer_members, read_files

CUDA_FOLDER = "usr/local/cuda/lib64"
_LOADER_CONF = "etc/ld.so.conf.d/00-uenv-cuda.conf"
_CUDART = re.compile(r"(^|/)(libcudart\.so\.\d+)$")
_CUDA = CUDA_FOLDER.rpartition("/")[0]
_MORE_TRUSTED = ("/usr/lib64",)
"""Where distributions that are not Debian's relatives keep libraries, and their ldconfig looks."""
_LIBRARY = re.compile(r"^(lib.+\.so(\..+)?|ld-.+\.so(\..+)?)$")


@dataclass(frozen=True)
class BaseView:
    """What an image shows: for each path the layer (counted from 0) that it comes from, and the links by their path."""

    layers: Mapping[str, int]
    links: Mapping[str, str]

    def has(self, path: str) -> bool:
        """Whether the image has something there."""
        return path in self.layers

    def shows(self, path: str, layer: int) -> bool:
        """Whether what that layer has there is what the image shows."""
        return self.layers.get(path) == layer

    def resolve(self, path: str) -> str:
        """The path of the same without links on its way; of circles, some part of it."""
        return resolve_links(path, self.links)


def loader_entries(
    layers: Sequence[Layer], *, machine: Machine, epoch: int, base: BaseView | None = None
) -> Iterator[Entry]:
    """The entries of the loader's layer on top of `layers`, lowest first; times are `epoch`.

    CUDA's runtime gets the unversioned name `libcudart.so` on the loader's path, because plugins open it by that name
    and the wheels only have the versioned one. The loader cache is what ldconfig would write (glibc's format 1.1).
    `base` tells what is visible of the layers where lower ones are those of a base image, which may have a CUDA of its
    own, links to folders, and files that another layer takes away.
    """
    links = {} if base and base.has(_CUDA) else _cudart_links(layers)
    made = [make_link(path, target) for path, target in links.items()]
    conf = {_LOADER_CONF: f"/{CUDA_FOLDER}\n".encode()} if links else {}
    made += [make_file(path, content) for path, content in conf.items()]
    made.append(make_file("etc/ld.so.cache", _loader_cache(layers, machine, links, conf, base)))
    yield from with_parents(made, epoch)


def _cudart_links(layers: Sequence[Layer]) -> dict[str, str]:
    for layer in layers:
        for entry in layer.entries:
            match = _CUDART.search(entry.path)
            if match and entry.kind == "file" and "nvidia" in entry.path:
                versioned = match[2]
                return {f"{CUDA_FOLDER}/{versioned}": f"/{entry.path}", f"{CUDA_FOLDER}/libcudart.so": versioned}
    return {}


def _loader_cache(
    layers: Sequence[Layer],
    machine: Machine,
    links: Mapping[str, str],
    made: Mapping[str, bytes],
    base: BaseView | None,
) -> bytes:
    conf: dict[str, bytes] = {}
    for number, layer in enumerate(layers):
        found = read_files(layer, lambda entry: entry.kind == "file" and _is_loader_conf(entry.path))
        conf |= {f"/{path}": content for path, content in found.items() if not base or base.shows(path, number)}
    conf |= {f"/{path}": content for path, content in made.items()}
    folders = [folder.strip("/") for folder in (*search_folders(conf), *(_MORE_TRUSTED if base else ()))]
    libraries = [SharedLibrary(PurePosixPath(path).name, f"/{path}") for path in links]
    real = {folder: base.resolve(folder) if base else folder for folder in folders}
    found_in = _sonames(layers, machine, real.values(), base)
    for folder, place in real.items():
        libraries += _in_folder(folder, found_in.get(place, {}))
    order = {f"/{folder}": number for number, folder in enumerate(folders)}
    first: dict[str, SharedLibrary] = {}
    for library in sorted(libraries, key=lambda entry: (order.get(str(PurePosixPath(entry.path).parent), 0), entry)):
        first.setdefault(library.soname, library)
    return write_loader_cache(first.values(), machine=machine)


def _is_loader_conf(path: str) -> bool:
    return path == "etc/ld.so.conf" or (path.startswith("etc/ld.so.conf.d/") and path.endswith(".conf"))


def _sonames(
    layers: Sequence[Layer], machine: Machine, folders: Iterable[str], base: BaseView | None
) -> dict[str, dict[str, str]]:
    """By folder, by file name, the SONAME of each shared library there; links count with what they point at."""
    wanted = set(folders)
    direct: dict[str, str] = {}
    targets: dict[str, str] = {}
    for number, layer in enumerate(layers):
        if not any(_in(entry.path, wanted) for entry in layer.entries):
            continue
        for entry, content in layer_members(layer):
            if not _in(entry.path, wanted) or (base and not base.shows(entry.path, number)):
                continue
            direct.pop(entry.path, None)
            targets.pop(entry.path, None)
            if entry.kind == "symlink":
                targets[entry.path] = _resolved(entry.path, entry.target)
            elif content is not None and (soname := soname_of(io.BytesIO(content.read()), machine=machine)):
                direct[entry.path] = soname
    found: dict[str, dict[str, str]] = {}
    for path in [*direct, *targets]:
        soname = direct.get(_follow(path, targets))
        if soname:
            folder, _, name = path.rpartition("/")
            found.setdefault(folder, {})[name] = soname
    return found


def _in(path: str, folders: set[str]) -> bool:
    folder, _, name = path.rpartition("/")
    return folder in folders and _LIBRARY.match(name) is not None


def _resolved(path: str, target: str) -> str:
    if target.startswith("/"):
        return target.strip("/")
    parts: list[str] = path.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _follow(path: str, targets: Mapping[str, str]) -> str:
    for _ in range(8):
        if path not in targets:
            break
        path = targets[path]
    return path


def _in_folder(folder: str, sonames: Mapping[str, str]) -> list[SharedLibrary]:
    libraries = []
    for name, soname in sonames.items():
        if soname in sonames or name == soname:
            libraries.append(SharedLibrary(soname, f"/{folder}/{soname}"))
        else:
            libraries.append(SharedLibrary(soname, f"/{folder}/{name}"))
        if name != soname and name.endswith(".so") and soname.startswith(name):  # the development link: libfoo.so
            libraries.append(SharedLibrary(name, f"/{folder}/{name}"))
    return libraries
