"""The plan as a file of a build, and why a step of another plan differs from it: which input of its id changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from uenv_builder.core.digest import Document, Json
from uenv_builder.model.plan import Plan, Step

_FORMAT = 1
_SHOWN, _NAMES = 60, 3
"""Characters of a value, and how many names or new lines of a text, in a line for people."""
_HASH = re.compile("[0-9a-f]{64}")
_OF_PACKAGES = {"wheel", "component", "debug-symbols"}
_OF_VERSION = ("file", "sha256")
"""Options that say no more than that the version is another one."""


def plan_document(plan: Plan) -> Document:
    """The whole plan, with the options and the tools that the ids stand for, as plan.json has it."""
    return {"format": _FORMAT, "id": plan.id, "steps": [asdict(step) for step in plan.steps]}


def read_plan(text: str) -> Plan:
    """The plan in a plan.json; raises ValueError where the text is none, or of another format."""
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise ValueError(f"a plan of format {document['format']}, this is {_FORMAT}")
        return Plan(id=document["id"], steps=tuple(_step(step) for step in document["steps"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a plan: {error}") from error


def _step(document: Document) -> Step:
    tools = tuple((name, version) for name, version in document["tools"])
    return Step(**{**document, "inputs": tuple(document["inputs"]), "tools": tools})


def find_changes(step: Step, plan: Plan, before: Plan) -> list[str]:
    """What of `step`, one of `plan`, is not as in the plan `before`, a line each; nothing where both have its id."""
    if any(old.id == step.id for old in before.steps):
        return []
    old = _counterpart(step, before)
    if old is None:
        return ["new in the plan"]
    return list(_changes(old, step, {other.id: other for other in (*before.steps, *plan.steps)})) or [
        "made by another version of the builder"
    ]


def _counterpart(step: Step, before: Plan) -> Step | None:
    """The step that did the same before: of the same name, else of the same package, else the only one of its kind."""
    same = [old for old in before.steps if _purpose(old) == _purpose(step)]
    named = [old for old in same if old.name == step.name]
    return next(iter(named or same), None)


def _purpose(step: Step) -> tuple[str, str]:
    """What a step is for, whatever the version: there is one of most kinds, and one of a package of the others."""
    package = step.name.rpartition(" ")[0] if step.kind in _OF_PACKAGES else ""
    return step.kind, package


def _changes(old: Step, new: Step, steps: Mapping[str, Step]) -> Iterator[str]:
    old_options, new_options = json.loads(old.options), json.loads(new.options)
    if old.name != new.name:
        yield f"{old.name} before"
        for name in _OF_VERSION:
            old_options.pop(name, None)
            new_options.pop(name, None)
    yield from _differences(old_options, new_options)
    yield from _differences(dict(old.tools), dict(new.tools))
    come = [steps[step] for step in new.inputs if step not in old.inputs]
    purposes = {_purpose(step) for step in come}
    gone = [steps[step] for step in old.inputs if step not in new.inputs and _purpose(steps[step]) not in purposes]
    if come:
        yield f"made from: {_listed([step.name for step in come])}"
    if gone:
        yield f"no longer made from: {_listed([step.name for step in gone])}"
    if not come and not gone and old.inputs != new.inputs:
        yield "another order of what it is made from"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _differences(old: Json, new: Json, path: str = "") -> Iterator[str]:
    """One line for each value that is not the same in both, with its path."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            place = f"{path}.{name}" if path else name
            if name not in old:
                yield f"{place}: new: {_shown(new[name])}"
            elif name not in new:
                yield f"{place}: gone"
            else:
                yield from _differences(old[name], new[name], place)
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{path}: {_list_difference(old, new)}"
    elif isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        yield f"{path}: {_list_difference(old.splitlines(), new.splitlines())}"
    else:
        yield f"{path}: {_shown(new)} instead of {_shown(old)}"


def _list_difference(old: Sequence[Json], new: Sequence[Json]) -> str:
    come = [item for item in new if item not in old]
    gone = [item for item in old if item not in new]
    if len(come) == len(gone) == 1:
        [one], [other] = come, gone
        if isinstance(one, str) and isinstance(other, str) and "\n" in one + other:
            return _list_difference(other.splitlines(), one.splitlines())
        return f"{_shown(one)} instead of {_shown(other)}"
    if not come and not gone:
        return "another order"
    if not gone and len(come) <= _NAMES and not any(_HASH.fullmatch(str(item)) for item in come):
        return f"new: {', '.join(_shown(item) for item in come)}"
    return f"{len(come)} of {len(new)} are new, {len(gone)} of {len(old)} are gone"


def _shown(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
