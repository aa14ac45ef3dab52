"""Labels: the names under which users of the site's uenv command know an environment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from uenv_builder.model.errors import UsageError

Part = Literal["namespace", "name", "version", "tag", "system", "uarch"]

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MARKS: dict[str, Part] = {"/": "version", ":": "tag", "@": "system", "%": "uarch"}
_FOLLOWERS: dict[Part, str] = {
    "namespace": "", "name": "/:@%", "version": ":@%", "tag": "@%", "system": "@%", "uarch": "@%",
}  # fmt: skip
EXAMPLE = "pytorch/2.14:v1@daint%gh200"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """`[namespace::]name/version:tag@system%uarch`; a part that was not given is None, and system `*` means any.

    The grammar is that of eth-cscs/uenv, src/uenv/parse.cpp: each part is made of letters, digits, `_`, `.` and `-` and
    starts with neither `.` nor `-`; `@system` and `%uarch` stand last, in any order.
    """

    namespace: str | None = None
    name: str | None = None
    version: str | None = None
    tag: str | None = None
    system: str | None = None
    uarch: str | None = None

    @classmethod
    def parse(cls, text: str) -> Label:
        """The label that `text` spells; raises UsageError with the place of the first character that does not fit."""
        parts: dict[Part, str] = {}
        position = 0
        space, mark, _ = text.partition("::")
        if mark:
            _read_word(text, 0, "namespace", parts, end=len(space))
            position = len(space) + len(mark)
        here: Part = "name"
        if _WORD.match(text, position):
            position = _read_word(text, position, "name", parts)
        while position < len(text):
            character = text[position]
            part = _MARKS.get(character)
            if part is None or character not in _FOLLOWERS[here] or part in parts:
                raise _unexpected(text, position)
            position = _read_word(text, position + 1, part, parts)
            here = part
        if not set(parts) - {"namespace"}:
            raise UsageError("a label is expected, and the text is empty", rule="label", hint=f"for example {EXAMPLE}")
        return cls(**parts)

    def require(self, *parts: Part) -> Label:
        """The label itself where it has all of `parts`; raises UsageError that names those it lacks."""
        missing = [part for part in parts if getattr(self, part) is None]
        if missing:
            raise UsageError(
                f'label "{self}" lacks {" and ".join(missing)}', rule="label", hint=f"a whole label: {EXAMPLE}"
            )
        return self

    def __str__(self) -> str:
        space = f"{self.namespace}::" if self.namespace else ""
        marked = "".join(
            f"{mark}{value}" for mark, part in _MARKS.items() if (value := getattr(self, part)) is not None
        )
        return f"{space}{self.name or ''}{marked}"


def _read_word(text: str, start: int, part: Part, parts: dict[Part, str], *, end: int | None = None) -> int:
    """Put the word that begins at `start` into `parts`, and return where it ends (at `end`, where that is given)."""
    if part == "system" and text[start : start + 1] == "*":
        parts[part] = "*"
        return start + 1
    match = _WORD.match(text, start)
    if match is None:
        if start >= len(text):
            raise UsageError(
                f'label "{text}" ends where its {part} is expected', rule="label", hint=f"for example {EXAMPLE}"
            )
        raise _unexpected(text, start)
    if end is not None and match.end() != end:
        raise _unexpected(text, match.end())
    parts[part] = match[0]
    return match.end()


def _unexpected(text: str, position: int) -> UsageError:
    return UsageError(
        f'label "{text}": unexpected "{text[position]}" at character {position + 1}',
        rule="label",
        hint=f"parts are made of letters, digits, _ . and - (the first neither . nor -); for example {EXAMPLE}",
    )
