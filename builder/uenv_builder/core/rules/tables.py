"""All rules that a recipe is checked by; each id stands in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uenv_builder.core.rules import network, settings, stack, tuning
from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.rules.subject import Subject

SUBJECT_RULES: dict[str, Callable[[Subject], Iterator[Finding]]] = {**stack.RULES, **network.RULES}
"""Over recipe, lock and system."""

RUNTIME_RULES: dict[str, Callable[[Runtime], Iterator[Finding]]] = {**settings.RULES, **tuning.RULES}
"""Over the variables of a job, wherever they are set."""
