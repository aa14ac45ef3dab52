"""What `uenv check` finds in a batch script."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from uenv_builder.app.edf_files import read_edf_variables
from uenv_builder.app.systems import named_system
from uenv_builder.core.batch.rules import BatchContext, BatchScript, check_batch_script
from uenv_builder.core.batch.rules import runtime as batch_runtime
from uenv_builder.core.batch.script import Step
from uenv_builder.core.rules.tables import RUNTIME_RULES
from uenv_builder.core.rules.verdicts import run_rules, without_repetition
from uenv_builder.core.variable_lint import lint_variables
from uenv_builder.model.errors import Diagnostic, Position, UsageError
from uenv_builder.model.system import NetworkMode

# Batch scripts have a rule of their own for the launch line, which knows all places that its options come from.
_SCRIPT_RULES = {rule: judge for rule, judge in RUNTIME_RULES.items() if rule != "alt-read-launch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptOptions:
    """What a user tells about where a batch script runs."""

    system: str | None = None
    network: NetworkMode | None = None


def find_in_script(path: Path, options: ScriptOptions) -> list[Diagnostic]:
    """All that is wrong with the batch script at `path`, in the order of its lines. Raises UsageError where it cannot
    be read, or no system has the given name.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", rule="unreadable") from error
    context = BatchContext(system=named_system(options.system), network=options.network, read_edf=read_edf_variables)
    script, findings = check_batch_script(content, str(path), context)
    for step in script.steps:
        seen = batch_runtime(script, step, context)
        found = run_rules(_SCRIPT_RULES, seen, partial(script.locate, step=step))
        # What the script does not set may come from anywhere: only what it sets itself is its fault.
        findings += [finding for finding in found if finding.position]
        own = {name: value for name, value in seen.env.items() if name in seen.own}
        findings += lint_variables(
            own, versions=seen.versions, locate=partial(_locate_variable, script, step), quoted=True
        )
    return without_repetition(findings)


def _locate_variable(script: BatchScript, step: Step, name: str) -> Position | None:
    return script.locate(("env", name), step)
