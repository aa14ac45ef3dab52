"""The loader's layer, what can only be known when all below it are: its cache, and CUDA's links."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from uenv_builder.layers.loader_cache import SharedLibrary, search_folders, soname_of, write_loader_cache
from uenv_builder.layers.made_entries import make_file, make_link, with_parents
from uenv_builder.model.entry import Entry
from uenv_builder.model.image import Layer
from uenv_builder.model.system import Machine
from uenv_builder.system.layer_blob import layer_members, read_files

CUDA_FOLDER = "usr/local/cuda/lib64"
_LOADER_CONF = "etc/ld.so.conf.d/00-uenv-cuda.conf"
_CUDART = re.compile(r"(^|/)(libcudart\.so\.\d+)$")
_LIBRARY = re.compile(r"^(lib.+\.so(\..+)?|ld-.+\.so(\..+)?)$")


def loader_entries(layers: Sequence[Layer], *, machine: Machine, epoch: int) -> Iterator[Entry]:
    """The entries of the loader's layer on top of `layers`, lowest first; times are `epoch`.

    CUDA's runtime gets the unversioned name `libcudart.so` on the loader's path, because plugins open it by that name
    and the wheels only have the versioned one. The loader cache is what ldconfig would write (glibc's format 1.1).
    """
    links = _cudart_links(layers)
    made = [make_link(path, target) for path, target in links.items()]
    conf = {_LOADER_CONF: f"/{CUDA_FOLDER}\n".encode()} if links else {}
    made += [make_file(path, content) for path, content in conf.items()]
    made.append(make_file("etc/ld.so.cache", _loader_cache(layers, machine, links, conf)))
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
    layers: Sequence[Layer], machine: Machine, links: Mapping[str, str], made: Mapping[str, bytes]
) -> bytes:
    conf: dict[str, bytes] = {}
    for layer in layers:
        found = read_files(layer, lambda entry: entry.kind == "file" and _is_loader_conf(entry.path))
        conf |= {f"/{path}": content for path, content in found.items()}
    conf |= {f"/{path}": content for path, content in made.items()}
    folders = [folder.strip("/") for folder in search_folders(conf)]
    libraries = [SharedLibrary(PurePosixPath(path).name, f"/{path}") for path in links]
    for folder, sonames in _sonames(layers, machine, folders).items():
        libraries += _in_folder(folder, sonames)
    order = {f"/{folder}": number for number, folder in enumerate(folders)}
    first: dict[str, SharedLibrary] = {}
    for library in sorted(libraries, key=lambda entry: (order.get(str(PurePosixPath(entry.path).parent), 0), entry)):
        first.setdefault(library.soname, library)
    return write_loader_cache(first.values(), machine=machine)


def _is_loader_conf(path: str) -> bool:
    return path == "etc/ld.so.conf" or (path.startswith("etc/ld.so.conf.d/") and path.endswith(".conf"))


def _sonames(layers: Sequence[Layer], machine: Machine, folders: Sequence[str]) -> dict[str, dict[str, str]]:
    """By folder, by file name, the SONAME of each shared library there; links count with what they point at."""
    wanted = set(folders)
    direct: dict[str, str] = {}
    targets: dict[str, str] = {}
    for layer in layers:
        if not any(_in(entry.path, wanted) for entry in layer.entries):
            continue
        for entry, content in layer_members(layer):
            if not _in(entry.path, wanted):
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
