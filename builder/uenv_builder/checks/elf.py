"""Checks of the image's ELF files, none of which is run: machine, missing libraries, one NCCL, a linkable cudart."""

from __future__ import annotations

import fnmatch
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from uenv_builder.checks.elf_file import ACCELERATOR_MACHINES, MACHINES, RELOCATABLE, ElfFile, read_elf
from uenv_builder.checks.image_tree import ImageTree
from uenv_builder.checks.loader import Loader, Missing
from uenv_builder.model.report import CheckResult

_MAX_SONAMES, _MAX_PATHS = 25, 3
_FIRMWARE_FOLDERS = ("/lib/firmware/", "/usr/lib/firmware/")
_SMALLEST_ELF = 52


@dataclass
class ElfChecks:
    """All ELF checks of the image at `tree`; the files are read once.

    `outside` has names (globs) of libraries that need not be in the image, each with the reason.
    """

    tree: ImageTree
    machine: str
    multiarch: str
    library_path: Sequence[str] = ()
    outside: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def elves(self) -> dict[str, ElfFile]:
        """Every ELF file by its path."""
        found: dict[str, ElfFile] = {}
        for path, size in self.tree.files():
            elf = read_elf(self.tree.outside(path)) if size >= _SMALLEST_ELF else None
            if elf:
                found[path] = elf
        return found

    def check_machine(self, ignore: Sequence[str] = ()) -> CheckResult:
        """elf-machine: every ELF file is for the target.

        GPU code, eBPF code and firmware are not the processor's and do not count, nor do the paths (globs) in `ignore`.
        """
        wrong: list[str] = []
        skipped = 0
        for path, elf in self.elves.items():
            if elf.machine in ACCELERATOR_MACHINES or path.startswith(_FIRMWARE_FOLDERS) or _fits(path, ignore):
                skipped += 1
            elif elf.machine != MACHINES[self.machine]:
                kind = "object file" if elf.kind == RELOCATABLE else "program or library"
                wrong.append(f"{path}: {kind} for {elf.machine_name}")
        measured: dict[str, float | int | str] = {"elf_files": len(self.elves), "not_for_the_processor": skipped}
        reason = f"{len(wrong)} of {len(self.elves)} ELF files are not for {self.machine}"
        return _result("elf-machine", wrong[:_MAX_SONAMES], reason if wrong else "", measured)

    def check_needed(self, ignore: Sequence[str] = ()) -> CheckResult:
        """elf-needed: loads every object as the loader would, starting with those that no other object needs.

        Nothing starts with the paths (globs) in `ignore`; what they need counts where something else loads them.
        """
        loader = Loader(self.tree, self.machine, self.multiarch, self.library_path)
        mine = [p for p, elf in self.elves.items() if elf.dynamic and elf.machine == MACHINES[self.machine]]
        needed = {name for path in mine for name in self.elves[path].needed}
        missing: list[Missing] = []
        # First those that start a program or are opened by name; then what none of them has reached.
        for path in sorted(mine, key=lambda path: self._names(path).isdisjoint(needed), reverse=True):
            if path not in loader.seen and not _fits(path, ignore):
                missing += loader.load(path)
        failures: dict[str, set[str]] = defaultdict(set)
        excused: dict[str, set[str]] = defaultdict(set)
        for item in missing:
            (excused if self._reason(item.soname) else failures)[item.soname].add(item.needed_by)
        notes = [f"{name}: {self._reason(name)} (needed by {_shorten(by)})" for name, by in sorted(excused.items())]
        helped = sorted(f"{f.soname}, needed by {f.needed_by}: found via {f.via}" for f in loader.by_loader)
        notes += helped[:_MAX_SONAMES]
        lines = [self._describe(name, paths) for name, paths in sorted(failures.items())]
        measured: dict[str, float | int | str] = {"dynamic_objects": len(mine), "libraries_from_outside": len(excused)}
        reason = f"{len(failures)} shared libraries are needed and not found" if failures else ""
        return _result("elf-needed", lines[:_MAX_SONAMES], reason, measured, notes)

    def check_nccl(self, pinned: str | None) -> CheckResult:
        """nccl-unique: exactly one libnccl.so.2, and it is the pinned wheel's; `pinned` is the lock's version."""
        if pinned is None:
            return CheckResult(check="nccl-unique", outcome="skipped", reason="the lock pins no NCCL")
        copies = sorted(p for p in self.elves if posixpath.basename(p).startswith("libnccl.so.2"))
        found: dict[str, float | int | str] = {"copies": len(copies)}
        if len(copies) != 1:
            reason = f"{len(copies)} copies of libnccl.so.2 in the image, and one of them decides by load order"
            return _result("nccl-unique", copies, reason if copies else "there is no libnccl.so.2 in the image", found)
        owner = self._owner(copies[0])
        if owner is None or not owner.startswith("nvidia_nccl_cu"):
            reason = f"{copies[0]} does not belong to a wheel nvidia-nccl-cu* but to {owner or 'no wheel'}"
            return _result("nccl-unique", copies, reason, found)
        version = owner.split("-")[1]
        reason = f"the image has NCCL {version}, the lock pins {pinned}" if version != pinned else ""
        return _result("nccl-unique", [], reason, found | {"version": version, "path": copies[0]})

    def check_cudart(self, cuda: str | None) -> CheckResult:
        """cudart-link: builds against CUDA link with -lcudart below /usr/local/cuda; wheels bring no such name."""
        if cuda is None:
            return CheckResult(check="cudart-link", outcome="skipped", reason="the lock pins no CUDA")
        link = "/usr/local/cuda/lib64/libcudart.so"
        real = self.tree.resolve(link)
        elf = self.elves.get(real) if real else None
        if elf is None or elf.machine != MACHINES[self.machine]:
            reason = f"{link} {'leads to ' + real + ', which is no library' if real else 'does not lead to a file'}"
            return _result("cudart-link", [], reason, {})
        major = cuda.split(".", maxsplit=1)[0]
        wrong = elf.soname is not None and not elf.soname.startswith(f"libcudart.so.{major}")
        reason = f"{link} leads to {elf.soname}, the lock pins CUDA {cuda}" if wrong else ""
        return _result("cudart-link", [], reason, {"path": real or ""})

    def _names(self, path: str) -> set[str]:
        names = {posixpath.basename(path)}
        return names | {self.elves[path].soname or posixpath.basename(path)}

    def _reason(self, soname: str) -> str | None:
        return next((why for pattern, why in self.outside.items() if fnmatch.fnmatchcase(soname, pattern)), None)

    def _describe(self, soname: str, paths: set[str]) -> str:
        elsewhere = sorted(path for path in self.elves if posixpath.basename(path) == soname)
        known = f"; the image has {elsewhere[0]}, which is not in their search path" if elsewhere else ""
        return f"{soname}: needed by {_shorten(paths)}{known}"

    def _owner(self, path: str) -> str | None:
        """The name-version of the wheel whose RECORD lists `path`."""
        folder = posixpath.dirname(path)
        while folder != "/":
            for name in sorted(self._dist_infos(folder)):
                listed = f"{posixpath.relpath(path, folder)},"
                record = self.tree.outside(f"{folder}/{name}/RECORD")
                with open(record, encoding="utf-8") as lines:  # noqa: PTH123
                    if any(line.startswith((listed, f'"{listed[:-1]}"')) for line in lines):
                        return name.removesuffix(".dist-info")
            folder = posixpath.dirname(folder)
        return None

    def _dist_infos(self, folder: str) -> list[str]:
        names = [name for name in self.tree.names(folder) if name.endswith(".dist-info")]
        return [name for name in names if self.tree.find_in(f"{folder}/{name}", "RECORD")]


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _shorten(paths: set[str]) -> str:
    first = ", ".join(sorted(paths)[:_MAX_PATHS])
    rest = len(paths) - _MAX_PATHS
    return f"{first} and {rest} more" if rest > 0 else first


def _result(
    check: str,
    lines: Sequence[str],
    reason: str,
    measured: Mapping[str, float | int | str],
    notes: Sequence[str] = (),
) -> CheckResult:
    """Failed with `reason`, or passed where it is empty."""
    return CheckResult(
        check=check,
        outcome="failed" if reason else "passed",
        reason=reason,
        measured=dict(measured),
        details=(*lines, *notes),
    )
