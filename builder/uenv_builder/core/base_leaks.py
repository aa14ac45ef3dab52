"""What a base image leaves in every job, found in its files and variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from uenv_builder.model.errors import Severity

Where = Literal["anywhere", "slingshot", "nccl-wheel"]
"""Where a leak does harm: in every job, in jobs over Slingshot, or beside an NCCL from wheels."""


@dataclass(frozen=True, slots=True)
class _Harm:
    text: str
    where: Where = "anywhere"
    severity: Severity = "warning"


_PATH_LEAKS = (
    (
        re.compile(r"(?P<what>opt/hpcx[^/]*)"),
        _Harm("HPC-X brings an Open MPI on UCX, which does not know Slingshot, and NCCL plugins for other networks",
              "slingshot"),
    ),
    (
        re.compile(r"(?P<what>opt/amazon/(?:efa|[^/]*ofi-nccl))"),
        _Harm("it is made for Amazon's network: NCCL or the loader may take it instead of what is made for Slingshot",
              "slingshot", "error"),
    ),
    (
        re.compile(r"(?P<what>(?!.*/nvidia/nccl/lib/).*(?<![^/])libnccl\.so)[^/]*"),
        _Harm("it is a second NCCL beside the one of torch's wheel, and every program but torch loads it",
              "nccl-wheel"),
    ),
    (
        re.compile(r"(?P<what>.*(?<![^/])libnccl-(?:net|tuner)[^/]*\.so)[^/]*"),
        _Harm("it is a plugin that NCCL may load instead of the one for Slingshot", "slingshot", "error"),
    ),
    (re.compile(r"(?P<what>etc/ld\.so\.preload)"), _Harm("the loader puts what it names into every program")),
)  # fmt: skip
"""What is harmful wherever it is found: by its path in the image, and why. `what` and all that begins so goes."""
_VARIABLE_LEAKS = {
    "LD_PRELOAD": _Harm("the loader puts it into every program"),
    "NCCL_NET_PLUGIN": _Harm("NCCL then tries that plugin only, and not the one for Slingshot", "slingshot", "error"),
    "NCCL_TUNER_PLUGIN": _Harm(
        "NCCL then takes its choices from that plugin, which is made for other networks", "slingshot"
    ),
    "PIP_CONSTRAINT": _Harm("pip then holds what users install to the versions that it lists"),
}


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that a base would leave in every job, and the entries of `remove:` and `unset:` that take it out."""

    what: str
    """An absolute path of the image, or a variable with its value."""
    harm: str
    where: Where = "anywhere"
    severity: Severity = "warning"
    remove: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


def find_leaks(paths: Iterable[str], env: Mapping[str, str]) -> tuple[Leak, ...]:
    """What an image with `paths` (all of it, as in `Entry`) and `env` would leave in every job, each with its remedy.

    Unlike the rules about known images, this looks at what is really there. An image without it gives nothing.
    """
    found: dict[str, Leak] = {}
    for path in sorted(paths):
        for pattern, harm in _PATH_LEAKS:
            match = pattern.fullmatch(path)
            if match is not None and not any(path.startswith(f"{leak.what[1:]}/") for leak in found.values()):
                remedy = f"/{match['what']}{'*' if match['what'].endswith('.so') else ''}"
                found.setdefault(remedy, Leak(f"/{path}", harm.text, harm.where, harm.severity, (remedy,)))
    variables = [
        Leak(f"{name}={env[name]}", harm.text, harm.where, harm.severity, unset=(name,))
        for name, harm in _VARIABLE_LEAKS.items()
        if env.get(name)
    ]
    return (*found.values(), *variables)
