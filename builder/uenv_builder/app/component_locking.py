"""The Debian packages that components are compiled with, resolved for each machine that may compile them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from uenv_builder.core.component_choice import ChosenComponent, locked_source
from uenv_builder.model.lock import LockedBuild, LockedComponent, LockedDeb
from uenv_builder.model.system import MACHINES, Uarch

Resolve = Callable[[str, Sequence[str], Mapping[str, str]], tuple[LockedDeb, ...]]
"""The packages for an architecture and names, with all that they depend on; versions by name are kept if possible."""

_GNU_NAMES = {"amd64": "x86-64-linux-gnu", "arm64": "aarch64-linux-gnu"}
"""As in the names of Debian's cross compilers."""
_TOOLS = (
    "base-files", "base-passwd", "bash", "bzip2", "coreutils", "dash", "diffutils", "findutils", "gawk", "grep", "gzip",
    "libc-bin", "make", "patch", "perl-base", "pkgconf", "sed", "tar", "xz-utils",
)  # fmt: skip
_NATIVE = (*_TOOLS, "gcc", "g++", "libc6-dev")
_SYSROOT = ("libc6-dev", "libgcc-s1", "libstdc++6")


def lock_build(
    chosen: Sequence[ChosenComponent],
    uarch: Uarch,
    resolve: Resolve,
    *,
    image: Sequence[LockedDeb],
    older: Sequence[LockedDeb],
) -> LockedBuild:
    """What `chosen` are built from and compiled with, for images of `uarch`.

    Packages have the versions of `image`, then those of an `older` lock, where there still are such. Each component
    gets packages of its own, so that none finds by chance what another one asked for.
    """
    others = [machine for machine in MACHINES if machine != uarch.debian]
    shelf = _Shelf(resolve, {(deb.architecture, deb.name): deb for deb in (*older, *image)})
    native = shelf.names(uarch.debian, _NATIVE)
    crossing = any(component.recipe.cross for component in chosen)
    cross = {machine: shelf.names(machine, _cross_tools(uarch)) for machine in others} if crossing else {}
    sysroot = shelf.names(uarch.debian, _SYSROOT) if crossing else ()
    components = []
    for component in chosen:
        build = component.recipe.build
        libraries = [*build.libraries, *_run_packages(component, chosen)]
        crossed = component.recipe.cross
        components.append(
            LockedComponent(
                name=component.name,
                version=component.version,
                sources=tuple(locked_source(source) for source in component.source.sources),
                native=shelf.more(uarch.debian, (*_NATIVE, *build.tools, *libraries), native),
                cross={
                    machine: shelf.more(machine, (*_cross_tools(uarch), *build.tools), names)
                    for machine, names in cross.items()
                    if crossed
                },
                sysroot=shelf.more(uarch.debian, (*_SYSROOT, *libraries), sysroot) if crossed else (),
            )
        )
    return LockedBuild(
        components=tuple(components), native=native, cross=cross, sysroot=sysroot, packages=shelf.packages()
    )  # fmt: skip


def _cross_tools(uarch: Uarch) -> tuple[str, ...]:
    return (*_TOOLS, f"gcc-{_GNU_NAMES[uarch.debian]}", f"g++-{_GNU_NAMES[uarch.debian]}")


def _run_packages(component: ChosenComponent, chosen: Sequence[ChosenComponent]) -> list[str]:
    """What the component and all that it is linked with load from Debian."""
    known = {other.name: other for other in chosen}
    found, left = dict.fromkeys(component.recipe.run_packages), list(component.needs)
    seen: set[str] = set()
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            found |= dict.fromkeys(known[name].recipe.run_packages)
            left += known[name].needs
    return list(found)


@dataclass
class _Shelf:
    """All packages that were resolved so far, each architecture with one version of a name."""

    resolve: Resolve
    wished: dict[tuple[str, str], LockedDeb]
    found: dict[tuple[str, str], LockedDeb] = field(default_factory=dict)
    _answers: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = field(default_factory=dict)

    def names(self, architecture: str, packages: Sequence[str]) -> tuple[str, ...]:
        """The names of these packages and of what they depend on."""
        request = (architecture, tuple(sorted(set(packages))))
        if request not in self._answers:
            keep = {
                name: deb.version
                for (of, name), deb in (self.wished | self.found).items()
                if of in {architecture, "all"}
            }
            debs = self.resolve(architecture, request[1], keep)
            self.found |= {(deb.architecture, deb.name): deb for deb in debs}
            self._answers[request] = tuple(deb.name for deb in debs)
        return self._answers[request]

    def more(self, architecture: str, packages: Sequence[str], common: Sequence[str]) -> tuple[str, ...]:
        """As `names`, without those of a common set."""
        return tuple(name for name in self.names(architecture, packages) if name not in set(common))

    def packages(self) -> tuple[LockedDeb, ...]:
        """All, sorted."""
        return tuple(sorted(self.found.values(), key=lambda deb: (deb.name, deb.architecture)))
