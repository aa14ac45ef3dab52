"""What may stand in a recipe's `edf` section, of which an environment definition file (EDF) is written for each engine.

Container Engine and Sarus Suite read the same file in different ways: eth-cscs/cscs-docs
docs/software/container-engine/edf.md and resource-hook.md, sarus-suite/raster src/. The rules keep to what means the
same in both, and refuse what an engine would pass over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uenv_builder.core.edf.engine import Verdict
from uenv_builder.core.edf.hooks import Hooks, check_annotations, check_hooks
from uenv_builder.core.edf.mounts import Mount, check_mounts, parse_mount
from uenv_builder.core.edf.values import check_bases, check_env, check_expansion
from uenv_builder.core.rules.verdicts import diagnose
from uenv_builder.core.yaml_tree import Path
from uenv_builder.model.errors import Diagnostic, Position
from uenv_builder.model.recipe import EdfSection
from uenv_builder.model.system import NetworkMode, System

__all__ = ["Mount", "Place", "lint_edf_settings", "parse_mount"]

Place = Callable[..., Position | None]


def lint_edf_settings(
    settings: EdfSection,
    place: Place = lambda *_: None,
    *,
    system: System | None = None,
    network: NetworkMode | None = None,
) -> list[Diagnostic]:
    """What is wrong with a recipe's `edf` section; `place` gives the position of a value by its path in the section.

    With `system` and `network`, also where the recipe's annotations contradict those of the network mode.
    """
    contract = system.annotations.get(network, {}) if system and network else {}
    hooks = Hooks(annotations=settings.annotations, writable=settings.writable, contract=contract, reader=None)

    def locate(path: Path) -> Position | None:
        # What the network mode brings stands nowhere in the section.
        if path[:1] == ("annotations",) and path[-1] not in settings.annotations:
            path = ("annotations",)
        return place(*path)

    return [diagnose(rule, finding, locate) for rule, finding in _verdicts(settings, hooks)]


def _verdicts(settings: EdfSection, hooks: Hooks) -> Iterator[Verdict]:
    bases: dict[Path, str] = {
        ("base_environment", number): base for number, base in enumerate(settings.base_environment)
    }
    yield from check_bases(bases, None)
    yield from check_mounts(settings.mounts, None)
    if settings.workdir is not None:
        yield from check_expansion(("workdir",), "workdir", settings.workdir, None)
    yield from check_env(settings.env, None)
    yield from check_annotations(settings.annotations, None)
    yield from check_hooks(hooks)
