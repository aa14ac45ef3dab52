"""The lock as a file: YAML that people can review, and the digest that says whether it still fits its recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import yaml
from pydantic import ValidationError

from uenv_builder.core.component_choice import ChosenComponent, asked_for
from uenv_builder.core.digest import Json, digest_of
from uenv_builder.model.errors import LockError
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.spack import SpackSection
from uenv_builder.model.system import Uarch

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_FIRST_PINS = ("python", "cuda", "nccl", "pytorch")
"""Those that the digest has held from the beginning, set or not; others only where they are set, so that a new kind of
pin makes no lock stale."""
_HEADER = (
    "# Written by `uenv lock`; commit it beside the recipe. It names no mirror: any one serves, the sha256 decides.\n"
)


def recipe_digest(recipe: Recipe, uarch: Uarch, components: Sequence[ChosenComponent] = ()) -> str:
    """The digest of everything in `recipe` and its `components` that a resolver is asked for; a change elsewhere leaves
    a lock valid.
    """
    base = recipe.base
    asked: Json = {
        "uarch": uarch.name,
        **({"debian": base.debian.model_dump(mode="json")} if base.debian else {}),
        **({"oci": base.oci.model_dump(mode="json")} if base.oci else {}),
        "pins": {
            name: version
            for name, version in recipe.pins.model_dump(mode="json").items()
            if version or name in _FIRST_PINS
        },
        "requirements": recipe.python.requirements,
        "constraints": recipe.python.constraints,
        "byte_compile": recipe.python.byte_compile,
        **({"components": [asked_for(component) for component in components]} if components else {}),
        **({"spack": spack_asked(recipe.spack), "mount": recipe.mount} if recipe.spack else {}),
    }
    return digest_of(asked)


def spack_asked(section: SpackSection) -> Json:
    """What Spack's solver is asked for: views, mirrors and caches change nothing in its answer. Only what is set
    counts: a new key makes no lock stale.
    """
    asked: dict[str, Json] = section.model_dump(
        mode="json", exclude={"mirrors", "build_caches", "cleanup", "modules"}, exclude_defaults=True
    )
    asked["environments"] = {
        name: environment.model_dump(mode="json", exclude={"views"}, exclude_defaults=True)
        for name, environment in section.environments.items()
    }
    return asked


def dump_lock(lock: Lock) -> str:
    """The lock file's text: the same lock gives the same text."""
    document = lock.model_dump(mode="json", by_alias=True, exclude_none=True)
    return _HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


@lru_cache(maxsize=8)
def parse_lock(text: str, file: str) -> Lock:
    """The lock in `text`; raises LockError where it is not one (merge conflicts and hand edits among the causes).

    One that was read is remembered: checking, choosing and building each ask for the same text.
    """
    hint = f"write it anew with `uenv lock`; if {file} came out of a merge, take either side first"
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506  (a safe loader)
        return Lock.model_validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LockError(f"{file}: not a lock: {place}: {first['msg']}", rule="lock-invalid", hint=hint) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise LockError(f"{file}: not a lock: {reason}", rule="lock-invalid", hint=hint) from error
