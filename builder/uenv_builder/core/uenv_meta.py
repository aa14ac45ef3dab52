"""meta/env.json of a uenv as the site's command reads it, and what a view of it does to an environment.

The reader is stricter than that command, which ends with a crash where a table is missing, and drops what it does not
understand with no more than a line in its log (eth-cscs/uenv 5af9df7: src/uenv/meta.cpp, src/util/envvars.cpp).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias, cast, get_args

from uenv_builder.core.environment import VARIABLE_NAME
from uenv_builder.model.errors import BuildError

Operation = Literal["set", "prepend", "append", "unset"]
PLACE = "meta/env.json"
"""Below the image's root, which is what is mounted."""
EXPANSION = re.compile(r"\$\{@(.*?)@\}")
"""`${@NAME@}`: the variable of the environment that a view is applied to; nothing else is filled in."""
OPENING = "${@"
EXPANSION_HINT = "${@NAME@} means the variable of whoever starts the uenv; all else is taken as it is written"
_OPERATIONS = frozenset(get_args(Operation))
_Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListChange:
    """One change to a search path, with its folders; `unset` has none."""

    op: Operation
    value: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UenvView:
    """A view: changes to search paths in their order, and other variables with their values (None: taken away)."""

    description: str = ""
    lists: Mapping[str, tuple[ListChange, ...]] = field(default_factory=dict)
    scalars: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UenvMeta:
    """What a uenv says of itself. `mount` is absolute; `default_view` is what uenv 10 takes where none is named."""

    name: str
    mount: str
    description: str = ""
    default_view: str | None = None
    views: Mapping[str, UenvView] = field(default_factory=dict)


def read_env_json(text: str, where: str = PLACE) -> UenvMeta:
    """The content of an env.json; raises BuildError (uenv-meta) for what the uenv command would refuse or not apply."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BuildError(f"{where}: is no JSON: {error}", rule="uenv-meta", hint="build the image again") from error
    reader = _Reader(where)
    top = reader.table(document, ())
    views = reader.table(top.get("views", {}), ("views",))
    meta = UenvMeta(
        name=reader.text(top.get("name"), ("name",)),
        mount=reader.text(top.get("mount"), ("mount",)),
        description=reader.text(top.get("description") or "", ("description",)),
        default_view=reader.optional(top.get("default-view"), ("default-view",)),
        views={name: _read_view(reader, view, ("views", name)) for name, view in views.items()},
    )
    if not meta.mount.startswith("/"):
        reader.refuse(("mount",), f'"{meta.mount}" is no absolute path')
    if meta.default_view is not None and meta.default_view not in meta.views:
        reader.refuse(("default-view",), f'there is no view "{meta.default_view}"')
    return meta


def _read_view(reader: _Reader, value: object, path: _Path) -> UenvView:
    view = reader.table(value, path)
    env = reader.table(view.get("env"), (*path, "env"))
    here = (*path, "env", "values")
    values = reader.table(env.get("values"), here)
    lists = reader.table(values.get("list"), (*here, "list"))
    scalars = reader.table(values.get("scalar"), (*here, "scalar"))
    for name in [*lists, *scalars]:
        if not VARIABLE_NAME.match(name):
            reader.refuse(here, f'"{name}" is no name of an environment variable')
    for name in lists:
        if name in scalars:
            reader.refuse(here, f"{name} is in `list` and in `scalar`: the scalar would win")
    return UenvView(
        description=reader.text(view.get("description", ""), (*path, "description")),
        lists={name: _read_changes(reader, changes, (*here, "list", name)) for name, changes in lists.items()},
        scalars={name: reader.optional(text, (*here, "scalar", name)) for name, text in scalars.items()},
    )


def _read_changes(reader: _Reader, value: object, path: _Path) -> tuple[ListChange, ...]:
    changes = []
    for number, item in enumerate(reader.array(value, path)):
        here = (*path, str(number))
        change = reader.table(item, here)
        if change.get("op") not in _OPERATIONS:
            reader.refuse(here, f"the operation {change.get('op')!r} would be taken for unset")
        folders = [reader.text(folder, here) for folder in reader.array(change.get("value"), here)]
        changes.append(ListChange(cast("Operation", change["op"]), tuple(folders)))
    if not changes:
        reader.refuse(path, "has no change in it")
    return tuple(changes)


def expansion_problem(name: str, text: str, changed: Collection[str]) -> str | None:
    """Why the uenv command would not set the variable `name` to `text` as it is meant, or None.

    `changed` are all variables that the view changes: they are gone through in no order, so that a value cannot be made
    of another one of them.
    """
    for wanted in EXPANSION.findall(text):
        if not VARIABLE_NAME.match(wanted):
            return f"${{@{wanted}@}} names no environment variable"
        if wanted != name and wanted in changed:
            return f"${{@{wanted}@}} is changed by the view, before or after it"
    return f"{OPENING} is not closed by @}} in {text}" if OPENING in EXPANSION.sub("", text) else None


def apply_views(meta: UenvMeta, names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` as the uenv command leaves it with the views `names`, in their order: of several, all changes to a
    search path are made, and of other variables the last value holds. Raises BuildError for a view that is not there.
    """
    lists: dict[str, list[ListChange]] = {}
    scalars: dict[str, str | None] = {}
    for name in names:
        if name not in meta.views:
            known = ", ".join(meta.views) or "none"
            raise BuildError(f'{meta.name} has no view "{name}"', rule="no-such-view", hint=f"its views: {known}")
        for variable, changes in meta.views[name].lists.items():
            lists.setdefault(variable, []).extend(changes)
        scalars |= meta.views[name].scalars
    result = dict(environment)
    # As there: each value is filled in from what the ones before it have left, scalars first.
    for variable, text in scalars.items():
        _put(result, variable, text)
    for variable, found in lists.items():
        _put(result, variable, _changed(result.get(variable, ""), found))
    result["UENV_VIEW"] = ",".join(f"{meta.mount}:{meta.name}:{name}" for name in names)
    return result


def _put(environment: dict[str, str], name: str, text: str | None) -> None:
    if text is None:
        environment.pop(name, None)
    else:
        environment[name] = EXPANSION.sub(lambda match: environment.get(match[1], ""), text)


def _changed(current: str, changes: Sequence[ListChange]) -> str | None:
    folders: list[str] = current.split(":")
    is_set = True
    for change in changes:
        is_set = change.op != "unset"
        if change.op == "prepend":
            folders = [*change.value, *folders]
        elif change.op == "append":
            folders = [*folders, *change.value]
        else:
            folders = list(change.value) if is_set else []
    return ":".join(dict.fromkeys(folder for folder in folders if folder)) if is_set else None


class _Reader:
    """Takes values of a document for what they have to be, and says where one is not."""

    def __init__(self, where: str) -> None:
        self._where = where

    def refuse(self, path: _Path, reason: str) -> NoReturn:
        place = ".".join(path) or "the document"
        raise BuildError(
            f"{self._where}: {place}: {reason}", rule="uenv-meta",
            hint="build the image again: the uenv command would not start it, or drop this",
        )  # fmt: skip

    def table(self, value: object, path: _Path) -> dict[str, Any]:
        return value if isinstance(value, dict) else self._wrong("an object", value, path)

    def array(self, value: object, path: _Path) -> list[Any]:
        return value if isinstance(value, list) else self._wrong("an array", value, path)

    def text(self, value: object, path: _Path) -> str:
        return value if isinstance(value, str) else self._wrong("a string", value, path)

    def optional(self, value: object, path: _Path) -> str | None:
        return None if value is None else self.text(value, path)

    def _wrong(self, expected: str, value: object, path: _Path) -> NoReturn:
        self.refuse(path, "is missing" if value is None else f"is {json.dumps(value)[:40]}, and {expected} is expected")
