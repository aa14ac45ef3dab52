"""What a user or a site has set: mirrors, index, where recipes and systems are found.

Precedence: command line, then the user's file, then the site's; what these leave open is asked of the environment and
of the machine's own tools. Files are TOML:
`$XDG_CONFIG_HOME/uenv-builder/config.toml` and `/etc/uenv-builder/config.toml` (`$UENV_SITE_CONFIG` names another).
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import platformdirs

from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The keys of the configuration files, with dashes there in place of underscores."""

    cache: str = ""
    """The store's folder; the environment's UENV_CACHE wins."""
    debian_mirrors: tuple[str, ...] = ()
    """URLs or folders that hold Debian's `dists` and `pool`; default: those of this machine's apt."""
    debian_keyring: str = ""
    """The keyring that signs the mirrors' Release files; default: Debian's own."""
    python_index: str = ""
    """URL of a simple repository API; default: what uv and pip are set to on this machine."""
    python_extra_indexes: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    """Folders or URLs of mirrors, which `uenv mirror` fills; asked before any other server, those of --mirror first."""
    registry_mirrors: tuple[str, ...] = ()
    """Where images are asked for first, as NAME=MIRROR: the beginning of images' names, and what takes its place."""
    insecure_registries: tuple[str, ...] = ()
    """Hosts (with their port) that are spoken to by http, as this machine itself always is."""
    registry_auth_files: tuple[str, ...] = ()
    """Files with credentials for registries; default: those that podman, skopeo and docker read."""
    recipe_path: tuple[str, ...] = ()
    """Folders that recipes are looked up in by name, before those that come with the builder."""
    systems: tuple[str, ...] = ()
    """Folders that hold a site's own systems, one NAME.yaml each; the environment's UENV_SYSTEM_PATH wins."""
    slurm_account: str = ""
    """Of jobs that `uenv test` and `uenv build` submit; over the system's own, as the next four."""
    slurm_partition: str = ""
    slurm_constraint: str = ""
    slurm_time: str = ""
    slurm_options: tuple[str, ...] = ()
    """Further options of sbatch, after the system's own."""
    files: tuple[str, ...] = field(default=(), metadata={"internal": True})
    """The files that these settings were read from, strongest first."""


_KEYS = {entry.name.replace("_", "-"): entry for entry in fields(Settings) if not entry.metadata}


def load_settings() -> Settings:
    """The settings of this user on this machine; a key that is unknown or of the wrong type is a UsageError."""
    values: dict[str, str | tuple[str, ...]] = {}
    found = [path for path in settings_places() if path.is_file()]
    for path in reversed(found):
        values |= _read(path)
    settings = replace(Settings(**values), files=tuple(str(path) for path in found))  # type: ignore[arg-type]
    if path_list := os.environ.get("UENV_RECIPE_PATH"):
        settings = replace(settings, recipe_path=tuple(path_list.split(os.pathsep)))
    if path_list := os.environ.get("UENV_SYSTEM_PATH"):
        settings = replace(settings, systems=tuple(path_list.split(os.pathsep)))
    return settings


def settings_places() -> tuple[Path, Path]:
    """Where the user's file and the site's would be; the user's counts more."""
    user = platformdirs.user_config_path("uenv-builder") / "config.toml"
    return user, Path(os.environ.get("UENV_SITE_CONFIG", "/etc/uenv-builder/config.toml"))


def _read(path: Path) -> dict[str, str | tuple[str, ...]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}", rule="settings") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", rule="settings") from error
    values: dict[str, str | tuple[str, ...]] = {}
    for key, value in document.items():
        entry = _KEYS.get(key)
        if entry is None:
            hint = suggest(key, list(_KEYS)) or f"known keys: {', '.join(_KEYS)}"
            raise UsageError(f'{path}: unknown key "{key}"', rule="settings", hint=hint)
        if entry.type == "str" and isinstance(value, str):
            values[entry.name] = value
        elif entry.type != "str" and isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[entry.name] = tuple(value)
        else:
            expected = "a string" if entry.type == "str" else "an array of strings"
            raise UsageError(f'{path}: "{key}" must be {expected}', rule="settings")
    return values
