"""What is known of the torch that a recipe takes: from its lock, its version, or the facts about its releases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from uenv_builder.core.rules.stack_facts import TorchRelease, cuda_facts, find_release, read_version, torch_facts
from uenv_builder.core.rules.subject import Component, Subject
from uenv_builder.core.yaml_tree import Path


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """One build of torch; `cuda` None for one without CUDA, the others None where they are not known."""

    torch: Component
    variant: str
    """cuda or cpu."""
    cuda: str | None = None
    nccl: str | None = None
    cudnn: str | None = None
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Required:
    """A requirement or constraint of the recipe on one package, and its place."""

    name: str
    specifier: SpecifierSet
    at: Path

    @property
    def exact(self) -> str | None:
        """The version where only one is allowed."""
        versions = [one.version for one in self.specifier if one.operator == "==" and "*" not in one.version]
        return versions[0] if versions else None


def read_requirements(subject: Subject) -> Iterator[Required]:
    """The recipe's requirements and constraints with versions; those with markers or addresses say nothing here."""
    python = subject.recipe.python
    for section, texts in (("requirements", python.requirements), ("constraints", python.constraints)):
        for number, text in enumerate(texts):
            try:
                found = Requirement(text)
            except InvalidRequirement:
                continue
            if found.specifier and not found.marker and not found.url:
                yield Required(str(canonicalize_name(found.name)), found.specifier, ("python", section, number))


def find_torch(subject: Subject) -> Component | None:
    """torch as pinned or locked, else as a requirement allows only one version."""
    if subject.torch is not None:
        return subject.torch
    for required in read_requirements(subject):
        if required.name == "torch" and required.exact and read_version(required.exact):
            return Component("pytorch", required.exact, "recipe", required.at)
    return None


def find_build(subject: Subject) -> TorchBuild | None:
    """What the recipe's torch is built for; None without torch, or where nothing is known of it."""
    torch = find_torch(subject)
    if torch is None:
        return None
    locked = subject.lock.accelerator if subject.lock else None
    if locked is not None:
        return TorchBuild(torch, locked.variant, locked.cuda, locked.nccl, locked.cudnn, locked=True)
    if torch.version.local:
        return _labelled_build(torch, torch.version.local)
    release = find_release(torch.version)
    if release is None:
        return None
    cuda = release.cuda.get(subject.uarch.machine)
    if cuda is None:
        return TorchBuild(torch, "cpu")
    return TorchBuild(torch, "cuda", cuda, release.nccl, release.cudnn)


def find_cuda(subject: Subject) -> Component | None:
    """CUDA as pinned, else as torch is built for; then the place is torch's."""
    build = find_build(subject)
    if subject.recipe.pins.cuda is not None or build is None or read_version(build.cuda) is None:
        return subject.cuda
    return Component("cuda", build.cuda or "", build.torch.origin, build.torch.at)


def find_nccl(subject: Subject) -> Component | None:
    """NCCL as pinned, else as torch requires it; then the place is torch's."""
    build = find_build(subject)
    if subject.recipe.pins.nccl is not None or build is None or read_version(build.nccl) is None:
        return subject.nccl
    return Component("nccl", build.nccl or "", build.torch.origin, build.torch.at)


def _labelled_build(torch: Component, label: str) -> TorchBuild | None:
    """Builds of PyTorch's own index say in their local version what they are for: +cpu, +cu130."""
    if label == "cpu":
        return TorchBuild(torch, "cpu")
    cuda = re.fullmatch(r"cu(\d+)(\d)", label)
    return TorchBuild(torch, "cuda", f"{cuda[1]}.{cuda[2]}") if cuda else None


def fits_python(release: TorchRelease, python: Version | None, machine: str) -> bool:
    """Whether the release has a wheel for that Python; True where it is not known that it has none."""
    if python is None:
        return True
    looked_for = python <= Version(torch_facts().looked_for_python)
    newest = Version(release.newest_python)
    return python in SpecifierSet(release.requires_python) and not (
        machine == "aarch64" and looked_for and python > newest
    )


def choose_release(subject: Subject, *, cuda: str | None = None, nccl: str | None = None) -> TorchRelease | None:
    """The newest release that fits the recipe's Python, and is built for what is given; None without one.

    A release is preferred whose CUDA is no newer than the nodes' driver.
    """
    python = subject.python.version if subject.python else None
    machine = subject.uarch.machine
    wants_cuda = subject.gpu or subject.recipe.pins.cuda is not None
    found = [
        release
        for release in torch_facts().releases
        if fits_python(release, python, machine)
        and (not wants_cuda or machine in release.cuda)
        and (cuda is None or release.cuda.get(machine) == cuda)
        and (nccl is None or (machine in release.cuda and Version(release.nccl) == Version(nccl)))
    ]
    found.sort(key=lambda one: (not is_newer_than_driver(subject, one.cuda.get(machine)), Version(one.version)))
    return found[-1] if found else None


def is_newer_than_driver(subject: Subject, cuda: str | None) -> bool:
    """Whether that CUDA was released with a newer driver than the nodes have; False where it is not known."""
    driver = read_version(subject.system.driver)
    brings = next((one.driver for one in cuda_facts().toolkits if one.cuda == cuda), None)
    return driver is not None and brings is not None and driver < Version(brings)


def write_pins(subject: Subject, release: TorchRelease) -> str:
    """The pins that take `release`, with those that the recipe has and that have to follow, as YAML has them."""
    torch, pins, machine = find_torch(subject), subject.recipe.pins, subject.uarch.machine
    by_requirement = torch is not None and torch.at[:1] == ("python",)
    words = [f"require torch=={release.version}" if by_requirement else f'pin pytorch: "{release.version}"']
    cuda = release.cuda.get(machine)
    if cuda and pins.cuda not in {None, cuda}:
        words.append(f'cuda: "{cuda}"')
    if cuda and pins.nccl is not None and read_version(pins.nccl) != Version(release.nccl):
        words.append(f'nccl: "{release.nccl}"')
    return " and ".join(words)
