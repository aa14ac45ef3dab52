"""Locking a base image: what its reference means today, and what its files say that the rest of the lock needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from uenv_builder.app.base_reading import read_base
from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.app.session import Session
from uenv_builder.core.image_reference import read_image_reference
from uenv_builder.model.errors import IncompatibleError, LockError, NetworkError, Position, RecipeError, UenvError
from uenv_builder.model.lock import Lock, LockedAccelerator, LockedBase, LockedWheel
from uenv_builder.model.recipe import OciBase
from uenv_builder.model.system import Uarch
from uenv_builder.sources.oci_base import resolve_base


def lock_base(session: Session, loaded: LoadedRecipe, base: OciBase, uarch: Uarch, older: Lock | None) -> LockedBase:
    """The base image of the recipe for `uarch`, with its contents; of a tag, the image that an `older` lock chose.

    Raises, with the place in the recipe, what resolving, fetching and reading the image do, and IncompatibleError
    (rule `python-pin`) where the pinned Python is not in it.
    """
    with _at_image(loaded), session.listener.task(f"resolving {base.image.partition('@')[0]} for {uarch.oci}"):
        locked = resolve_base(_reference(base.image, older), uarch.oci, session.registries)
    locked = locked.model_copy(update={"reference": base.image})
    with _at_image(loaded):
        contents = read_base(
            session, locked, remove=base.remove, unset=base.unset, python=loaded.recipe.pins.python
        )  # fmt: skip
    found = locked.model_copy(update={"contents": contents})
    _require_python(loaded, found)
    return found


def require_buildable(loaded: LoadedRecipe) -> None:
    """Raise IncompatibleError, rule `base-components`, where the recipe has components: these are compiled in a
    userland of Debian packages, and a base image has its own.
    """
    if loaded.components.chosen:
        names = ", ".join(component.name for component in loaded.components.chosen)
        raise IncompatibleError(
            f"the recipe builds {names} from source, and components are compiled for bases of Debian packages only",
            rule="base-components", position=loaded.evaluated.tree.position(("base", "oci")),
            hint="let the host's hooks bring the network stack (`network: hook-host`), or name `base: {debian: ...}`",
        )  # fmt: skip


def base_glibc(loaded: LoadedRecipe, base: LockedBase) -> tuple[int, int]:
    """The glibc that wheels have to run on. Raises IncompatibleError, rule `no-glibc`, where the base has none."""
    match = re.fullmatch(r"(\d+)\.(\d+)", base.contents.glibc or "")
    if match is None:
        raise IncompatibleError(
            f"{base.name} has no glibc, and wheels need one", rule="no-glibc",
            position=_place(loaded), hint="choose a base with glibc, such as an image of Debian or Ubuntu",
        )  # fmt: skip
    return int(match[1]), int(match[2])


def require_no_second(loaded: LoadedRecipe, base: LockedBase, wheels: Sequence[LockedWheel]) -> None:
    """Raise IncompatibleError, rule `base-package`, where wheels would lie over other versions that the base has."""
    python = base.contents.python
    twice = [wheel for wheel in wheels if wheel.name in base.contents.distributions]
    if python is None or not twice:
        return
    findings = []
    for wheel in twice:
        has = base.contents.distributions[wheel.name]
        names = " ".join(dict.fromkeys([wheel.name, wheel.name.replace("-", "_")]))
        findings.append(
            IncompatibleError(
                f"{wheel.name} {wheel.version} is asked for, and {base.name} has {wheel.name} {has}: their files "
                "would lie in the same folders",
                rule="base-package", position=_requirement_place(loaded, wheel.name),
                hint=f"require {wheel.name}=={has} or no version, or take the base's out: remove its folders of "
                f"{names} below {python.packages} with remove: of base: oci:",
            ).diagnostics[0]
        )  # fmt: skip
    raise IncompatibleError.collect(findings)


def base_accelerator(base: LockedBase) -> LockedAccelerator | None:
    """What the torch of the base was built for, as its variables say; None without torch or without CUDA's."""
    torch = base.contents.distributions.get("torch")
    cuda = re.match(r"\d+\.\d+", base.env.get("CUDA_VERSION", ""))
    if torch is None or cuda is None:
        return None
    nccl, cudnn = (_numbers(base.env.get(name)) for name in ("NCCL_VERSION", "CUDNN_VERSION"))
    return LockedAccelerator(torch=torch, variant="cuda", cuda=cuda[0], nccl=nccl, cudnn=cudnn)


def is_met(base: LockedBase | None, name: str, version: str) -> bool:
    """Whether the base has that version of the Python package, whatever its build: 2.12.0a0+x.nv26.06 is a 2.12.0."""
    has = base.contents.distributions.get(str(canonicalize_name(name))) if base else None
    try:
        return has is not None and Version(has).release == Version(version).release
    except InvalidVersion:
        return False


def _reference(image: str, older: Lock | None) -> str:
    """Where the recipe has no digest: by that of the older lock, if that is of the same tag."""
    if "@" in image or older is None or older.base is None or older.base.reference != image:
        return image
    return f"{read_image_reference(image)}@sha256:{older.base.index_digest or older.base.manifest_digest}"


def _require_python(loaded: LoadedRecipe, base: LockedBase) -> None:
    wanted, python = loaded.recipe.pins.python, base.contents.python
    if wanted is None or (python is not None and python.version == wanted):
        return
    has = f"has Python {python.version}" if python else "has no Python in its PATH"
    raise IncompatibleError(
        f"Python {wanted} is pinned, but {base.name} {has}", rule="python-pin",
        position=loaded.evaluated.tree.position(("pins", "python")),
        hint=f'pin python: "{python.version}", or choose another base' if python else "choose a base with Python",
    )  # fmt: skip


def _numbers(text: str | None) -> str | None:
    """2.29.2 of what may be 2.29.2-1+cuda13.1."""
    found = re.match(r"\d+(\.\d+)+", text or "")
    return found[0] if found else None


@contextmanager
def _at_image(loaded: LoadedRecipe) -> Iterator[None]:
    """Tell errors about the image where the recipe names it."""
    try:
        yield
    except (IncompatibleError, LockError, NetworkError, RecipeError) as error:
        raise _placed(error, loaded) from error


def _placed(error: UenvError, loaded: LoadedRecipe) -> UenvError:
    place = _place(loaded)
    return type(error).collect(replace(each, position=each.position or place) for each in error.diagnostics)


def _place(loaded: LoadedRecipe) -> Position | None:
    return loaded.evaluated.tree.position(("base", "oci", "image"))


def _requirement_place(loaded: LoadedRecipe, name: str) -> Position | None:
    tree = loaded.evaluated.tree
    for number, text in enumerate(loaded.recipe.python.requirements):
        if canonicalize_name(Requirement(text).name) == name:
            return tree.position(("python", "requirements", number))
    pinned = name == "torch" and loaded.recipe.pins.pytorch
    return tree.position(("pins", "pytorch") if pinned else ("python",))
