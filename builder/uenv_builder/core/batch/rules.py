"""What is wrong with a Slurm batch script: all rules of knowledge/rules/batch.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uenv_builder.core.batch import file_rules, step_rules, torch_rules
from uenv_builder.core.batch.job import Job, Spot
from uenv_builder.core.batch.runtime import BatchContext, runtime
from uenv_builder.core.batch.script import BatchScript, read_batch_script
from uenv_builder.core.rules.stories import load_chapter
from uenv_builder.model.errors import Diagnostic

__all__ = ["RULES", "BatchContext", "BatchScript", "check_batch_script", "read_batch_script", "runtime"]

RULES: dict[str, Callable[[Job], Iterator[Spot]]] = {
    **file_rules.RULES,
    **step_rules.RULES,
    **torch_rules.RULES,
}
"""The rules by id; each has its story in knowledge/rules/batch.yaml."""


def check_batch_script(content: bytes, file: str, context: BatchContext) -> tuple[BatchScript, list[Diagnostic]]:
    """The batch script `content` and what is wrong with it, in the order of its lines; `file` is its name.

    Rules about variables that recipes and EDF files share are not among these: they look at `runtime(...)`.
    """
    script = read_batch_script(content, file)
    job = Job(script, context)
    found = [(spot, rule) for rule, check in RULES.items() for spot in check(job)]
    found.sort(key=lambda item: item[0].offset)
    return script, [_explain(spot, rule, script) for spot, rule in found]


def _explain(spot: Spot, rule: str, script: BatchScript) -> Diagnostic:
    story = load_chapter("batch").stories[rule]
    return Diagnostic(
        rule=rule,
        message=spot.message,
        severity=spot.severity or story.severity,
        position=script.position(spot.offset),
        hint=spot.hint or story.remedy,
        source=story.sources[0],
    )
