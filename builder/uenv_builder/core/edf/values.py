"""Rules about single values of an EDF: variables of the host in them, paths of bases, names and values of `env`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace

from uenv_builder.core.edf.engine import EDF_SOURCE, RASTER_SOURCE, Reader, Verdict
from uenv_builder.core.environment import VARIABLE_NAME
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.errors import Severity

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^{}$]*)?\}")
ROOTED = re.compile(r"/|\$\{[A-Za-z_]|\$[A-Za-z_]")
"""The beginning of an absolute path; `$NAME` is a fault of its own."""
_SHELL = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*[^A-Za-z0-9_{}][^{}]*\})")
"""What a shell fills in beside ${NAME}: $NAME, and forms such as ${NAME%/}."""
_ESCAPED = re.compile(r"\\.")
_LITERAL = re.compile(r"\$\$\{[^{}]*\}")
_PAIR = re.compile(r"\$\$")
_JOB_VARIABLES = ("SLURM_", "PMI_", "PMIX_")
_READ_BY_ENROOT = ("ENROOT_SLURM_HOOK",)


def check_expansion(at: Path, what: str, text: str, reader: Reader, *, in_base: bool = False) -> Iterator[Verdict]:
    """What is wrong with the variables in `text`; `in_base`: another EDF builds on the one it stands in."""
    if reader == "sarus":
        text = _ESCAPED.sub("", text)
    twice = reader is None or (reader == "sarus" and (at[:1] == ("mounts",) or in_base))
    for finding in _signs(text, reader, twice=twice, strict=reader == "sarus" and at[:1] == ("mounts",)):
        message = f"{what}: {finding.message}"
        yield "edf-expansion", replace(finding, message=message, at=at, source=finding.source or EDF_SOURCE)


def _signs(text: str, reader: Reader, *, twice: bool, strict: bool) -> Iterator[Finding]:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        yield Finding(message="the value holds a control character", hint="write the value on one line")
    for sign in ("$(", "`"):
        if sign in text:
            hint = "engines fill in ${NAME} and run nothing"
            yield Finding(message=f"the value holds {sign}", hint=hint, source=RASTER_SOURCE)
            return
    if "$$" in text and twice:
        hint = "leave it out: it is filled in twice here" if reader else "the engines read it differently: leave it out"
        yield Finding(message="the value holds $$", hint=hint, source=RASTER_SOURCE)
    else:
        yield from _dollars(text, reader)
    for sign in (";", '"'):
        if sign in text and reader != "ce":
            hint = "leave it out" if reader else "leave it out where the file shall serve both engines"
            yield Finding(
                message=f"Sarus Suite refuses values with {sign}", hint=hint, source=RASTER_SOURCE,
                severity=None if strict else "warning",
            )  # fmt: skip


def _dollars(text: str, reader: Reader) -> Iterator[Finding]:
    """Dollar signs that are no variable in braces."""
    literal = _LITERAL if reader == "ce" else _PAIR
    rest = VARIABLE.sub("", literal.sub("", text) if reader else text)
    left = _SHELL.sub("", rest)
    shell = _SHELL.search(rest)
    hint = f"write {_in_braces(shell[0])}" if shell else "write ${NAME} or ${NAME:-}, with braces"
    if reader == "sarus" and shell is not None and "$" not in left:
        message = f"{shell[0]} is read by a shell here, and Container Engine does not fill it in"
        yield Finding(message=message, hint=hint, severity="note")
    elif "$" in rest:
        what = f'a $ that is not part of ${{NAME}}: "{shell[0] if shell else text}"'
        severity: Severity | None = "warning" if reader == "sarus" and "${" not in left else None
        yield Finding(message=what, hint=hint, severity=severity)


def _in_braces(variable: str) -> str:
    name = re.match(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", variable)
    return "${" + (name[1] if name else "NAME") + "}"


def check_defined(at: Path, what: str, text: str, host_env: Mapping[str, str]) -> Iterator[Verdict]:
    """Variables without a default that the host does not have; those that only a job has are not judged."""
    for match in VARIABLE.finditer(_LITERAL.sub("", text)):
        name = match[1]
        if match[2] is None and name not in host_env and not name.startswith(_JOB_VARIABLES):
            message = f"{what}: ${{{name}}} is not set on the host"
            yield "edf-variable", Finding(message=message, at=at, hint=f"export {name}, or write ${{{name}:-}}")


def fill_in(text: str, host_env: Mapping[str, str]) -> str | None:
    """`text` with the host's variables in it; None where one is not set."""
    for match in VARIABLE.finditer(text):
        if match[2] is None and match[1] not in host_env:
            return None
    return VARIABLE.sub(lambda match: host_env.get(match[1]) or (match[2] or ":-")[2:], text)


def check_bases(bases: Mapping[Path, str], reader: Reader) -> Iterator[Verdict]:
    """What is wrong with the names of the EDFs that this one builds on."""
    for at, base in bases.items():
        yield from check_expansion(at, "base_environment", base, reader)
        if ROOTED.match(base):
            continue
        # Sarus Suite searches for sub/name, and takes name.toml for a file of the current folder.
        relative = base.startswith(".") or (reader == "sarus" and base.endswith(".toml"))
        misread = reader != "sarus" and ("/" in base or base.endswith(".toml"))
        if relative or misread:
            problem = "depends on the folder that a job starts in"
            if reader and not relative:
                problem = "is neither an absolute path nor a name in the search path"
            yield "edf-relative-path" if reader and relative else "edf-base", Finding(
                message=f'base_environment: "{base}" {problem}', at=at, source=EDF_SOURCE,
                hint="give an absolute path, or a name in the search path without .toml",
            )  # fmt: skip


def check_env(env: Mapping[str, str], reader: Reader, *, inherited: frozenset[str] = frozenset()) -> Iterator[Verdict]:
    """What is wrong with the names and values of `env`; `inherited` are those of a file that another one builds on."""
    for name, value in env.items():
        at: Path = ("env", name)
        yield from check_expansion(at, f"env: {name}", value, reader, in_base=name in inherited)
        if not VARIABLE_NAME.match(name):
            yield "env-name", Finding(
                message=f'env: "{name}" is no name of an environment variable', at=at,
                hint="names are made of letters, digits and _, and do not start with a digit",
            )  # fmt: skip
        others = sorted({match[1] for match in VARIABLE.finditer(value)} & (set(env) - {name}))
        if others:
            yield "edf-env-reference", Finding(
                message=f"env: {name} refers to {others[0]}, which is set beside it", at=at,
                hint="variables here come from the host alone: write the value out", source=EDF_SOURCE,
            )  # fmt: skip
        if reader == "ce":
            yield from _engine_variables(at, name, value)


def _engine_variables(at: Path, name: str, value: str) -> Iterator[Verdict]:
    if name.startswith("ENROOT_") and name not in _READ_BY_ENROOT:
        yield "env-reserved", Finding(
            message=f"env: {name} is a setting of enroot's own, which does not reach the container", at=at,
            hint="export it where the job starts, or leave it out", severity="warning",
        )  # fmt: skip
    if name == "NVIDIA_VISIBLE_DEVICES" and value in {"", "void"}:
        yield (
            "edf-gpu-hidden",
            Finding(message=f'env: {name} is "{value}", which leaves the GPU driver out of the container', at=at),
        )
