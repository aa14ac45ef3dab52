"""Resolving Python packages to wheels for another machine, with uv: nothing is built and nothing is installed."""

from __future__ import annotations

import os
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tomlkit
import uv
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from uenv_builder.model.errors import IncompatibleError, LockError, MissingToolError, RecipeError
from uenv_builder.model.lock import LockedAccelerator, LockedWheel
from uenv_builder.model.system import Machine
from uenv_builder.sources.python_index import PythonIndex
from uenv_builder.sources.wheel_findings import (
    MissingPackage,
    Target,
    UnresolvableError,
    explain,
    find_missing,
    find_yanked,
    notes_of,
)
from uenv_builder.system.abandoned import scratch_folder
from uenv_builder.system.events import Listener
from uenv_builder.system.process import Completed, run

_OLDEST_GLIBC = {"aarch64": 17, "x86_64": 5}  # of glibc 2: PEP 599 and PEP 513
_OLDER_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600, section on legacy tags
# Of uv's variables only those that say how to reach an index: what it resolves is the recipe's to say.
_KEPT_VARIABLES = re.compile(
    r"UV_(CACHE_DIR|HTTP_.*|REQUEST_TIMEOUT|NATIVE_TLS|SYSTEM_CERTS|INSECURE_HOST|KEYRING_PROVIDER|OFFLINE|CONCURRENT_.*)"
)
_INSTALLED = "installed"  # the folder with what stands for installed packages
_TIMEOUT = 1800.0  # seconds; a cold resolution of a hundred packages takes some ten


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelRequest:
    """What to resolve: PEP 508 `requirements` for CPython `python` (3.13) on `machine` with `glibc` (major, minor).

    `constraints` bound the versions of what is required by whomever; `overrides` replace what others require.
    `installed` are the versions by name that the target has already: what they satisfy is left to them.
    """

    requirements: tuple[str, ...]
    python: str
    machine: Machine
    glibc: tuple[int, int]
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    installed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedWheels:
    """The wheels, sorted by name, and the platform that they were resolved for, as uv names it."""

    wheels: tuple[LockedWheel, ...]
    platform: str


def resolve_wheels(
    request: WheelRequest,
    index: PythonIndex,
    *,
    listener: Listener,
    keep: Mapping[str, str] | None = None,
    upgrade: frozenset[str] = frozenset(),
) -> ResolvedWheels:
    """One wheel for each package that the requirements need, of those that `index` offers.

    `keep` has the versions of an older lock: they are taken again where the requirements allow it, but for the names
    in `upgrade`. Raises UnresolvableError (an IncompatibleError) with a finding for every package that is unknown, has
    no wheel for the target or was withdrawn, or with uv's explanation of a conflict; RecipeError for a requirement that
    cannot be read or names a URL; NetworkError where the index cannot be asked.
    """
    target = _target(request)
    with scratch_folder("uenv-wheels-") as folder:
        platform = _choose_platform(request, folder)
        _write_inputs(request, folder, keep or {}, upgrade)
        _write_installed(request, folder)
        done = _compile_all(request, index, folder, platform, target)
        for note in notes_of(done.stderr):
            listener.note(note)
        document = tomllib.loads((folder / "pylock.toml").read_text(encoding="utf-8"))
    packages = [package for package in document.get("packages", []) if not _is_installed(request, package)]
    wheels = [_lock_wheel(package, target, index) for package in packages]
    return ResolvedWheels(wheels=tuple(sorted(wheels, key=lambda wheel: wheel.name)), platform=platform)


def read_accelerator(wheels: Sequence[LockedWheel], *, index: PythonIndex | None = None) -> LockedAccelerator | None:
    """What the torch among `wheels` was built for; None without torch.

    A local version (+cpu, +cu128) tells. Without one, torch is a CUDA build if the wheels of CUDA's runtime, cuDNN and
    NCCL came with it, since only those builds require them; given an `index` that shows torch's own metadata, that
    is asked instead, so that another package's CUDA wheels do not pass a CPU build off as one for CUDA.
    """
    found = {wheel.name: wheel for wheel in wheels}
    torch = found.get("torch")
    if torch is None:
        return None
    versions = {
        part: next((wheel.version for wheel in wheels if re.fullmatch(rf"nvidia-{part}(-cu\d+)?", wheel.name)), None)
        for part in ("cuda-runtime", "cudnn", "nccl")
    }
    local = Version(torch.version).local or ""
    tagged = re.fullmatch(r"cu(\d+)(\d)", local)
    requires = index.read_requirements(torch) if index and not local else None
    if local:
        built_for_cuda = bool(tagged)
    elif requires is not None:
        built_for_cuda = _requires_cuda(requires, torch.file)
    else:
        built_for_cuda = None not in versions.values()
    if not built_for_cuda:
        return LockedAccelerator(torch=torch.version, variant="cpu")
    runtime = ".".join((versions["cuda-runtime"] or "").split(".")[:2])
    cuda = runtime or (f"{tagged[1]}.{tagged[2]}" if tagged else None)
    return LockedAccelerator(
        torch=torch.version, variant="cuda", cuda=cuda, nccl=versions["nccl"], cudnn=versions["cudnn"]
    )


def _requires_cuda(requires: Sequence[str], file: str) -> bool:
    """Whether one of the requirements is a part of CUDA, on the machine that the wheel `file` is for."""
    tag = next(iter(parse_wheel_filename(file)[3]))
    python = re.sub(r"^cp3(\d+)$", r"3.\1", tag.interpreter)
    target = {
        "platform_machine": "aarch64" if tag.platform.endswith("aarch64") else "x86_64", "platform_system": "Linux",
        "sys_platform": "linux", "os_name": "posix", "python_version": python, "python_full_version": f"{python}.0",
        "extra": "",
    }  # fmt: skip
    parsed = [Requirement(text) for text in requires]
    applying = [part.name for part in parsed if part.marker is None or part.marker.evaluate(target)]
    return any(re.fullmatch(r"nvidia-(cuda-runtime|cudnn|nccl)(-cu\d+)?|cuda-toolkit", name) for name in applying)


def target_tags(python: str, machine: str, glibc: tuple[int, int]) -> tuple[Tag, ...]:
    """The tags of wheels that pip installs for CPython `python` on a machine with `glibc`, the best ones first."""
    version = tuple(int(part) for part in python.split("."))
    platforms = []
    for minor in range(glibc[1], _OLDEST_GLIBC[machine] - 1, -1):
        platforms.append(f"manylinux_2_{minor}_{machine}")
        if minor in _OLDER_NAMES:
            platforms.append(f"{_OLDER_NAMES[minor]}_{machine}")
    platforms.append(f"linux_{machine}")
    interpreter = f"cp{python.replace('.', '')}"
    own = cpython_tags(version, abis=[interpreter], platforms=platforms)
    return (*own, *compatible_tags(version, interpreter=interpreter, platforms=platforms))


def _target(request: WheelRequest) -> Target:
    words = f"Python {request.python} on {request.machine} with glibc {request.glibc[0]}.{request.glibc[1]}"
    tags = target_tags(request.python, request.machine, request.glibc)
    return Target(python=request.python, words=words, ranks={tag: rank for rank, tag in reversed([*enumerate(tags)])})


def _choose_platform(request: WheelRequest, folder: Path) -> str:
    """The newest manylinux platform that uv knows and the target's glibc satisfies."""
    offered = run([_find_uv(), "pip", "compile", "--help"], cwd=folder, env=_environment({})).stdout
    minors = {int(text) for text in re.findall(rf"\b{request.machine}-manylinux_2_(\d+)\b", offered)}
    usable = [minor for minor in minors if (2, minor) <= request.glibc]
    if not usable:
        raise IncompatibleError(
            f"glibc {request.glibc[0]}.{request.glibc[1]} is older than any platform that wheels are resolved for",
            rule="no-glibc", hint="choose a newer Debian suite",
        )  # fmt: skip
    return f"{request.machine}-manylinux_2_{max(usable)}"


def _write_inputs(request: WheelRequest, folder: Path, keep: Mapping[str, str], upgrade: frozenset[str]) -> None:
    for name in ("requirements", "constraints"):
        lines = [str(requirement) for requirement in _parse(getattr(request, name))]
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    renewed = {canonicalize_name(name) for name in upgrade}
    kept = [{"name": name, "version": version} for name, version in sorted(keep.items()) if name not in renewed]
    if kept:
        # uv prefers the versions of the file that it is about to replace.
        older = {"lock-version": "1.0", "created-by": "uenv-builder", "packages": kept}
        (folder / "pylock.toml").write_text(tomlkit.dumps(older), encoding="utf-8")


def _write_installed(request: WheelRequest, folder: Path) -> None:
    """Show uv what is installed as wheels that need nothing, and hold it to them, but for what the requirements exclude
    by name.
    """
    own = {str(canonicalize_name(one.name)): one.specifier for one in _parse(request.requirements)}
    held = []
    for name, text in request.installed.items():
        try:
            version = Version(text)
        except InvalidVersion:
            continue
        _write_stub(folder / _INSTALLED, name, version)
        if name not in own or own[name].contains(version, prereleases=True):
            held.append(f"{name}=={version}\n")
    with (folder / "constraints.txt").open("a", encoding="utf-8") as file:
        file.writelines(held)


def _write_stub(folder: Path, name: str, version: Version) -> None:
    folder.mkdir(exist_ok=True)
    full = f"{name.replace('-', '_')}-{version}"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: uenv-builder\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{full}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{full}.dist-info/{file}", text)


def _is_installed(request: WheelRequest, package: Mapping[str, Any]) -> bool:
    has = request.installed.get(str(canonicalize_name(package["name"])))
    try:
        return has is not None and Version(has) == Version(package["version"])
    except InvalidVersion:
        return False


def _parse(texts: Sequence[str]) -> Iterator[Requirement]:
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise RecipeError(
                f'not a Python requirement: "{text}": {str(error).splitlines()[0]}', rule="requirement",
                hint='write it as PEP 508 says, such as "numpy>=2,<3"',
            ) from error  # fmt: skip
        if requirement.url:
            raise RecipeError(
                f'the requirement "{requirement.name}" names a URL, and wheels are locked from an index',
                rule="requirement", hint="serve the wheel from an index (python-extra-indexes) and require its version",
            )  # fmt: skip
        yield requirement


def _compile_all(request: WheelRequest, index: PythonIndex, folder: Path, platform: str, target: Target) -> Completed:
    """Run uv until it succeeds; it stops at the first package that is missing, so go on without each that it names."""
    missing: dict[str, MissingPackage] = {}
    while True:
        _write_overrides(request, folder, missing)
        done = _compile(request, index, folder, platform)
        if done.returncode == 0:
            break
        more = {name: package for name, package in find_missing(done.stderr).items() if name not in missing}
        if not more:
            break
        missing |= more
    findings = [explain(done)] if done.returncode else find_yanked(done.stderr)
    findings = [*(package.finding(index, target) for package in missing.values()), *findings]
    if findings:
        raise UnresolvableError.of(findings, missing)
    return done


def _write_overrides(request: WheelRequest, folder: Path, missing: Iterable[str]) -> None:
    own = [text for text in _parse(request.overrides) if canonicalize_name(text.name) not in missing]
    # A marker that no Python satisfies takes a package out of the resolution, whoever requires it.
    lines = [*map(str, own), *(f'{name}; python_version < "0"' for name in missing)]
    (folder / "overrides.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _compile(request: WheelRequest, index: PythonIndex, folder: Path, platform: str) -> Completed:
    variables, arguments = index.uv_settings()
    for name in ("constraints", "overrides"):
        if (folder / f"{name}.txt").stat().st_size:  # uv warns of empty ones
            arguments += [f"--{name}", f"{name}.txt"]
    if (folder / _INSTALLED).is_dir():
        arguments += ["--find-links", _INSTALLED]
    command = [
        _find_uv(), "pip", "compile", "requirements.txt", "--output-file", "pylock.toml", "--format", "pylock.toml",
        "--python", sys.executable, "--python-version", request.python, "--python-platform", platform,
        "--only-binary", ":all:", "--no-python-downloads", "--no-header", "--no-progress", "--color", "never",
        *arguments,
    ]  # fmt: skip
    what = "resolving Python packages with uv"
    return run(command, cwd=folder, env=_environment(variables), check=False, timeout=_TIMEOUT, what=what)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("UV_") or _KEPT_VARIABLES.fullmatch(name)
    }
    return {**inherited, "UV_NO_CONFIG": "1", **variables}


def _find_uv() -> str:
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise MissingToolError("uv is not installed on this machine", hint="install it: pip install uv") from error


def _lock_wheel(package: dict[str, Any], target: Target, index: PythonIndex) -> LockedWheel:
    """The wheel that pip would take on the target: the best of its tags, then the highest build number."""
    offers = []
    for wheel in package.get("wheels", []):
        file = unquote(urlsplit(wheel.get("url") or wheel.get("path", "")).path).rpartition("/")[2]
        try:
            _, _, build, tags = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        if ranks := [target.ranks[tag] for tag in tags if tag in target.ranks]:
            offers.append((-min(ranks), build, file, wheel))
    if not offers:
        raise IncompatibleError(
            f"{package['name']} has no wheel for {target.words}", rule="no-wheel", hint="pin another version of it"
        )
    _, _, file, wheel = max(offers, key=lambda offer: offer[:3])
    sha256 = wheel.get("hashes", {}).get("sha256")
    if not sha256:
        raise LockError(
            f"the Python package index tells no sha256 for {file}", rule="no-hash",
            hint="serve the package from an index that does (PEP 503: #sha256=... behind each link)",
        )  # fmt: skip
    size = wheel["size"] if "size" in wheel else index.measure(wheel["url"])
    name = str(canonicalize_name(package["name"]))
    return LockedWheel(name=name, version=package["version"], file=file, size=size, sha256=sha256)
