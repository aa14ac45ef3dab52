"""Rules about what a recipe's software stack needs of the nodes, and its parts of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from uenv_builder.core.rules import base_contents, base_image, known_bad
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.stack_facts import cuda_facts, find_nccl_wheel, find_release, nccl_facts, read_version
from uenv_builder.core.rules.subject import Subject
from uenv_builder.core.rules.torch_build import (
    Required,
    TorchBuild,
    choose_release,
    find_build,
    find_cuda,
    find_torch,
    fits_python,
    is_newer_than_driver,
    read_requirements,
    write_pins,
)
from uenv_builder.core.yaml_tree import Path


def check_driver(subject: Subject) -> Iterator[Finding]:
    """A driver that is older than CUDA's family asks for."""
    cuda, driver = find_cuda(subject), read_version(subject.system.driver)
    if cuda is None or driver is None:
        return
    for family in cuda_facts().families:
        if family.cuda == str(cuda.version.major) and driver < Version(family.driver):
            yield Finding(
                message=f"CUDA {cuda.text} needs driver {family.driver} or newer, and {subject.system.name} has "
                f"{subject.system.driver}",
                at=cuda.at, hint=_older_cuda(subject, driver), source=family.source,
            )  # fmt: skip


def check_toolkit_driver(subject: Subject) -> Iterator[Finding]:
    """A driver of the family that is older than the one that the toolkit came with."""
    cuda, driver = find_cuda(subject), read_version(subject.system.driver)
    if cuda is None or driver is None or any(check_driver(subject)):
        return
    if is_newer_than_driver(subject, cuda.text):
        brings = next(one.driver for one in cuda_facts().toolkits if one.cuda == cuda.text)
        yield Finding(
            message=f"CUDA {cuda.text} came with driver {brings}, and {subject.system.name} has the older "
            f"{subject.system.driver}",
            at=cuda.at, hint=f"{_older_cuda(subject, driver)}; or accept it once the checks have passed on a node",
        )  # fmt: skip


def check_torch_variant(subject: Subject) -> Iterator[Finding]:
    """A torch without CUDA although CUDA is pinned, or where the nodes have GPUs."""
    build, pinned = find_build(subject), subject.recipe.pins.cuda
    if build is None or build.variant != "cpu" or not (subject.gpu or pinned):
        return
    why = (
        f"CUDA {pinned} is pinned" if pinned else f"the nodes of {subject.system.name} have GPUs ({subject.uarch.gpu})"
    )
    what = "the locked torch" if build.locked else "torch"
    where = "" if build.torch.version.local else f" for {subject.uarch.machine}"
    yield Finding(
        message=f"{what} {build.torch.text}{where} is built for the CPU alone, and {why}",
        at=build.torch.at, hint=_take_cuda_build(subject, build),
    )  # fmt: skip


def check_torch_cuda(subject: Subject) -> Iterator[Finding]:
    """A torch that is built for another CUDA than the pinned one."""
    build, pinned = find_build(subject), subject.recipe.pins.cuda
    if build is None or pinned is None or read_version(build.cuda) in {None, Version(pinned)}:
        return
    other = choose_release(subject, cuda=pinned)
    yield Finding(
        message=f"torch {build.torch.text} is built for CUDA {build.cuda}, and CUDA {pinned} is pinned",
        at=("pins", "cuda"),
        hint=f'pin cuda: "{build.cuda}"' + (f"; or, for CUDA {pinned}, {write_pins(subject, other)}" if other else ""),
    )


def check_torch_nccl(subject: Subject) -> Iterator[Finding]:
    """A pinned or required NCCL that is not the one that torch requires."""
    build = find_build(subject)
    if build is None or build.nccl is None or (needed := read_version(build.nccl)) is None:
        return
    pinned = subject.recipe.pins.nccl
    if pinned is not None and read_version(pinned) not in {None, needed}:
        other = choose_release(subject, nccl=pinned)
        yield Finding(
            message=f"torch {build.torch.text} requires NCCL {build.nccl} exactly, and NCCL {pinned} is pinned: no "
            "resolver takes both, and torch would load its own wheel's NCCL whatever LD_LIBRARY_PATH says",
            at=("pins", "nccl"),
            hint=f'pin nccl: "{build.nccl}"'
            + (f"; or, for NCCL {pinned}, {write_pins(subject, other)}" if other else ""),
        )  # fmt: skip
    yield from _unmet_requirements(subject, build, "nccl", build.nccl)


def check_torch_cudnn(subject: Subject) -> Iterator[Finding]:
    """A required cuDNN that is not the one that torch requires."""
    build = find_build(subject)
    if build is not None and build.cudnn is not None:
        yield from _unmet_requirements(subject, build, "cudnn", build.cudnn)


def check_two_nccl(subject: Subject) -> Iterator[Finding]:
    """NCCL's wheels for two families of CUDA, which have the same file."""
    wheels = subject.lock.python.wheels if subject.lock and subject.lock.python else ()
    names = {wheel.name for wheel in wheels} or {one.name for one in read_requirements(subject)}
    both = sorted(names & {"nvidia-nccl-cu12", "nvidia-nccl-cu13"})
    if len(both) > 1:
        at = next((one.at for one in read_requirements(subject) if one.name in both), ("python",))
        yield Finding(message=f"{' and '.join(both)} both install nvidia/nccl/lib/libnccl.so.2", at=at)


def check_torch_python(subject: Subject) -> Iterator[Finding]:
    """A Python that torch has no wheel for."""
    torch, python = find_torch(subject), subject.python
    release = find_release(torch.version) if torch else None
    if torch is None or python is None or release is None:
        return
    if fits_python(release, python.version, subject.uarch.machine):
        return
    if python.version in SpecifierSet(release.requires_python):
        why = f"has wheels for {subject.uarch.machine} up to Python {release.newest_python}"
    else:
        why = f"requires Python {release.requires_python}"
    other = choose_release(subject)
    yield Finding(
        message=f"torch {torch.text} {why}, and the environment has Python {python.text}",
        at=torch.at,
        hint=(f"{write_pins(subject, other)}; or " if other else "")
        + "take a base whose Python torch has wheels for, and pin that Python",
    )


def check_gpu_architecture(subject: Subject) -> Iterator[Finding]:
    """A torch wheel without machine code for the nodes' GPU."""
    torch, gpu = find_torch(subject), subject.uarch.gpu
    release = find_release(torch.version) if torch else None
    if torch is None or gpu is None or release is None or not release.gpus or subject.uarch.machine != "aarch64":
        return
    if not any(_runs_on(built, gpu) for built in release.gpus):
        yield Finding(
            message=f"torch {torch.text} has machine code for {', '.join(release.gpus)}, and none that runs on {gpu}",
            at=torch.at,
        )


def check_nccl_wheel(subject: Subject) -> Iterator[Finding]:
    """A release of NCCL that has no wheel for aarch64."""
    if subject.uarch.machine != "aarch64":
        return
    for family, version, at in _wanted_nccl(subject):
        wheel = find_nccl_wheel(family, version)
        if wheel is not None and not wheel.aarch64:
            there = [one.version for one in nccl_facts().wheels if one.cuda == wheel.cuda and one.aarch64]
            near = [text for text in there if Version(text) > version][:1] + there[-1:]
            yield Finding(
                message=f"nvidia-nccl-cu{family} {version} has no wheel for aarch64",
                at=at, hint=f"take {' or '.join(dict.fromkeys(near))}",
            )  # fmt: skip


RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "cuda-driver": check_driver,
    "cuda-minor-version": check_toolkit_driver,
    "torch-cpu-wheel": check_torch_variant,
    "torch-cuda": check_torch_cuda,
    "torch-nccl": check_torch_nccl,
    "torch-cudnn": check_torch_cudnn,
    "torch-python": check_torch_python,
    "torch-gpu": check_gpu_architecture,
    "nccl-wheel": check_nccl_wheel,
    "nccl-two-wheels": check_two_nccl,
    **base_contents.RULES,
    **base_image.RULES,
    **known_bad.RULES,
}
"""The rules by id; each has its story in knowledge/rules/stack.yaml."""


def _older_cuda(subject: Subject, driver: Version) -> str:
    fitting = [one.cuda for one in cuda_facts().toolkits if Version(one.driver) <= driver]
    release = choose_release(subject)
    if find_torch(subject) and release and not is_newer_than_driver(subject, release.cuda.get(subject.uarch.machine)):
        return write_pins(subject, release)
    if not fitting:
        return "choose a system with a newer driver"
    newest = fitting[-1]
    if find_torch(subject) is None:
        return f'pin cuda: "{newest}" or older'
    return f"pin a torch for CUDA {newest} or older, such as one +cu{newest.replace('.', '')} of PyTorch's own index"


def _take_cuda_build(subject: Subject, build: TorchBuild) -> str:
    release = choose_release(subject, cuda=subject.recipe.pins.cuda) or choose_release(subject)
    if release is None:
        return "pin a build with a local version such as +cu130 from PyTorch's own index"
    return (
        f"{write_pins(subject, release)}; or pin a build for CUDA of PyTorch's own index, such as "
        f"{build.torch.version.public}+cu{(subject.recipe.pins.cuda or '13.0').replace('.', '')}"
    )


def _unmet_requirements(subject: Subject, build: TorchBuild, part: str, needed: str) -> Iterator[Finding]:
    for required in read_requirements(subject):
        if _is_part(required, part) and not required.specifier.contains(needed, prereleases=True):
            yield Finding(
                message=f"torch {build.torch.text} requires {required.name} {needed} exactly, and the recipe asks for "
                f"{required.specifier}: no resolver takes both",
                at=required.at, hint=f"leave it out, since torch brings it, or write {required.name}=={needed}",
            )  # fmt: skip


def _is_part(required: Required, part: str) -> bool:
    return required.name in {f"nvidia-{part}-cu12", f"nvidia-{part}-cu13"}


def _runs_on(built: str, gpu: str) -> bool:
    """Machine code runs on GPUs of its own major capability and the same or a newer minor one; sm_90a on 9.0 alone."""
    code, chip = built.removeprefix("sm_"), gpu.removeprefix("sm_")
    if not code.isdigit() or not chip.isdigit():
        return code == chip
    return code[:-1] == chip[:-1] and code[-1] <= chip[-1]


def _wanted_nccl(subject: Subject) -> Iterator[tuple[int, Version, Path]]:
    """Family of CUDA, version and place of each NCCL that the recipe asks for itself."""
    cuda, pinned, build = find_cuda(subject), read_version(subject.recipe.pins.nccl), find_build(subject)
    if pinned is not None and cuda is not None and (build is None or build.nccl is None):
        yield cuda.version.major, pinned, ("pins", "nccl")
    for required in read_requirements(subject):
        exact = read_version(required.exact)
        if _is_part(required, "nccl") and exact is not None:
            yield int(required.name[-2:]), exact, required.at
