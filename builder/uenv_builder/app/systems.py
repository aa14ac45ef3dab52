"""Systems by the names that users give."""

from __future__ import annotations

from uenv_builder.core.systems import load_system, system_names
from uenv_builder.core.yaml_tree import suggest
from uenv_builder.model.errors import UsageError
from uenv_builder.model.system import System
from uenv_builder.system.settings import load_settings
from uenv_builder.system.site_systems import read_site_systems


def named_system(name: str | None) -> System | None:
    """The system of that name, ours or the site's; None for None. Raises UsageError where there is none."""
    if name is None:
        return None
    site = read_site_systems(load_settings().systems)
    known = list(system_names(site))
    if name not in known:
        hint = suggest(name, known) or f"known systems: {', '.join(known)}"
        raise UsageError(f'unknown system "{name}"', rule="unknown-system", hint=hint)
    return load_system(name, site)
