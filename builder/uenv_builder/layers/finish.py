"""The last layer: what can only be known when all others are: loader cache, CUDA's links, generated files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from uenv_builder.layers.loader_cache import SharedLibrary, search_folders, soname_of, write_loader_cache
from uenv_builder.model.entry import Entry
from uenv_builder.model.image import Layer
from uenv_builder.system.layer_blob import layer_members, read_files

CUDA_FOLDER = "usr/local/cuda/lib64"
_LOADER_CONF = "etc/ld.so.conf.d/00-uenv-cuda.conf"
_CUDART = re.compile(r"(^|/)(libcudart\.so\.\d+)$")
_LIBRARY = re.compile(r"^(lib.+\.so(\..+)?|ld-.+\.so(\..+)?)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRequest:
    """What the finish layer is made from; `layers` are those below it, lowest first, `generated` as in the plan."""

    layers: Sequence[Layer]
    machine: Literal["aarch64", "x86_64"]
    generated: Mapping[str, tuple[str, int]]
    workdir: str
    epoch: int


def finish_entries(request: FinishRequest) -> Iterator[Entry]:
    """The entries of the finish layer, parents first.

    CUDA's runtime gets the unversioned name `libcudart.so` on the loader's path, because plugins open it by that name
    and the wheels only have the versioned one. The loader cache is what ldconfig would write (glibc's format 1.1).
    """
    files = {path: (text.encode(), mode) for path, (text, mode) in request.generated.items()}
    links = _cudart_links(request.layers)
    if links:
        files[_LOADER_CONF] = (f"/{CUDA_FOLDER}\n".encode(), 0o644)
    files["etc/ld.so.cache"] = (_loader_cache(request, links, files), 0o644)
    folders = {request.workdir.strip("/")} if request.workdir.strip("/") else set()
    yield from _with_parents(files, links, folders, request.epoch)


def _cudart_links(layers: Sequence[Layer]) -> dict[str, str]:
    for layer in layers:
        for entry in layer.entries:
            match = _CUDART.search(entry.path)
            if match and entry.kind == "file" and "nvidia" in entry.path:
                versioned = match[2]
                return {f"{CUDA_FOLDER}/{versioned}": f"/{entry.path}", f"{CUDA_FOLDER}/libcudart.so": versioned}
    return {}


def _with_parents(
    files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str], folders: Iterable[str], epoch: int
) -> Iterator[Entry]:
    done: set[str] = set()
    for path in sorted({*files, *links, *folders}):
        parents = [str(parent) for parent in reversed(PurePosixPath(path).parents) if str(parent) != "."]
        for folder in [*parents, *([path] if path in folders else [])]:
            if folder not in done:
                done.add(folder)
                yield Entry(path=folder, kind="dir", mode=0o755, mtime=epoch)
        if path in links:
            yield Entry(path=path, kind="symlink", mode=0o777, mtime=epoch, target=links[path])
        elif path in files:
            content, mode = files[path]
            yield Entry(
                path=path, kind="file", mode=mode, mtime=epoch, size=len(content), content=io.BytesIO(content)
            )  # fmt: skip


def _loader_cache(request: FinishRequest, links: Mapping[str, str], files: Mapping[str, tuple[bytes, int]]) -> bytes:
    conf: dict[str, bytes] = {}
    for layer in request.layers:
        found = read_files(layer, lambda entry: entry.kind == "file" and _is_loader_conf(entry.path))
        conf |= {f"/{path}": content for path, content in found.items()}
    conf |= {f"/{path}": content for path, (content, _) in files.items() if _is_loader_conf(path)}
    folders = [folder.strip("/") for folder in search_folders(conf)]
    libraries = [SharedLibrary(PurePosixPath(path).name, f"/{path}") for path in links]
    for folder, sonames in _sonames(request, folders).items():
        libraries += _in_folder(folder, sonames)
    order = {f"/{folder}": number for number, folder in enumerate(folders)}
    first: dict[str, SharedLibrary] = {}
    for library in sorted(libraries, key=lambda entry: (order.get(str(PurePosixPath(entry.path).parent), 0), entry)):
        first.setdefault(library.soname, library)
    return write_loader_cache(first.values(), machine=request.machine)


def _is_loader_conf(path: str) -> bool:
    return path == "etc/ld.so.conf" or (path.startswith("etc/ld.so.conf.d/") and path.endswith(".conf"))


def _sonames(request: FinishRequest, folders: Sequence[str]) -> dict[str, dict[str, str]]:
    """By folder, by file name, the SONAME of each shared library there; links count with what they point at."""
    layers, wanted = request.layers, set(folders)
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
            elif content is not None and (soname := soname_of(io.BytesIO(content.read()), machine=request.machine)):
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
