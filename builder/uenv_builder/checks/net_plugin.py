"""The static check of NCCL's net plugin: which file NCCL opens, whether all that it needs is there, what it exports."""

from __future__ import annotations

import fnmatch
import posixpath
import re

from packaging.version import InvalidVersion, Version

from uenv_builder.checks.elf_symbols import exported_symbols
from uenv_builder.checks.image_tree import ImageTree
from uenv_builder.checks.loader import Loader
from uenv_builder.checks.static import StaticRequest
from uenv_builder.core.rules.network_facts import net_interfaces
from uenv_builder.model.report import CheckResult, Outcome

NAME = "net-plugin"
NO_PLUGIN = "the image has no NCCL net plugin (libnccl-net.so)"
_SYMBOL = re.compile(r"ncclNetPlugin_v(\d+)")


def check_plugin(tree: ImageTree, request: StaticRequest) -> CheckResult:
    """net-plugin: resolves the plugin as the image's NCCL would, and all that it needs; skipped where there is none.

    NCCL opens it from libnccl.so.2, so that the folders of that library, of the torch library that has loaded it
    (DT_RPATH), LD_LIBRARY_PATH and the loader's cache count, in this order.
    """
    files = _find_files(tree)
    if not files["plugins"]:
        return CheckResult(check=NAME, outcome="skipped", reason=NO_PLUGIN, required=False)
    loader = Loader(tree, request.machine, request.multiarch, request.library_path)
    chain = _loading_chain(loader, files["torch"], files["nccl"])
    path = next(filter(None, (loader.find_opened(name, chain) for name in request.plugins)), None)
    if path is None:
        return _explain_unfound(request, files["plugins"])
    unfound = {item.soname for item in loader.load(path)}
    missing = {soname for soname in unfound if not _is_outside(soname, request)}
    exports = _exported_interfaces(tree, path)
    loads = loaded_interfaces(request.nccl)
    measured: dict[str, float | int | str] = {"path": path, "interfaces": ", ".join(f"v{n}" for n in exports)}
    common = [number for number in exports if loads is None or number in loads]
    if unfound - missing:
        measured["from_the_host"] = ", ".join(sorted(unfound - missing))
    if missing:
        reason = f"{path} needs {', '.join(sorted(missing))}, which the loader does not find"
    elif not common:
        reason = f"{path} exports no interface that NCCL {request.nccl or ''} loads".replace("  ", " ")
    else:
        reason = ""
        measured["interface"] = f"v{max(common)}"
    details = [f"opened from {chain[-1]}"] if chain else ["the image has no libnccl.so.2: found by the loader alone"]
    details += [f"also in the image: {other}" for other in files["plugins"] if other != tree.resolve(path)]
    outcome: Outcome = "failed" if reason else "passed"
    return CheckResult(check=NAME, outcome=outcome, reason=reason, measured=measured, details=tuple(details))


def loaded_interfaces(nccl: str | None) -> tuple[int, ...] | None:
    """The net-plugin interfaces that this version of NCCL loads; None for one that the facts do not have."""
    try:
        version = Version(nccl) if nccl else None
    except InvalidVersion:
        return None
    known = net_interfaces().nccl if version else ()
    return next((entry.interfaces for entry in known if Version(entry.version) == version), None)


def _find_files(tree: ImageTree) -> dict[str, list[str]]:
    """The files of the image by what they are, told by their names."""
    found: dict[str, list[str]] = {"plugins": [], "nccl": [], "torch": []}
    for path, _ in tree.files():
        name = posixpath.basename(path)
        if name.startswith("libnccl-net") and ".so" in name:
            found["plugins"].append(path)
        elif name.startswith("libnccl.so.2"):
            found["nccl"].append(path)
        elif name == "libtorch_cuda.so":
            found["torch"].append(path)
    return found


def _loading_chain(loader: Loader, torch: list[str], nccl: list[str]) -> list[str]:
    """Who has loaded whom when NCCL opens its plugin: torch's library first, where the image has it."""
    for path in torch:
        library = loader.find_opened("libnccl.so.2", [path])
        if library:
            return [path, library]
    return nccl[:1]


def _exported_interfaces(tree: ImageTree, path: str) -> list[int]:
    names = exported_symbols(tree.outside(tree.resolve(path) or path), "ncclNetPlugin_v")
    return sorted(int(match[1]) for name in names if (match := _SYMBOL.fullmatch(name)))


def _explain_unfound(request: StaticRequest, plugins: list[str]) -> CheckResult:
    there = f"the image has {plugins[0]}"
    if request.plugins:
        reason = f"NCCL opens {', then '.join(request.plugins)}, which the loader does not find; {there}"
    else:
        reason = f"NCCL_NET_PLUGIN=none keeps NCCL from opening any plugin; {there}"
    return CheckResult(check=NAME, outcome="failed", reason=reason, details=tuple(plugins))


def _is_outside(soname: str, request: StaticRequest) -> bool:
    return any(fnmatch.fnmatchcase(soname, pattern) for pattern in request.outside)
