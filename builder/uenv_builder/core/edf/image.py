"""How an EDF names its image, and what that name tells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from uenv_builder.core.edf.engine import EDF_SOURCE, RASTER_SOURCE, Dialect, Verdict
from uenv_builder.core.edf.values import VARIABLE
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.errors import Severity

# Registry host with an optional port, lower-case repository, tag, digest: what both enroot and podman take.
_HOST = r"(?P<host>[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]+)?)"
_REFERENCE = re.compile(
    rf"({_HOST}(?P<mark>[/#]))?(?P<name>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*))?(@sha256:(?P<digest>[0-9a-f]{64}))?"
)
_PATH = re.compile(r"(/|\$\{[A-Za-z_][A-Za-z0-9_]*\}/)[^\x00-\x1f]*")
_USER = re.compile(r"[A-Za-z0-9_.!~*'()%;:&=+$,-]+@(?!sha[0-9]+:)")
_SCHEME = re.compile(r"([a-z]+)://")
_SUFFIXES = (".sqsh", ".squashfs", ".squash")
_MOVING_TAG = re.compile(r"(.*[-_.])?(latest|stable|edge|nightly|main|master|dev|devel|rolling|testing)", re.IGNORECASE)
_EXTENDED = re.compile(r"alps-extended-images|/alps-images/|-alps[0-9]+(\b|$)")
_CUDA = re.compile(r"(^|/)nvidia/cuda:(?P<major>[0-9]+)\.|[-_+]cuda(?P<other>1[0-9])(\.|\b)")
_BARE_CUDA = re.compile(r"(^|/)nvidia/cuda:[^@]*-(base|runtime)\b")
_AT: Path = ("image",)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image of a registry."""

    host: str
    mark: str
    """What stands behind the host: `/`, or `#` as enroot has it; empty without a host."""
    name: str
    tag: str
    digest: str
    """Without its `sha256:`; this and `tag` are empty where they are not given."""

    @property
    def text(self) -> str:
        """As podman and skopeo write it."""
        host = f"{self.host}/" if self.host else ""
        digest = f"@sha256:{self.digest}" if self.digest else ""
        return f"{host}{self.name}{f':{self.tag}' if self.tag else ''}{digest}"


def is_image_path(image: str) -> bool:
    """Whether `image` is a file by its absolute path, which may begin with `${VARIABLE}/`."""
    return _PATH.fullmatch(image) is not None


def parse_reference(image: str) -> Reference | None:
    """The image of a registry that `image` names; None where it names none."""
    match = _REFERENCE.fullmatch(image)
    if match is None or image.endswith(_SUFFIXES):
        return None
    host, name, mark = match["host"] or "", match["name"], match["mark"] or ""
    if mark == "/" and not re.search(r"[.:]|^localhost$", host):
        # Without a dot or a port it is the first part of a name on Docker Hub.
        host, name, mark = "", f"{host}/{name}", ""
    return Reference(host, mark, name, match["tag"] or "", match["digest"] or "")


def is_extended(image: str) -> bool:
    """Whether it is one of the Alps Extended Images, which bring their own network stack."""
    return _EXTENDED.search(image) is not None


def find_cuda(image: str) -> str | None:
    """The major version of the image's CUDA where its name tells it, such as "12"."""
    match = _CUDA.search(image.lower().replace("#", "/"))
    return (match["major"] or match["other"]) if match else None


def lacks_cudart_link(image: str) -> bool:
    """Whether it is an image of CUDA without its development files, which libcudart.so without a version is part of."""
    return _BARE_CUDA.search(image.replace("#", "/")) is not None


def check_image(image: str, reader: Dialect) -> Iterator[Verdict]:
    """What is wrong with the name of the image for one engine, beside variables in it."""
    if reader == "ce" and (image.startswith((".", "/")) or VARIABLE.match(image)):
        yield from _check_path(image)
        return
    scheme = _SCHEME.match(image)
    plain = image[scheme.end() :] if scheme and scheme[1] in {"docker", "dockerd"} else image
    problems = _ce_problems if reader == "ce" else _sarus_problems
    problem = next(problems(image, plain), None)
    if problem is None:
        user = _USER.match(plain)
        plain = plain[user.end() :] if user else plain
        filled = VARIABLE.sub("x", plain)
        reference = parse_reference(filled)
        problem = _grammar(image, filled) if reference is None else None
    if problem is not None:
        yield "edf-image", Finding(message=f"image: {problem[0]}", at=_AT, hint=problem[1],
                                   source=EDF_SOURCE if reader == "ce" else RASTER_SOURCE)  # fmt: skip
    elif reference is not None:
        yield from _check_tag(plain, reference)


def _check_path(image: str) -> Iterator[Verdict]:
    if image.startswith("."):
        message = f'image: "{image}" depends on the folder that a job starts in'
        yield "edf-relative-path", Finding(message=message, at=_AT, hint="give an absolute path")
    elif VARIABLE.match(image) and not is_image_path(image) and not image.endswith(_SUFFIXES) and "/" in image:
        message = f'image: "{image}" is no absolute path'
        yield "edf-image", Finding(message=message, at=_AT, hint="write / behind the variable", source=EDF_SOURCE)


_Problem = tuple[str, str]


def _ce_problems(image: str, plain: str) -> Iterator[_Problem]:
    if (scheme := _SCHEME.match(plain)) is not None:
        yield f'"{scheme[0]}" is no part of an image\'s name here', f"write {plain[scheme.end() :]}"
    if image.startswith("~"):
        yield f'"{image}" is no absolute path: the engine does not fill in ~', "write ${HOME} instead of ~"
    if image.endswith(_SUFFIXES):
        yield (
            f'"{image}" is looked for in a registry, because it does not begin with /',
            "give the file's absolute path, such as ${SCRATCH}/" + image.rpartition("/")[2],
        )


def _sarus_problems(image: str, plain: str) -> Iterator[_Problem]:
    if plain.startswith((".", "/", "~")) or plain.endswith(_SUFFIXES):
        yield (
            f"Sarus Suite takes images from a registry only, and {image} is a file",
            "publish the OCI image and name it by its registry reference",
        )
    if "$" in plain:
        yield "Sarus Suite does not fill in variables in the image's name", "write the name out"
    if "#" in plain:
        yield f'Sarus Suite does not read the "#" in {image}', f"write {image.replace('#', '/', 1)}"
    if (scheme := _SCHEME.match(plain)) is not None:
        yield f'"{scheme[0]}" is no registry', f"write {plain[scheme.end() :]}"
    if _USER.match(plain):
        yield "Sarus Suite reads no user in the image's name", "log in with podman, and leave the user out"


def _grammar(image: str, filled: str) -> _Problem:
    if "@" in filled and parse_reference(filled.partition("@")[0]) is not None:
        return f'the digest of "{image}" is not sha256: and 64 hexadecimal digits', "copy it from the registry"
    lowered = parse_reference(_lower_name(filled))
    if lowered is not None:
        return f'"{image}" has upper case in the image\'s name, which no registry takes', f"write {_lower_name(image)}"
    return (
        f'"{image}" is neither an absolute path nor a registry reference',
        "for example ${SCRATCH}/image.squashfs, or nvcr.io/nvidia/pytorch:26.02-py3",
    )


def _lower_name(image: str) -> str:
    """`image` with all but its tag and its variables in lower case."""
    slash = image.rfind("/")
    colon = image.find(":", slash + 1)
    end = len(image) if colon < 0 else colon
    return (
        re.sub(r"(\$\{[^}]*\})|.", lambda match: match[0] if match[1] else match[0].lower(), image[:end]) + image[end:]
    )


def _check_tag(plain: str, reference: Reference) -> Iterator[Verdict]:
    if reference.digest:
        return
    moving = not reference.tag or _MOVING_TAG.fullmatch(reference.tag) is not None
    severity: Severity = "warning" if moving else "note"
    # Variables are written as x in the reference.
    known = VARIABLE.search(plain) is None
    tag = f'the tag "{reference.tag}" moves' if reference.tag and moving else "it has no digest"
    tag = "it has no tag, which means latest, and moves" if not reference.tag else tag
    show = f"; `skopeo inspect docker://{reference.text}` prints it" if known else ""
    yield "edf-image-tag", Finding(
        message=f"image: {plain} may be another image tomorrow: {tag}", at=_AT, severity=severity,
        hint=f"put its digest behind it: {plain}@sha256:...{show}",
    )  # fmt: skip
