"""The GPU driver of this machine, as an image needs it: device files, and the libraries of the kernel module."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.system.process import run

FOLDER = "/usr/local/nvidia/lib64"
"""Where the driver's libraries are seen inside: the folder that NVIDIA's own images have in their search path."""

# What the driver brings and an image must not: they speak to the kernel module of exactly their own version.
_LIBRARIES = (
    "libcuda.so.1",
    "libcudadebugger.so.1",
    "libnvidia-gpucomp.so",
    "libnvidia-ml.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-ptxjitcompiler.so.1",
)
_CACHE_LINE = re.compile(r"^\s*(?P<soname>\S+) \((?P<kind>[^)]*)\) => (?P<path>/\S+)$", re.MULTILINE)
_WORD_SIZES = {"x86-64", "AArch64"}


@dataclass(frozen=True, slots=True)
class Driver:
    """Device files, and the libraries' files by the name under which programs load them."""

    devices: tuple[Path, ...]
    libraries: dict[str, Path]


def find_driver(root: Path = Path("/"), loader_cache: str | None = None) -> Driver | None:
    """The driver of the machine whose root is `root`, None where there is no NVIDIA device.

    `loader_cache` is what `ldconfig -p` prints; by default it is asked.
    """
    device_folder = root / "dev"
    if not (device_folder / "nvidiactl").exists():
        return None
    names = [*sorted(device_folder.glob("nvidia[0-9]*")), *sorted(device_folder.glob("nvidia-*"))]
    devices = (device_folder / "nvidiactl", *names)
    listing = run(["ldconfig", "-p"]).stdout if loader_cache is None else loader_cache
    return Driver(devices, _find_libraries(root, listing))


def _find_libraries(root: Path, listing: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for match in _CACHE_LINE.finditer(listing):
        soname = match["soname"]
        wanted = soname in _LIBRARIES or soname.startswith("libnvidia-gpucomp.so")
        path = root / match["path"].lstrip("/")
        if wanted and any(word in match["kind"] for word in _WORD_SIZES) and soname not in found and path.exists():
            found[soname] = path
    return dict(sorted(found.items()))


def driver_arguments(driver: Driver) -> list[str]:
    """bwrap's options that make the driver visible inside."""
    arguments = [word for device in driver.devices for word in ("--dev-bind", str(device), f"/dev/{device.name}")]
    for soname, path in driver.libraries.items():
        arguments += ["--ro-bind", str(path), f"{FOLDER}/{soname}"]
    return arguments


def add_driver_folder(search_path: str) -> str:
    """LD_LIBRARY_PATH with the driver's folder at its end, so that what the image sets itself still wins."""
    return ":".join(filter(None, [search_path, FOLDER]))
