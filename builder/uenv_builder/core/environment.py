"""The environment variables of an image: what may be in them, and where they come from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

from uenv_builder.model.errors import Diagnostic, IncompatibleError, Position, Severity
from uenv_builder.model.lock import Lock
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.system import NetworkMode, System

DEFAULT_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_BARE_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_ENROOT = "NVIDIA/enroot 4.1.2, src/common.sh and src/docker.sh"

Locate = Callable[[str], Position | None]


def check_environment(env: Mapping[str, str], locate: Locate = lambda _: None) -> list[Diagnostic]:
    """What is wrong with the variables of an image; `locate` gives the place of a variable by its name.

    Every engine must see the same value: OCI engines take it as it is, enroot reads it from /etc/environment line by
    line, strips blanks and a pair of quotes and fills in `${...}` from the host, and login shells set it again.
    """
    found = []
    for name, value in env.items():
        for severity, rule, message, hint in (*_name_findings(name), *_value_findings(name, value)):
            found.append(
                Diagnostic(
                    rule=rule, message=message, severity=severity, position=locate(name), hint=hint, source=_ENROOT
                )
            )
    return found


def compose_environment(
    system: System,
    network: NetworkMode,
    recipe_env: Mapping[str, str],
    *,
    base: Mapping[str, str] | None = None,
    search_paths: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """The variables of an image in a stable order: PATH, LANG, those of the base image that it stands on, the system's
    contract, the recipe's own; the later ones win.

    `search_paths` are folders that go before what such a variable has otherwise: `{"PATH": ["/opt/tool/bin"]}`. A
    variable of it that the recipe sets itself is the recipe's alone. Raises IncompatibleError where the system cannot
    run the network mode.
    """
    if network not in system.networks:
        raise IncompatibleError(
            f"{system.name} cannot run network mode {network}",
            rule="network-mode", hint=f"its modes: {', '.join(system.networks)}",
        )  # fmt: skip
    contract = system.env.get(network, {})
    below = {"PATH": ":".join(DEFAULT_PATH), "LANG": "C.UTF-8", **dict(sorted((base or {}).items()))}
    env = {**below, **dict(sorted(contract.items()))}
    for name, folders in sorted((search_paths or {}).items()):
        env[name] = ":".join([*folders, *([env[name]] if env.get(name) else [])])
    return {**env, **dict(sorted(recipe_env.items()))}


def base_environment(recipe: Recipe, lock: Lock) -> dict[str, str]:
    """The variables of the base image, without those that the recipe takes out; none on a userland of packages."""
    unset = recipe.base.oci.unset if recipe.base.oci else ()
    return lock.base.env_without(unset) if lock.base else {}


_Finding = tuple[Severity, str, str, str]


def _name_findings(name: str) -> Iterator[_Finding]:
    if not VARIABLE_NAME.match(name):
        yield (
            "error", "env-name", f'"{name}" is no name of an environment variable',
            "names are made of letters, digits and _, and do not start with a digit",
        )  # fmt: skip
    if name.startswith("ENROOT_"):
        yield (
            "error", "env-reserved", f"{name}: enroot drops variables of an image that start with ENROOT_",
            "set it where the job starts, or leave it out",
        )  # fmt: skip


def _value_findings(name: str, value: str) -> Iterator[_Finding]:
    control = next((character for character in value if unicodedata.category(character) in {"Cc", "Cs"}), None)
    if control is not None:
        yield (
            "error", "env-control", f"{name}: the value holds a control character (U+{ord(control):04X})",
            "a line end in a value would set further variables: write the value on one line",
        )  # fmt: skip
    for sign in ("${", "$(", "`"):
        if sign in value:
            yield (
                "error", "env-expansion", f"{name}: the value holds {sign}",
                "a value is taken as it is: write it out, or set it under `edf: env:`, where ${NAME} means the host's",
            )  # fmt: skip
    if bare := _BARE_VARIABLE.search(value):
        yield (
            "warning", "env-literal", f"{name}: {bare[0]} stays as it is written",
            "no engine fills in variables of an image: write the value out",
        )  # fmt: skip
    if value != value.strip():
        yield (
            "error", "env-blank", f"{name}: the value starts or ends with a blank", "engines strip it: leave it out"
        )  # fmt: skip
    stripped = value.strip()
    if len(stripped) > 1 and stripped[0] in "\"'" and stripped[-1] in "\"'":
        yield (
            "error", "env-quotes", f"{name}: the value is in quotes of its own",
            f"some engines strip them and others do not: write {stripped[1:-1]}",
        )  # fmt: skip
    if name == "PATH":
        yield from _path_findings(value)


def _path_findings(value: str) -> Iterator[_Finding]:
    folders = value.split(":")
    for folder in folders:
        if not folder.startswith("/"):
            yield (
                "error", "env-path", f'PATH: "{folder}" is no absolute path',
                "an empty or relative part means the folder that a job happens to start in",
            )  # fmt: skip
    if not {"/bin", "/usr/bin"} & set(folders):
        yield (
            "error", "env-path", "PATH: has neither /usr/bin nor /bin",
            "container engines start `sh` from PATH: add /usr/bin",
        )  # fmt: skip
